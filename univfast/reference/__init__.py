"""The slow, plain definitions, in float64 NumPy: what every fast path is tested against.

Nothing here streams or saves memory: all tokens are held at once, every rotation is a dense matrix
and is applied to the activations themselves. The names are those of the fast versions.

===============  ===================================================================
``correlation``  r of all tokens at once, matches in it, and `correlate`
``details``      of matched pairs: intervals, moments, shares of tokens, contexts
``rotations``    rotations as matrices, step by step
``shifts``       wrong partners by index, number by number
``statistics``   baseline, excess, chance, p and q, neuron by neuron
``controls``     counts by control and margins over controls, neuron by neuron
``features``     features of tokens, token by token, and how much of neurons they explain
``ablation``     what a model loses without neurons, token by token
===============  ===================================================================
"""

from univfast.nulls.kinds import ROTATIONS
from univfast.nulls.matrices import layer_seed
from univfast.reference.ablation import Loss, ablation, alike, over_documents
from univfast.reference.controls import Controls, Trial, controls
from univfast.reference.correlation import (
    AllPairsCorrelation,
    PairedCorrelation,
    best,
    correlate,
    one_to_one,
    pearson,
    pearson_matrix,
)
from univfast.reference.details import Details, NeuronDetails, TokenTable, details
from univfast.reference.features import (
    feature_columns,
    feature_groups,
    feature_r2,
    group_means,
    pooled,
    regression_r2,
)
from univfast.reference.rotations import rotation_matrix, rotation_signs
from univfast.reference.shifts import shifts_of
from univfast.reference.statistics import Statistics, statistics

KINDS = tuple(ROTATIONS)

__all__ = [
    "KINDS",
    "AllPairsCorrelation",
    "Controls",
    "Details",
    "Loss",
    "NeuronDetails",
    "PairedCorrelation",
    "Statistics",
    "TokenTable",
    "Trial",
    "ablation",
    "alike",
    "best",
    "controls",
    "correlate",
    "details",
    "feature_columns",
    "feature_groups",
    "feature_r2",
    "group_means",
    "layer_seed",
    "one_to_one",
    "over_documents",
    "pearson",
    "pearson_matrix",
    "pooled",
    "regression_r2",
    "rotation_matrix",
    "rotation_signs",
    "shifts_of",
    "statistics",
]
