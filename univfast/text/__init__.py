"""From a text and the directories of Hugging Face models to activations, without files between.

=================  =================================================================
``opening``        the options of a run, and all that is opened for it
``library``        the transformers library: silent, offline, its errors in one line
``models``         the model of a directory
``model_places``   where in a directory it is, and the base of an adapter
``adapters``       an adapter merged into its base
``encoders``       the encoder alone of a model that has a decoder too
``control_files``  how the directory of a control says so, and its shifts
``vocabulary``     its tokenizer and special tokens
``corpus``         the tokens of a file
``windows``        tokens in the windows that a model reads at a time
``samples``        arrays that models read in place of tokens, as pixels
``filters``        which tokens count
``live_layers``    the layers of a live model, which run it when they are read
``live_controls``  controls of the models of a run, which are made when they are read
``shard_writer``   activations written to a directory, shard by shard
=================  =================================================================
"""

from univfast.text.control_files import save_control
from univfast.text.corpus import CorpusOptions
from univfast.text.filters import TokenFilters
from univfast.text.live_controls import (
    control_activations,
    make_control,
    stored_control_activations,
)
from univfast.text.opening import TextOptions, TextRun, identity, open_run
from univfast.text.shard_writer import Shards
from univfast.text.vocabulary import token_text

__all__ = [
    "CorpusOptions",
    "Shards",
    "TextOptions",
    "TextRun",
    "TokenFilters",
    "control_activations",
    "identity",
    "make_control",
    "open_run",
    "save_control",
    "stored_control_activations",
    "token_text",
]
