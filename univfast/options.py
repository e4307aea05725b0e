"""What can be asked for: every option of functions, accumulators and commands, declared once.

An option is a key of one of the groups below: with its type, which mypy holds calls to, its
default, its line in docstrings, its help on the command line, and how its value is checked. A
function that takes ``**options: Unpack[Group]`` gets its signature and docstring from the group by
`univfast.docstrings.documented`, and all values of the group by `complete`. The command line takes
names, defaults, types and help from here too (`univfast.cli.options`).
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, TypeVar, cast, get_args

from univfast.checks import as_integer, as_number
from univfast.detail_options import ContextOptions, DetailOptions, FileOptions, TokenOptions
from univfast.errors import InputError
from univfast.nulls.kinds import ROTATIONS, Baseline, Rotation
from univfast.option import (
    Option,
    as_limit,
    as_path,
    as_pattern,
    declared,
    one_of,
    switch,
)
from univfast.search.matchings import MATCHINGS, Match

if TYPE_CHECKING:
    import torch

__all__ = [
    "AllPairsOptions",
    "ControlOptions",
    "CorrelateOptions",
    "DetailOptions",
    "DeviceOptions",
    "ModelOptions",
    "PairedOptions",
    "RotationOptions",
    "SumsOptions",
    "complete",
]

G = TypeVar("G")

Precision = Literal["float32", "tf32"]
"""Of matrix products of float32 on a CUDA device."""
PRECISIONS: tuple[str, ...] = get_args(Precision)


def _device(name: str, value: Any) -> Any:
    from univfast.machine.devices import as_device

    return as_device(value)


def _threads(name: str, value: Any) -> int | None:
    from univfast.machine.devices import thread_count

    return None if value is None else thread_count(value)


class MatchOptions(TypedDict, total=False):
    """How neurons are matched, and when one is universal."""

    match: Annotated[
        Match,
        Option(
            "best",
            doc="{choices}.",
            help="Which neuron of B a neuron of A is compared with. {choices}.",
            check=lambda _, value: MATCHINGS.check(value).name,
            choices=MATCHINGS,
        ),
    ]
    threshold: Annotated[
        float,
        Option(
            0.5,
            doc="a neuron is universal if its excess is above.",
            help="A neuron is universal if its correlation exceeds its baseline by more than this.",
            check=as_number,
        ),
    ]


class RotationOptions(TypedDict, total=False):
    """The rotations of a baseline; `Baseline` checks them together."""

    rotation: Annotated[
        Rotation,
        Option(
            "hadamard",
            doc="{choices}.",
            help="Random rotation of B for the baseline. {choices}.",
            choices=ROTATIONS,
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
        ),
    ]
    seed: Annotated[
        int,
        Option(
            0,
            doc="of rotations and shifts; the same seed gives the same ones everywhere.",
            help="Seed of rotations and shifts.",
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
        ),
    ]


class ControlOptions(TypedDict, total=False):
    """Networks that learned nothing, and how a neuron's margin over them is judged."""

    controls_a: Annotated[
        object | None,
        Option(
            None,
            doc="networks of A's architecture that learned nothing, as a list, each as ``a`` (their"
            " activations on the same tokens, or on the first ``control_tokens``); `uf.control`"
            " makes them, 4 are advised. None for none.",
            help="Networks of A's architecture that learned nothing, as A: 'univfast control' makes"
            " them, 4 are advised. Takes all paths up to the next option.",
            path=True,
            metavar="PATH...",
        ),
    ]
    controls_b: Annotated[
        object | None,
        Option(
            None,
            doc="the same of B; of several other models, a list of such lists, in their order.",
            help="The same of B. With more models, once for each of them, in their order.",
            path=True,
            metavar="PATH...",
        ),
    ]
    control_tokens: Annotated[
        int,
        Option(
            262_144,
            doc="tokens that controls are compared on: the first so many. The real models are"
            " counted on the same ones too.",
            help="Compare controls on the first N tokens.",
            check=as_integer,
            low=64,
            metavar="N",
        ),
    ]
    control_margin: Annotated[
        float,
        Option(
            0.3,
            doc="a universal neuron is learned by both if its r is above baseline and controls by"
            " more.",
            help="A universal neuron is learned by both if its correlation exceeds baseline and"
            " controls by more than this.",
            check=as_number,
            low=0,
        ),
    ]


class ModelOptions(
    MatchOptions, AllPairsOptions, ControlOptions, DetailOptions, ContextOptions, total=False
):
    """Of `correlate_models`."""


class CorrelateOptions(ModelOptions, FileOptions, TokenOptions, total=False):
    """Of `correlate`."""

    layers: Annotated[
        str | None,
        Option(
            None,
            doc="glob pattern of the layers to use; None for all.",
            help="Use only layers whose name matches, as 'mlp.*'.",
            check=as_pattern,
            metavar="GLOB",
        ),
    ]
    memory_limit: Annotated[
        float | None,
        Option(
            None,
            doc="bytes that the co-moments of all pairs may take, of each process; None for most of"
            " what is available. Where they take more, A's layers are done in several passes over"
            " the inputs.",
            help="Memory for the co-moments of all pairs, in each process. Where they need more,"
            " layers of A are done in several passes.  [default: most of what is available]",
            check=as_limit,
            low=0,
            metavar="GB",
        ),
    ]
    checkpoint: Annotated[
        str | os.PathLike[str] | None,
        Option(
            None,
            doc="a file to save the state to every so often. Where it is there already, written by"
            " a call with the same inputs and options, the work goes on from it, and ends with the"
            ' same numbers (``summary["seconds"]`` counts this call alone). It is written at the'
            " end of each pass too, and on SIGINT, SIGTERM or SIGHUP, which only the main thread"
            " gets. It stays when all is done, and beside it the one before, as ``NAME.previous``,"
            " which the work goes on from, with a warning, where the newest is damaged. Only one"
            " run at a time may have it.",
            help="Save the state here every so often, and on Ctrl-C. The same command goes on from"
            " it, with any number of processes.",
            check=as_path,
            path=True,
            metavar="FILE",
        ),
    ]
    checkpoint_every: Annotated[
        float,
        Option(
            60.0,
            doc="seconds between two.",
            help="Time between two checkpoints.",
            check=as_number,
            low=0,
            metavar="SECONDS",
        ),
    ]


def complete(group: type[G], given: Mapping[str, Any], function: str) -> G:
    """All options of a group: those given, checked, and the defaults of the others.

    Raises:
        TypeError: one that ``function`` does not have, or of a type that cannot be used.
        InputError: a value that cannot be, or options that exclude each other.
    """
    options = declared(group)
    for name in given:
        if name not in options:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    values = {
        name: option.checked(name, given.get(name, option.default))
        for name, (_, option) in options.items()
    }
    if "rotation" in values:
        Baseline.of(values)  # which checks them
    by_index = "match" in values and not MATCHINGS[values["match"]].all_pairs
    if by_index and (values["exclude_self"] or values["reverse"]):
        name = "exclude_self" if values["exclude_self"] else "reverse"
        raise InputError(f"{name}: is not for a match by index; match 'best', or leave it out")
    if "controls_a" in values:
        _check_controls(values)
    for name in ("token_ids", "neurons", "token_text", "features"):
        if values.get(name) is not None and not values.get("details", True):
            raise InputError(f"{name}: is for details; ask for details too")
    return cast("G", values)


def _check_controls(values: Mapping[str, Any]) -> None:
    """Refuses controls of a model with itself, whose networks are no others."""
    given = [name for name in ("controls_a", "controls_b") if values[name] is not None]
    if given and values["exclude_self"]:
        raise InputError(
            f"{given[0]}: is for two models, and not for one whose own neurons are left out; leave"
            " one of both out"
        )
