"""The experiment: train tiny transformers, capture their MLPs' activations.

===============  =============================================================
``data``         the corpora: windows of text, and a test set that is held out
``model``        the tiny transformer
``training``     next-token prediction
``together``     several models at the same time
``model_files``  trained models as files
``untrained``    their controls, and models before training
``sites``        activations on the test set, before and after the ReLU
``live_layers``  the same, of a model that runs when they are read
===============  =============================================================
"""

from univfast.experiment.data import HALVES, TEST_SAMPLES, Corpus, Half, default_half, load_corpus
from univfast.experiment.live_layers import live_activations
from univfast.experiment.model import ModelConfig, TinyTransformer
from univfast.experiment.model_files import (
    TrainedModel,
    from_dict,
    load_model,
    save_model,
)
from univfast.experiment.sites import (
    SITES,
    Site,
    capture_layers,
    capture_mlp,
    record_mlp,
    test_set_name,
    test_tokens,
)
from univfast.experiment.together import train_together
from univfast.experiment.training import Progress, TrainingOptions, train
from univfast.experiment.untrained import control_of, untrained

__all__ = [
    "HALVES",
    "SITES",
    "TEST_SAMPLES",
    "Corpus",
    "Half",
    "ModelConfig",
    "Progress",
    "Site",
    "TinyTransformer",
    "TrainedModel",
    "TrainingOptions",
    "capture_layers",
    "capture_mlp",
    "control_of",
    "default_half",
    "from_dict",
    "live_activations",
    "load_corpus",
    "load_model",
    "record_mlp",
    "save_model",
    "test_set_name",
    "test_tokens",
    "train",
    "train_together",
    "untrained",
]

# Names that these had once, which still work.
_FORMER = {
    "Checkpoint": TrainedModel,
    "load_checkpoint": load_model,
    "save_checkpoint": save_model,
}


def __getattr__(name: str) -> object:
    if name in _FORMER:
        return _FORMER[name]
    raise AttributeError(f"module 'univfast.experiment' has no attribute {name!r}")
