"""Where a result is from: what a summary says of the activations that were compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from univfast.inputs.layers import Activations, fingerprint_of

__all__ = ["provenance"]


def provenance(models: Sequence[Activations]) -> dict[str, Any]:
    """What tells the models' activations from others, and what they were made of.

    ``fingerprints``: of each; ``sources``: of names on the hub, the commit; ``text``: of live
    models, what they read and where they are hooked.
    """
    found: dict[str, Any] = {"fingerprints": [fingerprint_of(model) for model in models]}
    origins = {model.name: dict(x) for model in models if (x := model.origin) is not None}
    if origins:
        found["sources"] = origins
    live = [model.about for model in models if model.about is not None]
    if len(live) == len(models):
        names = ("hooks", "matched", "model_class")
        found["text"] = {**live[0], **{name: [about[name] for about in live] for name in names}}
    return found
