"""Details of `correlate`: against the reference, in summaries, in files and from the command."""

from __future__ import annotations

import csv
import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

import univfast as uf
from support.command import SMALL_MODEL, error_line, run
from support.made_up import FILES, PARTNERS
from support.matched import Matched, assert_statistics, matched
from support.pairs import Layers
from support.saved_results import as_cells
from univfast.details import Details
from univfast.experiment import load_model
from univfast.experiment.sites import test_tokens as tokens_of
from univfast.report.files import load
from univfast.sums.token_facts import TokenFacts, token_groups

TOKENS, WINDOW = 700, 20
MATCHINGS = ("best", "index", "one-to-one")
NAMES = [field.name for field in fields(Details)]
COLUMNS = [name for name in NAMES if name != "contexts"]
OF_IDS = ("token_r2", "match_token_r2", "partial_r")
OF_POSITIONS = ("position_r2", "match_position_r2")
IDS = torch.from_numpy(np.random.default_rng(0).zipf(1.5, TOKENS).clip(max=50)).long() * 3


def two(match: str) -> tuple[Layers, Layers]:
    """Two models with dead neurons; B has more for best, fewer for one-to-one."""
    case = matched()
    a, b = dict(case.a), dict(case.b)
    noise = torch.Generator().manual_seed(1)
    follows = torch.sin(IDS.double())  # what neurons 12 and 13 of A, and 2 and 3 of b0 do
    for layer, place in ((a["a0"], 12), (b["b0"], 2)):
        for i in range(2):
            layer[:, place + i] = follows + 0.1 * torch.randn(TOKENS, generator=noise).double()
    # One that follows the token in A alone.
    a["a0"][:, 14] = torch.cos(5 * IDS.double())
    b["b0"][:, 6] = a["a0"][:, 14] + 0.5 * torch.randn(TOKENS, generator=noise).double()
    # One that both share, beyond the token; and one that rests on a few tokens.
    b["b0"][:, 4] = a["a0"][:, 20] + 0.2 * b["b0"][:, 4]
    b["b0"][:, 5] = a["a0"][:, 4] + 1e-3 * b["b0"][:, 5]
    if match == "index":
        for name, x in a.items():
            b[name] = x + 0.3 * x.std(0) * torch.randn(x.shape, generator=noise).double()
            b[name][:, 17 % x.shape[1]] = 2.5
        return a, {name: b[name] for name in a}
    return (b, a) if match == "one-to-one" else (a, b)


def shaped(layers: Layers) -> Layers:
    return {name: x.view(-1, WINDOW, x.shape[1]) for name, x in layers.items()}


def places(result: uf.CorrelationResult, b: Layers) -> Tensor:
    """The number of each match among all neurons of B; -1 for none."""
    starts = dict(zip(b, np.cumsum([0, *(x.shape[1] for x in b.values())]), strict=False))
    found = [
        -1 if number < 0 else int(starts[layer]) + number
        for layer, number in zip(result.match_layer, result.match_neuron.tolist(), strict=True)
    ]
    return torch.tensor(found)


def case_of(
    result: uf.CorrelationResult,
    a: Layers,
    b: Layers,
    ids: Tensor | None = None,
    window: int = WINDOW,
    mask: Tensor | None = None,
) -> Matched:
    """The matched pairs of a result."""
    facts = TokenFacts(TOKENS, window, None if ids is None else token_groups(ids))
    return Matched(a, b, places(result, b), facts, mask)


def assert_details(result: uf.CorrelationResult, case: Matched, limit: float = 1e-9) -> None:
    """All that details have is what the reference says of the matched pairs."""
    assert result.contexts is not None
    found: Any = SimpleNamespace(
        **{name: getattr(result, name) for name in ("correlation", *COLUMNS)},
        **result.contexts._asdict(),
    )
    assert_statistics(found, case, limit)


# ---- against the reference ----------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masked"])
@pytest.mark.parametrize("known", [False, True], ids=["no ids", "ids"])
@pytest.mark.parametrize("window", [1, WINDOW], ids=["tokens", "samples"])
@pytest.mark.parametrize("match", MATCHINGS)
def test_details_are_those_of_the_reference(
    match: str, window: int, known: bool, masked: bool
) -> None:
    a, b = two(match)
    view = shaped if window > 1 else dict
    mask = torch.arange(TOKENS) % 10 < 7 if masked else None
    shape = (-1, WINDOW) if window > 1 else (-1,)
    ids = IDS if known else None
    result = uf.correlate(
        view(a),
        view(b),
        match=match,
        details=True,
        token_ids=None if ids is None else ids.view(shape),
        mask=None if mask is None else mask.view(shape),
    )
    assert_details(result, case_of(result, a, b, ids, window, mask))
    assert result.dead.any()
    # Dead ones have no match in a search; nor have those that are too many.
    least = {"best": 1, "index": 0, "one-to-one": 10}[match]
    assert (result.match_neuron < 0).sum() >= least
    for names, there in ((OF_IDS, known), (OF_POSITIONS, window > 1)):
        assert all((getattr(result, name) is not None) == there for name in names)


@pytest.mark.parametrize("rotation", ["haar", "none"])
@pytest.mark.parametrize("match", MATCHINGS)
def test_the_lower_end_of_the_excess(match: str, rotation: str) -> None:
    a, b = two(match)
    options: dict[str, Any] = {"match": match, "rotation": rotation, "threshold": 0.2}
    result = uf.correlate(a, b, **options, details=True, draws=3)
    plain = uf.correlate(a, b, **options, draws=3)
    assert torch.equal(result.excess.nan_to_num(), plain.excess.nan_to_num())
    assert result.excess_low is not None
    assert result.correlation_se is not None
    spread = (result.baseline_std**2 / 3).nan_to_num()
    reach = student.ppf(0.975, 31) * (result.correlation_se**2 + spread).sqrt()
    low = result.excess - reach
    np.testing.assert_allclose(result.excess_low, low, rtol=0, atol=1e-12)
    alive = low.isfinite()
    assert (result.excess_low[alive] <= result.excess[alive]).all()
    assert alive.any() == (rotation != "none" or match == "index")


@pytest.mark.usefixtures("small_chunks")
def test_float32_and_threads() -> None:
    a, b = ({name: x.float() for name, x in layers.items()} for layers in two("best"))
    results = [
        uf.correlate(a, b, details=True, token_ids=IDS.int(), threads=threads, memory_limit=limit)
        for threads, limit in ((1, None), (2, None), (2, 120e3))  # the last in several passes
    ]
    for result in results:
        assert_details(result, case_of(result, a, b, IDS, 1), 2e-5)


def test_models_without_samples_take_those_of_others() -> None:
    a, b = two("best")
    for x, y in ((shaped(a), b), (a, shaped(b))):
        result = uf.correlate(x, y, details=True, token_ids=IDS)
        assert_details(result, case_of(result, a, b, IDS))


def test_nobody_asked() -> None:
    a, b = two("best")
    result = uf.correlate(a, b)
    assert all(getattr(result, name) is None for name in NAMES)
    assert result.summary["details"] is None
    assert "tokens." not in result.verdict()


# ---- what is counted -----------------------------------------------------------------------------


@pytest.mark.parametrize("match", MATCHINGS)
def test_what_is_counted_of_universal_neurons(match: str) -> None:
    a, b = two(match)
    result: Any = uf.correlate(a, b, match=match, details=True, token_ids=IDS, threshold=0.3)
    of = result.universal
    expected = {
        "follow_token": int((of & (result.token_r2 > 0.8) & (result.match_token_r2 > 0.8)).sum()),
        "beyond_token_and_position": int((of & (result.partial_r > 0.5)).sum()),
        "few_tokens": int((of & (result.tokens_effective < 30)).sum()),
        "few": 30,
        "blocks": 32,
    }
    assert result.summary["details"] == expected
    assert all(expected.values())
    text = result.verdict()
    for count, said in zip(
        list(expected.values())[:3],
        (
            "the current token in both models",
            "r above 0.5 beyond token and position",
            "on fewer than 30 tokens",
        ),
        strict=True,
    ):
        assert text.count(said) == 1
        assert f"{count} " in text.split(said)[0][-12:]


@pytest.mark.slow
def test_without_ids_nothing_is_said_of_tokens(tmp_path: Path) -> None:
    a, b = two("best")
    result = uf.correlate(shaped(a), shaped(b), details=True)
    assert all(getattr(result, name) is None for name in OF_IDS)
    details = result.summary["details"]
    assert details["follow_token"] is details["beyond_token_and_position"] is None
    assert details["few_tokens"] is not None
    text = result.verdict()
    assert "current token" not in text
    assert "beyond token" not in text
    assert "on fewer than 30 tokens" in text
    result.save(tmp_path)
    rows = rows_of(tmp_path / "neurons.csv")
    assert {row[name] for row in rows for name in OF_IDS} == {"nan"}
    assert {row["position_r2"] for row in rows} != {"nan"}


# ---- several models ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("match", MATCHINGS)
def test_details_of_several_models(match: str, tmp_path: Path) -> None:
    a, b = two(match)
    c = {name: x.flip(1) + 0.5 * x.roll(1, 0) for name, x in b.items()}
    ids = IDS.view(-1, WINDOW)
    options: dict[str, Any] = {"match": match, "details": True, "token_ids": ids}
    result = uf.correlate(shaped(a), [shaped(b), shaped(c)], **options)
    assert all(getattr(result, name) is None for name in NAMES)
    assert result.summary["details"] is None
    for one, other in zip(result.by_model, (b, c), strict=True):
        assert_details(one, case_of(one, a, other, IDS))
        alone = uf.correlate(shaped(a), shaped(other), **options)
        for name in COLUMNS:
            x, y = getattr(one, name), getattr(alone, name)
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9, err_msg=name)
        assert one.summary["details"] == alone.summary["details"]
    rows = result.summary["by_model"]
    assert [row["details"] for row in rows] == [one.summary["details"] for one in result.by_model]
    result.save(tmp_path)
    assert not (tmp_path / "contexts.npz").exists()
    assert not set(COLUMNS) & set(rows_of(tmp_path / "neurons.csv")[0])
    matches = rows_of(tmp_path / "matches.csv")
    for name in COLUMNS:
        column = np.array([float(row[name]) for row in matches])
        both = torch.cat([getattr(one, name) for one in result.by_model])
        np.testing.assert_array_equal(column, as_cells(both), err_msg=name)


# ---- files ---------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("match", ["best", "index"])
def test_details_are_saved_and_read_back(match: str, tmp_path: Path) -> None:
    a, b = two(match)
    out = tmp_path / "out"
    result = uf.correlate(
        shaped(a), shaped(b), match=match, details=True, token_ids=IDS.view(-1, WINDOW)
    )
    result.save(out)
    beside = PARTNERS if match == "best" else set()
    assert {path.name for path in out.iterdir()} == FILES | beside | {
        "contexts.npz",
        "contexts.jsonl",
    }
    for table in ("neurons.csv", "matches.csv")[: 1 + bool(beside)]:
        rows = rows_of(out / table)
        assert set(list(rows[0])[-len(COLUMNS) :]) == set(COLUMNS)
        for name in COLUMNS:
            column = np.array([float(row[name]) for row in rows])
            np.testing.assert_array_equal(column, as_cells(getattr(result, name)), err_msg=name)
    loaded = load(out)
    for name in COLUMNS:
        got, want = getattr(loaded, name), getattr(result, name)
        assert got.dtype == want.dtype == torch.float64
        np.testing.assert_array_equal(got, as_cells(want))
    assert loaded.summary["details"] == result.summary["details"]
    assert loaded.verdict() == result.verdict()
    assert set(COLUMNS) < set(loaded.to_pandas().columns)
    assert result.contexts is not None
    assert loaded.contexts is not None
    for got, want in zip(loaded.contexts, result.contexts, strict=True):
        assert all(
            x.equal(y) or torch.equal(x.nan_to_num(), y.nan_to_num())
            for x, y in zip(got, want, strict=True)
        )
    with np.load(out / "contexts.npz", allow_pickle=False) as arrays:
        assert len(arrays.files) == 6
        for side, contexts in result.contexts._asdict().items():
            for name, tensor in contexts._asdict().items():
                np.testing.assert_array_equal(arrays[f"{side}_{name}"], tensor)
    written = {path: path.read_bytes() for path in out.iterdir()}
    (out / "report.html").unlink()
    assert run("report", out) == 0
    assert {path: path.read_bytes() for path in out.iterdir()} == written
    # Without details, what an earlier result left goes.
    uf.correlate(a, b, match=match).save(out)
    assert not (out / "contexts.npz").exists()
    assert all(getattr(load(out), name) is None for name in NAMES)


# ---- what is refused -----------------------------------------------------------------------------


def test_token_ids_that_do_not_fit(tmp_path: Path) -> None:
    a, b = two("best")
    x, y = shaped(a), shaped(b)
    with pytest.raises(uf.InputError, match=r"^token_ids: is for details; ask for details too$"):
        uf.correlate(x, y, token_ids=IDS.view(-1, WINDOW))
    path = tmp_path / "ids.pt"
    for ids, message in (
        (IDS[1:], r"has 699 token ids of shape \[699\], expected 700 of shape \[35, 20\]"),
        (IDS.view(20, 35), r"has 700 token ids of shape \[20, 35\], expected 700"),
        (IDS.view(-1, WINDOW).float(), "token ids are integers, found float32"),
        (IDS.view(-1, WINDOW) > 5, "token ids are integers, found bool"),
    ):
        torch.save(ids, path)
        for given, name in ((ids, "token_ids"), (str(path), str(path)), (ids.numpy(), "token_ids")):
            with pytest.raises(uf.InputError, match=f"^{name}: {message}"):
                uf.correlate(x, y, details=True, token_ids=given)
    torch.save({"one": IDS, "two": IDS}, path)
    with pytest.raises(uf.InputError, match="a file of token ids holds one array"):
        uf.correlate(x, y, details=True, token_ids=path)


# ---- the command, and models that know their tokens ---------------------------------------------


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = map(shaped, two("best"))
    torch.save(a, "a.pt")
    torch.save(b, "b.pt")
    ids = IDS.view(-1, WINDOW)
    np.save("ids.npy", ids.numpy())
    torch.save(ids.int(), "ids.pt")
    expected = uf.correlate(a, b, details=True, token_ids=ids)
    for path in ("ids.npy", "ids.pt"):
        arguments = ("correlate", "a.pt", "b.pt", "--details", "--token-ids", path)
        assert run(*arguments, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["details"] == expected.summary["details"]
    assert run(*arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "follow the current token in both models; " in said
    assert run("correlate", "a.pt", "b.pt", "--token-ids", "ids.pt") == 2
    assert error_line(capsys) == "Error: --token-ids: is for details; ask for details too"
    # Before a model is opened.
    assert run("correlate", "no.pt", "b.pt", "--neurons", "activations/9") == 2
    assert error_line(capsys) == "Error: --neurons: is for details; ask for details too"
    assert run("correlate", "a.pt", "b.pt", "--details", "--neurons", "activations/9") == 2
    assert error_line(capsys).startswith("Error: --neurons: is for activations whose tokens are")
    assert run("correlate", "a.pt", "b.pt", "--details", "--token-ids", "none.pt") == 2
    assert "none.pt: no such file" in error_line(capsys)


@pytest.mark.slow
def test_a_model_file_knows_its_ids(tmp_path: Path) -> None:
    a, b = (str(tmp_path / name) for name in ("a.ckpt", "b.ckpt"))
    captured = [path.replace(".ckpt", ".pt") for path in (a, b)]
    for seed, (model, activations) in enumerate(zip((a, b), captured, strict=True)):
        assert run("train", model, "--seed", seed, *SMALL_MODEL) == 0
        assert run("capture", model, "--out", activations, "--quiet") == 0
    ids = tokens_of(load_model(a))
    for match in MATCHINGS:
        known = uf.correlate(a, b, match=match, details=True)
        given = uf.correlate(*captured, match=match, details=True, token_ids=ids)
        one = uf.correlate(a, captured[1], match=match, details=True)
        for name in COLUMNS:
            for other in (given, one):
                x, y = getattr(known, name), getattr(other, name)
                np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6, err_msg=name)
        assert known.summary["details"] == given.summary["details"]
        assert uf.correlate(*captured, match=match, details=True).token_r2 is None
