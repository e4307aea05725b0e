"""Controls of a run: made when they are read, given up when told, and never two of one."""

from __future__ import annotations

import gc
import weakref
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import univfast as uf
from support.language_models import (
    CONTEXT,
    CPU,
    GPT2_HOOKS,
    LLAMA_HOOKS,
    Directories,
    open_one,
)
from univfast.errors import InputError
from univfast.text import CorpusOptions, TextOptions, TokenFilters, control_activations, open_run
from univfast.text import live_controls as module
from univfast.text.control_files import ControlNote, save_control
from univfast.text.live_controls import Pilot, make_control


def test_rates_are_those_of_the_model(directories: Directories, opened: ExitStack) -> None:
    run = open_one(
        opened, directories.gpt2, directories.text, context=CONTEXT, positions="1:", max_tokens=400
    )
    like = run.activations[0]
    control = control_activations(run, 0, 0)
    assert (control.window, control.most, control.name) == (
        like.window,
        like.most,
        f"{directories.gpt2} (control 0)",
    )
    assert run.keep is not None
    for name, layer in control.layers.items():
        own = like.layers[name]
        x, y = (one.read(0, one.tokens) for one in (own, layer))
        assert (layer.shape, layer.dtype, layer.device) == (own.shape, own.dtype, own.device)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert ((x[run.keep] > 0).sum(0) - (y[run.keep] > 0).sum(0)).abs().max() <= 1
        plain = control_activations(run, 0, 0, match_rate=False).layers[name].read(0, own.tokens)
        assert not torch.equal(plain, y)


def test_the_network_is_there_while_it_is_read(
    directories: Directories, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.nn.Module]] = []
    matched: list[bool] = []
    make = module.make_control

    def watched(model: object, seed: int, pilot: object, side: str) -> torch.nn.Module:
        network = make(model, seed, pilot, side)  # type: ignore[arg-type]
        made.append(weakref.ref(network))
        matched.append(pilot is not None)
        return network

    monkeypatch.setattr(module, "make_control", watched)
    run = open_one(opened, directories.gpt2, directories.text, max_tokens=200)
    control = control_activations(run, 0, 0)
    assert control.begin is not None
    assert control.end is not None
    fingerprints = [layer.fingerprint() for layer in control.layers.values()]
    assert made == []
    control.begin()
    assert len(made) == 1
    first = [layer.read(0, 200) for layer in control.layers.values()]
    assert len(made) == 1
    for _ in range(2):
        control.end()
        gc.collect()
        assert made[-1]() is None
        again = [layer.read(0, 200) for layer in control.layers.values()]
        assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert matched == [True, False, False]
    assert [layer.fingerprint() for layer in control.layers.values()] == fingerprints
    control.end()
    control.end()


def test_controls_differ_by_seed_and_model_and_side(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    paths = [str(directories.gpt2)] * 2 + [str(directories.half)]
    options = TextOptions(str(directories.text), CorpusOptions(max_tokens=100))
    run = opened.enter_context(open_run(paths, [[GPT2_HOOKS]] * 3, options, CPU))
    controls = [control_activations(run, i, seed) for i in range(3) for seed in (0, 1)]
    controls += [control_activations(run, 0, 0, match_rate=False)]
    layers = [next(iter(x.layers.values())) for x in controls]
    rows = [layer.read(0, 100).float() for layer in layers]
    assert not any(torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert len({layer.fingerprint() for layer in layers}) == 7
    same = next(iter(control_activations(run, 0, 1).layers.values()))
    assert torch.equal(same.read(0, 100), rows[1])
    # The control of `univfast control` of that seed.
    fresh = make_control(run.models[0], 1, Pilot.of(run, 0))
    save_control(str(tmp_path / "c"), paths[0], fresh, ControlNote(1, {}))
    stored = open_one(opened, tmp_path / "c", directories.text, max_tokens=100)
    assert torch.equal(next(iter(stored.activations[0].layers.values())).read(0, 100), rows[1])


def test_a_pilot_is_spread_over_the_windows_that_count(
    directories: Directories, opened: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "PILOT_TOKENS", 40)
    mask = torch.arange(1000) >= 500
    torch.save(mask, tmp_path / "mask.pt")
    how = {"context": 8, "max_tokens": 1000, "mask": str(tmp_path / "mask.pt")}
    run = open_one(opened, directories.gpt2, directories.text, **how)
    pilot = Pilot.of(run, 0)
    assert (pilot.windows.tokens, pilot.tokens) == (48, 40)
    # Of the 63 windows from the 62nd on.
    chosen = torch.tensor([62 + i * 63 // 6 for i in range(6)])
    assert torch.equal(pilot.windows.ids.view(6, 8), run.windows.ids.view(-1, 8)[chosen])
    assert pilot.keep is not None
    assert pilot.keep.sum() == 44
    short = Pilot.of(run, 0, tokens=600)
    assert short.digest != pilot.digest == Pilot.of(run, 0).digest
    one = open_one(opened, directories.gpt2, directories.text, context=16, max_tokens=10)
    assert Pilot.of(one, 0).windows.tokens == 10


def test_many_batches_give_the_same_shifts_as_one(
    directories: Directories, opened: ExitStack
) -> None:
    def shifts(**options: object) -> list[torch.Tensor]:
        run = open_one(
            opened, directories.gpt2, directories.text, context=8, max_tokens=300, **options
        )
        network = make_control(run.models[0], 0, Pilot.of(run, 0))
        return list(module.shifts_of(network).values())

    for one, other in zip(shifts(), shifts(batch_tokens=16), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_padding_is_not_seen(directories: Directories, opened: ExitStack, tmp_path: Path) -> None:
    ids = torch.randint(4, 100, (40, 8), generator=torch.Generator().manual_seed(0))
    ids[::2, 5:] = 2
    torch.save(ids, tmp_path / "ids.pt")
    run = open_one(opened, directories.gpt2, tmp_path / "ids.pt", skip=("padding",))
    control = control_activations(run, 0, 0)
    assert run.keep is not None
    for name, layer in control.layers.items():
        x, y = (one.read(0, 320)[run.keep] for one in (run.activations[0].layers[name], layer))
        assert ((x > 0).sum(0) - (y > 0).sum(0)).abs().max() <= 1


def test_what_cannot_be_a_control_is_refused_at_once(
    directories: Directories, opened: ExitStack, tmp_path: Path
) -> None:
    run = open_one(opened, directories.llama, directories.text, LLAMA_HOOKS)
    match = r"llama: hooks: rates cannot be matched at layer '\S+:input' \(Linear\)[^\n]*; hook"
    with pytest.raises(InputError, match=match):
        control_activations(run, 0, 0)
    assert control_activations(run, 0, 0, match_rate=False).layers.keys()
    network = make_control(run.models[0], 0, None)
    save_control(str(tmp_path / "c"), str(directories.llama), network, ControlNote(0, None))
    run = open_one(opened, tmp_path / "c", directories.text, LLAMA_HOOKS)
    for match_rate in (True, False):
        with pytest.raises(InputError, match="c: is a control itself; give the trained model"):
            control_activations(run, 0, 0, match_rate)


def test_controls_are_correlated_as_any_activations(
    directories: Directories, opened: ExitStack
) -> None:
    options = TextOptions(
        str(directories.text), CorpusOptions(CONTEXT), TokenFilters(("newline",), "1:")
    )
    paths = [str(directories.gpt2)]
    run = opened.enter_context(open_run(paths, [[GPT2_HOOKS]], options, CPU))
    control = control_activations(run, 0, 0)
    result = uf.correlate(run.activations[0], control, mask=run.keep, match="best", draws=2)
    assert result.correlation.nanmean() < 0.9
