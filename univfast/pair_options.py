"""What can be asked of sums and searches: options of accumulators, and of what uses them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_args

from univfast.checks import as_integer
from univfast.nulls.kinds import ROTATIONS, Rotation
from univfast.option import Option, one_of, switch

if TYPE_CHECKING:
    import torch

__all__ = [
    "AllPairsOptions",
    "DeviceOptions",
    "PairedOptions",
    "RotationOptions",
    "ShiftOptions",
    "SumsOptions",
]

Products = Literal["auto", "float32", "bfloat16"]
"""What layers are multiplied as."""
PRODUCTS: tuple[str, ...] = get_args(Products)

Precision = Literal["float32", "tf32"]
"""Of matrix products of float32 on a CUDA device."""
PRECISIONS: tuple[str, ...] = get_args(Precision)


def _device(name: str, value: Any) -> Any:
    from univfast.machine.devices import as_device

    return as_device(value)


def _threads(name: str, value: Any) -> int | None:
    from univfast.machine.devices import thread_count

    return None if value is None else thread_count(value)


class RotationOptions(TypedDict, total=False):
    """The rotations of a baseline; `Baseline` checks them together."""

    rotation: Annotated[
        Rotation,
        Option(
            "hadamard",
            doc="{choices}.",
            help="Random rotation of B for the baseline. {choices}.",
            choices=ROTATIONS,
            panel="Nulls",
        ),
    ]
    draws: Annotated[
        int,
        Option(
            5,
            doc="rotations of each layer of B for the baseline; chance counts, p and q need at"
            " least two (by index: shifts).",
            help="Rotations to average the baseline over. The chance count needs at least 2 (by"
            " index, shifts).",
            panel="Nulls",
        ),
    ]
    seed: Annotated[
        int,
        Option(
            0,
            doc="of rotations and shifts; the same seed gives the same ones everywhere.",
            help="Seed of rotations and shifts.",
            panel="Nulls",
        ),
    ]


class DeviceOptions(TypedDict, total=False):
    """Where it is computed."""

    device: Annotated[
        "str | torch.device | None",
        Option(
            None,
            doc='where to accumulate: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or None for where the'
            " first activations are. Those on other devices are copied, from the CPU through pinned"
            " memory.",
            check=_device,
            panel="Compute",
        ),
    ]
    threads: Annotated[
        int | None,
        Option(
            None,
            doc="of the CPU, at most this many; None for torch's number.",
            help="Use at most this many threads of the CPU for sums and structured rotations."
            "  [default: torch's]",
            check=_threads,
            panel="Compute",
        ),
    ]


class ShiftOptions(TypedDict, total=False):
    """Wrong partners by index."""

    shifts: Annotated[
        int,
        Option(
            20,
            doc="by index, wrong partners of each neuron: chance counts, p and q are those of"
            " neuron i with neuron ``(i + s) % neurons`` of B, for so many random s (all that there"
            " are in narrower layers), and need at least two; 0 for none.",
            help="By index, wrong partners of each neuron for the chance count, which needs 2 or"
            " more.",
            check=as_integer,
            low=0,
            panel="Nulls",
        ),
    ]


class PairedOptions(RotationOptions, ShiftOptions, DeviceOptions, total=False):
    """Of `PairedCorrelation`."""


class SumsOptions(RotationOptions, DeviceOptions, total=False):
    """What the sums of all pairs are taken by."""

    reverse: Annotated[
        bool,
        Option(
            False,
            doc="match B's neurons in A as well, against rotations of A; for two models, not by"
            " index.",
            help="Match B's neurons in A too, in the same pass. Two models; not with --match"
            " index.",
            check=switch,
            panel="Matching",
        ),
    ]
    precision: Annotated[
        Precision,
        Option(
            "float32",
            doc='of matrix products of float32 on a CUDA device: ``"float32"``, or ``"tf32"``, for'
            " its matrix units, which round activations to 11 bits; not by index.",
            help="Of matrix products of float32 activations on a CUDA device. 'tf32' uses its"
            " matrix units, which round activations to 11 bits; not with --match index.",
            check=one_of(PRECISIONS),
            values=PRECISIONS,
            panel="Compute",
        ),
    ]

    products: Annotated[
        Products,
        Option(
            "auto",
            doc='what layers are multiplied as, summed in float32 either way: ``"float32"``;'
            ' ``"bfloat16"``, those of bfloat16 as they are, and those of float16 and float32 as'
            ' sums of two or three bfloat16 numbers, which is exact; or ``"auto"``, whichever this'
            " machine has instructions for. Not by index.",
            help="What layers are multiplied as: bfloat16 as it is, and others as sums of bfloat16"
            " numbers, or all in float32. 'auto' takes what this machine is faster at ('univfast"
            " info' shows it); not with --match index.",
            check=one_of(PRODUCTS),
            values=PRODUCTS,
            panel="Compute",
        ),
    ]


class AllPairsOptions(SumsOptions, ShiftOptions, total=False):
    """Of `AllPairsCorrelation`."""

    top_k: Annotated[
        int,
        Option(
            10,
            doc="partners to keep of each neuron, of all if they are fewer; not by index.",
            help="Partners to write of each neuron; not with --match index.",
            check=as_integer,
            low=1,
            panel="Matching",
        ),
    ]
    exclude_self: Annotated[
        bool,
        Option(
            False,
            doc="leave out the neuron of the same number in the layer of the same name, which is"
            " the neuron itself where A and B are one model. Rotated too; not by index.",
            help="Leave out the neuron of the same layer and number: duplicates within one model,"
            " as in 'correlate a.pt a.pt --match best --exclude-self'.",
            check=switch,
            panel="Matching",
        ),
    ]
