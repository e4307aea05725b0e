"""From whatever holds activations to layers that are read slice by slice.

=====================  =====================================================================
``activations``        ``open_activations``: from a tensor, an array, a dict or a path
``layers``             the two types that callers see, and the layer that is one array
``layout``             layers side by side: their names, widths and places
``formats``            ``FORMATS``: the files that are read, and one line for what is wrong
``torch_files``, ``numpy_files``, ``safetensors_files``   where the arrays lie in each
``directories``        which files of a directory are which layer
``shards``             the layer that lies in many files, few of them open at a time
``arrow_files``        a Hugging Face dataset's columns as such layers
``model_paths``        what is a model, and not activations
``pairing``            which layer of one model is compared with which of the other
``masks``              which tokens count
``arrays``             one batch as an argument of Python
``stored``             one array as found: in memory, or in place in a mapped file
``mapping``            read-only file mappings whose pages can be given back
=====================  =====================================================================
"""
