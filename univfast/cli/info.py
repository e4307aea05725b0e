"""`univfast info`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from univfast.cli.options import PATH, Command, option
from univfast.cli.printing import say, shown

if TYPE_CHECKING:
    from univfast.inputs.descriptions import Description

__all__ = ["info"]

_SHOWN = 6  # shards in a line


@click.command(
    cls=Command,
    short_help="Say what this installation is and uses, or what a path would be read as.",
    epilog="""\b
Examples:
  univfast info
  univfast info a.pt b/
  univfast info acts/ --files 'batch_{shard}/layer_{layer}.npy'""",
)
@click.argument("paths", type=PATH, nargs=-1, metavar="[PATH ...]")
@option("files")
@option("layers")
@option("width")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(
    paths: tuple[str, ...],
    files: str | None,
    layers: str | None,
    width: int | None,
    as_json: bool,
) -> None:
    """Say which version and build this is, and what it uses of this machine.

    Of each PATH, say what it would be read as, and why: its layers, their widths, tokens and
    dtypes, shards, and what is passed over. Only headers are read. What would be refused is refused
    in the same line.
    """
    if not paths:
        for name, value in (("files", files), ("layers", layers), ("width", width)):
            if value is not None:
                raise click.UsageError(f"--{name} says how a PATH is read; give one")
        lines = _installation()
        if as_json:
            say(json.dumps(lines, indent=2))
            return
        for name, value in lines.items():
            say(f"{name:<9} {value}")
        return
    from univfast.inputs.descriptions import describe

    found = [describe(path, files, layers, width) for path in paths]
    if as_json:
        say(json.dumps([one.plain() for one in found], indent=2))
        return
    for one in found:
        _print(one)


def _print(one: Description) -> None:
    say(f"{shown(one.path)}: {one.kind}")
    for line in one.why:
        say(f"  {shown(line)}")
    if one.layers:
        rows = [("layer", "neurons", "tokens", "dtype", "shape")]
        rows += [
            (shown(x["name"]), f"{x['neurons']:,}", f"{x['tokens']:,}", x["dtype"], str(x["shape"]))
            for x in one.layers
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            say(f"  {'  '.join(cells).rstrip()}")
    if one.shards:
        listed = ", ".join(one.shards[:_SHOWN]) + (", ..." if len(one.shards) > _SHOWN else "")
        say(f"  {len(one.shards)} shards of each layer: {shown(listed)}")
    if one.left_out:
        say(f"  left out by --layers: {shown(', '.join(one.left_out))}")
    for why in one.unusable.values():
        say(f"  beside, so that --layers must choose: {shown(why)}")


def _installation() -> dict[str, str]:
    import platform

    import torch

    from univfast import __version__, native

    return {
        "univfast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "compiler": native.compiler,
        "simd": f"{native.simd_level()} (of {', '.join(native.simd_levels())})",
        "products": _products(),
        "threads": str(torch.get_num_threads()),
        **_cuda(),
    }


def _products() -> str:
    """What layers are multiplied as on this machine's CPU."""
    from univfast.machine.matrix_units import matrix_units
    from univfast.native import multiplies_bfloat16

    units = matrix_units()
    if units == "amx":
        return "bfloat16 as it is, float16 and float32 in parts of bfloat16 (AMX)"
    if units == "arm":
        return "bfloat16 as it is (ARM), others in float32"
    if multiplies_bfloat16():
        return "bfloat16 as it is (AVX512-BF16), others in float32"
    return "float32"


def _cuda() -> dict[str, str]:
    """How the CUDA backend was built, and each device or why none can be used."""
    import torch

    from univfast import native

    built_with = native.cuda_built_with()
    if built_with is None:
        return {"cuda": "not in this build"}
    if torch.version.cuda is None:
        built_with += "; no device can be used, for torch is not a CUDA build"
    lines = {"cuda": built_with}
    for number, device in enumerate(native.cuda_devices()):
        capability = f"compute capability {device.major}.{device.minor}"
        memory = f"{device.memory / 1e9:.0f} GB"
        lines[f"device {number}"] = f"{device.name}, {capability}, {memory}"
    if reason := native.cuda_unavailable():
        lines["devices"] = f"none can be used: {reason}"
    return lines
