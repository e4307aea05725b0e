"""The computer: its devices, its memory, its files, and other processes.

===============  ================================================================
``devices``      where sums are taken: on the CPU, or on a CUDA device
``matrix_units``  those of a CPU that multiply matrices of bfloat16
``limits``       what is too little to begin with, such as of memory
``memory``       how much there is, of the machine and of the groups that limit it
``files``        files that are written whole or not at all
``reading``      files that are read: regular ones, and one line for what is wrong
``locks``        files and directories that one run at a time writes to
``digests``      of plain values and tensors: what was damaged is told
``threads``      objects that several of them share
``forks``        processes that fork, whose threads stay behind
``signals``      those that ask a process to end
``processes``    those that share one computation, through ``torch.distributed``
``torch_state``  what the user has set for torch, and work that it does not touch
``meanwhile``    work that says nothing until it has ended, awaited by what stays free
===============  ================================================================
"""
