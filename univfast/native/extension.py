"""The compiled core, ``_native``, or what to do where it is missing."""

from __future__ import annotations

try:
    from univfast import _native
except ImportError as error:  # pragma: no cover - needs a broken installation
    raise ImportError(
        "univfast's compiled core could not be imported. Was the package installed "
        "(pip install .), or is this a source folder that was not built?"
    ) from error

__all__ = ["_native"]
