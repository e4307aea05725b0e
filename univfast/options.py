"""What can be asked for: every option of functions, accumulators and commands, declared once.

An option is a key of one of the groups below: with its type, which mypy holds calls to, its
default, its line in docstrings, its help on the command line, and how its value is checked. A
function that takes ``**options: Unpack[Group]`` gets its signature and docstring from the group by
`univfast.docstrings.documented`, and all values of the group by `complete`. The command line takes
names, defaults, types and help from here too (`univfast.cli.options`).
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, TypeVar, cast

from univfast.checks import as_integer, as_number
from univfast.detail_options import ContextOptions, DetailOptions, FileOptions, TokenOptions
from univfast.errors import InputError
from univfast.input_options import AxisOptions
from univfast.nulls.kinds import Baseline
from univfast.option import (
    Option,
    as_count,
    as_limit,
    as_path,
    as_pattern,
    declared,
)
from univfast.pair_options import (
    AllPairsOptions,
    DeviceOptions,
    PairedOptions,
    RotationOptions,
    SumsOptions,
)
from univfast.search.matchings import MATCHINGS, Match

__all__ = [
    "AllPairsOptions",
    "AxisOptions",
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
            panel="Matching",
        ),
    ]
    threshold: Annotated[
        float,
        Option(
            0.5,
            doc="a neuron is universal if its excess is above.",
            help="A neuron is universal if its correlation exceeds its baseline by more than this.",
            check=as_number,
            panel="Matching",
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
            panel="Nulls",
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
            panel="Nulls",
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
            panel="Nulls",
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
            panel="Nulls",
        ),
    ]


class ModelOptions(
    AxisOptions,
    MatchOptions,
    AllPairsOptions,
    ControlOptions,
    DetailOptions,
    ContextOptions,
    total=False,
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
            " what is available. Where they take more, A's layers are dealt to the processes that"
            " torchrun started, or done in several passes over the inputs, those of sparse features"
            " in parts.",
            help="Memory for the co-moments of all pairs, in each process. Where they need more,"
            " layers of A are dealt to the processes of torchrun, or done in several passes (of"
            " sparse features, in parts).  [default: most of what is available]",
            check=as_limit,
            low=0,
            metavar="GB",
            panel="Compute",
        ),
    ]
    screen: Annotated[
        int | None,
        Option(
            None,
            doc="tokens of a sample, half of them drawn evenly and half where rare neurons are"
            " active, that candidates are searched on: 32 of each neuron, in either direction. r is"
            " then exact for these, over all tokens, and memory grows with the neurons and not with"
            " their pairs. Some neurons are searched whole, to say how many matches are missed"
            ' (``summary["screen"]``). Baselines are those of the half drawn evenly, and controls'
            " are compared on as many tokens. For match best. None: all pairs, but 8,192 where a"
            " layer of A with all of B does not fit the memory limit.",
            help="Search candidates on a sample of N tokens, then take their exact correlations"
            " over all tokens: for models whose pairs do not fit the memory, or take too long. What"
            " may be missed is measured and printed. With --match best.  [default: no; 8192 where a"
            " layer of A with all of B does not fit the memory]",
            check=as_count,
            low=64,
            metavar="N",
            panel="Compute",
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
            " which the work goes on from, with a warning, where the newest is damaged. How far a"
            " search behind a pass is stands in ``NAME.search``. Only one run at a time may have"
            " it.",
            help="Save the state here every so often (of a search in FILE.search), and on Ctrl-C."
            " The same command goes on from it, with any number of processes.",
            check=as_path,
            path=True,
            metavar="FILE",
            panel="Long runs",
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
            panel="Long runs",
        ),
    ]


# Of searches alone, and of their sums.
_OF_ALL_PAIRS = ("exclude_self", "reverse", "top_k", "precision", "products")
# Of what is looked at with details alone.
_OF_DETAILS = ("token_ids", "neurons", "token_text", "features", "examples", "around")


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

    def asked(name: str) -> bool:
        if name not in values:
            return False
        value, default = values[name], options[name][1].default
        return value is not None if default is None else bool(value != default)

    if "rotation" in values:
        Baseline.of(values)  # which checks them
    if "match" in values and not MATCHINGS[values["match"]].all_pairs:
        for name in filter(asked, _OF_ALL_PAIRS):
            raise InputError(f"{name}: is not for a match by index; match 'best', or leave it out")
    if values.get("screen") is not None and values["match"] != "best":
        raise InputError(
            f"screen: is for match 'best', not {values['match']!r}; leave one of both out"
        )
    if "controls_a" in values:
        _check_controls(values)
    if not values.get("details", True):
        for name in filter(asked, _OF_DETAILS):
            raise InputError(f"{name}: is for details; ask for details too")
    if values.get("checkpoint") is None and asked("checkpoint_every"):
        raise InputError("checkpoint_every: is for a checkpoint; give checkpoint= too")
    return cast("G", values)


def _check_controls(values: Mapping[str, Any]) -> None:
    """Refuses controls of a model with itself, whose networks are no others."""
    given = [name for name in ("controls_a", "controls_b") if values[name] is not None]
    if given and values["exclude_self"]:
        raise InputError(
            f"{given[0]}: is for two models, and not for one whose own neurons are left out; leave"
            " one of both out"
        )
