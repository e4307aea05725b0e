from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

FeatureFunction = Callable[[Tensor, "list[str] | None"], Tensor]


@dataclass(frozen=True)
class TokenText:
    ids: Tensor
    window: int
    text: Callable[[int], str] | None


class TokenFeatures:
    def __init__(self, tokens: TokenText, extra: Mapping[str, FeatureFunction] = {}) -> None:
        pass
