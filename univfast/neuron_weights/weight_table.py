"""`WeightTable`: what the weights of a model say of its neurons."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from univfast.columns import WEIGHTS
from univfast.errors import InputError
from univfast.machine.files import write_together
from univfast.machine.torch_state import methods_in_plain_state

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WeightTable"]


@dataclass(frozen=True, eq=False, repr=False)
@methods_in_plain_state
class WeightTable:
    """What the weights of a model say of its neurons, a row each; tensors are on the CPU.

    Numbers are of the weights as the model holds them: no norm is folded into them, and nothing is
    centred. ``W_in [neurons, width]`` and ``W_out [neurons, width]`` are the weights into and out
    of the neurons of a layer, ``W_U [width, vocabulary]`` the unembedding.

    Attributes:
        layer: name of each neuron's layer, ``[neurons]``.
        neuron: its number in that layer, int64 ``[neurons]``.
        unembedding: the name of the unembedding; None without, and then there is nothing of the
            vocabulary.
        input_norm: Euclidean norm of its row of ``W_in``, float64 ``[neurons]``; of a gated MLP,
            of the gate's.
        input_bias: its bias; NaN without one.
        output_norm: norm of its row of ``W_out``.
        in_out_cosine: cosine between these rows; NaN where either is 0, or the widths differ.
        up_norm, up_bias, up_out_cosine: the same of what the gate is multiplied with; NaN where
            there is no gate, None where there is none in any layer.
        logit_mean, logit_variance, logit_skew, logit_kurtosis: of its row of ``W_out W_U``, over
            the vocabulary: population moments, kurtosis 3 for normal numbers. NaN where its weights
            are 0.
        cosine_mean, cosine_variance, cosine_skew, cosine_kurtosis: of the cosines between its row
            of ``W_out`` and the columns of ``W_U``.
        top_tokens, bottom_tokens: ids of the tokens whose logits it raises and lowers most, int64
            ``[neurons, top_k]``, from the extreme on; of equal ones any.
        top_logits, bottom_logits: their entries of the row, float64 ``[neurons, top_k]``.
        top_texts, bottom_texts: their texts; None without a tokenizer.
    """

    layer: list[str]
    neuron: Tensor
    unembedding: str | None
    input_norm: Tensor
    input_bias: Tensor
    output_norm: Tensor
    in_out_cosine: Tensor
    up_norm: Tensor | None = None
    up_bias: Tensor | None = None
    up_out_cosine: Tensor | None = None
    logit_mean: Tensor | None = None
    logit_variance: Tensor | None = None
    logit_skew: Tensor | None = None
    logit_kurtosis: Tensor | None = None
    cosine_mean: Tensor | None = None
    cosine_variance: Tensor | None = None
    cosine_skew: Tensor | None = None
    cosine_kurtosis: Tensor | None = None
    top_tokens: Tensor | None = None
    top_logits: Tensor | None = None
    bottom_tokens: Tensor | None = None
    bottom_logits: Tensor | None = None
    top_texts: list[list[str]] | None = None
    bottom_texts: list[list[str]] | None = None

    def __len__(self) -> int:
        return len(self.layer)

    def __repr__(self) -> str:
        layers = len({*self.layer})
        vocabulary = f"unembedding {self.unembedding!r}" if self.unembedding else "no unembedding"
        return f"<WeightTable of {len(self):,} neurons, {layers} layers, {vocabulary}>"

    def columns(self) -> dict[str, list[Any]]:
        """The table, as a list a column; `univfast.columns.WEIGHTS` says what each is.

        Columns of what the model does not have are left out.
        """
        return {
            column.name: column.of(self)
            for column in WEIGHTS.values()
            if getattr(self, column.name) is not None
        }

    def rows_of(self, layers: Sequence[str]) -> Tensor:
        """The rows of the neurons of some layers, int64 ``[neurons]``.

        Args:
            layers: name of the layer of each neuron, in order of their numbers in each.

        Raises:
            InputError: it lacks one of them, or has another number of its neurons.
        """
        first: dict[str, int] = {}
        for row, layer in enumerate(self.layer):
            first.setdefault(layer, row)
        counts, own = Counter(layers), Counter(self.layer)
        for layer, count in counts.items():
            if own[layer] != count:
                has = f"{own[layer]} neurons of it" if own[layer] else f"{', '.join([*own][:4])}"
                raise InputError(
                    f"table: layer {layer!r} of A has {count} neurons, and the weights have {has};"
                    " make them of model A, with the hooks that it was captured with"
                )
        seen: Counter[str] = Counter()
        rows = []
        for layer in layers:
            rows.append(first[layer] + seen[layer])
            seen[layer] += 1
        return torch.tensor(rows, dtype=torch.int64, device="cpu")

    def to_pandas(self) -> pd.DataFrame:
        """The table, indexed by (layer, neuron); tokens are lists in its cells.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install 'univfast[pandas]'") from error
        return pd.DataFrame(self.columns()).set_index(["layer", "neuron"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the table as CSV; lists of tokens as JSON. Replaces a file, whole or not at all.

        Raises:
            InputError: the file cannot be written.
        """
        from univfast.report.weights import weights_csv

        write_together({Path(path): weights_csv(self)})
