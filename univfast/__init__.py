"""univfast: finds universal neurons, which two independently trained networks both learned.

``import univfast as uf``; then `uf.correlate` for two sets of activations, `uf.PairedCorrelation`
or `uf.AllPairsCorrelation` for a stream of batches, `uf.correlate_models` and `uf.capture` for
models that are running, and `uf.reference` for the slow definitions that all are tested against.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from univfast import reference
    from univfast.all_pairs import AllPairsCorrelation
    from univfast.correlation import correlate
    from univfast.errors import InputError
    from univfast.hooks import capture
    from univfast.live import correlate_models
    from univfast.paired import PairedCorrelation
    from univfast.result import CorrelationResult

__all__ = [
    "AllPairsCorrelation",
    "CorrelationResult",
    "InputError",
    "PairedCorrelation",
    "capture",
    "correlate",
    "correlate_models",
    "reference",
]

__version__ = _version("univfast")

# Names are imported when first used, so that `univfast --help` does not wait for torch.
_HOME = {
    "AllPairsCorrelation": "univfast.all_pairs",
    "CorrelationResult": "univfast.result",
    "InputError": "univfast.errors",
    "PairedCorrelation": "univfast.paired",
    "capture": "univfast.hooks",
    "correlate": "univfast.correlation",
    "correlate_models": "univfast.live",
    "reference": "univfast.reference",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'univfast' has no attribute {name!r}")
    module = import_module(_HOME[name])
    value = module if name == "reference" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
