"""The unembedding of a model: the matrix that makes logits of what is last in its residual stream.

It is found as transformers has it (``get_output_embeddings``, tied to the embedding or not), as
TransformerLens calls it (``unembed.W_U``), or as the project's own transformer does
(``unembedding``); or it is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from univfast.errors import InputError
from univfast.neuron_weights.linear import checked_weight, linear_of

__all__ = ["Unembedding", "find_unembedding"]


@dataclass(frozen=True)
class Unembedding:
    """The unembedding.

    Attributes:
        name: of its module or parameter.
        matrix: ``[first axis, second axis]``, the model's own memory.
        width: of what it takes; None where only the layers can tell its axes apart.
        named: by the user, and not found.
    """

    name: str
    matrix: Tensor
    width: int | None
    named: bool

    def rows(self, width: int) -> Tensor | None:
        """The matrix as ``[vocabulary, width]``, for layers that write so many numbers.

        None where it was found, and takes other widths: something is between it and the layers.

        Raises:
            InputError: the one that was named takes another width, or a square parameter.
        """
        if self.width is not None:
            if self.width == width:
                return self.matrix
            if not self.named:
                return None
            raise InputError(
                f"unembedding: {self.name!r} takes {self.width} numbers, and the layers write"
                f" {width}; name the matrix that takes these"
            )
        first, second = self.matrix.shape
        if first == second == width:
            raise InputError(
                f"unembedding: the parameter {self.name!r} is square [{first}, {first}], and can be"
                " [vocabulary, width] or [width, vocabulary]; name the Linear or Embedding that has"
                " it"
            )
        if width not in (first, second):
            raise InputError(
                f"unembedding: {self.name!r} is of shape [{first}, {second}], and the layers write"
                f" {width} numbers; name the matrix that takes these"
            )
        return self.matrix if second == width else self.matrix.T


def find_unembedding(model: nn.Module, name: str | None) -> Unembedding | None:
    """The unembedding of a model; None where none is named or known.

    Args:
        model: any.
        name: of a module (linear, or an embedding that is tied) or a parameter; None to find it.

    Raises:
        InputError: there is nothing of that name, or no matrix.
    """
    if name is not None:
        return _named(model, name)
    asked = getattr(model, "get_output_embeddings", None)
    try:
        head = asked() if callable(asked) else getattr(model, "unembedding", None)
    except (AttributeError, NotImplementedError):  # of bare models, in some versions
        head = None
    if isinstance(head, nn.Module):
        path = next((path for path, module in model.named_modules() if module is head), None)
        return None if path is None else _of_module(head, path, named=False)
    parameter = getattr(getattr(model, "unembed", None), "W_U", None)
    if isinstance(parameter, Tensor):
        matrix = _matrix(parameter, "unembed.W_U").T  # [width, vocabulary] there
        return Unembedding("unembed.W_U", matrix, matrix.shape[1], named=False)
    return None


def _named(model: nn.Module, name: str) -> Unembedding:
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    if module is not None:
        found = _of_module(module, name, named=True)
        if found is None:
            raise InputError(
                f"unembedding: {name!r} is a {type(module).__name__}, and no Linear, Conv1D or"
                " Embedding; name one, or a parameter"
            )
        return found
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    if name not in tensors:
        raise InputError(
            f"unembedding: the model has no module or parameter {name!r}; give a name of"
            " named_modules() or named_parameters(), as 'lm_head'"
        )
    owner = model.get_submodule(name.rpartition(".")[0])
    if name.endswith(".weight"):  # whose class tells the axes
        found = _of_module(owner, name.removesuffix(".weight"), named=True)
        if found is not None:
            return found
    return Unembedding(name, _matrix(tensors[name], name), None, named=True)


def _of_module(module: nn.Module, name: str, named: bool) -> Unembedding | None:
    if isinstance(module, nn.Embedding):
        matrix = _matrix(module.weight, f"{name}.weight")
        return Unembedding(name, matrix, matrix.shape[1], named)
    linear = linear_of(module, name)
    return None if linear is None else Unembedding(name, linear.weight(), linear.inputs, named)


def _matrix(value: Tensor, name: str) -> Tensor:
    found = checked_weight(value, name)
    if found.ndim != 2:
        raise InputError(
            f"unembedding: {name!r} is of shape {list(found.shape)}, and no matrix; name another"
        )
    return found
