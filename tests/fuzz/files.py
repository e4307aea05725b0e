"""Files of activations, masks and token ids: samples of each format, and changes to them."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

import univfast as uf
from fuzz import plain
from fuzz.kinds import KINDS, Kind, WrongError, attempt, check_activations, check_r, partner
from fuzz.mutate import INTEGERS, Mutator, near, odd, several, some_bytes, some_json
from fuzz.zips import rezipped, some_field, some_member
from univfast.inputs.token_ids import open_token_ids

TOKENS, NEURONS = 12, 5
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


# ---- samples -------------------------------------------------------------------------------------


def layers(rng: Random, most: int = 2) -> dict[str, Tensor]:
    """Layers of one or of several dtypes, seldom with what is no layer beside."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    found: dict[str, Tensor] = {}
    for number in range(rng.randint(1, most)):
        shape = rng.choice(((TOKENS, NEURONS), (TOKENS, NEURONS), (3, 4, NEURONS), (TOKENS, 1)))
        x = torch.randn(shape, generator=generator).to(rng.choice(FLOATS))
        found[f"mlp.{number}"] = x.T.contiguous().T if rng.random() < 0.1 else x
    if most > 1 and rng.random() < 0.1:
        found["ids"] = torch.arange(TOKENS)
    return found


def numpy_layers(rng: Random, most: int = 2) -> dict[str, Any]:
    arrays = {
        name: x.float() if x.dtype == FLOATS[3] else x for name, x in layers(rng, most).items()
    }
    kinds = ("=", "=", "=", ">")
    return {
        k: (v := x.numpy()).astype(v.dtype.newbyteorder(rng.choice(kinds)))
        for k, x in arrays.items()
    }


def sample_npy(rng: Random) -> bytes:
    (array,) = numpy_layers(rng, 1).values()
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def sample_npz(rng: Random, save: Callable[..., None] = np.savez) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **numpy_layers(rng))
    return buffer.getvalue()


def sample_pt(rng: Random, zipped: bool = True) -> bytes:
    found: Any = layers(rng)
    if len(found) == 1 and rng.random() < 0.3:
        (found,) = found.values()
    elif rng.random() < 0.2:  # views of one storage
        found = dict(zip(found, list(found.values())[:1] * 2, strict=False))
    buffer = io.BytesIO()
    torch.save(found, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def sample_deflated_pt(rng: Random) -> bytes:
    def deflated(name: str) -> int:
        return zipfile.ZIP_DEFLATED if "/data/" in name else zipfile.ZIP_STORED

    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sample_pt(rng))) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), deflated(name))
    return buffer.getvalue()


def sample_safetensors(rng: Random) -> bytes:
    from safetensors.torch import save

    return bytes(save({name: x.contiguous() for name, x in layers(rng).items()}))


def sample_mask(rng: Random) -> bytes:
    buffer = io.BytesIO()
    keep = np.array([rng.random() < 0.7 for _ in range(TOKENS)])
    keep = keep.astype(rng.choice(("|b1", "|u1", "<i8", "<f4")))
    np.save(buffer, keep.reshape(rng.choice(((TOKENS,), (3, 4), (TOKENS, 1)))))
    return buffer.getvalue()


def sample_ids(rng: Random) -> bytes:
    buffer = io.BytesIO()
    dtype = rng.choice((torch.int64, torch.int32, torch.uint8, torch.float32))
    torch.save(torch.tensor([rng.randrange(200) for _ in range(TOKENS)]).to(dtype), buffer)
    return buffer.getvalue()


# ---- changes -------------------------------------------------------------------------------------


def some_npy(rng: Random, content: bytes) -> bytes:
    """A .npy file with its header changed: a value in it, its version or its length."""
    size = struct.unpack_from("<H", content, 8)[0]
    header, data = content[10 : 10 + size], content[10 + size :]
    what = rng.randrange(5)
    version, length = b"\1\0", None
    if what == 0:
        header = several(rng, some_bytes, header)
    elif what == 1:
        version = rng.choice((b"\2\0", b"\3\0", b"\4\0", b"\0\0", b"\1\1"))
    elif what == 2:
        length = rng.choice(INTEGERS) % 65_536
    else:
        try:
            fields = dict(eval(header, {}))
        except Exception:  # not as NumPy wrote it, after another change
            return content
        name = rng.choice(("shape", "shape", "descr", "fortran_order"))
        kinds = (
            "<f4",
            ">f4",
            "<f8",
            "<f2",
            "|V2",
            "O",
            "<U5",
            "<c8",
            "<M8[s]",
            "<i8",
            "|b1",
            "<f16",
        )
        fields[name] = {
            "shape": lambda: _some_shape(rng, fields["shape"]),
            "descr": lambda: rng.choice((*kinds, [("x", "<f4")], ("<f4", (5,)), odd(rng))),
            "fortran_order": lambda: rng.choice((True, False, 1, odd(rng))),
        }[name]()
        header = repr(fields).encode("utf-8", "replace") + b"\n"
    wide = version in (b"\2\0", b"\3\0")
    stated = struct.pack(
        "<I" if wide else "<H", (len(header) if length is None else length) % 65_536
    )
    return b"\x93NUMPY" + version + stated + header + data


def _some_shape(rng: Random, shape: tuple[int, ...]) -> Any:
    new: list[Any] = list(shape)
    what = rng.randrange(6)
    if what == 0:
        new.append(rng.choice((0, 1, 2)))
    elif what == 1:
        new.reverse()
    elif what == 2:
        return rng.choice((prod(shape), [*shape], (), (0,) * 40, odd(rng)))
    elif what == 3:  # as many values, where products of 64 bits wrap round
        new = [*shape, 2**32, 2**32]
    else:
        at = rng.randrange(len(new))
        new[at] = rng.choice((rng.choice(INTEGERS), near(rng, new[at]), odd(rng)))
    return tuple(new)


def some_pickle(rng: Random, content: bytes) -> bytes:
    """A pickle with a number or a text in it changed, or one of its steps left out or doubled.

    What follows it, as in the format of PyTorch before 1.6, stays; there it may be any of several.
    """
    try:
        start = 0
        for _ in range(rng.choice((0, 0, 3, 4)) if content.count(b"\x80\x02") > 2 else 0):
            start = _end(content, start)
        steps = list(pickletools.genops(content[start:]))
    except ValueError:  # changed already
        return some_bytes(rng, content)
    stop = start + steps[-1][2] + 1
    at = rng.randrange(len(steps))
    if rng.random() < 0.8:
        at = rng.choice([i for i, step in enumerate(steps) if isinstance(step[1], (int, str))])
    (step, value, begin), end = steps[at], (*(x[2] for x in steps[1:]), stop - start)[at]
    new = content[start + begin : start + end]
    if step.name.startswith(("BININT", "LONG")) and isinstance(value, int):
        number = rng.choice((rng.choice(INTEGERS), rng.choice(INTEGERS), near(rng, value)))
        new = pickle.LONG1 + bytes([len(x := pickle.encode_long(number))]) + x
    elif step.name == "BINUNICODE":
        other = rng.choice([v for _, v, _ in steps if isinstance(v, str)] + ["cuda:0", "meta", "1"])
        new = b"X" + struct.pack("<I", len(x := other.encode("utf-8", "replace"))) + x
    elif step.name == "GLOBAL":
        name = rng.choice(("HalfStorage", "DoubleStorage", "LongStorage", "BoolStorage", "Size"))
        new = f"ctorch\n{name}\n".encode()
    else:
        new = rng.choice((b"", new + new, b"N", b"\x88", b"]", b"}", b")"))
    return content[: start + begin] + new + content[start + end :]


def _end(content: bytes, start: int) -> int:
    """Where the pickle that begins here ends."""
    return start + max(at for _, _, at in pickletools.genops(content[start:])) + 1


def _some_pt_member(rng: Random, name: str, data: bytes) -> bytes:
    if name.endswith("data.pkl"):
        return bytes(several(rng, some_pickle, data))
    if name.endswith("byteorder"):
        return rng.choice((b"big", b"little", b"", b"LITTLE"))
    return some_bytes(rng, data)


def some_pt(rng: Random, content: bytes) -> bytes:
    return some_member(rng, content, _some_pt_member)


def some_pt_pickle(rng: Random, content: bytes) -> bytes:
    """The same with the pickle alone changed."""
    change = partial(_some_pt_member, rng)
    return rezipped(content, lambda name, x: change(name, x) if name.endswith(".pkl") else x)


def some_npz(rng: Random, content: bytes) -> bytes:
    return some_member(rng, content, lambda r, _, data: r.choice((some_npy, some_bytes))(r, data))


def some_safetensors(rng: Random, content: bytes) -> bytes:
    size = struct.unpack_from("<Q", content)[0]
    header, data = content[8 : 8 + size], content[8 + size :]
    what = rng.randrange(8)
    if what == 0:
        return struct.pack("<Q", rng.choice(INTEGERS) % 2**64) + header + data
    if what == 1:
        first = min(json.loads(header))
        entry = json.dumps({first: odd(rng)}).encode("utf-8", "surrogatepass")
        header = header.rstrip()[:-1] + b"," + entry[1:]
    elif what == 2:
        fields = json.loads(header)
        for entry in fields.values():
            shift = rng.choice((1, 2, 4, 20, -4, 2**62))
            entry["data_offsets"] = [x + shift for x in entry["data_offsets"]]
        header = json.dumps(fields).encode()
    else:
        header = some_json(rng, header)
    header += b" " * (-len(header) % rng.choice((1, 8)))
    return struct.pack("<Q", len(header)) + header + data


# ---- checks --------------------------------------------------------------------------------------


def check_mask(path: Path) -> None:
    """Tries a file as the mask of activations."""
    a = torch.randn(TOKENS, NEURONS, generator=torch.Generator().manual_seed(0))
    b = partner(a)
    options: dict[str, Any] = {"match": "index", "rotation": "none", "shifts": 0}
    result = attempt(lambda: uf.correlate(a, b, mask=str(path), **options))
    keep = _lone(path)
    if not bool(((keep == 0) | (keep == 1)).all()):
        raise WrongError(f"a mask of {keep.flatten().tolist()} was taken")
    rows = keep.flatten() == 1
    check_r(result.correlation, a[rows], b[rows])


def check_ids(path: Path) -> None:
    """Tries a file as the token ids of activations."""
    found = attempt(lambda: open_token_ids(str(path), (TOKENS,)))
    expected = _lone(path).flatten()
    if found.tolist() != expected.tolist():
        raise WrongError(f"has {found.tolist()}, expected {expected.tolist()}")


def _lone(path: Path) -> Tensor:
    try:
        (array,) = plain.read(path).values()
    except Exception as error:
        raise WrongError(f"was taken, but a plain reader says {error!r}") from error
    return array


# ---- kinds ---------------------------------------------------------------------------------------


def check_layers(path: Path) -> None:
    """Tries a file as activations."""
    check_activations(path, plain.read)


@dataclass(frozen=True)
class Format:
    """What is written to a file of a kind, how it is changed, and what it is read as."""

    suffix: str
    sample: Callable[[Random], bytes]
    changes: tuple[Mutator, ...]
    check: Callable[[Path], None] = check_layers


FORMATS = {
    "npy": Format("npy", sample_npy, (some_npy,)),
    "npz": Format("npz", sample_npz, (some_npz, some_field)),
    "npz-deflated": Format(
        "npz", partial(sample_npz, save=np.savez_compressed), (some_npz, some_field)
    ),
    "pt": Format("pt", sample_pt, (some_pt, some_pt_pickle, some_pt_pickle, some_field)),
    "pt-deflated": Format("pt", sample_deflated_pt, (some_pt, some_field)),
    "pt-legacy": Format("pt", partial(sample_pt, zipped=False), (some_pickle,)),
    "safetensors": Format("safetensors", sample_safetensors, (some_safetensors,)),
    "mask": Format("npy", sample_mask, (some_npy,), check_mask),
    "token-ids": Format("pt", sample_ids, (some_pt_pickle,), check_ids),
}


def changed(rng: Random, name: str) -> bytes:
    """A file of a format with something in it changed."""
    content = FORMATS[name].sample(rng)
    if rng.random() < 0.4:
        other = FORMATS[rng.choice((name, rng.choice(tuple(FORMATS))))].sample(rng)
        return bytes(several(rng, partial(some_bytes, other=other), content))
    return rng.choice(FORMATS[name].changes)(rng, content)


def _register(name: str, of: Format) -> None:
    def run(rng: Random, folder: Path) -> None:
        path = folder / f"input.{of.suffix}"
        path.write_bytes(changed(rng, name))
        of.check(path)

    KINDS[name] = Kind(name, 10, run, of.check)


for _name, _format in FORMATS.items():
    _register(_name, _format)
