"""The export for Neuronpedia: every field that its tools read, of its type, with the right values.

The fields are those of ``NeuronpediaDashboardBatch`` in SAEDashboard's
``sae_dashboard/neuronpedia/neuronpedia_dashboard.py``, which refuses others, and those that
Neuronpedia's ``convert-saedashboard-to-neuronpedia-export.py`` reads; their types are those of
``Neuron`` and ``Activation`` in its ``apps/webapp/prisma/schema.prisma``.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import univfast as uf
from support.contexts import example, record, silent, write
from univfast.contexts.neuronpedia import write_neuronpedia
from univfast.errors import InputError

BATCH: dict[str, type] = {"model_id": str, "layer": int, "sae_set": str}
FEATURE: dict[str, Any] = {
    "feature_index": int,
    **dict.fromkeys(
        ("neuron_alignment_indices", "correlated_neurons_indices", "correlated_features_indices"),
        (int,),
    ),
    **dict.fromkeys(
        (
            *("neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_l1"),
            *("correlated_neurons_pearson", "correlated_features_l1"),
            *("correlated_features_pearson", "neg_values", "pos_values"),
            *("freq_hist_data_bar_values", "freq_hist_data_bar_heights"),
            *("logits_hist_data_bar_heights", "logits_hist_data_bar_values"),
            *("decoder_weights_dist", "vector"),
        ),
        (float,),
    ),
    "neg_str": (str,),
    "pos_str": (str,),
    "frac_nonzero": float,
    "n_prompts_total": int,
    "n_tokens_in_prompt": int,
    "dataset": str,
    "activations": list,
}
ACTIVATION: dict[str, Any] = {
    **dict.fromkeys(("bin_min", "bin_max", "bin_contains"), float),
    "tokens": (str,),
    "values": (float,),
    "qualifying_token_index": int,
}


def check(value: dict[str, Any], schema: dict[str, Any]) -> None:
    assert value.keys() == schema.keys()
    for name, kind in schema.items():
        if isinstance(kind, tuple):  # a list of such
            assert isinstance(value[name], list), name
            assert all(type(one) is kind[0] for one in value[name]), name
        else:
            assert type(value[name]) is kind, name


def read(folder: Path) -> dict[str, Any]:
    """The one file of a directory, checked."""
    (name,) = os.listdir(folder)
    assert name == "batch-0.json"
    batch = json.loads((folder / name).read_text())
    features = batch.pop("features")
    assert batch.pop("sae_id_suffix") is None
    check(batch, BATCH)
    for feature in features:
        check(feature, FEATURE)
        lists = [v for k, v in feature.items() if k.startswith("correlated_neurons") and v]
        assert len({len(one) for one in lists}) <= 1
        for activation in feature["activations"]:
            check(activation, ACTIVATION)
            assert len(activation["tokens"]) == len(activation["values"])
            assert activation["qualifying_token_index"] < len(activation["tokens"])
    return {**batch, "features": {one["feature_index"]: one for one in features}}


def test_features_of_both_models(tmp_path: Path) -> None:
    """mlp.0/3 and mlp.0/7 have one match, mlp.1/17; records come in the order of neurons."""
    shared = example(45, kinds=["match_top"], match_activation=[9.0] * 7)
    path = write(
        tmp_path / "contexts.jsonl",
        record(3, correlation=0.8, examples=[silent(61), example(41), shared]),
        record(7, correlation=0.9, examples=[example(41), example(42, tokens=["\ud800"] * 7)]),
        record(2, layer="mlp.1", match_layer="mlp.0", match_neuron=0, correlation=None),
    )
    out = tmp_path / "out"
    assert write_neuronpedia(path, out) == {
        "A-a.pt/mlp.0": 2,
        "A-a.pt/mlp.1": 1,
        "B-b.pt/mlp.1": 1,
        "B-b.pt/mlp.0": 1,
    }
    a = read(out / "A-a.pt" / "mlp.0")
    assert (a["model_id"], a["layer"], a["sae_set"]) == ("a.pt", 0, "univfast-mlp")
    assert [*a["features"]] == [3, 7]
    first = a["features"][3]
    assert first["correlated_neurons_indices"] == [17]
    assert first["correlated_neurons_pearson"] == [0.8]
    assert first["correlated_neurons_l1"] == []
    assert [one["values"] for one in first["activations"]] == [[0, 0.3, 0, 1.5, 0, 0.75, 0]] * 2
    assert {one["bin_max"] for one in first["activations"]} == {1.5}
    assert first["activations"][0]["tokens"] == ["the", " cat", "\n", "T", "he", " dog", "\t"]
    assert a["features"][7]["activations"][1]["tokens"] == ["?"] * 7
    (b,) = read(out / "B-b.pt" / "mlp.1")["features"].values()
    assert b["feature_index"] == 17
    assert b["correlated_neurons_indices"] == [7, 3]
    assert b["correlated_neurons_pearson"] == [0.9, 0.8]
    # Each token once, from the highest at the marked token on.
    assert [one["values"][3] for one in b["activations"]] == [20.0, 20.0, 9.0]
    assert read(out / "A-a.pt" / "mlp.1")["features"][2]["correlated_neurons_indices"] == []
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert [(one["neuron"], one["match_layer"], one["match_neuron"]) for one in pairs] == [
        *((3, "mlp.1", 17), (7, "mlp.1", 17)),
        (2, "mlp.0", 0),
    ]
    assert {one["match_model"] for one in pairs} == {"b.pt"}


@pytest.mark.slow
def test_what_a_result_with_details_knows(tmp_path: Path) -> None:
    """The cosine and the share of active tokens are those of the activations."""
    g = np.random.default_rng(0)
    a = {"mlp.0": np.maximum(g.standard_normal((500, 4)), 0)}
    b = {"mlp.0": np.maximum(a["mlp.0"] + 0.3 * g.standard_normal((500, 4)), 0)}
    result = uf.correlate(a, b, details=True, match="best")
    r = float(result.correlation[1])
    one = record(1, model="b", match_layer="mlp.0", match_neuron=1, correlation=r)
    write(tmp_path / "contexts.jsonl", one, models=["a", "b"])
    write_neuronpedia(tmp_path / "contexts.jsonl", tmp_path / "out", result)
    x, y = a["mlp.0"][:, 1], b["mlp.0"][:, 1]
    cosine = x @ y / math.sqrt((x @ x) * (y @ y))
    for folder, values in (("A-a", x), ("B-b", y)):
        (feature,) = read(tmp_path / "out" / folder / "mlp.0")["features"].values()
        assert feature["correlated_neurons_l1"] == [pytest.approx(cosine, abs=2e-6)]
        assert feature["frac_nonzero"] == pytest.approx((values > 0).mean(), abs=1e-6)


def test_several_models(tmp_path: Path) -> None:
    """A's neuron is one feature, with a match in each."""
    path = write(
        tmp_path / "c.jsonl",
        record(3, correlation=0.7),
        record(3, model="x/c.pt", correlation=0.8, match_neuron=4),
        models=["a.pt", "b.pt", "x/c.pt"],
    )
    found = write_neuronpedia(path, tmp_path / "out")
    assert found == {"A-a.pt/mlp.0": 1, "B-b.pt/mlp.1": 1, "C-c.pt/mlp.1": 1}
    (feature,) = read(tmp_path / "out/A-a.pt/mlp.0")["features"].values()
    assert feature["correlated_neurons_indices"] == [4, 17]
    assert len(feature["activations"]) == 2


def test_files_have_128_features(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", *(record(i, match_neuron=i) for i in range(130)))
    write_neuronpedia(path, tmp_path / "out")
    folder = tmp_path / "out/A-a.pt/mlp.0"
    found = [json.loads((folder / f"batch-{i}.json").read_text())["features"] for i in (0, 1)]
    assert [len(one) for one in found] == [128, 2]
    assert [one["feature_index"] for one in found[1]] == [128, 129]


@pytest.mark.parametrize(
    ("layers", "given", "number"),
    [
        (["transformer.h.3.mlp.act"], {}, 3),
        (["model.layers.12.mlp.down_proj:input"], {}, 12),
        (["activations"], {}, 0),
        (["act"], {"act": 5}, 5),
        (["h.3.mlp2"], {"h.3.mlp2": 3}, 3),
        (["h.3.mlp2"], {}, "layer 'h.3.mlp2': could be number 3 or 2; say which by layer"),
        (["x", "y"], {}, "layer 'x': has no number in its name; say which by layer_numbers"),
        (["1" * 5000], {}, f"layer '{'1' * 199}...: could be number 111111 or 111111 or 111111 or"),
        (["mlp.0"], {"mlp.9": 1}, "layer 'mlp.9': has a number, and is not among those of the"),
    ],
)
def test_numbers_of_layers(
    layers: list[str], given: dict[str, int], number: int | str, tmp_path: Path
) -> None:
    path = write(tmp_path / "c.jsonl", *(record(layer=layer) for layer in layers))
    out = tmp_path / "out"
    if isinstance(number, int):
        first = next(iter(write_neuronpedia(path, out, None, given)))
        assert read(out / first)["layer"] == number
        return
    with pytest.raises(InputError) as error:
        write_neuronpedia(path, out, None, given)
    assert str(error.value).startswith(number)
    assert len(str(error.value)) < 400
    assert os.listdir(tmp_path) == ["c.jsonl"]


def test_names_stay_inside(tmp_path: Path) -> None:
    names = ["../x", "..", ".", "a/b", "é:", "0"]
    path = write(
        tmp_path / "c.jsonl",
        *(record(layer=name) for name in names),
        models=["../../.", "b.pt"],
    )
    found = write_neuronpedia(path, tmp_path / "out", None, dict.fromkeys(names, 0))
    assert sorted(os.listdir(tmp_path)) == ["c.jsonl", "out"]
    assert len(found) == 7
    assert all((tmp_path / "out" / name / "batch-0.json").is_file() for name in found)
    assert all(len(Path(name).parts) == 2 and ".." not in Path(name).parts for name in found)


def test_without_text(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", record(examples=[example(tokens=None)]))
    write_neuronpedia(path, tmp_path / "ids")
    (feature,) = read(tmp_path / "ids/A-a.pt/mlp.0")["features"].values()
    assert feature["activations"][0]["tokens"] == [" 5", " 6", " 1", " 7", " 8", " 9", " 2"]
    path = write(tmp_path / "c.jsonl", record(examples=[example(tokens=None, ids=None)]))
    with pytest.raises(InputError, match=r"^mlp\.0/3: has neither text nor token ids"):
        write_neuronpedia(path, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="not empty"):
        write_neuronpedia(path, tmp_path / "full")
