"""From whatever holds activations to layers that are read slice by slice.

=====================  =====================================================================
``activations``        ``open_activations``: from a tensor, an array, a dict or a path
``layers``             the two types that callers see, and the layer that is one array
``axes``               the axis of stored arrays that neurons are on
``layout``             layers side by side: their names, widths and places
``formats``            ``FORMATS``: the files that are read, and one line for what is wrong
``torch_files``, ``numpy_files``, ``safetensors_files``   where the arrays lie in each
``zip_files``          the members of a zip file, and what of them may be believed
``stores``             ``STORES``: the directories that other tools wrote
``torch_dtypes``       PyTorch's dtypes, by the names in its files
``pickles``            what a pickle of PyTorch describes, without calling anything
``pickled``            what stands in one: tensors by their places, and other things
``natural``            names in natural order
``directories``        which files of a directory are which layer
``file_names``         what the names of files say of that
``patterns``           how a user says it outright
``numbering``          whether the numbered files are all there, and once
``captures``           the directories that univfast capture wrote
``joined``             stores joined one after another, as a pattern says
``shards``             the layer that lies in many files, few of them open at a time
``sparse``             sparse features as layers, made dense slice by slice
``sparse_entries``     in which forms the entries of such features are stored
``sparse_names``       which arrays of a file belong together as such features
``sparse_tensors``     sparse tensors of PyTorch and arrays of SciPy as such features
``arrow_files``        a Hugging Face dataset's columns as such layers
``hub``                what lies on the Hugging Face hub, where a name asks for it
``model_paths``        what is a model, and not activations
``descriptions``       what a path would be read as, for people
``pairing``            which layer of one model is compared with which of the other
``token_ids``    which token stands where
``masks``              which tokens count
``arrays``             one batch as an argument of Python
``dlpack``             arrays of other libraries, looked at before torch takes them
``plain``              tensors that are memory of their own, and no others
``stored``             one array as found: in memory, or in place in a mapped file
``quantised``          integers of 8 bits, and the scales that stand beside them
``mapping``            read-only file mappings whose pages can be given back
=====================  =====================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from univfast.registry import resolve

if TYPE_CHECKING:
    from univfast.inputs.activations import open_activations
    from univfast.inputs.layers import Activations, Layer
    from univfast.inputs.masks import open_mask
    from univfast.inputs.pairing import all_layers, in_order, match_layers

__all__ = [
    "Activations",
    "Layer",
    "all_layers",
    "in_order",
    "match_layers",
    "open_activations",
    "open_mask",
]

# Imported when first used: the command line needs ``formats`` alone, without torch.
_HOME = {
    "Activations": "layers",
    "Layer": "layers",
    "all_layers": "pairing",
    "in_order": "pairing",
    "match_layers": "pairing",
    "open_activations": "activations",
    "open_mask": "masks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'univfast.inputs' has no attribute {name!r}")
    return resolve(f"univfast.inputs.{_HOME[name]}:{name}")
