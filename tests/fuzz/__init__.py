"""Inputs that are wrong on purpose: each is refused in one line, or gives a plain reader's numbers.

==================  ==========================================================================
``kinds``           what a kind of input is, what may become of one, and the check of a file
``mutate``          changes to bytes, to JSON and to values, by a generator
``zips``            changes to the directories of zip files, and to what is in them
``files``           files of activations, masks and token ids: samples, and changes to each format
``plain``           the same files read again, slowly and strictly: what is in them
``directories``     shards, captures, Hugging Face datasets and models
``results``         saved results, which reports are drawn from
``states``          states of accumulators, and checkpoints of runs
``arguments``       tensors, arrays and options as Python passes them
``commands``        command lines
``workers``         processes that take inputs, and are watched
``with_core``       runs a module with another build of the core, as with a sanitizer
``draws``           random shapes and values for calls of the core
``native_calls``    valid calls of the core with random shapes, against plain computations
==================  ==========================================================================

``PYTHONPATH=tests python -m fuzz --inputs 2000`` tries so many and prints what became of them. An
input is made from its seed, kind and number alone: ``--one KIND:NUMBER`` makes it again. What was
once found is kept in ``corpus/``, a file an input, named by the kind and what is wrong.
"""
