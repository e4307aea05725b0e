"""Inputs read slice by slice into sums: in passes, killed, resumed, shared by processes.

===============  ==========================================================================
``comparisons``  which models are compared with which: the real ones, and their controls
``pilot``        controls looked at on the first tokens, before the work
``passes``       what a pass is, and how much is read at a time
``by_index``     the passes of neuron i with neuron i, and what they find
``over_pairs``   those of every neuron with every neuron
``sparse_plan``  which of these are of sparse features, and what is held of them at a time
``sparse_pass``  a pass of those of sparse features, from what is active together
``details``      a pass of matched pairs alone
``planning``     which layers and models are done in one pass: as many as memory holds
``sharding``     passes whose layers of A are dealt to the processes
``parts``        the states of such a pass, a file for each process beside the checkpoint
``layer_pairs``  several pairs of layers by index, as their batches come
``streams``      two models side by side, whose batches are summed as they come
``detail_streams``  the same batches once more, of matched pairs alone
``screen_plan``  whether pairs are screened on a sample of tokens, and on how many
``sampling``     the tokens of that sample: drawn evenly, and where rare neurons are active
``screen_passes``  the search on it, and r of what it found over all tokens
``screen_found``  what they found: as it is saved, checked, and told in a result
``screening``    the passes of a screened task
``run``          passes that can be interrupted, killed, and shared by several processes
``searching``    the search behind a pass: told, saved, and shared by several processes
``to_search``    what is searched behind a pass
``sharing``      the co-moments of one process, handed to others, which search them
``checkpoint``   the file of a run that goes on: how far it has come, and what it was given
``search_file``  beside it, how far a search behind a pass is
===============  ==========================================================================
"""
