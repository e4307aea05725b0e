"""All pairs: what memory they take, and passes where there is too little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import univfast as uf
from support.pairs import MATCHES, accumulated, models
from support.parity import assert_close
from support.processes import printed, python
from univfast import native
from univfast.cli import main
from univfast.inputs.layout import Layout
from univfast.machine import devices
from univfast.options import AllPairsOptions, complete
from univfast.search.searches import Searches, state_bytes
from univfast.sums import co_moments


def all_pairs_options(**given: Any) -> AllPairsOptions:
    return complete(AllPairsOptions, given, "AllPairsCorrelation")


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", ["hadamard", "haar"])
def test_several_passes_are_one(rotation: str, tmp_path: Path) -> None:
    a, b = models(500, (40, 30, 50, 5), (30, 45))
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    paths = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    options = all_pairs_options(rotation=rotation, draws=3, reverse=True)
    layers_b = Layout(("b0", "b1"), (30, 45))
    layers_a, group = (
        Layout(names, widths)
        for names, widths in ((tuple(a), (40, 30, 50, 5)), (("x", "y"), (50, 5)))
    )
    enough = state_bytes(layers_a, layers_b, options, devices.CPU, group)
    seen: list[tuple[int, int]] = []
    whole, parts = (
        uf.correlate(
            *paths,
            match="best",
            rotation=rotation,
            draws=3,
            reverse=True,
            memory_limit=limit,
            progress=lambda done, total: seen.append((done, total)),
        )
        for limit in (None, enough)
    )
    assert seen[0] == (0, 500)
    assert seen[-1][1] == 500 * 3, "three passes"
    assert seen[-1][0] == seen[-1][1]
    assert whole.reverse is not None
    assert parts.reverse is not None
    for one, other in ((whole, parts), (whole.reverse, parts.reverse)):
        assert one.match_layer == other.match_layer
        assert one.top_layer == other.top_layer
        assert_close(one.correlation, other.correlation.numpy(), 1e-14, "r")
        assert_close(one.baseline, other.baseline.numpy(), 1e-13, "baseline")
        assert one.mutual is not None
        assert other.mutual is not None
        assert torch.equal(one.mutual, other.mutual)


@pytest.mark.parametrize("case", ["exclude_self", "several models"])
def test_several_passes_of_other_searches_are_one(case: str) -> None:
    a, b = models(200, (40, 30, 50, 5), (30, 45))
    a["a2"][:, :10] += 3 * a["a0"][:, :10]  # partners in other passes
    _, c = models(200, (40, 30, 50, 5), (20, 9), seed=1)
    itself = case == "exclude_self"
    others = a if itself else [b, c]
    wide = a if itself else b
    layers_a, layers_b, group = (
        Layout(tuple(layers), tuple(x.shape[1] for x in layers.values()))
        for layers in (a, wide, {"a2": a["a2"], "a3": a["a3"]})
    )
    options = all_pairs_options(draws=3, exclude_self=itself)
    enough = state_bytes(layers_a, layers_b, options, devices.CPU, group)
    seen: list[tuple[int, int]] = []
    whole, parts = (
        uf.correlate(
            a,
            others,
            match="best",
            draws=3,
            exclude_self=itself,
            memory_limit=limit,
            progress=lambda done, total: seen.append((done, total)),
        )
        for limit in (None, enough)
    )
    assert seen[0][1] == 200
    assert seen[-1][1] >= 200 * (2 if itself else 3), "one pass"
    assert whole.match_layer == parts.match_layer
    assert torch.equal(whole.match_neuron, parts.match_neuron)
    for name in ("correlation", "baseline", "excess", "null_excess", "p_value"):
        expected = getattr(parts, name).numpy()
        assert_close(getattr(whole, name), expected, 1e-13, name)
    assert whole.summary["match_layers"] == parts.summary["match_layers"]
    if itself:
        assert "a2" in whole.match_layer[:40]


def test_what_fits_no_memory_is_refused() -> None:
    a, b = models(50, (40, 30), (30,))
    with pytest.raises(
        uf.InputError, match=r"memory_limit: layer 'a0' .* needs .* raise the limit"
    ):
        uf.correlate(a, b, match="best", memory_limit=1e6)
    with pytest.raises(uf.InputError, match=r"memory_limit: one-to-one .* use match='best'"):
        uf.correlate(a, b, match="one-to-one", memory_limit=1e6)
    with pytest.raises(uf.InputError, match=r"take .* this machine has"):
        uf.AllPairsCorrelation({"a": 10**7}, {"b": 10**7})
    layers = Layout(("x",), (20000,))
    options = all_pairs_options(rotation="none")
    with pytest.raises(uf.InputError, match="'one-to-one' of 20000 and 20000"):
        Searches(layers, layers, "one-to-one", options, devices.CPU)


def test_partners_are_counted_as_memory() -> None:
    layers = Layout(("x",), (1000,))
    few, many, all_there_are, both = (
        state_bytes(layers, layers, options, devices.CPU)
        for options in (
            all_pairs_options(rotation="none", top_k=k, reverse=reverse)
            for k, reverse in ((1, False), (501, False), (10**11, False), (501, True))
        )
    )
    assert many - few >= 16 * 1000 * 500
    assert all_there_are - few == (many - few) * 999 / 500
    assert both - few == 2 * (many - few) + (many - few) / 500


MEMORY = """
import sys
import torch
import univfast as uf
from support.processes import memory
from univfast.sums import co_moments
from univfast.machine import devices
from univfast.search.searches import state_bytes

torch.set_num_threads(1)
# Chunks and products are small here, so that matrices are what is seen.
co_moments._CHUNK_TOKENS = 64
co_moments._TILE_BYTES = 1 << 20

def correlate(width_a, width_b):
    accumulator = uf.AllPairsCorrelation(
        {"x": width_a}, {"y": width_b}, rotation=sys.argv[1], draws=draws
    )
    accumulator.update(torch.randn(64, width_a), torch.randn(64, width_b))
    accumulator.compute(sys.argv[2])
    return state_bytes(
        accumulator._a, accumulator._b, accumulator._options, devices.CPU
    )

draws = 40 if sys.argv[1] == "hadamard" else 2  # so many that the co-moments within B are kept
correlate(300, 2200)  # libraries keep what they set up for products of this size
before = memory("VmRSS")
need = correlate(300, 2200)
if sys.argv[2] == "one-to-one":
    need += 3 * 8 * 300 * 2200
print((memory("VmHWM") - before) / 2**20, need / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("match", MATCHES)
@pytest.mark.parametrize("rotation", ["hadamard", "gaussian"])
def test_memory_is_what_it_is_said_to_be(rotation: str, match: str) -> None:
    # Else glibc keeps matrices of up to 32 MB when they are freed: by chance none, or several.
    done = python(MEMORY, rotation, match, MALLOC_MMAP_THRESHOLD_="65536")
    grown, said = map(float, printed(done).split())
    assert grown <= said + 8, "megabytes"  # for tiles of products, and what libraries set up
    assert grown >= said / 2, "much less than said"


def test_no_more_partners_than_there_are(tmp_path: Path) -> None:
    a, b = models(60, (7, 4), (5, 3))
    result = uf.correlate(a, b, match="best", top_k=10**11, reverse=True)
    assert result.top_correlation is not None
    assert result.top_correlation.shape == (11, 8)
    assert result.reverse is not None
    assert result.reverse.top_neuron is not None
    assert result.reverse.top_neuron.shape == (8, 11)
    enough = uf.correlate(a, b, match="best", top_k=11, reverse=True)
    assert result.top_layer == enough.top_layer
    torch.save(a, tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    command = ["correlate", str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), "--match", "best"]
    assert main([*command, "--top-k", "100000000000", "--quiet"]) == 0


def test_no_full_matrix_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the state, nothing as large as a matrix of all pairs, for all its draws."""
    largest = 0
    monkeypatch.setattr(co_moments, "_TILE_BYTES", 8 * 300 * 16)
    real = native.best_pairs

    def spy(c: Tensor, *arguments: Any) -> None:
        nonlocal largest
        largest = max(largest, c.numel())
        real(c, *arguments)

    monkeypatch.setattr(native, "best_pairs", spy)
    a, b = models(60, (300,), (300,))
    accumulated(a, b, rotation="haar", draws=2, reverse=True).compute()
    assert largest <= 300 * 16
