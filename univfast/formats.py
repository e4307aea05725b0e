"""What marks the files that univfast writes."""

from __future__ import annotations

from typing import Any, TypeGuard

__all__ = ["CHECKPOINT_FORMAT", "is_checkpoint"]

CHECKPOINT_FORMAT = "univfast-checkpoint"


def is_checkpoint(content: object) -> TypeGuard[dict[str, Any]]:
    """Whether a loaded object claims to be a checkpoint of ``univfast train``."""
    kind = content.get("format") if isinstance(content, dict) else None
    return isinstance(kind, str) and kind == CHECKPOINT_FORMAT
