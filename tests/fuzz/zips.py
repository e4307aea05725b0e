"""Changes to zip files: the fields of their directories, and the members that they hold."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from random import Random

from fuzz.mutate import INTEGERS, near

# Where the numbers of each record stand behind its signature: (offset, bytes). Of the file format
# specification, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT.
RECORDS = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": (
        *((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2)),
        *((34, 2), (42, 4)),
    ),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}


def some_field(rng: Random, content: bytes) -> bytes:
    """A zip file with a number in one of its records changed."""
    signature = rng.choice(tuple(RECORDS))
    places = [at for at in range(len(content) - 22) if content.startswith(signature, at)]
    if not places:
        return content
    offset, width = rng.choice(RECORDS[signature])
    at = rng.choice(places) + offset
    there = int.from_bytes(content[at : at + width], "little")
    value = rng.choice((rng.choice(INTEGERS), near(rng, there), there ^ 8)) % 2 ** (8 * width)
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


def rezipped(content: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The zip file written again, its members changed, or left out where that gives None."""
    return written(
        [
            (info, data)
            for info, old in members(content)
            if (data := change(info.filename, old)) is not None
        ]
    )


def members(content: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
    """What a whole zip file holds."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def written(content: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    """A zip file of these members, whose data is aligned as PyTorch aligns it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for old, data in content:
            info = zipfile.ZipInfo(old.filename)
            info.compress_type = old.compress_type
            padding = -(archive.start_dir + 30 + len(info.filename.encode()) + 4) % 64
            info.extra = struct.pack("<HH", 0x5046, padding) + bytes(padding)
            archive.writestr(info, data)
    return buffer.getvalue()


def some_member(
    rng: Random, content: bytes, change: Callable[[Random, str, bytes], bytes]
) -> bytes:
    """A zip file, whose checksums fit, with a member changed, renamed, doubled, moved or gone."""
    there = members(content)
    at = rng.randrange(len(there))
    info, data = there[at]
    what = rng.randrange(10)
    if what == 0:
        there.pop(at)
    elif what == 1:
        there.insert(rng.randint(0, len(there)), (info, change(rng, info.filename, data)))
    elif what == 2:
        there.append(there.pop(at))
    elif what == 3:
        names = ("", "x", "x.npy", "../x.npy", "a/b.npy", "x" * 300 + ".npy", "\r.npy", "=1.npy")
        other = rng.choice((*(x.filename for x, _ in there), *names))
        there[at] = (_called(other, info), data)
    elif what == 4:
        kind = zipfile.ZIP_DEFLATED if info.compress_type == zipfile.ZIP_STORED else 0
        there[at] = (_called(info.filename, info, kind), data)
    else:
        there[at] = (info, change(rng, info.filename, data))
    return written(there)


def _called(name: str, old: zipfile.ZipInfo, kind: int | None = None) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = old.compress_type if kind is None else kind
    return info
