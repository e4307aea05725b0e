from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from univfast.meaning.features import TokenFeatures


@dataclass(frozen=True)
class Explanation:
    family: str | None

    def plain(self) -> dict[str, Any]:
        return {"family": self.family}


class FeatureSums:
    def __init__(self, features: TokenFeatures, neurons: int, pivot: Tensor, threads: int) -> None:
        self.n = neurons

    def add(self, x: Tensor, rows: Tensor, first_token: int) -> None:
        pass

    def explanations(self) -> list[Explanation | None]:
        return [None] * self.n
