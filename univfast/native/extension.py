"""The compiled core, ``_native``, or what to do where it is missing."""

from __future__ import annotations

try:
    from univfast import _native
except ImportError as error:  # pragma: no cover - needs a broken installation
    raise ImportError(
        "univfast's compiled core could not be imported. Was the package installed "
        "(pip install .), or is this a source folder that was not built?"
    ) from error

from univfast.errors import InputError

try:
    _native.simd_level()
except ValueError as error:  # the environment asks for another one than there are
    raise InputError(str(error)) from None

__all__ = ["_native"]
