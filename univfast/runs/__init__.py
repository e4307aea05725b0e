"""Inputs read slice by slice into sums: in passes, killed, resumed, shared by processes.

===============  ==========================================================================
``passes``       one pass: which layers are read together, and which sums they go into
``planning``     which layers and models are done in one pass: as many as memory holds
``layer_pairs``  several pairs of layers by index, as their batches come
``run``          passes that can be interrupted, killed, and shared by several processes
``checkpoint``   the file of a run that goes on: how far it has come, and what it was given
===============  ==========================================================================
"""
