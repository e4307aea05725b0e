"""Where neurons are in what a module of a live model gives or is given: which axis they are on.

A convolution's are ``[samples, channels, *space]``, those of a linear layer ``[..., neurons]``.
Classes of torch say which; what is between them, such as an activation function, does not.
"""

from __future__ import annotations

from torch import Tensor, nn

from univfast.errors import InputError

__all__ = ["ChannelPass", "channel_axis", "neurons_last", "says_axis", "tells_axis"]

# Documented as [samples, channels, *space] or, without samples, [channels, *space]. Pooling in one
# dimension is none of them: it is done to [samples, tokens, neurons] as well.
_SPACE = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.InstanceNorm1d),
    2: (
        *(nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d, nn.MaxPool2d, nn.AvgPool2d),
        *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.MaxUnpool2d),
        *(nn.FractionalMaxPool2d, nn.Softmax2d),
    ),
    3: (
        *(nn.Conv3d, nn.ConvTranspose3d, nn.InstanceNorm3d, nn.MaxPool3d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d, nn.MaxUnpool3d, nn.FractionalMaxPool3d),
    ),
}
# Documented as [samples, channels, ...], with samples always.
_SECOND = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm),
    *(nn.LocalResponseNorm, nn.CrossMapLRN2d, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle),
    *(nn.ChannelShuffle, nn.Unfold),
)
_LAST = (
    *(nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase),
    *(nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
    *(nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer),
)


def channel_axis(module: nn.Module, shape: tuple[int, ...], is_input: bool = False) -> int | None:
    """The axis of what a module gave, or was given, that its class says neurons are on.

    Counted from 0; None where the class does not say, or says what cannot be of this shape, as a
    class of others that derives from one of torch's may give another layout.
    """
    axes = len(shape)
    for space, classes in _SPACE.items():
        if isinstance(module, classes):
            axis = axes - space - 1
            return axis if axis in (0, 1) and _fits(module, shape[axis], is_input) else None
    if isinstance(module, nn.PReLU) and module.num_parameters > 1 and axes > 1:
        return 1 if shape[1] == module.num_parameters else None
    if isinstance(module, _SECOND):
        return 1 if axes > 1 and _fits(module, shape[1], is_input) else None
    if isinstance(module, _LAST):
        return _of_last(module, shape, is_input)
    return None


def _of_last(module: nn.Module, shape: tuple[int, ...], is_input: bool) -> int | None:
    last = len(shape) - 1
    fits = [axis for axis in {1, last} if 0 < axis <= last and _fits(module, shape[axis], is_input)]
    if type(module).__module__.startswith("torch.") or last < 2:
        return last if last in fits else None
    # Some derive from LayerNorm and norm channels on the second axis.
    return fits[0] if len(fits) == 1 else None


def _fits(module: nn.Module, size: int, is_input: bool) -> bool:
    """Whether so many neurons are what the module says of itself."""
    names = ("in_channels", "in_features", "in1_features") if is_input else ("out_channels",)
    names = names if is_input else (*names, "out_features")
    if not isinstance(module, nn.Embedding):
        names = (*names, "num_features", "num_channels")
    for name in names:
        known = getattr(module, name, None)
        if isinstance(known, int) and known:  # 0 of those that are not initialised
            return size == known
    normed = getattr(module, "normalized_shape", None)
    if normed is None:
        return True
    return len(normed) == 1 and size == normed[0]  # of several axes, neurons may be on any


def tells_axis(module: nn.Module) -> bool:
    """Whether a module's class says which axis its channels are on, and that it is not the last."""
    return isinstance(module, (*_SPACE[1], *_SPACE[2], *_SPACE[3], *_SECOND))


def says_axis(module: nn.Module) -> bool:
    """Whether a module's class says which axis neurons are on."""
    return tells_axis(module) or isinstance(module, _LAST)


class ChannelPass:
    """What the modules that say their axis gave in a forward pass, so far.

    A module that does not say gives what it was given; so shapes tell what it works on.
    """

    def __init__(self) -> None:
        self._first: set[tuple[int, ...]] = set()  # neurons are not on the last axis
        self._last: set[tuple[int, ...]] = set()
        self._assumed: dict[tuple[int, ...], dict[int, str]] = {}  # by shape and by address

    def saw(self, module: nn.Module, x: Tensor, is_input: bool) -> None:
        """Takes note of a tensor that a module gave, or was given.

        Raises:
            InputError: it was read as a layer whose neurons are on another axis.
        """
        shape = tuple(x.shape)
        axis = channel_axis(module, shape, is_input)
        if axis is None or len(shape) < 2:
            return
        last = axis == len(shape) - 1
        (self._last if last else self._first).add(shape)
        assumed = self._assumed.get(shape)
        if assumed is None or last or len(shape) < 3:
            return
        layer, kind = assumed.get(x.data_ptr()), type(module).__name__
        if layer is not None:
            raise _unclear(layer, shape, f"goes into a {kind}")
        if shape not in self._last:  # what goes in may have been made of it
            layer = next(iter(assumed.values()))
            raise _unclear(layer, shape, f"is the shape of what a {kind} has to do with")

    def is_last(self, layer: str, x: Tensor) -> None:
        """Refuses a tensor of a module that does not say, unless neurons are on its last axis.

        Raises:
            InputError: naming both readings.
        """
        shape = tuple(x.shape)
        if len(shape) > 3:
            raise _unclear(layer, shape, f"has {len(shape)} axes")
        if shape in self._first or (len(shape) == 3 and self._first and shape not in self._last):
            raise _unclear(layer, shape, "comes after a convolution or its like")
        self._assumed.setdefault(shape, {})[x.data_ptr()] = layer


def neurons_last(
    layer: str, module: nn.Module, is_input: bool, x: Tensor, axis: int | None, seen: ChannelPass
) -> Tensor:
    """A view ``[..., neurons]`` of what a module gave, or was given.

    Args:
        layer: as hooks name it.
        module: whose class may say.
        is_input: whether it was given it.
        x: the tensor.
        axis: where neurons are, in modules whose class does not say; None where that is not known.
        seen: what else the pass gave.

    Raises:
        InputError: the axis cannot be told, is not there, or is another than the class says.
    """
    if x.ndim < 2:
        return x
    known = channel_axis(module, tuple(x.shape), is_input)
    if axis is None:
        if known is None:
            seen.is_last(layer, x)
            return x
        return x if known == x.ndim - 1 else x.movedim(known, -1)
    if not -x.ndim <= axis < x.ndim:
        raise InputError(
            f"axis: layer {layer!r} has shape {list(x.shape)}, and no axis {axis}; give one from"
            f" {-x.ndim} to {x.ndim - 1}"
        )
    if known is not None and tells_axis(module) and axis % x.ndim != known:
        raise InputError(
            f"axis: is {axis}, and layer {layer!r}, a {type(module).__name__}, has its"
            f" {x.shape[known]} channels on axis {known} of {list(x.shape)}; leave axis out, or"
            " hook the others alone"
        )
    return x if axis % x.ndim == x.ndim - 1 else x.movedim(axis, -1)


def _unclear(layer: str, shape: tuple[int, ...], why: str) -> InputError:
    second = 0 if len(shape) == 2 else 1
    return InputError(
        f"axis: layer {layer!r} gave shape {list(shape)}, which {why}: it can be read as"
        f" {shape[-1]} neurons on the last axis (axis=-1), or as {shape[second]} channels"
        f" (axis={second}); say which"
    )
