"""The directory of a control: it comes back with its shifts, and a wrong one is named."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.language_models import CPU, GPT2_HOOKS, Directories, open_one
from support.pickles import Malicious
from univfast.controls import shifts_of
from univfast.errors import InputError
from univfast.machine import files
from univfast.text.control_files import NOTE, ControlNote, save_control
from univfast.text.live_controls import Pilot, make_control
from univfast.text.models import load_model

HOOKS = {"gpt2": GPT2_HOOKS, "half": GPT2_HOOKS, "llama": "model.layers.*.mlp.act_fn"}


def rows(run: object, number: int = 0) -> dict[str, Tensor]:
    return {
        name: layer.read(0, layer.tokens)
        for name, layer in run.activations[number].layers.items()  # type: ignore[attr-defined]
    }


@pytest.fixture
def control(directories: Directories, opened: ExitStack, tmp_path: Path) -> Path:
    """A rate-matched control of gpt2."""
    run = open_one(opened, directories.gpt2, directories.text, max_tokens=400, context=8)
    fresh = make_control(run.models[0], 3, Pilot.of(run, 0))
    out = tmp_path / "control"
    save_control(str(out), str(directories.gpt2), fresh, ControlNote(3, {"file": "corpus.txt"}))
    return out


@pytest.mark.parametrize("name", HOOKS)
def test_a_control_comes_back_as_it_was(
    name: str, directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    directory, out = getattr(directories, name), tmp_path / "c"
    how = {"hooks": HOOKS[name], "max_tokens": 400, "context": 8, "positions": "1:"}
    run = open_one(opened, directory, directories.text, **how)
    pilot = Pilot.of(run, 0)
    assert pilot.tokens == 350
    fresh = make_control(run.models[0], 3, pilot)
    save_control(str(out), str(directory), fresh, ControlNote(3, {"file": "corpus.txt"}))
    again = open_one(opened, out, directories.text, **how)
    assert again.models[0].control == ControlNote(3, {"file": "corpus.txt"})
    expected = shifts_of(fresh)
    found = shifts_of(again.models[0].module)
    assert list(found) == list(expected) == [x + ":input" for x in again.activations[0].layers]
    assert all(torch.equal(found[place], expected[place]) for place in expected)
    trained, back = rows(run), rows(again)
    for layer, x in trained.items():
        assert back[layer].dtype == x.dtype
        counts = [(x[run.keep] > 0).sum(0) for x in (x, back[layer])]
        # Values of bfloat16 are equal in dozens, which go together.
        assert (counts[0] - counts[1]).abs().max() <= (5 if name == "half" else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (out / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()


def test_a_fingerprint_has_the_shifts(control: Path) -> None:
    first, again = (load_model(str(control), CPU).fingerprint for _ in range(2))
    content = torch.load(control / NOTE, weights_only=True)
    next(iter(content["shifts"].values()))[3] += 0.5
    torch.save(content, control / NOTE)
    assert first == again != load_model(str(control), CPU).fingerprint


def test_another_library_reads_the_weights_alone(control: Path) -> None:
    import transformers

    _, loading = transformers.AutoModelForCausalLM.from_pretrained(
        control, output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_a_failed_write_leaves_nothing(
    directories: Directories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(directories.gpt2), CPU)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for module, name in ((shutil, "copyfile"), (model.module, "save_pretrained")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, fail)
            with pytest.raises(InputError, match=r"c: cannot be written \(No space left on dev"):
                save_control(
                    str(tmp_path / "c"), str(directories.gpt2), model.module, ControlNote(0, None)
                )
        assert not [*tmp_path.iterdir()]


def test_a_directory_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="full: is there already, and not empty; name another"):
        files.check_new_directory(tmp_path / "full")
    for name in ("empty", "deep/new"):
        with files.making_directory(tmp_path / name) as folder:
            (folder / "b").touch()
        assert [path.name for path in (tmp_path / name).iterdir()] == ["b"]
    with pytest.raises(ValueError, match="stop"), files.making_directory(tmp_path / "other"):
        raise ValueError("stop")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty", "full"]


PLACE = "transformer.h.0.mlp.act:input"


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (["format"], "another", "does not say how a control was made"),
        (["version"], 2, "has version 2, this univfast reads 1"),
        (["seed"], "1", r"is damaged \(seed: expected an integer"),
        (["seed"], -1, "seed: got -1"),
        (["matched_on"], 3, r"is damaged \(matched_on and shifts must be dicts"),
        (["shifts"], [], r"is damaged \(matched_on and shifts must be dicts"),
        (["shifts", PLACE], torch.ones(2, 2), rf"is damaged \(the shift of '{PLACE}' is no finite"),
        (["shifts", PLACE], torch.tensor([torch.nan]), rf"is damaged \(the shift of '{PLACE}'"),
        (["shifts", "nowhere:input"], torch.ones(3), "shifts 'nowhere:input', which is no module"),
        (["weights"], "0" * 64, "is of another network than the weights beside it"),
    ],
)
def test_a_damaged_note_is_named(
    control: Path, keys: list[str], value: object, reason: str
) -> None:
    content = torch.load(control / NOTE, weights_only=True)
    parent = content[keys[0]] if len(keys) == 2 else content
    parent[keys[-1]] = value
    torch.save(content, control / NOTE)
    with pytest.raises(InputError, match=rf"^{control / NOTE}: {reason}[^\n]*; make the control"):
        load_model(str(control), CPU)


def test_a_file_that_is_no_note_is_named_and_not_run(control: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    for write in (
        lambda path: torch.save({"format": Malicious(victim)}, path),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_text("shifts"),
    ):
        kept = (control / NOTE).read_bytes()
        write(control / NOTE)
        with pytest.raises(InputError, match=rf"^{control / NOTE}: is damaged [^\n]*; make the"):
            load_model(str(control), CPU)
        (control / NOTE).write_bytes(kept)
    assert not victim.exists()


def test_a_shift_of_another_width_is_refused(
    control: Path, directories: Directories, opened: ExitStack
) -> None:
    content = torch.load(control / NOTE, weights_only=True)
    content["shifts"][PLACE] = torch.ones(1)
    torch.save(content, control / NOTE)
    with pytest.raises(InputError, match="shifts: 1 of a control, for 64 neurons; make the contr"):
        open_one(opened, control, directories.text)
