"""The experiment: train tiny transformers, capture their MLPs' activations."""

from univfast.experiment.data import HALVES, TEST_SAMPLES, Corpus, Half, default_half, load_corpus
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
)
from univfast.experiment.training import Progress, TrainingOptions, train

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
    "default_half",
    "from_dict",
    "load_corpus",
    "load_model",
    "record_mlp",
    "save_model",
    "test_set_name",
    "train",
]
