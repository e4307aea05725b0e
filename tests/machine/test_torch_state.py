"""What is set for torch by others changes no bit of what is computed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from support.ablated import Planted, planted_ids
from support.torch_states import STATES, default_dtype, mkldnn_precision
from univfast.machine.torch_state import PlainState, exact_products

TOKENS, WIDTH = 300, 40
HOOKS = "*.act"

# In which a user's model runs as it does in no state, but for the last bits of its products.
FOR_MODELS = [
    name
    for name in STATES
    if name not in ("autocast", "medium products", "bfloat16 products", "fake tensors")
    and "mode" not in name.removeprefix("inference mode")
]

Layers = dict[str, Tensor]


def layers(seed: int) -> Layers:
    """One layer as usual, and one of numbers below the smallest normal one."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(99))
    usual = shared + torch.randn(TOKENS, WIDTH, generator=g) + 3
    return {"usual": usual, "tiny": torch.randn(TOKENS, 17, generator=g) * 1e-40}


A, B, CONTROL, MASK = layers(0), layers(1), layers(2), torch.arange(TOKENS) % 5 > 0
CALLS: dict[str, dict[str, Any]] = {
    "index": {"match": "index", "details": True, "token_ids": torch.arange(TOKENS) % 7},
    "best": {"match": "best", "controls_b": [CONTROL, A], "mask": MASK, "reverse": True},
    "one-to-one": {"match": "one-to-one", "rotation": "haar"},
    "gaussian": {"match": "best", "rotation": "gaussian", "device": "cpu"},
    "none": {"match": "index", "rotation": "none"},
}


class Model(nn.Module):
    """Its forward pass makes no tensor of its own, so that defaults do not change it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.act, self.down = nn.Linear(8, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.up(x)))
        return y


class Pair(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.first, self.second = Model(seed), Model(seed + 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


MODELS = Pair(0).eval(), Pair(5).eval()
BATCHES = list(torch.randn(3, 50, 8, generator=torch.Generator().manual_seed(0)))


def tensors(result: uf.CorrelationResult) -> dict[str, Tensor]:
    found = {name: x for name, x in vars(result).items() if isinstance(x, Tensor)}
    for name in ("reverse", "by_index"):
        if (more := getattr(result, name)) is not None:
            found |= {f"{name} {key}": x for key, x in tensors(more).items()}
    return found


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, x in got.items():
        assert type(x) is Tensor, name
        assert x.dtype == expected[name].dtype, name
        assert not x.is_inference(), name
        assert not x.requires_grad, name
        assert torch.equal(x.nan_to_num(nan=-9.0), expected[name].nan_to_num(nan=-9.0)), name


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Tensor]]:
    return {name: tensors(uf.correlate(A, B, draws=2, **call)) for name, call in CALLS.items()}


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("state", list(STATES))
def test_correlate(state: str, call: str, expected: dict[str, dict[str, Tensor]]) -> None:
    with STATES[state]():
        result = uf.correlate(A, B, draws=2, **CALLS[call])
    assert_same(tensors(result), expected[call])


def paired() -> uf.PairedCorrelation:
    return uf.PairedCorrelation(WIDTH, draws=2, shifts=3)


def all_pairs() -> uf.AllPairsCorrelation:
    return uf.AllPairsCorrelation({"x": WIDTH}, {"y": WIDTH}, draws=2)


@pytest.mark.parametrize("when", ["made", "updated", "computed", "saved"])
@pytest.mark.parametrize("make", [paired, all_pairs])
@pytest.mark.parametrize("state", list(STATES))
def test_accumulators(state: str, make: Any, when: str) -> None:
    batches = [(A["usual"][i : i + 100], B["usual"][i : i + 100]) for i in (0, 100, 200)]
    expected = make()
    for a, b in batches:
        expected.update(a, b)

    def within(step: str) -> Any:
        return STATES[state]() if step == when else PlainState()

    with within("made"):
        accumulator, other = make(), make()
    for number, (a, b) in enumerate(batches):
        with within("updated"):
            (other if number else accumulator).update(a, b)
    with within("saved"):
        saved = accumulator.state_dict()
        accumulator.load_state_dict(saved)
        # The same split, for the sums depend on it in the last bits.
        same = make()
        same.update(*batches[0])
        rest = make()
        for a, b in batches[1:]:
            rest.update(a, b)
        accumulator.merge(other)
        same.merge(rest)
    with within("computed"):
        result = accumulator.compute()
    assert_same(tensors(result), tensors(same.compute()))
    torch.testing.assert_close(result.correlation, expected.compute().correlation)


@pytest.mark.slow
@pytest.mark.parametrize("state", list(STATES))
def test_a_run_that_goes_on_and_its_files(
    state: str, tmp_path: Path, expected: dict[str, dict[str, Tensor]]
) -> None:
    seen = []

    def interrupted(done: int, total: int) -> None:
        seen.append(done)
        raise KeyboardInterrupt

    call = {"draws": 2, "checkpoint": tmp_path / "c", "checkpoint_every": 0, **CALLS["best"]}
    with STATES[state](), pytest.raises(KeyboardInterrupt):
        uf.correlate(A, B, progress=interrupted, **call)
    assert seen
    result = uf.correlate(A, B, **call)
    assert_same(tensors(result), expected["best"])


@pytest.mark.slow
@pytest.mark.parametrize("state", FOR_MODELS)
def test_live_models(state: str) -> None:
    options: dict[str, Any] = {"hooks": HOOKS, "draws": 2, "details": True, "device": "cpu"}
    expected = uf.correlate_models(*MODELS, BATCHES, **options)
    fresh = [uf.control(model, 1, batches=BATCHES, hooks=HOOKS) for model in MODELS]
    with uf.capture(MODELS[0], HOOKS) as captured:
        MODELS[0](BATCHES[0])
        taken = dict(captured)
    with STATES[state]():
        result = uf.correlate_models(*MODELS, BATCHES, **options)
        controls = [uf.control(model, 1, batches=BATCHES, hooks=HOOKS) for model in MODELS]
        with uf.capture(MODELS[0], HOOKS) as captured:
            MODELS[0](BATCHES[0])
            found = dict(captured)
    assert_same(tensors(result), tensors(expected))
    assert_same(found, taken)
    for control, like in zip(controls, fresh, strict=True):
        assert_same(
            {name: x.detach() for name, x in control.state_dict().items()},
            {name: x.detach() for name, x in like.state_dict().items()},
        )


@pytest.mark.parametrize("state", FOR_MODELS)
def test_ablation(state: str) -> None:
    model, ids = Planted(), planted_ids()
    call: Any = {"hooks": "act", "neurons": {"act": [0, 1, 4]}, "repeats": 2}
    expected = uf.ablate(model, [ids], **call).to_dict()
    with STATES[state]():
        found = uf.ablate(model, [ids], **call).to_dict()
    assert found == expected


@pytest.mark.parametrize("state", [name for name in STATES if name != "fake tensors"])
def test_controls_without_matching(state: str) -> None:
    expected = uf.control(MODELS[0], 1, match_rate=False).state_dict()
    with STATES[state]():
        control = uf.control(MODELS[0], 1, match_rate=False)
    assert_same(dict(control.state_dict()), dict(expected))
    assert all(x.requires_grad and not x.is_inference() for x in control.parameters())


@pytest.mark.parametrize("match", ["index", "best"])
def test_a_user_s_autocast_is_in_force_in_the_model_alone(match: str) -> None:
    options: dict[str, Any] = {"draws": 2, "match": match}
    taken = []
    with torch.autocast("cpu", torch.bfloat16):
        for model in MODELS:
            parts: list[Layers] = []
            for batch in BATCHES:
                with uf.capture(model, HOOKS) as captured:
                    model(batch)
                    parts.append(dict(captured))
            taken.append({name: torch.cat([x[name] for x in parts]) for name in parts[0]})
        result = uf.correlate_models(*MODELS, BATCHES, hooks=HOOKS, **options)
    assert all(x.dtype == torch.bfloat16 for side in taken for x in side.values())
    expected = uf.correlate(*taken, **options)
    assert torch.allclose(
        result.correlation, expected.correlation, atol=1e-6, rtol=0, equal_nan=True
    )


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad, torch.func.functionalize])
def test_transforms_are_refused(transform: Any) -> None:
    def of(x: Tensor) -> Tensor:
        with pytest.raises(uf.InputError, match=r"^univfast: .*vmap.* call it outside$"):
            uf.correlate(A["usual"], x)
        return x.sum()

    transform(of)(B["usual"])


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_tracing_is_refused() -> None:
    def of(x: Tensor) -> Tensor:
        uf.correlate(A["usual"], x)
        return x

    with pytest.raises(
        uf.InputError, match=r"^univfast: is called while torch\.jit\.trace records"
    ):
        torch.jit.trace(of, B["usual"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_compiled_gives_the_same() -> None:
    x = torch.randn(3, 50, 16, generator=torch.Generator().manual_seed(0))
    models = [nn.Sequential(nn.Linear(16, 8), nn.GELU()).eval() for _ in range(2)]
    options: Any = {"match": "index", "draws": 2}
    expected = uf.correlate_models(*models, [*x], hooks="1", **options)
    compiled = [torch.compile(model, backend="eager") for model in models]
    found = uf.correlate_models(*compiled, [*x], hooks="1", **options)
    assert_same(tensors(found), tensors(expected))
    with uf.capture(compiled[0], "1") as captured:
        compiled[0](x[0])
        assert captured["1"].shape == (50, 8)
    a, b = A["usual"], B["usual"]
    caller = torch.compile(lambda a, b: uf.correlate(a, b, **options), backend="eager")
    assert_same(tensors(caller(a, b)), tensors(uf.correlate(a, b, **options)))


@pytest.mark.slow
def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    code = """
import os, signal, torch, univfast as uf
torch.set_num_threads(2)
a = torch.randn(6000, 256)
b = a + torch.randn(6000, 256)
if (child := os.fork()) == 0:
    signal.alarm(60)
    uf.correlate(a, b)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_callers_leave_it_out() -> None:
    """torch's compiler sees no operation of the package, and so changes none."""
    seen = []

    def backend(graph: Any, inputs: object) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    def of(x: Tensor, y: Tensor) -> Tensor:
        accumulator.update(x * 2, y)
        return x + 1

    accumulator, expected = paired(), paired()
    expected.update(A["usual"] * 2, B["usual"])
    torch.compile(of, backend=backend)(A["usual"], B["usual"])
    assert len(seen) == 2
    assert_same(tensors(accumulator.compute()), tensors(expected.compute()))


@pytest.fixture
def odd() -> Iterator[None]:
    with (
        default_dtype(torch.float64),
        torch.device("meta"),
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
    ):
        yield


def test_all_is_put_back(odd: None) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.empty(0).device.type,
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_grad_enabled(),
        )

    before = state()
    with PlainState():
        assert state() == (torch.float64, "cpu", False, False, False)
    assert state() == before
    with pytest.raises(uf.InputError):
        uf.correlate(A, B, draws=-1)
    assert state() == before == (torch.float64, "meta", True, True, False)


def test_subnormal_numbers_are_flushed_again_afterwards() -> None:
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    torch.set_flush_denormal(True)
    try:
        assert not (tiny * 1).item()
        with PlainState():
            assert (tiny * 1).item() == 1e-310
        assert not (tiny * 1).item()
    finally:
        torch.set_flush_denormal(False)


def test_products_are_exact_until_the_last_thread_is_done() -> None:
    settings: Any = torch.backends.mkldnn
    inside, leave = threading.Barrier(2), threading.Event()

    def other() -> None:
        with exact_products():
            inside.wait()
            leave.wait()

    with mkldnn_precision("bf16"):
        thread = threading.Thread(target=other)
        thread.start()
        with exact_products():
            inside.wait()
        assert settings.matmul.fp32_precision == "ieee"
        leave.set()
        thread.join()
        assert settings.matmul.fp32_precision == "bf16"
