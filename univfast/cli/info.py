"""`univfast info`."""

from __future__ import annotations

import click

__all__ = ["info"]


@click.command(short_help="Say what this installation is and uses.")
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
        "cuda": "not in this build",
    }
    for name, value in lines.items():
        click.echo(f"{name:<9} {value}")
