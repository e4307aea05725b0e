"""From co-moments to matches: each neuron's partners in another model and in its rotations.

===============  =======================================================================
``matchings``   ``MATCHINGS``: which neuron of B a neuron of A is compared with
``matches``     what a search finds
``blocks``      co-moments as a search takes them: some rows, tile by tile
``partners``    the search of one model for partners of another's neurons, part by part
``sampled``      all pairs on a sample of tokens, by tiles that are never kept
``verified``     matches among some pairs, whose r is known over all tokens
``same_number``  beside it, neuron i with neuron i
``assigning``   one-to-one matches: assignments of the models, and of each rotation
``assignment``  their solver
``missed``      what a search among candidates missed, and how sure that is
``saved``       what was found, as checkpoints have it
``merging``     what searches of other layers found, in other processes, together
``searches``    both directions of two models, what they take, and their matches
===============  =======================================================================
"""
