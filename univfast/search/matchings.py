"""The matchings that can be chosen: which neuron of B a neuron of A is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from univfast.errors import InputError
from univfast.registry import Registry, resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Places = NDArray[np.intp]
    # r without NaN ``[rows, columns]`` -> rows and columns that are paired.
    Assign = Callable[[Array], tuple[Places, Places]]

__all__ = ["MATCHINGS", "Match", "Matching", "all_pairs"]

Match = Literal["index", "best", "one-to-one"]


@dataclass(frozen=True)
class Matching:
    """A way of matching.

    Attributes:
        name: as users give it.
        help: the match, for the command line.
        doc: the match, for a docstring.
        statistic: r with the match in ``{}``, to stand on an axis.
        axis: what r is, in few words.
        partner: what the match is called.
        meaning: whose r it is, for a report.
        baseline: what is done with rotations of B, for a report: sentences, or nothing.
        dead: which neurons have no r, for a report.
        all_pairs: the match is searched among all neurons of B; else it is that of the same number,
            as by index.
        reference: the definition in float64, of r ``[neurons of A, neurons of B]``, NaN for the
            dead: the match of each row, -1 for none, and its r; as `univfast.reference.best`.
        assign: takes r of all live neurons at once and pairs them; ``"module:name"`` or a function.
            None: each neuron has the highest r, which is found tile by tile.
        most_neurons: of the smaller model that `assign` takes no more than some hours for.
    """

    name: str
    help: str
    doc: str
    statistic: str
    axis: str
    partner: str
    meaning: str
    baseline: str
    dead: str
    all_pairs: bool = True
    reference: str | Callable[[Array], tuple[Any, Array]] | None = None
    assign: str | Assign | None = None
    most_neurons: int | None = None

    def pairs(self, r: Array) -> tuple[Places, Places]:
        """Rows and columns of r ``[rows, columns]``, which has no NaN, that are paired."""
        assign: Assign = resolve(self.assign)
        return assign(r)

    def check_size(self, neurons_a: int, neurons_b: int) -> None:
        """Refuses models for which it would not end.

        Raises:
            InputError: more neurons than `most_neurons` in both models.
        """
        if self.most_neurons is not None and min(neurons_a, neurons_b) > self.most_neurons:
            raise InputError(
                f"match: {self.name!r} of {neurons_a} and {neurons_b} neurons would take hours; it"
                f" is offered up to {self.most_neurons}; choose layers, or use match='best'"
            )


MATCHINGS: Registry[Matching] = Registry(
    "match",
    [
        Matching(
            "index",
            help="the one of the same number, for models of one lineage",
            doc="neuron i of A with neuron i of B",
            statistic="r with the same neuron of {}",
            axis="r",
            partner="match",
            meaning="of a neuron of A with its match in B: the neuron of the same number in the "
            "layer of the same name.",
            baseline="",
            dead="A neuron without variance in A or in B.",
            all_pairs=False,
        ),
        Matching(
            "best",
            help="the one that correlates most, of all layers, for models trained independently",
            doc="with the neuron of all layers of B that it correlates with most",
            statistic="highest r with any neuron of {}",
            axis="highest r",
            partner="best match",
            meaning="of a neuron of A with its match in B: the neuron, of all layers of B, with "
            "which it is highest. Several neurons may have the same match, and a neuron that does "
            "the opposite is none.",
            baseline="The highest r is searched for anew among all neurons of each rotated B, so "
            "the baseline is as high as choosing the best of so many makes it.",
            dead="A neuron without variance in A. Those of B are nobody's match.",
            reference="univfast.reference:best",
        ),
        Matching(
            "one-to-one",
            help="no two with the same one, so that the sum is largest",
            doc="no two with the same, so that the sum of r is largest",
            statistic="r with the partner in {}",
            axis="r",
            partner="partner",
            meaning="of a neuron of A with its partner in B. Neurons of A and of B are paired so "
            "that each has at most one partner and the sum of r over all pairs is largest.",
            baseline="Neurons are paired anew with those of each rotated B, so the baseline is as "
            "high as choosing the partners makes it. A neuron that gets none in any draw has for "
            "its baseline the mean of its layer's neurons that do.",
            dead="A neuron without variance in A. Those of B are nobody's partner.",
            reference="univfast.reference:one_to_one",
            assign="univfast.search.assignment:largest_sum",
            # SciPy's solver takes about neurons^3, once for the models and once a draw.
            most_neurons=16_384,
        ),
    ],
)


def all_pairs() -> Registry[Matching]:
    """The matchings that search all neurons of B."""
    return Registry("match", [matching for matching in MATCHINGS.values() if matching.all_pairs])
