"""From whatever holds activations to layers that are read slice by slice.

=====================  =====================================================================
``activations``        ``open_activations``: from a tensor, an array, a dict or a path
``layers``             the two types that callers see, and the layer that is one array
``directories``        which files of a directory are which layer
``shards``             the layer that lies in many files, few of them open at a time
``arrow_files``        a Hugging Face dataset's columns as such layers
``matching``           which layer of one model is compared with which of the other
``masks``              which tokens count
``arrays``             one batch as an argument of Python
``stored``             one array as found: in memory, or in place in a mapped file
``mapping``            read-only file mappings whose pages can be given back
``files``              what kind of file it is, and one line for whatever is wrong with it
``torch_files``, ``numpy_files``, ``safetensors_files``   where the arrays lie in each
=====================  =====================================================================
"""

from univfast.inputs.activations import open_activations
from univfast.inputs.layers import Activations, Layer
from univfast.inputs.masks import open_mask
from univfast.inputs.matching import all_layers, in_order, match_layers

__all__ = [
    "Activations",
    "Layer",
    "all_layers",
    "in_order",
    "match_layers",
    "open_activations",
    "open_mask",
]
