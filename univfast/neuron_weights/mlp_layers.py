"""Of a layer that hooks matched: the weights into its neurons, and out of them.

A layer is told by where it is in an MLP: in a module around it that has a linear map into the
neurons and one out of them, called as one of `ROLES` has it. Of other names, the module must have
two such maps and no more, whose order a `torch.nn.Sequential` says, or the width of the residual
stream, which the unembedding takes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from univfast.controls.sites import is_activation
from univfast.errors import InputError
from univfast.hooks import capture
from univfast.networks.wrapping import submodule
from univfast.neuron_weights.linear import Linear, checked_weight, linear_of

__all__ = ["HOOKS", "MlpLayer", "find_layers"]

HOOKS = (
    "transformer.h.*.mlp.act",
    "gpt_neox.layers.*.mlp.act",
    "model.layers.*.mlp.down_proj:input",
    "*encoder.layer.*.intermediate",
    "blocks.*.mlp.relu",
)
"""Where the neurons are of models whose architecture is known."""

_INPUT = ":input"


@dataclass(frozen=True)
class Roles:
    """What the parts of an MLP are called in it.

    Attributes:
        into: whose outputs are the neurons before the activation function; of a gated MLP, the
            gate.
        out: which takes the neurons.
        up: of a gated MLP, whose outputs the gate is multiplied with.
        neurons: a module whose output is the neurons, if there is one.
    """

    into: str
    out: str
    up: str | None = None
    neurons: str | None = None


ROLES = (
    Roles("c_fc", "c_proj"),  # GPT-2, GPT-Neo
    Roles("dense_h_to_4h", "dense_4h_to_h"),  # GPT-NeoX, Bloom, Falcon
    Roles("gate_proj", "down_proj", up="up_proj"),  # Llama, Mistral, Qwen, Gemma
    Roles("intermediate.dense", "output.dense", neurons="intermediate"),  # BERT, RoBERTa
    Roles("fc_in", "fc_out"),  # GPT-J
    Roles("fc1", "fc2"),  # OPT, Phi
    Roles("lin1", "lin2"),  # DistilBERT
    Roles("wi_0", "wo", up="wi_1"),  # T5, gated
    Roles("wi", "wo"),  # T5
    Roles("up", "down"),  # the project's own
    Roles("encoder", "decoder"),  # autoencoders
)


@dataclass(frozen=True)
class MlpLayer:
    """The weights of a layer.

    Attributes:
        layer: as hooks name it.
        into, out, up: as `Roles` has them.
    """

    layer: str
    into: Linear
    out: Linear
    up: Linear | None

    @property
    def neurons(self) -> int:
        return self.into.outputs


def find_layers(
    model: nn.Module, hooks: str | Sequence[str] | None, width: int | None
) -> list[MlpLayer]:
    """The layers that hooks match, in the order of the model's modules.

    Args:
        model: is not run.
        hooks: as `univfast.hooks.capture` takes them; None for those of `HOOKS` that match.
        width: of the residual stream, where it is known.

    Raises:
        InputError: a pattern that matches nothing, or a layer whose weights are not known, or could
            be read in two ways.
        TypeError: ``hooks`` of another type.
    """
    with capture(model, _known_hooks(model) if hooks is None else hooks) as captured:
        layers = captured.layers
    return [_layer(model, layer, width) for layer in layers]


def _known_hooks(model: nn.Module) -> str:
    names = [name for name, _ in model.named_modules()]
    for pattern in HOOKS:
        if fnmatch.filter(names, pattern.removesuffix(_INPUT)):
            return pattern
    raise InputError(
        f"hooks: none are known of a {type(model).__name__}; name the modules of its neurons, as"
        f" {HOOKS[0]!r}"
    )


def _layer(model: nn.Module, layer: str, width: int | None) -> MlpLayer:
    name, is_input = layer.removesuffix(_INPUT), layer.endswith(_INPUT)
    for path, module in _around(model, name):
        found = _by_name(module, path, layer) or _by_structure(module, path, layer, width)
        if found is None:
            continue
        mlp, place = found
        _check_sizes(mlp)
        if not _is_place(model, mlp, place, name, is_input):
            whole = f"the MLP {path!r}" if path else "the model"
            raise InputError(
                f"hooks: layer {layer!r} is not where the neurons of {whole} are; hook"
                f" {mlp.out.name + _INPUT!r}"
            )
        return mlp
    raise InputError(
        f"hooks: layer {layer!r} has no linear maps around it, into its neurons and out of them;"
        f" hook the neurons of an MLP, as {HOOKS[0]!r}"
    )


def _around(model: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The module and those that it is in, from the innermost, with their paths."""
    path = name
    while True:
        yield path, submodule(model, path)
        if not path:
            return
        path = path.rpartition(".")[0]


def _by_name(module: nn.Module, path: str, layer: str) -> tuple[MlpLayer, str] | None:
    """The layer, and the path of what its activation function is in."""
    for roles in ROLES:
        names = [roles.into, roles.out, *([roles.up] if roles.up else [])]
        parts = [_submodule(module, name) for name in names]
        if any(part is None for part in parts):
            continue
        maps = []
        for name, part in zip(names, parts, strict=True):
            assert part is not None
            where = _joined(path, name)
            found = linear_of(part, where)
            if found is None and next(part.children(), None) is None:
                raise InputError(
                    f"hooks: layer {layer!r}: {where!r} is a {type(part).__name__}, whose weights"
                    " are not known; load the model without quantisation or adapters"
                )
            maps.append(found)
        if None in maps:  # modules that have these names, and are something else
            continue
        into, out, *up = (one for one in maps if one is not None)
        mlp = MlpLayer(layer, into, out, up[0] if up else None)
        _check_alone(module, path, mlp, names)
        return mlp, _joined(path, roles.neurons) if roles.neurons else path
    return _by_parameters(module, path, layer)


def _check_alone(module: nn.Module, path: str, mlp: MlpLayer, names: Sequence[str]) -> None:
    """Refuses an MLP that has a further map of the sizes of that into the neurons: it is gated."""
    sizes = mlp.into.inputs, mlp.into.outputs
    for name, child in module.named_children():
        other = None if name in names else linear_of(child, name)
        if other is not None and (other.inputs, other.outputs) == sizes:
            raise InputError(
                f"hooks: layer {mlp.layer!r}: {mlp.into.name!r} and {_joined(path, name)!r} go into"
                " as many neurons, and it is not known which is the gate; hook the neurons of an"
                " MLP of another structure"
            )


def _by_parameters(module: nn.Module, path: str, layer: str) -> tuple[MlpLayer, str] | None:
    """As TransformerLens has them: ``W_in [width, neurons]``, ``W_out [neurons, width]``."""
    given = dict(module.named_parameters(recurse=False))
    if not {"W_in", "W_out"} <= given.keys():
        return None

    def linear(name: str, bias: str | None) -> Linear:
        stored = checked_weight(given[name], _joined(path, name))
        inputs, outputs = stored.shape
        kept = given.get(bias) if bias else None
        return Linear(
            _joined(path, name),
            inputs,
            outputs,
            lambda: stored.T,
            partial(_bias, kept, _joined(path, bias or ""), outputs),
        )

    out = linear("W_out", None)
    if "W_gate" in given:  # b_in is then no bias of either: it is added to their product
        return MlpLayer(layer, linear("W_gate", None), out, linear("W_in", None)), path
    return MlpLayer(layer, linear("W_in", "b_in"), out, None), path


def _bias(value: Tensor | None, name: str, outputs: int) -> Tensor | None:
    return None if value is None else checked_weight(value, name, (outputs,))


def _by_structure(
    module: nn.Module, path: str, layer: str, width: int | None
) -> tuple[MlpLayer, str] | None:
    """Of two linear maps of other names: which is into the neurons, and which is out of them."""
    inside = [
        linear
        for name, child in module.named_children()
        if (linear := linear_of(child, _joined(path, name))) is not None
    ]
    if len(inside) < 2:
        return None
    if isinstance(module, nn.Sequential):  # which says in which order they are called
        names = [_joined(path, name) for name, _ in module.named_children()]
        child = _child(path, layer)
        own = names.index(child) if child in names else len(names)
        before = [one for one in inside if names.index(one.name) <= own]
        after = [one for one in inside if names.index(one.name) > own]
        if layer.endswith(_INPUT) and before and before[-1].name == child:
            after.insert(0, before.pop())
        if before and after:
            return MlpLayer(layer, before[-1], after[0], None), path
    elif len(inside) == 2:
        a, b = inside
        both = (a.inputs, a.outputs) == (b.outputs, b.inputs)
        fits = [(x, y) for x, y in ((a, b), (b, a)) if x.inputs == width != x.outputs]
        if both and fits:
            return MlpLayer(layer, *fits[0], None), path
        if both:
            sizes = f"{a.name!r} (from {a.inputs} to {a.outputs}) and {b.name!r}"
            raise InputError(
                f"hooks: layer {layer!r}: {sizes} can be into the neurons and out of them, or the"
                " other way round; give the unembedding, whose width says which, or name them as"
                " 'up' and 'down'"
            )
    raise InputError(
        f"hooks: layer {layer!r}: {path or 'the model'!r} has {len(inside)} linear layers, and not"
        f" one into the neurons and one out of them; hook the neurons of an MLP, as {HOOKS[0]!r}"
    )


def _check_sizes(mlp: MlpLayer) -> None:
    neurons, width = mlp.into.outputs, mlp.into.inputs
    up = mlp.up or mlp.into
    if mlp.out.inputs != neurons or (up.inputs, up.outputs) != (width, neurons):
        sizes = " and ".join(
            f"{one.name!r} from {one.inputs} to {one.outputs}"
            for one in (mlp.into, mlp.up, mlp.out)
            if one is not None
        )
        raise InputError(
            f"hooks: layer {mlp.layer!r}: {sizes} do not fit together as into neurons and out of"
            " them; hook the neurons of an MLP of another structure"
        )


def _is_place(model: nn.Module, mlp: MlpLayer, place: str, name: str, is_input: bool) -> bool:
    """Whether the layer is the neurons, before or after their activation function."""
    if is_input and name == mlp.out.name:
        return True
    # A module around the map and the function, which the map out is not in, gives the neurons too.
    gives = {mlp.into.name, *(() if mlp.out.name.startswith(f"{place}.") else (place,))}
    if not is_input and name in gives:
        return True
    parent, _, own = name.rpartition(".")
    if parent != place:
        return False
    return own in ("hook_pre", "hook_post") or is_activation(submodule(model, name))


def _submodule(module: nn.Module, name: str) -> nn.Module | None:
    for part in name.split("."):
        found = module._modules.get(part)
        if found is None:
            return None
        module = found
    return module


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _child(path: str, layer: str) -> str:
    """The child of ``path`` that a layer is, or is in."""
    name = layer.removesuffix(_INPUT)
    own = name.removeprefix(path).removeprefix(".").partition(".")[0]
    return _joined(path, own)
