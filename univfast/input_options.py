"""Options of how inputs are read."""

from typing import Annotated, TypedDict

from univfast.option import Option, as_axis

__all__ = ["AxisOptions"]


class AxisOptions(TypedDict, total=False):
    """Where neurons are."""

    axis: Annotated[
        int | None,
        Option(
            None,
            doc="the axis of each array that neurons are on, all others are tokens: 1 for channels"
            " first, ``[samples, channels, *space]``; of a live model, in layers whose module's"
            " class does not say. None for the last, where nothing speaks against it: four axes or"
            " more, and what comes after a convolution, are refused without.",
            help="The axis that neurons are on, all others are tokens: 1 for channels first"
            " [samples, channels, *space]; of a model, in layers whose module's class does not say."
            " Arrays of four axes or more need it.  [default: the last]",
            check=as_axis,
            metavar="N",
        ),
    ]
