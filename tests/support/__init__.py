"""What tests of several rooms share.

====================  ====================================================================
``dtypes``            the dtypes of activations, as parameters of tests
``parity``            hard cases, the exact answer, and the check against it
``pairs``             the same for all pairs
``matched``           matched pairs, their exact statistics, and the check against them
``explained``         neurons that are planted in tokens, and the check of what explains them
``layouts``           the ways in which activations lie in memory
``on_device``         what the tests on a CUDA device share
``cuda_on_cpu``       the CUDA kernels' own source, compiled for the CPU
``small_layers``      small activations, for what does not depend on their size
``controlled``        networks that learned nothing, and what the reference says of them
``made_up``           results whose numbers tests choose, and the files that results have
``summaries``         made-up summaries, and what is said of them
``pictured``          made-up results for pictures and reports, and what a page says
``activation_files``  files of activations, written and damaged
``lying_files``       files whose headers say what is not there
``shards``            directories of such files
``hub``               a stand-in of the Hugging Face hub
``language_models``   directories of Hugging Face models, and texts
``families``          tiny models of families of Hugging Face transformers
``live_models``       models that are run by a test itself
``tiny_models``       trained models of the experiment, and texts to train on
``untrained``         networks that stand for trained ones, of which controls are made
``command``           the command line, within the test
``pickles``           files that would do something when they are read
``shared``            what the processes of ``pytest -n`` make once and share
``cores``             what a process of ``pytest -n`` computes with
``stopped``           runs that are stopped on purpose
``processes``         Python in processes of its own, also started by torchrun
``ranks``             what each process does in the tests of `all_reduce`
``matched_ranks``     the same of matched pairs
``found``             searches of dealt layers, and one of all of them
``searched``          models and ways of searching them, with blocks of few rows
``search_ranks``      what each process does in the test of searches that are shared
``found_ranks``       what each process does in the test of searches that are gathered
``dealt_ranks``       the same in tests of runs whose layers are dealt
``candidates``        pairs of neurons of made-up models, and their exact r
``candidate_ranks``   what each process does in the tests of sums of candidates
====================  ====================================================================
"""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
