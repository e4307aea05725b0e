"""univfast: finds universal neurons, which two independently trained networks both learned.

``import univfast as uf``; then `uf.correlate` for two sets of activations, `uf.PairedCorrelation`
or `uf.AllPairsCorrelation` for a stream of batches, `uf.correlate_models` and `uf.capture` for
models that are running, `uf.load` for a result that was saved, `uf.control` for networks that
learned nothing, `uf.ablate` for what a model loses without its universal neurons, and
`uf.reference` for the slow definitions that all are tested against.

The way of the data, from `correlation` (or `live`, of models that are running) downwards:

1. ``inputs`` opens files, arrays and directories as layers, ``stores`` those that other tools
   wrote; ``text`` runs models on a text.
2. ``runs`` plans passes over the layers' tokens and reads them slice by slice, ...
3. ... into `paired` (neuron i with neuron i) or `all_pairs`, the accumulators that users have too,
4. which hold ``sums``: moments and co-moments, of the neurons and of random rotations of them.
5. ``search`` finds each neuron's match in the co-moments, and in rotations of them;
6. ``nulls`` says what the rotations are, and what they say of chance.
7. `assemble` puts matches and statistics together as a `result`; ``report`` words and draws it.
8. ``native`` is the border to the compiled core (``csrc/``), which does all that is slow;
9. ``machine`` is the computer: devices, memory, files, other processes.
10. ``networks`` is what users' models may be, and ``controls`` makes some that learned nothing,
    for chance of another kind;
11. ``contexts`` says what neurons do, by tokens where they are high and by ``features`` of tokens;
12. ``neuron_weights``, what their weights say, and ``ablation``, what is lost without them;
13. ``cli`` is the command line, ``experiment`` trains tiny models, ``bench`` measures.

Imports go downhill (``tests/test_house.py`` has the floors), but for what `CorrelationResult` loads
of ``report`` when it is saved, drawn or put into words. What can be chosen by name stands in
registries, which `registry` lists.

===============  =======================================================================
``correlation``  `correlate`: activations in, the result out
``live``         `correlate_models`: two models side by side
``live_networks``  the models and controls that it runs
``control``      `control`: a network of the same architecture that learned nothing
``hooks``        `capture`: activations of a live model
``channels``     which axis of a module's activations neurons are on
``side_by_side``  models that run on the same batches
``shape_warnings``  rows and columns that may be swapped, nulls that say little
``row_check``    whether rows of live activations are tokens, in their order
``stacks``       the tokens and masks of models that have an encoder and a decoder
``feeding``      models that are run on batches
``paired``       `PairedCorrelation`
``all_pairs``    `AllPairsCorrelation`
``assemble``     how a result is put together from matches
``control_matches``  what is matched where networks that learned nothing take a side
``counts``       the numbers of a summary
``details``      what details add to a result
``provenance``   what a summary says of the activations
``result``       `CorrelationResult`
``method``       how it was computed, and how exactly
``summary``      what its summary holds, key by key
``views``        what is shown of it, a layer of it, its first neurons
``reference``    the definitions in plain float64 NumPy (a folder)
``explaining``   `explain`: what the neurons of a result do
``options``      every option, declared once
``pair_options``   those of sums and searches
``input_options``   those of how inputs are read
``detail_options``  those of what is looked at beyond r
``option``       what an option is
``docstrings``   signatures and docstrings that follow from them
``columns``      ``COLUMNS``: what stands in the tables of a result
``registry``     what a registry is
``checks``       arguments that are refused by name
``errors``       `InputError`, and `UnivfastWarning`
===============  =======================================================================
"""

from __future__ import annotations

from importlib import import_module

import univfast.machine.forks  # noqa: F401 - which must know of every fork from here on

TYPE_CHECKING = False  # as in `typing`, which takes longer to import than all else here
if TYPE_CHECKING:
    from typing import Any

    from univfast import reference
    from univfast.ablation.ablate import ablate
    from univfast.all_pairs import AllPairsCorrelation
    from univfast.contexts.frames import contexts_to_pandas, load_contexts
    from univfast.control import control
    from univfast.correlation import correlate
    from univfast.errors import InputError
    from univfast.explaining import explain
    from univfast.hooks import capture
    from univfast.live import correlate_models
    from univfast.neuron_weights.weights import weights
    from univfast.paired import PairedCorrelation
    from univfast.report.saved import load
    from univfast.result import CorrelationResult

    __version__: str

__all__ = [
    "AllPairsCorrelation",
    "CorrelationResult",
    "InputError",
    "PairedCorrelation",
    "ablate",
    "capture",
    "contexts_to_pandas",
    "control",
    "correlate",
    "correlate_models",
    "explain",
    "load",
    "load_contexts",
    "reference",
    "weights",
]

# Names are imported when first used, so that `univfast --help` does not wait for torch.
_HOME = {
    "AllPairsCorrelation": "univfast.all_pairs",
    "CorrelationResult": "univfast.result",
    "InputError": "univfast.errors",
    "PairedCorrelation": "univfast.paired",
    "ablate": "univfast.ablation.ablate",
    "capture": "univfast.hooks",
    "contexts_to_pandas": "univfast.contexts.frames",
    "control": "univfast.control",
    "correlate": "univfast.correlation",
    "correlate_models": "univfast.live",
    "explain": "univfast.explaining",
    "load": "univfast.report.saved",
    "load_contexts": "univfast.contexts.frames",
    "reference": "univfast.reference",
    "weights": "univfast.neuron_weights.weights",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = import_module("importlib.metadata").version("univfast")
    elif name in _HOME:
        module = import_module(_HOME[name])
        value = module if name == "reference" else getattr(module, name)
    else:
        raise AttributeError(f"module 'univfast' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, "__version__"})
