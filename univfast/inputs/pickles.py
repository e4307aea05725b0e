"""What a pickle of PyTorch describes: its tensors by place, shape and strides. Nothing is called.

``torch.load(weights_only=True)`` calls little, and yet trusts what it is told: it makes tensors
over memory that is not there (``storage_offset = 2**62``, on the meta device), takes as much as a
file claims to hold, and hashes whatever is to be a key. So a pickle is looked through here before:
its few kinds of objects are listed, and every number in it is an integer of Python, checked.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, BinaryIO

import torch

from univfast.errors import InputError
from univfast.inputs.mapping import extent
from univfast.inputs.pickled import Other, SparsePlace, Storage, TensorPlace, reads_axes
from univfast.inputs.torch_dtypes import DTYPE_NAMES, INTEGERS_OF, STORAGES

__all__ = [
    "SAVE_AGAIN",
    "Other",
    "Pickle",
    "SparsePlace",
    "Storage",
    "TensorPlace",
    "kind_of",
    "more_than_tensors",
    "shown_key",
]

SAVE_AGAIN = "save a tensor, or a dict of tensors, with torch.save"

# Values that lie upon each other, as ``expand`` makes them, of one tensor: a few bytes could else
# stand for more than can ever be read.
_MOST_UPON_EACH_OTHER = 1 << 28

_TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")
# Tensors that have no place of their own in a file, and what they are called.
_NO_PLACE = {
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "meta",
    "_rebuild_from_type_v2": "subclassed",
    "_rebuild_wrapper_subclass": "subclassed",
    "_rebuild_parameter_with_state": "subclassed",
}
_SPARSE = ("_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor")
# The sparse tensors that are read, and of how many tensors each is made.
_LAYOUTS = {"sparse_coo": 2, "sparse_csr": 3}
_MODULES = ("torch._utils", "torch._tensor")
_PARAMETER_DICT = "torch.nn.modules.container.ParameterDict"
# What beside tensors `torch.load` makes with ``weights_only=True``.
_HARMLESS = {
    *(f"collections {name}" for name in ("OrderedDict", "defaultdict", "Counter")),
    *(f"{module} set" for module in ("builtins", "__builtin__")),
    *(f"torch {name}" for name in ("Size", "device", "Tensor")),
    *(f"torch per_{each}_affine" for each in ("tensor", "channel")),
    *(f"torch.nn.parameter {name}" for name in ("Parameter", "Buffer")),
    "torch.serialization _get_layout",
    "_codecs encode",
}


@dataclass(frozen=True)
class _Global:
    name: str
    known: bool = True


class _Mark:
    """Where the parts of what follows begin, on the stack."""


_MARK = _Mark()
_SIMPLE = (str, int, float, bytes, type(None))


class Pickle:
    """Reads pickles of one file, one after the other.

    Attributes:
        storages: all that are named, by key.
        others: what is no plain tensor, text, number or container of these.
        repeats: whether there is a tensor of more values than its storage.
    """

    def __init__(self, path: str) -> None:
        """``path`` begins the message where a pickle asks for what is never executed."""
        self._path = path
        self.storages: dict[str, Storage] = {}
        self.others: list[Other] = []
        self.repeats = False
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, file: BinaryIO) -> Any:
        """What the next pickle in ``file`` holds, of `TensorPlace`, `Other` and plain objects.

        Raises:
            InputError: it asks for what is never executed.
            ValueError, KeyError, IndexError: it is damaged, or reaches beyond its storages.
        """
        self._stack, self._memo = [], {}
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in _CONSTANTS:
                self._stack.append(argument)
            elif opcode.name == "STOP":
                (found,) = self._stack
                return found
            else:
                _DO[opcode.name](self, argument)
        raise ValueError("no end")

    def _since_mark(self) -> list[Any]:
        at = len(self._stack) - 1  # from the top, or marks within marks would take for ever
        while self._stack[at] is not _MARK:
            at -= 1
        found = self._stack[at + 1 :]
        del self._stack[at:]
        return found

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _other(self, kind: str, tensor: bool = False) -> Other:
        self.others.append(Other(kind, tensor))
        return self.others[-1]

    def _refused(self, name: str) -> Other:
        self.others.append(Other(name.replace(" ", "."), refused=True))
        return self.others[-1]

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, (dict, Other)):
            raise ValueError("sets items of what has none")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Others are not hashed: a tuple within a tuple, and so on, never ends.
            name = key if isinstance(key, _SIMPLE) else self._other(kind_of(key))
            if isinstance(target, dict):
                target[name] = value

    def _add_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Other):
            raise ValueError("appends to what is no list")

    def _frozen_set(self) -> None:
        self._since_mark()
        self._push(self._other("frozenset"))

    def _pop_tuple(self, length: int) -> None:
        start = len(self._stack) - length
        if start < 0:
            raise ValueError("too few values")
        self._stack[start:] = [tuple(self._stack[start:])]

    def _global(self, name: str) -> None:
        module, _, short = name.partition(" ")
        known = name in _HARMLESS or (module in _MODULES and short.startswith("_rebuild_"))
        kind = module in ("torch", "torch.storage") and short in {**STORAGES, **DTYPE_NAMES}
        self._push(_Global(name, known or kind))

    def _reduce(self, new_object: bool = False) -> None:
        arguments, what = self._stack.pop(), self._stack.pop()
        if not isinstance(what, _Global) or not isinstance(arguments, tuple):
            raise ValueError("calls what cannot be called")
        if not what.known:
            self._push(self._refused(what.name))
        elif new_object:
            self._push(self._other(what.name))
        else:
            self._push(self._called(what.name, arguments))

    def _called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        module, _, short = name.partition(" ")
        if module in _MODULES and short in _TENSORS:
            return self._tensor(arguments, short.endswith("_v3"))
        if module in _MODULES and short == "_rebuild_qtensor":
            return self._quantised(arguments)
        if module in _MODULES and short == "_rebuild_parameter":
            return arguments[0]
        if name == "collections OrderedDict" and not arguments:
            return {}
        if name == "collections defaultdict" and len(arguments) <= 1:
            return {}
        if name == "torch.serialization _get_layout":
            return self._other(str(arguments[0]).removeprefix("torch."))
        if name == "torch Size":
            return arguments[0]
        if short in _SPARSE and isinstance(arguments[0], Other):
            return self._sparse(arguments[0].kind, arguments[1])
        if module in _MODULES:
            return self._other(_NO_PLACE.get(short, "special"), tensor=True)
        return self._other("bytes" if name == "_codecs encode" else short)

    def _tensor(self, arguments: tuple[Any, ...], has_dtype: bool) -> TensorPlace | Other:
        refused = (x for x in arguments if isinstance(x, Other) and x.refused)
        if (unknown := next(refused, None)) is not None:
            return unknown
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without storage")
        dtype, metadata = storage.dtype, None
        if has_dtype:
            dtype = _dtype(arguments[6])
        more = arguments[7 if has_dtype else 6 :]
        if more and isinstance(more[0], dict):
            metadata = more[0]
        for axes in (size, stride):
            if not isinstance(axes, tuple):
                raise ValueError("a tensor without shape or strides")
        reach = extent(size, stride, 1)
        if type(offset) is not int or offset < 0:
            raise ValueError(f"a tensor that begins at {offset!r}")
        if (offset + reach) * dtype.itemsize > storage.bytes:
            raise ValueError("a tensor that reaches beyond its storage")
        values = prod(size)
        self.repeats |= values > storage.values
        if values > max(storage.values, _MOST_UPON_EACH_OTHER):
            raise InputError(
                f"{self._path}: holds {values} values of shape {list(size)} upon each other; save "
                "them with .contiguous()"
            )
        if metadata and metadata.get("conj"):
            return self._other("conjugated", tensor=True)
        negated = bool(metadata and metadata.get("neg"))
        return TensorPlace(storage, dtype, offset, size, stride, negated)

    def _sparse(self, kind: str, parts: tuple[Any, ...]) -> Other:
        """A sparse tensor, which counts as no plain one; of the axes that are read, by place."""
        *tensors, size = (x for x in parts if not isinstance(x, bool))
        count = _LAYOUTS.get(kind)
        places = all(isinstance(x, TensorPlace) for x in tensors) and len(tensors) == count
        if not places or not isinstance(size, tuple) or not reads_axes(kind, len(size)):
            return self._other(kind, tensor=True)
        extent(size, None, 1)
        self.others.append(SparsePlace(kind, tensor=True, parts=tuple(tensors), size=size))
        return self.others[-1]

    def _quantised(self, arguments: tuple[Any, ...]) -> TensorPlace | Other:
        found = self._tensor(arguments[:4], has_dtype=False)
        scheme, *numbers = arguments[4]
        by_neuron = _Global("torch per_channel_affine")
        known = scheme in (_Global("torch per_tensor_affine"), by_neuron)
        if isinstance(found, Other) or found.dtype not in INTEGERS_OF or not known:
            return self._other("quantized", tensor=True)
        if scheme == by_neuron and numbers.pop() != len(found.size) - 1:
            return self._other("quantized (by tokens, not neurons)", tensor=True)
        scale, zero = numbers
        return replace(found, dtype=INTEGERS_OF[found.dtype], quantised=(scale, zero))

    def _storage(self, pid: Any) -> Storage | _Global:
        if pid[0] == "module" and isinstance(pid[1], _Global):  # with its source, in old files
            return pid[1]
        kind, of, key, _, values, *view = pid
        if kind != "storage" or not isinstance(of, _Global) or not isinstance(key, str):
            raise ValueError("refers to what is no storage")
        if not of.known:
            raise ValueError(f"refers to a {of.name.replace(' ', '.')}, which is no storage")
        if type(values) is not int or values < 0 or any(view):
            raise ValueError("a storage of no size")
        found = Storage(key, STORAGES[of.name.partition(" ")[2]], values)
        if self.storages.setdefault(key, found) != found:
            raise ValueError(f"storage {key!r} is two things")
        return found

    def _build(self) -> None:
        state = self._stack.pop()  # attributes, as of an OrderedDict
        built = self._stack[-1]
        if isinstance(built, Other) and built.kind == _PARAMETER_DICT and isinstance(state, dict):
            held, keys = state.get("_parameters"), state.get("_keys")
            if isinstance(held, dict) and isinstance(keys, dict):
                self._stack[-1] = {key: held.get(key, state.get(key)) for key in keys}
        elif not isinstance(built, (dict, Other)):
            self._stack[-1] = self._other("subclassed", tensor=True)


def kind_of(value: object) -> str:
    """What a value that a pickle holds is called."""
    if isinstance(value, _Global):
        return value.name.replace(" ", ".")
    return value.kind if isinstance(value, Other) else type(value).__name__


def shown_key(key: object) -> str:
    """A key of a dict that is no text."""
    return key.kind if isinstance(key, Other) else repr(key)


def more_than_tensors(kind: str) -> str:
    """What is said of what a pickle asks for, but tensors."""
    shown = "".join(c if c.isprintable() else "?" for c in kind)
    return f"holds more than tensors (it asks for {shown}) and was not executed; {SAVE_AGAIN}"


def _dtype(value: Any) -> torch.dtype:
    if not isinstance(value, _Global):
        raise ValueError("a tensor of no dtype")
    return DTYPE_NAMES[value.name.partition(" ")[2]]


def _memoize(pickle: Pickle, at: int) -> None:
    pickle._memo[at] = pickle._stack[-1]


def _joined(pickle: Pickle) -> str:
    name, module = pickle._stack.pop(), pickle._stack.pop()
    return f"{module} {name}"


_CONSTANTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_DO: dict[str, Callable[[Pickle, Any], object]] = {
    "PROTO": lambda p, a: None,
    "FRAME": lambda p, a: None,
    "NONE": lambda p, a: p._push(None),
    "NEWTRUE": lambda p, a: p._push(True),
    "NEWFALSE": lambda p, a: p._push(False),
    "MARK": lambda p, a: p._push(_MARK),
    "POP": lambda p, a: p._stack.pop(),
    "POP_MARK": lambda p, a: p._since_mark(),
    "DUP": lambda p, a: p._push(p._stack[-1]),
    "EMPTY_TUPLE": lambda p, a: p._push(()),
    "TUPLE": lambda p, a: p._push(tuple(p._since_mark())),
    "TUPLE1": lambda p, a: p._pop_tuple(1),
    "TUPLE2": lambda p, a: p._pop_tuple(2),
    "TUPLE3": lambda p, a: p._pop_tuple(3),
    "EMPTY_LIST": lambda p, a: p._push([]),
    "LIST": lambda p, a: p._push(p._since_mark()),
    "APPEND": lambda p, a: p._add_items([p._stack.pop()]),
    "APPENDS": lambda p, a: p._add_items(p._since_mark()),
    "EMPTY_SET": lambda p, a: p._push(p._other("set")),
    "FROZENSET": lambda p, a: p._frozen_set(),
    "ADDITEMS": lambda p, a: p._since_mark(),
    "EMPTY_DICT": lambda p, a: p._push({}),
    "SETITEM": lambda p, a: p._set_items([p._stack.pop(-2), p._stack.pop()]),
    "SETITEMS": lambda p, a: p._set_items(p._since_mark()),
    "GLOBAL": lambda p, a: p._global(a),
    "STACK_GLOBAL": lambda p, a: p._global(_joined(p)),
    "REDUCE": lambda p, a: p._reduce(),
    "NEWOBJ": lambda p, a: p._reduce(new_object=True),
    "BUILD": lambda p, a: p._build(),
    "BINPERSID": lambda p, a: p._push(p._storage(p._stack.pop())),
    "PUT": _memoize,
    "BINPUT": _memoize,
    "LONG_BINPUT": _memoize,
    "MEMOIZE": lambda p, a: _memoize(p, len(p._memo)),
    "GET": lambda p, a: p._push(p._memo[a]),
    "BINGET": lambda p, a: p._push(p._memo[a]),
    "LONG_BINGET": lambda p, a: p._push(p._memo[a]),
}
