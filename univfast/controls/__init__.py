"""Controls: networks of the same architecture that learned nothing.

==============  ==================================================================
``initialise``  a fresh copy of a model, of random weights
``sites``       where the input of an activation function can be shifted
``shifts``      shifts that stay on a network, as hooks and buffers of its modules
``rates``       shifts by which neurons are active as often as the trained ones
==============  ==================================================================
"""

from univfast.controls.initialise import initialise, weights_digest
from univfast.controls.rates import PILOT_TOKENS, match_rates
from univfast.controls.shifts import add_shifts, shifts_of
from univfast.controls.sites import find_sites

__all__ = [
    "PILOT_TOKENS",
    "add_shifts",
    "find_sites",
    "initialise",
    "match_rates",
    "shifts_of",
    "weights_digest",
]
