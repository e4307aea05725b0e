"""The experiment: train tiny transformers, capture their MLPs' activations."""

from univfast.experiment.capture import (
    SITES,
    Site,
    capture_layers,
    capture_mlp,
    record_mlp,
    test_set_name,
)
from univfast.experiment.checkpoints import (
    Checkpoint,
    from_dict,
    load_checkpoint,
    save_checkpoint,
)
from univfast.experiment.data import HALVES, TEST_SAMPLES, Corpus, Half, default_half, load_corpus
from univfast.experiment.model import ModelConfig, TinyTransformer
from univfast.experiment.training import Progress, TrainingOptions, train

__all__ = [
    "HALVES",
    "SITES",
    "TEST_SAMPLES",
    "Checkpoint",
    "Corpus",
    "Half",
    "ModelConfig",
    "Progress",
    "Site",
    "TinyTransformer",
    "TrainingOptions",
    "capture_layers",
    "capture_mlp",
    "default_half",
    "from_dict",
    "load_checkpoint",
    "load_corpus",
    "record_mlp",
    "save_checkpoint",
    "test_set_name",
    "train",
]
