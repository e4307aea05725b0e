"""Networks that users bring: what of them is hooked and run, and how they are called.

==============  ==================================================================
``wrapping``    what stands around a module, and what cannot be hooked
``eagerly``     a block in which networks call all of their modules
``calls``       whether a network takes a batch, and what of a batch it is given
``padding``     masks of batches that say what is padding
``sharing``     whether two networks have parameters in common
``globs``       what the patterns of hooks matched
``notes``       what is to be said of networks that run side by side
==============  ==================================================================
"""
