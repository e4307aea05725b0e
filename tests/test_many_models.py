"""One model against several: means over models, the published definition, and the files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import univfast as uf
from support.dtypes import F32, F64
from support.pairs import Layers, exact, models
from univfast import reference
from univfast.cli import main


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def family() -> tuple[Layers, list[Layers]]:
    """A model and three others; all share neurons with it, of various widths."""
    a, b = models(400, (30, 20), (25, 40))
    _, c = models(400, (30, 20), (35,), seed=1)
    _, d = models(400, (30, 20), (10, 10, 10), seed=2)
    c["b0"][:, :8] = a["a1"][:, :8] + c["b0"][:, :8] / 20
    d["b1"][:, :6] = -a["a0"][:, 10:16] + d["b1"][:, :6] / 20
    return a, [b, c, d]


@pytest.mark.parametrize("match", ["best", "one-to-one"])
def test_numbers_are_means_over_the_models(family: tuple[Layers, list[Layers]], match: str) -> None:
    a, others = family
    together = uf.correlate(a, others, match=match, draws=4, seed=2)
    alone = [uf.correlate(a, b, match=match, draws=4, seed=2) for b in others]
    r = np.array([one.correlation.numpy() for one in alone])
    live = ~together.dead.numpy()
    mean = np.nanmean(r[:, live], axis=0)
    np.testing.assert_allclose(together.correlation[live], mean, atol=1e-14)
    assert together.correlation_min is not None
    assert together.correlation_max is not None
    np.testing.assert_allclose(together.correlation_min[live], np.nanmin(r[:, live], 0), atol=1e-14)
    np.testing.assert_allclose(together.correlation_max[live], np.nanmax(r[:, live], 0), atol=1e-14)
    assert bool(np.isnan(r[:, live]).any()) == (match == "one-to-one"), "matched everywhere"
    for name in ("baseline", "excess", "null_excess"):
        own = np.array([getattr(one, name).numpy() for one in alone])[..., live]
        found = getattr(together, name).numpy()[..., live]
        np.testing.assert_allclose(found, np.nanmean(own, axis=0), atol=1e-14, err_msg=name)
    assert together.null_excess is not None
    by_chance = (together.null_excess > 0.5).sum(dim=1).double().mean()
    assert together.summary["universal_by_chance"] == float(by_chance)
    for one, other in zip(together.by_model, alone, strict=True):
        assert torch.equal(one.correlation.nan_to_num(9), other.correlation.nan_to_num(9))
        assert one.summary["universal"] == other.summary["universal"]
        assert one.match_layer == other.match_layer
    highest = np.nanargmax(np.where(np.isnan(r), -9, r), axis=0)
    for i in np.flatnonzero(live):
        assert together.match_layer[i] == alone[highest[i]].match_layer[i]
        assert together.match_neuron[i] == alone[highest[i]].match_neuron[i]
    assert together.summary["models"] == ["a", "b[0]", "b[1]", "b[2]"]
    assert [row["model"] for row in together.summary["by_model"]] == ["b[0]", "b[1]", "b[2]"]
    assert together.mutual is None


def test_chance_is_that_of_the_averaged_excess(family: tuple[Layers, list[Layers]]) -> None:
    a, others = family
    result = uf.correlate(a, others, match="best", rotation="gaussian", draws=5, threshold=0.1)
    matrices = [exact(a, b, "gaussian", 5, 0) for b in others]
    r = np.mean([reference.best(m)[1] for m, _ in matrices], axis=0)
    rotated = np.mean([[reference.best(x)[1] for x in draws] for _, draws in matrices], axis=0)
    layer = np.repeat([0, 1], [30, 20])
    rotated[:, np.isnan(r)] = np.nan
    expected = reference.statistics(r, rotated, layer, 0.1)
    np.testing.assert_allclose(result.excess, expected.excess, atol=1e-12)
    np.testing.assert_allclose(result.p_value, expected.p_value, atol=1e-12)
    np.testing.assert_allclose(result.q_value, expected.q_value, atol=1e-12)
    np.testing.assert_array_equal(result.universal, expected.universal)
    assert result.summary["universal"] > 5
    assert result.summary["universal_by_chance"] == expected.universal_by_chance
    mean_of_counts = np.mean([row["universal"] for row in result.summary["by_model"]])
    assert result.summary["universal"] != mean_of_counts, "a case that decides nothing"


def test_the_published_table(family: tuple[Layers, list[Layers]]) -> None:
    """Mean over models of the highest r, minus that with a row-normalised Gaussian matrix."""
    a, others = family
    result = uf.correlate(a, others, match="best", rotation="gaussian", draws=1, seed=5)
    table = result.published_columns()
    assert list(table) == [
        "layer",
        "neuron",
        "max_corr",
        "mean_corr",
        "min_corr",
        "max_baseline",
        "min_baseline",
        "mean_baseline",
        "excess_corr",
    ]
    x = np.concatenate([v.numpy() for v in a.values()], axis=1)
    highest, baseline = [], []
    for b in others:
        y = [v.numpy() for v in b.values()]
        turned = []
        for name, v in b.items():
            matrix = reference.rotation_matrix("gaussian", v.shape[1], 0, 5, name)
            np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1)
            turned.append((v.numpy() - v.numpy()[:1]) @ matrix.T)
        for found, layers in ((highest, y), (baseline, turned)):
            r = reference.pearson_matrix(x, np.concatenate(layers, axis=1))
            found.append(reference.best(r)[1])
    corr, base = np.array(highest), np.array(baseline)
    for name, expected in (
        ("max_corr", corr.max(0)),
        ("mean_corr", corr.mean(0)),
        ("min_corr", corr.min(0)),
        ("max_baseline", base.max(0)),
        ("min_baseline", base.min(0)),
        ("mean_baseline", base.mean(0)),
        ("excess_corr", corr.mean(0) - base.mean(0)),
    ):
        np.testing.assert_allclose(
            table[name], np.where(result.dead, np.nan, expected), atol=1e-12, err_msg=name
        )
    frame = result.to_pandas(columns="published")
    assert frame.index.names == ["layer", "neuron"]
    assert list(frame.columns) == list(table)[2:]
    with pytest.raises(uf.InputError, match="columns: got 'other'"):
        result.to_pandas(columns="other")


def test_the_published_table_of_two_models(family: tuple[Layers, list[Layers]]) -> None:
    a, (b, *_) = family
    table = uf.correlate(a, b, match="best").published_columns()
    np.testing.assert_array_equal(table["max_corr"], table["min_corr"])
    np.testing.assert_array_equal(table["max_corr"], table["mean_corr"])


def test_the_published_table_leaves_out_models_without_a_match(
    family: tuple[Layers, list[Layers]],
) -> None:
    a, (b, *_) = family
    dead = {"y": torch.ones(400, 4)}
    both, alone = (
        uf.correlate(a, others, match="best", draws=2).published_columns()
        for others in ([b, dead], b)
    )
    for name, column in alone.items():
        np.testing.assert_array_equal(both[name], column, err_msg=name)


def test_by_index_with_several_models() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(200, 30, generator=g).to(F64)
    others = [a + k * torch.randn(200, 30, generator=g) for k in (0.3, 1.0)]
    others[1][:, 4] = 1  # dead in one model: the mean is over the other
    others[0][:, 5] = others[1][:, 5] = 2  # in both
    result = uf.correlate(a, others, match="index", draws=3)
    alone = [uf.correlate(a, b, match="index", draws=3) for b in others]
    assert result.summary["dead"] == 1
    assert bool(result.dead[5])
    assert result.correlation[4] == alone[0].correlation[4]
    both = (alone[0].correlation + alone[1].correlation) / 2
    np.testing.assert_allclose(result.correlation[6:], both[6:], atol=1e-15)
    assert result.match_neuron.tolist() == list(range(30))
    assert result.mutual is None
    assert result.summary["match_layers"] == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "best", "reverse": True}, "reverse: is for two models"),
        ({"match": "index", "reverse": True}, "reverse: is not for a match by index"),
        ({"match": "index", "exclude_self": True}, "exclude_self: is not for a match by index"),
        ({"match": "index", "top_k": 3}, "top_k: is not for a match by index"),
        ({"match": "index", "products": "bfloat16"}, "products: is not for a match by index"),
        ({"match": "index", "precision": "tf32"}, "precision: is not for a match by index"),
        ({"match": "best", "memory_limit": -1}, "memory_limit: got -1"),
        ({"match": "best", "exclude_self": True}, "exclude_self: A and B have other layers"),
    ],
)
def test_options_that_do_not_go_together(
    family: tuple[Layers, list[Layers]], options: dict[str, object], message: str
) -> None:
    a, others = family
    with pytest.raises(uf.InputError, match=f"^{message}"):
        uf.correlate(a, others, **options)  # type: ignore[arg-type]


def test_no_models_and_other_tokens_are_refused() -> None:
    a = {"x": torch.zeros(20, 3, dtype=F32)}
    with pytest.raises(uf.InputError, match="b: got no models"):
        uf.correlate(a, [])
    with pytest.raises(uf.InputError, match="so 20 and 21 tokens"):
        uf.correlate(a, {"y": torch.zeros(21, 3)}, match="best")
    with pytest.raises(uf.InputError, match="tokens in another order"):
        uf.correlate({"x": torch.zeros(5, 4, 3)}, {"y": torch.zeros(4, 5, 3)}, match="best")
    with pytest.raises(uf.InputError, match="a: layers 'x' and 'z' have 20 and 19 tokens"):
        uf.correlate({**a, "z": torch.zeros(19, 3)}, a, match="best")


@pytest.mark.slow
def test_the_command_writes_every_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: tuple[Layers, list[Layers]]
) -> None:
    a, others = family
    paths = []
    for name, layers in zip("abcd", (a, *others), strict=True):
        paths.append(str(tmp_path / f"{name}.pt"))
        torch.save({layer: x.half() for layer, x in layers.items()}, paths[-1])
    out = tmp_path / "o"
    command = [*paths[:3], "--match", "best", "--rotation", "gaussian", "--draws", "10"]
    status = main(["correlate", *command, "--columns", "published", "--out", str(out)])
    assert status == 0
    assert "Averaged over 2 models" in " ".join(capsys.readouterr().out.split())
    assert {path.name for path in out.iterdir()} == {
        "neurons.csv",
        "matches.csv",
        "top.csv",
        "published.csv",
        "command.txt",
        "summary.json",
        "null_excess.npy",
        "correlation.png",
        "excess.png",
        "layers.png",
        "models.png",
        "report.html",
    }
    neurons = rows_of(out / "neurons.csv")
    matches = rows_of(out / "matches.csv")
    assert len(neurons) == 50
    assert [(row["model"], row["layer"], row["neuron"]) for row in matches[::50]] == [
        (paths[1], "a0", "0"),
        (paths[2], "a0", "0"),
    ]
    assert len(matches) == 100
    for row in neurons[:5]:
        own = [
            float(m["correlation"])
            for m in matches
            if (m["layer"], m["neuron"]) == (row["layer"], row["neuron"])
        ]
        assert float(row["correlation"]) == pytest.approx(np.mean(own), abs=1e-6)
        assert float(row["correlation_min"]) == min(own)
        assert float(row["correlation_max"]) == max(own)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["match"] == "best"
    assert summary["rotation"] == {"kind": "gaussian", "draws": 10, "seed": 0}
    assert len(summary["by_model"]) == 2

    two = [*paths[:2], "--match", "one-to-one", "--reverse", "--top-k", "3", "--out", str(out)]
    assert main(["correlate", *two, "--quiet"]) == 0
    assert not (out / "models.png").exists(), "a picture of the result before"
    assert not (out / "published.csv").exists()
    assert "correlation_min" not in (out / "neurons.csv").read_text()
    reverse = rows_of(out / "reverse" / "neurons.csv")
    assert len(reverse) == 65
    ranks = [int(row["rank"]) for row in rows_of(out / "top.csv")]
    assert set(ranks) == {1, 2, 3}
    for directory in (out, out / "reverse"):
        assert main(["report", str(directory)]) == 0


@pytest.mark.slow
def test_the_command_with_one_model_and_itself(tmp_path: Path) -> None:
    x = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 3 * x[:, 12] - 1
    path = tmp_path / "a.pt"
    torch.save({"mlp": x}, path)
    out = tmp_path / "o"
    command = ["correlate", str(path), str(path), "--match", "best", "--out", str(out), "--quiet"]
    assert main([*command, "--exclude-self"]) == 0
    rows = rows_of(out / "neurons.csv")
    assert rows[7]["match_neuron"] == "12"
    assert rows[12]["match_neuron"] == "7"
    assert all(row["match_neuron"] != row["neuron"] for row in rows)
    assert main(command) == 0
    rows = rows_of(out / "neurons.csv")
    alone = [row for i, row in enumerate(rows) if i not in (7, 12)]
    assert all(row["match_neuron"] == row["neuron"] for row in alone)
