"""Sparse tensors of PyTorch and matrices of SciPy, in memory or in files, as sparse features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from univfast.errors import InputError
from univfast.inputs.pickled import reads_axes
from univfast.inputs.plain import plain_tensor
from univfast.inputs.sparse import SparseStored
from univfast.inputs.sparse_entries import Coo, Csr, Rows
from univfast.inputs.stored import Stored, from_memory

__all__ = ["is_scipy", "of_parts", "of_scipy_file", "sparse_in_memory"]

_FORMS = {torch.sparse_coo: "sparse_coo", torch.sparse_csr: "sparse_csr"}


def of_parts(kind: str, parts: Sequence[Stored], size: tuple[int, ...], where: str) -> SparseStored:
    """A sparse tensor ``[..., features]`` of what it is made of.

    Args:
        kind: ``sparse_coo``, of indices ``[axes, entries]`` and values; or ``sparse_csr``, of two
            axes: of where rows begin, the features of the entries, and values.
        parts: these.
        size: of the whole.
        where: what begins an error.

    Raises:
        InputError: they do not fit.
    """
    shapes = [tuple(part.data.shape) for part in parts]
    integers = all(not part.dtype.is_floating_point for part in parts[:-1])
    count = shapes[-1]
    coo, axes = kind == "sparse_coo", len(size)
    expected = [(axes, *count), count] if coo else [(size[0] + 1,), count, count]
    if len(count) != 1 or shapes != expected or not integers:
        raise InputError(
            f"{where}: is a {kind} tensor {list(size)} of parts {[list(x) for x in shapes]}; save"
            f" one of plain numbers [{'...' if coo else 'tokens'}, features]"
        )
    if not coo:
        return SparseStored(where, Csr(*parts), size[:1], size[1])
    indices, values = parts
    *rows, features = (
        Rows(Stored(indices.data[i], indices.dtype, indices.mapped)) for i in range(axes)
    )
    entries = Coo(rows, size[:-1], features, Rows(values), sums=True)
    return SparseStored(where, entries, size[:-1], size[-1])


def sparse_in_memory(value: object, where: str) -> SparseStored | None:
    """A sparse tensor, or a sparse matrix or array of SciPy, in place; None of all else.

    Raises:
        InputError: it is of a form that has no rows to read, or of other axes.
    """
    if isinstance(value, torch.Tensor):
        return _of_tensor(value, where)
    return _of_scipy(value, where) if is_scipy(value) else None


def is_scipy(value: object) -> bool:
    """Whether it is a sparse matrix or array of SciPy, which need not be imported to tell."""
    return type(value).__module__.startswith("scipy.sparse") and hasattr(value, "format")


def _of_tensor(value: torch.Tensor, where: str) -> SparseStored | None:
    kind = _FORMS.get(value.layout)
    if kind is None or type(value) not in (torch.Tensor, torch.nn.Parameter):
        return None  # which the gate of all tensors says more of
    plain = value.dense_dim() == 0 and value.device.type != "meta"
    if not plain or not reads_axes(kind, value.dim()):
        return None
    value = value.detach()
    if kind == "sparse_coo":
        tensors = [value._indices(), value._values()]
    else:
        tensors = [value.crow_indices(), value.col_indices(), value.values()]
    parts = [plain_tensor(part, where) for part in tensors]
    return of_parts(kind, [Stored(x, x.dtype) for x in parts], tuple(value.shape), where)


def _of_scipy(value: Any, where: str) -> SparseStored:
    arrays = {"csr": ("indptr", "indices", "data"), "coo": ("row", "col", "data")}
    form = getattr(value, "format", "unknown")
    if len(value.shape) != 2:
        raise _of_axes(form, len(value.shape), where)
    if form not in arrays:
        raise InputError(
            f"{where}: is a sparse {form} array of 2 axes, which is not read by rows; pass its"
            " .tocsr()"
        )
    parts = {name: from_memory(getattr(value, name), where, TypeError) for name in arrays[form]}
    return _of_arrays(form, parts, tuple(int(x) for x in value.shape), where)


def _of_axes(form: str, axes: int, where: str) -> InputError:
    return InputError(
        f"{where}: is a sparse {form} array of {axes} axes, and those of [tokens, features] are"
        " read; give x.reshape(-1, x.shape[-1]).tocsr()"
    )


def _of_arrays(
    form: str, parts: dict[str, Stored], size: tuple[int, ...], where: str
) -> SparseStored:
    if form == "csr":
        listed = [parts[x] for x in ("indptr", "indices", "data")]
        return of_parts("sparse_csr", listed, size, where)
    rows, features, values = (parts[x] for x in ("row", "col", "data"))
    shapes = {tuple(part.data.shape) for part in parts.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        raise InputError(f"{where}: has rows, columns and values of other lengths; save it again")
    entries = Coo([Rows(rows)], size[:1], Rows(features), Rows(values), sums=True)
    return SparseStored(where, entries, size[:1], size[1])


def of_scipy_file(kind: str, arrays: dict[str, Stored], where: str) -> SparseStored:
    """What ``scipy.sparse.save_npz`` wrote: the name of its form, and its arrays by name.

    Raises:
        InputError: it is of a form that has no rows to read, or lacks an array.
    """
    if kind == "coo" and "coords" in arrays:  # of more recent versions, of arrays
        coords = arrays.pop("coords")
        for i, name in enumerate(("row", "col")):
            arrays[name] = Stored(coords.data[i], coords.dtype, coords.mapped)
    needed = {"csr": {"indptr", "indices", "data"}, "coo": {"row", "col", "data"}}.get(kind)
    if needed is None:
        raise InputError(
            f"{where}: is a sparse {kind} array, which is not read by rows; save its .tocsr()"
        )
    shape = arrays.pop("shape").tensor()
    if shape.dim() == 1 and shape.numel() != 2:
        raise _of_axes(kind, shape.numel(), where)
    if not needed <= arrays.keys() or shape.dim() != 1:
        raise ValueError(f"a sparse {kind} array without its parts, or not of two axes")
    size = tuple(int(x) for x in shape.tolist())
    if min(size) < 0:
        raise ValueError(f"a sparse array of shape {list(size)}")
    return _of_arrays(kind, {name: arrays[name] for name in needed}, size, where)
