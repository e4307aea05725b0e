"""`univfast info`."""

from __future__ import annotations

import click

from univfast.cli.options import Command

__all__ = ["info"]


@click.command(
    cls=Command,
    short_help="Say what this installation is and uses.",
    epilog="""\b
Example:
  univfast info""",
)
def info() -> None:
    """Say which version and build this is, and what it uses of this machine."""
    import platform

    import torch

    from univfast import __version__, native

    lines = {
        "univfast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "compiler": native.compiler,
        "simd": f"{native.simd_level()} (of {', '.join(native.simd_levels())})",
        "threads": str(torch.get_num_threads()),
        **_cuda(),
    }
    for name, value in lines.items():
        click.echo(f"{name:<9} {value}")


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
