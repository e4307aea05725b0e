"""Contexts of universal neurons: the right windows, from files, live models and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import univfast as uf
from support.command import error_line, run
from univfast.contexts.records import record_json
from univfast.report.files import load

SAMPLES, WINDOW, NEURONS = 60, 16, 24
IDS = torch.randint(0, 30, (SAMPLES, WINDOW), generator=torch.Generator().manual_seed(5))
LETTERS = [chr(ord("A") + i) for i in range(30)]


def planted(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Activations with noise; neuron 3 fires at id 7, neuron 5 at position 4."""
    noise = torch.randn(SAMPLES, WINDOW, NEURONS, generator=torch.Generator().manual_seed(seed))
    x = 0.3 * noise
    x[..., 3] += 3.0 * (IDS == 7)
    x[..., 5] += 3.0 * (torch.arange(WINDOW) == 4)
    return x.relu().to(dtype)


A, B = planted(1), planted(2)
B[20, :, 3] = 0  # where A fires alone, if at all
OPTIONS: dict[str, Any] = {"threshold": 0.1, "details": True, "token_ids": IDS, "draws": 2}


def records_of(result: uf.CorrelationResult) -> dict[int, dict[str, Any]]:
    """As they are written, by neuron of A."""
    assert result.explained is not None
    found = [json.loads(record_json(x)) for x in result.explained.records(result)]
    return {record["neuron"]: record for record in found}


def looked_at(a: object = A, b: object = B, **options: Any) -> dict[int, dict[str, Any]]:
    """The records of a result by neuron."""
    return records_of(uf.correlate(a, b, **{**OPTIONS, **options}))


def of_kind(record: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [x for x in record["examples"] if kind in x["kinds"]]


def highest(scores: Tensor, count: int) -> list[int]:
    """Tokens of the highest in each sample, the highest first, by plain sorting."""
    rows = sorted(
        (-float(row.max()), sample * scores.shape[1] + int(row.argmax()))
        for sample, row in enumerate(scores)
        if row.max() > -torch.inf
    )
    return [token for _, token in rows[:count]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_highest_tokens(dtype: torch.dtype) -> None:
    a, b = A.to(dtype), B.to(dtype)
    found = looked_at(a, b, examples=6, around=3, neurons=["activations/9"])
    assert {3, 5, 9} <= found.keys()
    for number, record in found.items():
        x, y = a[..., number].double(), b[..., record["match_neuron"]].double()
        alone, alone_b = (
            u.masked_fill((v > v.mean()) | (u <= (u.mean() + u.max()) / 2), -torch.inf)
            for u, v in ((x, y), (y, x))
        )
        for kind, scores in zip(
            ("top", "match_top", "only", "match_only"), (x, y, alone, alone_b), strict=True
        ):
            examples = of_kind(record, kind)
            assert {x["token"] for x in examples} == {*highest(scores, 6)}, (number, kind)
        for example in record["examples"]:
            sample, position = divmod(example["token"], WINDOW)
            assert (example["sample"], example["position"]) == (sample, position)
            window = slice(max(position - 3, 0), position + 4)
            assert example["at"] == position - window.start
            assert example["ids"] == IDS[sample, window].tolist()
            for name, values in (("activation", x), ("match_activation", y)):
                expected = values[sample, window].tolist()
                np.testing.assert_allclose(example[name], expected, rtol=1e-5, err_msg=name)


def test_tokens_that_a_mask_leaves_out() -> None:
    mask = torch.ones(SAMPLES, WINDOW, dtype=torch.bool)
    top = looked_at()[3]["examples"][0]["token"]
    mask.view(-1)[top] = False
    a = A.clone()
    a.view(-1, NEURONS)[top] = torch.nan
    record = looked_at(a, mask=mask)[3]
    assert top not in [x["token"] for x in record["examples"]]
    scores = a[..., 3].nan_to_num(nan=-torch.inf)
    assert {x["token"] for x in of_kind(record, "top")} == {*highest(scores, 8)}


def test_what_ids_stand_for() -> None:
    assert looked_at()[3]["examples"][0]["tokens"] is None
    for text in (LETTERS, LETTERS.__getitem__):
        example = looked_at(token_text=text)[3]["examples"][0]
        assert example["tokens"] == [LETTERS[i] for i in example["ids"]]
        assert example["tokens"][example["at"]] == "H"


def test_samples_that_are_not_known() -> None:
    flat, ids = (x.flatten(0, 1) for x in (A, IDS.unsqueeze(-1)))
    record = looked_at(flat, B.flatten(0, 1), token_ids=ids.flatten())[3]
    example = record["examples"][0]
    assert (example["sample"], example["position"]) == (None, None)
    rows = flat[:, 3]
    chunks = torch.nn.functional.pad(rows, (0, -len(rows) % 64), value=-torch.inf).view(-1, 64)
    assert {x["token"] for x in of_kind(record, "top")} == {*highest(chunks, 8)}


def test_samples_by_the_shape_of_ids() -> None:
    a, b = A.clone(), B.clone()
    for x in (a, b):
        x[..., 8] = 0.01 * x[..., 8]
        x[:, 1:, 8] += 3.0 * (IDS[:, :-1] == 11)
    result = uf.correlate(*(x.flatten(0, 1) for x in (a, b)), **OPTIONS)
    assert result.position_r2 is not None
    assert result.position_r2[5] > 0.8
    records = records_of(result)
    assert records.keys() == looked_at(a, b).keys()
    found = {i: records[i]["explanation"] for i in (5, 8)}
    assert (found[5]["feature"], found[8]["feature"]) == ("position 4", "token 1 before is #11")
    assert found[5]["r2"] > 0.8
    assert found[8]["r2"] > 0.99
    # Ids of one sample say no more than flat ones.
    flat = uf.correlate(
        A.flatten(0, 1), B.flatten(0, 1), **{**OPTIONS, "token_ids": IDS.view(1, -1)}
    )
    assert flat.position_r2 is None


def capture_of(path: Path, x: Tensor, keep: Tensor) -> Path:
    """The directory of a capture that left tokens out."""
    path.mkdir()
    about = {"shards": 1, "tokens": int(keep.sum()), "kept": "k", "context": WINDOW}
    about["format"] = "univfast-capture"
    (path / "capture.json").write_text(json.dumps(about))
    save_file({"mlp": x.flatten(0, 1)[keep]}, path / "shard-00000.safetensors")
    np.save(path / "tokens.npy", IDS.flatten()[keep].numpy().astype("<i4"))
    np.save(path / "places.npy", keep.nonzero()[:, 0].numpy())
    return path


def test_windows_hold_what_stood_side_by_side(tmp_path: Path) -> None:
    keep = (IDS % 6 != 3).flatten() & (torch.arange(SAMPLES * WINDOW) % WINDOW >= 1)
    paths = [capture_of(tmp_path / name, x, keep) for name, x in (("a", A), ("b", B))]
    places = keep.nonzero()[:, 0].tolist()
    told = {**OPTIONS, "token_ids": None}
    result = uf.correlate(*map(str, paths), **told)
    records = records_of(result)
    assert {3, 5} <= records.keys()
    for record in records.values():
        for example in record["examples"]:
            place = places[example["token"]]
            sample, position = divmod(place, WINDOW)
            assert (example["sample"], example["position"]) == (sample, position)
            row = keep.view(SAMPLES, WINDOW)[sample].tolist()
            # Within 64 tokens in a row, which stand for a sample.
            before = min(10, example["token"] % 64)
            behind = min(11, 64 - example["token"] % 64)
            start, stop = position, position + 1
            while start > 0 and row[start - 1] and position - start < before:
                start -= 1
            while stop < WINDOW and row[stop] and stop - position < behind:
                stop += 1
            assert example["at"] == position - start
            assert example["ids"] == IDS[sample, start:stop].tolist()
            expected = A[sample, start:stop, record["neuron"]].tolist()
            np.testing.assert_allclose(example["activation"], expected, rtol=1e-5)
    ids = IDS.flatten()[keep]
    flat = [x.flatten(0, 1)[keep] for x in (A, B)]
    plain = uf.correlate(*flat, **{**OPTIONS, "token_ids": ids})
    assert result.summary["details"] == plain.summary["details"]
    again = uf.explain(result, *map(str, paths))
    assert records_of(again) == records
    np.save(paths[0] / "places.npy", keep.nonzero()[:, 0].numpy()[::-1])
    with pytest.raises(uf.InputError, match=r"places\.npy: is damaged"):
        uf.correlate(*map(str, paths), **told)


def test_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = looked_at()
    monkeypatch.setattr("univfast.contexts.columns.READ_BYTES", 1)
    monkeypatch.setattr("univfast.contexts.columns._LEAST_TOKENS", 100)
    monkeypatch.setattr("univfast.contexts.examples._VALUES", 200)
    assert [x["examples"] for x in looked_at().values()] == [x["examples"] for x in whole.values()]


def test_a_result_that_was_saved(tmp_path: Path) -> None:
    asked = {name: OPTIONS[name] for name in ("threshold", "draws")}
    uf.correlate(A, B, **asked).save(tmp_path)
    assert not (tmp_path / "contexts.jsonl").exists()
    saved = load(tmp_path)
    result = uf.explain(saved, A, B, token_ids=IDS, neurons="activations/9")
    found = records_of(result)
    expected = looked_at(neurons="activations/9")
    assert found.keys() == expected.keys()
    for number, record in found.items():
        assert record["examples"] == expected[number]["examples"]
    result.save(tmp_path)
    head, *lines = map(json.loads, (tmp_path / "contexts.jsonl").read_text().splitlines())
    assert head == {"format": "univfast-contexts", "version": 1, "models": ["a", "b"], "around": 10}
    assert lines == [*found.values()]


def test_several_models() -> None:
    c = planted(3)
    result = uf.correlate(A, [B, c], **OPTIONS)
    assert result.explained is not None
    records = [json.loads(record_json(x)) for x in result.explained.records(result)]
    assert [x["model"] for x in records] == sorted(x["model"] for x in records)
    assert {x["model"] for x in records} == {"b[0]", "b[1]"}
    alone = looked_at(A, c)
    found = [x for x in records if x["model"] == "b[1]" and x["neuron"] in alone]
    assert found
    for record in found:
        assert record["examples"] == alone[record["neuron"]]["examples"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neurons": "activations/99"}, "'activations/99' names no neuron of A; layer"),
        ({"neurons": "activation/9"}, "'activation/9' names no neuron of A; give LAYER/NUMBER"),
        ({"neurons": "9"}, "'9' names no neuron of A; give LAYER/NUMBER"),
        ({"neurons": ["activations/9"], "details": False, "token_ids": None}, "is for details"),
        ({"neurons": ["activations/9"], "token_ids": None}, "neurons: is for activations whose"),
        ({"token_text": str, "token_ids": None}, "^token_text: is for activations whose tokens"),
        ({"examples": 0}, "examples: "),
        ({"examples": 10**7}, "examples: "),
        ({"neurons": ["activations/" + "9" * 5000]}, "names no neuron of A; layer"),
        ({"around": -1}, "around: "),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(uf.InputError, match=message):
        looked_at(**options)


def test_neurons_without_a_match() -> None:
    a = A.clone()
    a[..., 9] = 1.0
    with pytest.raises(uf.InputError, match="'activations/9' has no match"):
        looked_at(a, neurons="activations/9")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": [B, B]}, "b: the result is of 2 models, got 3"),
        ({"a": A[..., :2]}, r"a: layer 'activations' has 2 neurons"),
        ({"token_ids": None}, "token_ids: are needed"),
        ({"b": planted(9)}, "here, and .* in the result"),
        ({"a": A[:, :8], "b": B[:, :8], "token_ids": IDS[:, :8]}, "mask: leaves 480 tokens"),
        ({"mask": IDS > 2}, "mask: leaves"),
    ],
)
def test_other_activations_than_those_of_the_result(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"a": A, "b": B, "token_ids": IDS, **change}
    result = uf.correlate(A, B, threshold=0.1)
    with pytest.raises(uf.InputError, match=message):
        uf.explain(result, given.pop("a"), given.pop("b"), **given)


class Planted(nn.Module):
    """A live model whose neurons are `planted`, by the row of a sample that comes with it."""

    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.mlp = nn.Identity()
        self.activations = activations

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        rows = [int((row == IDS).all(1).nonzero()[0, 0]) for row in _filled(input_ids)]
        found: Tensor = self.mlp(self.activations[rows][:, : input_ids.shape[1]])
        return found


def _filled(ids: Tensor) -> Tensor:
    """The samples that were cut."""
    length = ids.shape[1]
    return torch.stack([IDS[(IDS[:, :length] == row).all(1)][0] for row in ids])


def test_live_models() -> None:
    expected = looked_at()
    models = Planted(A), Planted(B)
    batches = [{"input_ids": IDS[i : i + 7]} for i in range(0, SAMPLES, 7)]
    seen: list[tuple[int, int | None]] = []
    options = {name: x for name, x in OPTIONS.items() if name != "token_ids"}
    result = uf.correlate_models(
        *models, batches, hooks="mlp", progress=lambda *x: seen.append(x), **options
    )
    found = records_of(result)
    assert found.keys() == expected.keys()
    for number, record in found.items():
        assert record["examples"] == expected[number]["examples"]
        assert record["explanation"] == expected[number]["explanation"]
    assert seen == [(i + 1, 27) for i in range(27)]


def test_live_models_within_inference_mode() -> None:
    batches = [{"input_ids": IDS[i : i + 7]} for i in range(0, SAMPLES, 7)]
    options = {name: x for name, x in OPTIONS.items() if name != "token_ids"}
    with torch.inference_mode():
        result = uf.correlate_models(Planted(A), Planted(B), batches, hooks="mlp", **options)
    expected = looked_at()
    assert {n: x["examples"] for n, x in records_of(result).items()} == {
        n: x["examples"] for n, x in expected.items()
    }


def test_live_models_on_samples_of_several_lengths() -> None:
    batches = [{"input_ids": IDS[:30]}, {"input_ids": IDS[30:, :9]}, {"input_ids": IDS[:2, :3]}]
    options = {name: x for name, x in OPTIONS.items() if name != "token_ids"}
    result = uf.correlate_models(Planted(A), Planted(B), batches, hooks="mlp", **options)
    samples = [(IDS[i], A[i, :, 3]) for i in range(30)]
    samples += [(IDS[i, :9], A[i, :9, 3]) for i in range(30, SAMPLES)]
    samples += [(IDS[i, :3], A[i, :3, 3]) for i in range(2)]
    ids, values = (torch.cat(x) for x in zip(*samples, strict=True))
    number = torch.cat([torch.full((len(x),), i) for i, (x, _) in enumerate(samples)])
    record = records_of(result)[3]
    assert record["explanation"]["feature"] == "token #7"
    r = np.corrcoef(values.numpy(), (ids == 7).numpy())[0, 1]
    assert record["explanation"]["r2"] == pytest.approx(r * r, rel=1e-5)
    for example in record["examples"]:
        start = example["token"] - example["at"]
        stop = start + len(example["ids"])
        assert example["ids"] == ids[start:stop].tolist()
        np.testing.assert_allclose(example["activation"], values[start:stop], rtol=1e-5)
        assert len({*number[start:stop].tolist()}) == 1
        # As far as the sample goes on both sides, within 64 tokens and 10 of the marked one.
        for edge, beyond in ((start, start - 1), (stop - 1, stop)):
            near = abs(edge - example["token"]) < 10 and edge // 64 == beyond // 64
            assert not near or beyond in (-1, len(ids)) or number[edge] != number[beyond]


def test_each_neuron_counts_once_of_however_many_models() -> None:
    result = uf.correlate(A, [B, planted(3)], **OPTIONS, neurons=["activations/9"])
    universal = int(result.universal.sum())
    assert sum(x["neurons"] for x in result.summary["families"]) == universal
    assert sum(x["matches"] for x in result.summary["families"]) == 2 * universal


def test_neurons_of_layers_with_commas() -> None:
    a, b = ({"a/b,c 1": x, "d": x[..., :4]} for x in (A, B))
    result = uf.correlate(a, b, **OPTIONS, neurons="a/b,c 1/9, d/2,d/0")
    assert result.explained is not None
    found = {(x.layer, x.neuron) for x in result.explained.records(result)}
    assert {("a/b,c 1", 9), ("d", 2), ("d", 0)} <= found


def test_ids_that_no_tokenizer_knows(tmp_path: Path) -> None:
    from support.language_models import make_tokenizer

    make_tokenizer("a b c d e f g").save_pretrained(tmp_path)
    from univfast.text import token_text

    record = looked_at(token_ids=IDS - 5, token_text=token_text(str(tmp_path)))[3]
    assert {"#-1", "#24"} & {x for example in record["examples"] for x in example["tokens"]}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, x in (("a", A), ("b", B), ("ids", IDS)):
        np.save(tmp_path / f"{name}.npy", x.numpy())
    paths = [tmp_path / f"{name}.npy" for name in ("a", "b")]
    command = ["correlate", *paths, "--threshold", 0.1, "--draws", 2, "--out", tmp_path / "out"]
    details = ["--details", "--token-ids", tmp_path / "ids.npy", "--neurons", "activations/9"]
    assert run(*command, *details) == 0
    lines = (tmp_path / "out" / "contexts.jsonl").read_text().splitlines()[1:]
    expected = looked_at(neurons=["activations/9"])
    assert [json.loads(line)["examples"] for line in lines] == [
        x["examples"] for x in expected.values()
    ]
    assert run(*command) == 0  # this one has none
    assert not (tmp_path / "out" / "contexts.jsonl").exists()
    capsys.readouterr()
    assert run(*command, *details[:-1], "activations/99") == 2
    assert "--neurons" in error_line(capsys)
