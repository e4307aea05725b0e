"""What is added up over tokens, and how two states merge.

=====================  =======================================================================
``batches``            one batch on its way into sums, and where it comes from
``transfer``           batches on their way to a CUDA device
``moments``            the state of neuron i with neuron i, and with rotations of it
``pending``            tokens of two models that wait for a chunk to be full
``chunks``             a chunk on its way to a product: standardised, or as it is
``products``           how they are multiplied
``co_moments``         the state of all pairs, and how a chunk is added to it
``sparse_entries``     entries of sparse features: looked at, masked, put about pivots
``sparse_pairs``       the state of all pairs of these, from what is active together
``chunked``            sums of some pairs alone, on the CPU, however batches are cut
``candidates``         some pairs alone, exact over any number of tokens
``candidate_pairs``    which pairs, and how they are cut to be read from a cache
``candidate_moments``  their state, and how a chunk is added to it
``checked``            some neurons with all of another model, to check candidates by
``token_facts``        what is known of tokens: sample, block, position, group of their id
``extremes``           of each neuron the tokens farthest from its mean, its mean and variance
``details``            the state of matched pairs: sums of blocks, of powers, contexts
``power_sums``         those sums, and the algebra that moves them
``group_sums``         sums over tokens of one id, or of one position
``pair_statistics``    what follows from the state of matched pairs
``states``             states as they are saved, and refused where they do not fit
``state_values``       what sums in a state can be, and what no tokens give
=====================  =======================================================================
"""
