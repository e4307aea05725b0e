"""From whatever holds activations to layers that are read slice by slice.

=====================  =====================================================================
``activations``        the two types that callers see, and ``open_activations``
``matching``           which layer of one model is compared with which of the other
``masks``              which tokens count
``arrays``             one batch as an argument of Python
``stored``             one array as found: in memory, or in place in a mapped file
``mapping``            read-only file mappings whose pages can be given back
``files``              what kind of file it is, and one line for whatever is wrong with it
``torch_files``, ``numpy_files``, ``safetensors_files``   where the arrays lie in each
=====================  =====================================================================
"""

from univfast.inputs.activations import Activations, Layer, open_activations
from univfast.inputs.masks import open_mask
from univfast.inputs.matching import all_layers, match_layers

__all__ = [
    "Activations",
    "Layer",
    "all_layers",
    "match_layers",
    "open_activations",
    "open_mask",
]
