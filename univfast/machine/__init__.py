"""The computer: its devices, its memory, its files, and other processes.

=============  =================================================================
``devices``    where sums are taken: on the CPU, or on a CUDA device
``limits``     what is too little to begin with, such as of memory
``memory``     how much there is, of the machine and of the groups that limit it
``files``      files that are written whole or not at all
``signals``    those that ask a process to end
``processes``  those that share one computation, through ``torch.distributed``
=============  =================================================================
"""
