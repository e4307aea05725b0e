"""Tensors that are no plain memory: made plain where that is exact, else refused in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

import univfast as uf
from univfast.inputs.plain import plain_tensor

A = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))


class Loud(Tensor):
    """Of plain memory, but no function of torch takes it."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(func)


class Wrapper(Tensor):
    """Holds another tensor, and no memory."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(func)


def quiet(make: Callable[[], Tensor]) -> Tensor:
    """torch warns that some of these are prototypes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def freed() -> Tensor:
    x = A.clone()
    x.untyped_storage().resize_(0)  # as FSDP does
    return x


def cut() -> Tensor:
    x = A.clone()
    x.untyped_storage().resize_(4 * A.numel() - 1)
    return x


def fake() -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(A)


REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "masked": (lambda: torch.masked.masked_tensor(A, A < 1), r"masked tensor.*get_data.*mask="),
    "wrapper": (lambda: Wrapper(A), "a Wrapper, which wraps other tensors; pass a plain"),
    "two": (lambda: TwoTensor(A, A), "a TwoTensor, which wraps other tensors; pass a plain"),
    "parameter": (lambda: nn.Parameter(TwoTensor(A, A)), "a TwoTensor, which wraps"),
    "fake": (fake, "a FakeTensor, which has no values; pass a dense one"),
    "meta": (lambda: A.to("meta"), "a meta tensor; pass a dense one"),
    "coo": (A.to_sparse, r"a sparse_coo tensor; .*to_dense\(\)"),
    "csr": (A.to_sparse_csr, r"a sparse_csr tensor; .*to_dense\(\)"),
    "csc": (A.to_sparse_csc, r"a sparse_csc tensor; .*to_dense\(\); or,.*to_sparse_coo"),
    "mkldnn": (A.to_mkldnn, r"a mkldnn tensor; .*to_dense\(\)"),
    "nested": (lambda: torch.nested.nested_tensor([A, A]), r"a nested tensor; .*torch.cat"),
    "jagged": (
        lambda: torch.nested.nested_tensor([A, A], layout=torch.jagged),
        r"a nested tensor; .*torch.cat",
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(A, 0.1, 0, torch.qint8),
        r"a quantized tensor; .*dequantize\(\)",
    ),
    "lazy": (nn.UninitializedParameter, "an UninitializedParameter, .* run the model once"),
    "freed": (freed, r"shape \[30, 4\] that needs 480 bytes of memory and has 0; .*FSDP"),
    "cut": (cut, r"needs 480 bytes of memory and has 479; .*a copy"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_everywhere(name: str) -> None:
    make, message = REFUSED[name]
    bad = quiet(make)

    def refuses(where: str, call: Callable[[], object]) -> None:
        with pytest.raises(uf.InputError, match=f"^{where}: .*{message}") as caught:
            quiet(call)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)

    if name not in ("coo", "csr"):  # which are read as activations
        refuses("a: layer 'activations'", lambda: uf.correlate(bad, A))
        refuses("b: layer 'x'", lambda: uf.correlate({"x": A}, {"x": bad}))
    refuses("mask", lambda: uf.correlate(A, A, mask=bad))
    refuses("token_ids", lambda: uf.correlate(A, A, details=True, token_ids=bad))
    paired, pairs = uf.PairedCorrelation(4), uf.AllPairsCorrelation({"x": 4}, {"y": 4})
    refuses("b", lambda: paired.update(A, bad))
    refuses("mask", lambda: paired.update(A, A, mask=bad))
    refuses("a: layer 'x'", lambda: pairs.update(bad, A))
    assert paired.tokens == pairs.tokens == 0


class Gives(nn.Module):
    """Gives a tensor of another kind."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.act = nn.Identity()
        self._make = make

    def forward(self, x: Tensor) -> Tensor:
        self.act(quiet(self._make))
        return x


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "lazy"])
def test_refused_under_hooks(name: str) -> None:
    make, message = REFUSED[name]
    model = Gives(make)
    with pytest.raises(uf.InputError, match=f"^hooks: layer 'act': is .*{message}"):
        uf.correlate_models(model, model, [A], hooks="act")


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad, torch.func.functionalize])
def test_refused_within_transforms(transform: Any) -> None:
    model = Gives(lambda: A)
    model.forward = lambda x: model.act(x)  # type: ignore[method-assign]
    with (
        uf.capture(model, "act"),
        pytest.raises(uf.InputError, match=r"of a transform of torch\.func"),
    ):
        transform(lambda x: model(x).sum())(A)


def plain_kinds() -> Iterator[tuple[str, Callable[[], Tensor], Tensor]]:
    yield "parameter", lambda: nn.Parameter(A), A
    yield "buffer", lambda: nn.Buffer(A), A
    yield "subclass", lambda: A.as_subclass(Loud), A
    yield "negative view", lambda: torch._neg_view(A), -A
    imaginary = torch.complex(A, A)
    yield "imaginary part", lambda: imaginary.conj().imag, -A
    yield "conjugate's real part", lambda: imaginary.conj().real, A
    yield "copied on write", lambda: torch._lazy_clone(A), A
    yield "requires a gradient", lambda: A.clone().requires_grad_(), A
    yield "expanded", lambda: A[:1].expand(30, 4), A[:1].repeat(30, 1)
    yield "transposed", lambda: A.T.contiguous().T, A


KINDS = list(plain_kinds())


@pytest.mark.parametrize(("name", "make", "values"), KINDS, ids=[kind[0] for kind in KINDS])
def test_made_plain(name: str, make: Callable[[], Tensor], values: Tensor) -> None:
    found = plain_tensor(make(), "a")
    assert type(found) is Tensor
    assert torch.equal(found, values)
    assert not found.is_neg()
    assert not found.is_conj()
    assert not found.requires_grad
    paired, expected = uf.PairedCorrelation(4), uf.PairedCorrelation(4)
    other = A.flip(0)
    paired.update(make(), other)
    expected.update(values, other)
    assert torch.equal(paired.state_dict()["moments"], expected.state_dict()["moments"])


def test_zeros_without_memory() -> None:
    zeros = torch._efficientzerotensor((30, 4))
    found = uf.correlate(zeros, A, match="index")
    assert bool(found.dead.all())


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (5,), ()])
def test_memory_that_is_shared_stays_shared(shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    assert plain_tensor(x, "a").data_ptr() == x.data_ptr()


def test_an_object_of_another_library_that_fails() -> None:
    class Broken:
        def __dlpack__(self) -> object:
            raise KeyError("no such stream")

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

    with pytest.raises(uf.InputError, match=r"^a: PyTorch cannot take this Broken through DLPack"):
        uf.PairedCorrelation(4).update(Broken(), A)


class Shares:
    """Shares memory through DLPack, and nothing else."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> object:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def test_an_object_that_runs_backwards() -> None:
    """torch ends the process, in 2.13."""
    backwards, expected = uf.PairedCorrelation(4), uf.PairedCorrelation(4)
    array = A.numpy()
    backwards.update(Shares(array[::-1]), Shares(array))
    expected.update(A.flip(0), A)
    assert torch.equal(backwards.state_dict()["moments"], expected.state_dict()["moments"])


@pytest.mark.parametrize("capsule", [None, 7, A])
def test_an_object_that_gives_no_capsule(capsule: object) -> None:
    class Odd(Shares):
        def __dlpack__(self, **options: Any) -> object:
            return capsule

    with pytest.raises(uf.InputError, match=r"^a: PyTorch cannot take this Odd through DLPack"):
        uf.PairedCorrelation(4).update(Odd(A.numpy()), A)


def test_views_of_numpy_beyond_their_array() -> None:
    array = A.numpy().copy()
    beyond = np.lib.stride_tricks.as_strided(array, (31, 4))
    with pytest.raises(
        uf.InputError, match=r"^a: is a view .* needs 496 bytes, .* beyond the 480 of"
    ):
        uf.PairedCorrelation(4).update(beyond, beyond)
    before = np.lib.stride_tricks.as_strided(array, (2, 4), (-16, 4))
    with pytest.raises(uf.InputError, match=r"^a: layer 'activations': is a view"):
        uf.correlate(before, before)
    within = np.lib.stride_tricks.as_strided(array, (27, 4, 4), (16, 16, 4))
    whole = uf.PairedCorrelation(4)
    whole.update(within, within)
    assert whole.tokens == 108


def test_kinds_of_numpy_arrays() -> None:
    array = A.numpy()
    expected = uf.correlate(array, array[::-1].copy(), draws=2).correlation
    read_only = array.copy()
    read_only.flags.writeable = False
    swapped = array.astype(array.dtype.newbyteorder())
    for same in (read_only, swapped, array.view(np.matrix), np.asfortranarray(array)):
        got = uf.correlate(same, array[::-1], draws=2).correlation
        assert torch.equal(got, expected)
    table = np.zeros(3, [("x", "f4")])
    for bad in (np.array([[None, 1]]), table, np.array([["a"]]), np.ones((3, 2), np.longdouble)):
        with pytest.raises(uf.InputError, match=r"^a: .*which PyTorch cannot share"):
            uf.correlate(bad, bad)


def test_frames_are_told_what_to_give() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(A.numpy())
    for call in (uf.PairedCorrelation(4).update, uf.correlate):
        with pytest.raises(TypeError, match=r"found DataFrame; pass its \.to_numpy\(\)"):
            call(frame, frame)
