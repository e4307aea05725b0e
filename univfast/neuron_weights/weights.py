"""`weights`: what the weights of a model say of its neurons, without running it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from univfast.checks import as_integer, as_text
from univfast.errors import InputError
from univfast.machine.torch_state import in_plain_state
from univfast.native.place import numbers
from univfast.networks.wrapping import unwrapped
from univfast.neuron_weights.logits import Logits, Vocabulary, joined
from univfast.neuron_weights.mlp_layers import MlpLayer, find_layers
from univfast.neuron_weights.unembedding import Unembedding, find_unembedding
from univfast.neuron_weights.weight_table import WeightTable

if TYPE_CHECKING:
    from univfast.experiment import TrainedModel

__all__ = ["weights", "weights_of"]

# Numbers of a part of a layer's weights that is looked at in float64: 64 MB.
_PART = 2**23
_MOST_ROWS = 4096

Progress = Callable[[int, int], object]


@in_plain_state
def weights(
    model: nn.Module | TrainedModel,
    hooks: str | Sequence[str] | None = None,
    unembedding: str | None = None,
    top_k: int = 10,
    tokenizer: Any = None,
) -> WeightTable:
    """What the weights of a model say of its neurons: norms, cosines, and what they write.

    ``uf.weights(model, "transformer.h.*.mlp.act")``. The model is not run. Beside it, this takes
    some 400 MB at most: ``W_out W_U`` is made in pieces of the vocabulary, and not kept.

    Args:
        model: of any architecture of ``ROLES`` in `mlp_layers`, among them those of GPT-2 and
            GPT-NeoX, Llama and other gated ones, BERT, T5 and the project's own; or a
            `TrainedModel` of `univfast.experiment`.
        hooks: the layers, as `univfast.capture` takes them: activation functions, ``:input`` of the
            linear layers that take the neurons, or linear layers whose outputs they are. None for
            all MLPs of a known architecture. Of a `TrainedModel` also its layers ``mlp.0``, ...,
            which None is.
        unembedding: the name of a module or parameter; None to find it. Where none is found,
            nothing is said of the vocabulary.
        top_k: tokens with the highest and the lowest logits, of each neuron.
        tokenizer: gives the texts of tokens: anything with ``decode([id])``. A `TrainedModel` has
            its own.

    Raises:
        InputError: hooks that match nothing, a layer whose weights are not known, could be read in
            two ways, or are quantised or not there; no such unembedding, or one of another width.
        TypeError: an argument of another type.
    """
    return weights_of(model, hooks, unembedding, top_k, tokenizer)


def weights_of(
    model: nn.Module | TrainedModel,
    hooks: str | Sequence[str] | None,
    unembedding: str | None,
    top_k: int,
    tokenizer: Any,
    progress: Progress | None = None,
) -> WeightTable:
    """As `weights`; ``progress`` is called with neurons done, of how many."""
    k = as_integer("top_k", top_k, 1)
    named = None if unembedding is None else as_text("unembedding", unembedding)
    if tokenizer is not None and not callable(getattr(tokenizer, "decode", None)):
        raise TypeError(
            f"tokenizer: expected one with decode([id]), got {type(tokenizer).__name__}"
        )
    model, patterns = unwrapped(model), _patterns(hooks)
    short: dict[str, str] = {}
    if not isinstance(model, nn.Module):
        model, patterns, short = _trained(model, patterns)
        tokenizer = tokenizer or _Ascii()
    head = find_unembedding(model, named)
    layers = find_layers(model, patterns, None if head is None else head.width)
    return _table(layers, head, k, tokenizer, short, progress)


def _patterns(hooks: object) -> list[str] | None:
    if hooks is None:
        return None
    if not isinstance(hooks, (str, Sequence)):
        raise TypeError(f"hooks: expected glob patterns, got {type(hooks).__name__}")
    return [as_text("hooks", hook) for hook in ([hooks] if isinstance(hooks, str) else hooks)]


def _trained(
    model: object, patterns: list[str] | None
) -> tuple[nn.Module, list[str], dict[str, str]]:
    """The module of a `TrainedModel`, its hooks, and what it calls the layers of its MLPs."""
    from univfast.experiment import TrainedModel

    if not isinstance(model, TrainedModel):
        kind = type(model).__name__
        raise TypeError(f"model: expected a torch.nn.Module or a TrainedModel, got {kind}")
    short = {f"blocks.{i}.mlp.relu": f"mlp.{i}" for i in range(model.config.layers)}
    if patterns is None:
        return model.model(), [*short], short
    named = {pattern: fnmatch.filter(short.values(), pattern) for pattern in patterns}
    if not any(named.values()):
        return model.model(), patterns, {}
    for pattern, found in named.items():
        if not found:
            raise InputError(
                f"hooks: {pattern!r} names no layer as 'mlp.0', which others do; give names of one"
                " kind"
            )
    layers = {layer for found in named.values() for layer in found}
    short = {name: layer for name, layer in short.items() if layer in layers}
    return model.model(), [*short], short


def _table(
    layers: Sequence[MlpLayer],
    head: Unembedding | None,
    k: int,
    tokenizer: Any,
    short: dict[str, str],
    progress: Progress | None,
) -> WeightTable:
    vocabularies: dict[int, Vocabulary] = {}
    total, done = sum(layer.neurons for layer in layers), 0
    sizes: list[dict[str, Tensor]] = []
    written: list[Logits] = []
    for layer in layers:
        width = layer.out.outputs
        rows = None if head is None else head.rows(width)
        if rows is not None and width not in vocabularies:
            vocabularies[width] = Vocabulary(rows)
        for part in _parts(layer):
            sizes.append({name: value.cpu() for name, value in _sizes(layer, part).items()})
            if width in vocabularies:
                vocabulary = vocabularies[width]
                output = _rows(layer.out.weight().T, part).to(vocabulary.device)
                written.append(vocabulary.logits_of(output, min(k, vocabulary.tokens)))
            done += part.stop - part.start
            if progress is not None:
                progress(done, total)
    columns = {name: torch.cat([part[name] for part in sizes]) for name in sizes[0]}
    if all(layer.up is None for layer in layers):
        columns = {name: x for name, x in columns.items() if not name.startswith("up_")}
    known: dict[str, Any] = {**columns}
    if len(written) == len(sizes):  # layers of another width have none, and then nothing is said
        known |= _of_vocabulary(joined(written), tokenizer)
        known["unembedding"] = head.name if head is not None else None
    names = [short.get(layer.layer, layer.layer) for layer in layers]
    return WeightTable(
        layer=[
            name for name, layer in zip(names, layers, strict=True) for _ in range(layer.neurons)
        ],
        neuron=torch.cat([numbers(layer.neurons) for layer in layers]),
        **{"unembedding": None, **known},
    )


def _parts(layer: MlpLayer) -> list[slice]:
    """Neurons that are looked at together."""
    widest = max(layer.into.inputs, layer.out.outputs)
    step = min(_MOST_ROWS, max(1, _PART // widest))
    return [
        slice(start, min(start + step, layer.neurons)) for start in range(0, layer.neurons, step)
    ]


def _rows(weight: Tensor, part: slice) -> Tensor:
    return weight[part].double()


def _sizes(layer: MlpLayer, part: slice) -> dict[str, Tensor]:
    """Norms, biases and cosines of some neurons of a layer."""
    output = _rows(layer.out.weight().T, part)
    found = {"output_norm": torch.linalg.vector_norm(output, dim=1)}
    absent = torch.full_like(found["output_norm"], torch.nan)
    for linear, norm, bias, cosine in (
        (layer.into, "input_norm", "input_bias", "in_out_cosine"),
        (layer.up, "up_norm", "up_bias", "up_out_cosine"),
    ):
        found |= {norm: absent, bias: absent, cosine: absent}
        if linear is None:
            continue
        rows = _rows(linear.weight(), part)
        found[norm] = torch.linalg.vector_norm(rows, dim=1)
        held = linear.bias()
        if held is not None:
            found[bias] = held[part].double()
        if rows.shape == output.shape:
            product = (rows * output.to(rows.device)).sum(dim=1)
            lengths = found[norm] * found["output_norm"].to(rows.device)
            found[cosine] = (product / lengths).clamp(-1, 1)  # 0 by 0 is NaN
    return found


def _of_vocabulary(logits: Logits, tokenizer: Any) -> dict[str, Any]:
    """The columns of the vocabulary, as a `WeightTable` calls them."""
    found: dict[str, Any] = {}
    for field in fields(Logits):
        own = field.name in ("mean", "variance", "skew", "kurtosis")
        found[f"logit_{field.name}" if own else field.name] = getattr(logits, field.name)
    if tokenizer is not None:
        texts: dict[int, str] = {-1: ""}
        for end in ("top", "bottom"):
            found[f"{end}_texts"] = [
                [_text(token, tokenizer, texts) for token in row]
                for row in found[f"{end}_tokens"].tolist()
            ]
    return found


def _text(token: int, tokenizer: Any, known: dict[int, str]) -> str:
    if token not in known:
        # Those of transformers would take spaces from before punctuation.
        more = {"clean_up_tokenization_spaces": False}
        options = more if hasattr(tokenizer, "clean_up_tokenization_spaces") else {}
        try:
            known[token] = str(tokenizer.decode([token], **options))
        except (LookupError, ArithmeticError, ValueError):  # of tokens that it does not have
            known[token] = ""
    return known[token]


class _Ascii:
    """The tokens of the project's corpora."""

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))
