"""One text, one or several models: all that is opened for a run."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from univfast.errors import InputError
from univfast.inputs.layers import Activations
from univfast.networks.globs import matched
from univfast.text.corpus import CorpusOptions, check_corpus, holds_tokens, read_corpus
from univfast.text.filters import TokenFilters, kept_tokens, padding
from univfast.text.live_layers import model_activations, tokens_a_sample
from univfast.text.models import LanguageModel, load_model
from univfast.text.samples import open_samples
from univfast.text.vocabulary import common_vocabulary, load_vocabulary
from univfast.text.windows import TokenWindows, Windows

__all__ = ["TextOptions", "TextRun", "described", "identity", "open_run", "read_text"]


@dataclass(frozen=True)
class TextOptions:
    """What models read, and which tokens count.

    Attributes:
        text: the file, as `read_corpus` takes it; empty where there are ``inputs``.
        corpus: how it is read.
        filters: which tokens count.
        batch_tokens: of a forward pass; None to choose by the width of the layers.
        inputs: a file of arrays in place of a text, as `open_samples` takes it.
    """

    text: str
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    filters: TokenFilters = field(default_factory=TokenFilters)
    batch_tokens: int | None = None
    inputs: str | None = None


@dataclass(frozen=True, eq=False)
class TextRun:
    """Models on one text.

    Attributes:
        models: those of the directories.
        activations: of each.
        windows: what they read.
        keep: bool ``[tokens]``, true for the tokens that count; None for all.
    """

    models: list[LanguageModel]
    activations: list[Activations]
    windows: Windows
    keep: Tensor | None


@contextmanager
def open_run(
    directories: Sequence[str],
    hooks: Sequence[Sequence[str]],
    options: TextOptions,
    device: torch.device,
    axis: int | None = None,
) -> Iterator[TextRun]:
    """Models on one text, valid within the block.

    Args:
        directories: of the models; all are held in memory.
        hooks: glob patterns of layers, for each model.
        options: the text and the filters.
        device: where the models run.
        axis: of neurons, as `univfast.hooks.capture` takes it.

    Raises:
        InputError: a directory, the text, an option or the hooks cannot be used, or the models do
            not go together.
    """
    models, windows, keep = _read(directories, hooks, options, device, axis)
    with ExitStack() as stack:
        activations = []
        for model, patterns in zip(models, hooks, strict=True):
            found = stack.enter_context(
                model_activations(model, patterns, windows, options.batch_tokens, axis)
            )
            about: dict[str, object] = {
                **described(options, windows),
                "hooks": list(patterns),
                "matched": [x.as_row() for x in matched([*found.layers], patterns)],
                "model_class": model.kind,
            }
            if axis is not None:
                about["axis"] = axis
            activations.append(
                dataclasses.replace(found, about=about, ids=windows.ids, text=windows.text)
            )
        yield TextRun(models, activations, windows, keep)


def _read(
    directories: Sequence[str],
    hooks: Sequence[Sequence[str]],
    options: TextOptions,
    device: torch.device,
    axis: int | None,
) -> tuple[list[LanguageModel], Windows, Tensor | None]:
    """As `read_text`, of a text or of other samples."""
    if options.inputs is None:
        return read_text(directories, options, device)
    samples = open_samples(options.inputs)
    models = [load_model(directory, device) for directory in directories]
    counts = [
        tokens_a_sample(model, patterns, samples, axis)
        for model, patterns in zip(models, hooks, strict=True)
    ]
    for model, count in zip(models, counts, strict=True):
        if count != counts[0]:
            raise InputError(
                f"{models[0].directory} and {model.directory}: make {counts[0]} and {count} tokens"
                " of a sample, so that none goes with another; compare models with patches of one"
                " size"
            )
    windows = dataclasses.replace(samples, window=counts[0])
    return models, windows, kept_tokens(windows, None, options.filters)


def read_text(
    directories: Sequence[str], options: TextOptions, device: torch.device
) -> tuple[list[LanguageModel], TokenWindows, Tensor | None]:
    """Models, what they read, and the tokens that count, as bool ``[tokens]``, None for all.

    Raises:
        InputError: a directory, the text or an option cannot be used, or the models do not go
            together.
    """
    check_corpus(options.text)  # before models are loaded, which takes long
    models = [load_model(directory, device) for directory in directories]
    for model in models:
        if model.reads == "input_ids" and not model.vocabulary:
            raise InputError(
                f"{model.directory}: has no vocabulary of its own, as models of text and images;"
                " save the part that reads the text by itself, as"
                " CLIPTextModel.from_pretrained(DIR).save_pretrained(OUT)"
            )
        if model.reads != "input_ids":
            raise InputError(
                f"{model.directory}: reads {model.reads}, no tokens; use a model that reads text,"
                " or give what it reads (inputs=)"
            )
    # A file of tokens needs no tokenizer, unless it is asked which of them are what.
    used = not holds_tokens(options.text) or options.corpus.bos or bool(options.filters.skip)
    vocabulary = common_vocabulary([load_vocabulary(m.tokenizer, m.config) for m in models], used)
    known = min(model.vocabulary for model in models)
    longest = min((m.longest for m in models if m.longest is not None), default=None)
    windows = read_corpus(options.text, vocabulary, known, longest, options.corpus)
    windows = dataclasses.replace(windows, text=vocabulary.text())
    if "padding" in options.filters.skip:
        if not windows.samples:
            raise InputError(
                f"{options.text}: has no samples that may be padded; skip 'padding' only of a file"
                " of tokens [samples, sequence]"
            )
        windows = dataclasses.replace(windows, padding=padding(windows, vocabulary))
    keep = kept_tokens(windows, vocabulary, options.filters)
    return models, windows, keep


def described(options: TextOptions, windows: Windows) -> dict[str, object]:
    """What is read, and of which tokens activations count; for reports."""
    return {
        "file": options.inputs or options.text,
        "tokens": windows.tokens,
        "context": windows.window,
        "bos": options.corpus.bos,
        "skip": sorted(options.filters.skip),
        "positions": options.filters.positions,
        "mask": options.filters.mask,
    }


def identity(run: TextRun, hooks: Sequence[str], options: TextOptions) -> dict[str, object]:
    """What the activations of the one model of a run follow from, as JSON holds it.

    The file and the directory are told by content, so that they may be moved.
    """
    (model,), (activations,) = run.models, run.activations
    keep, about = None, activations.about or {}
    if run.keep is not None and not bool(run.keep.all()):
        keep = hashlib.sha256(run.keep.numpy().data).hexdigest()
    return {
        "model": model.fingerprint.hex(),
        "text": run.windows.digest.hex(),
        "hooks": list(hooks),
        **({} if "axis" not in about else {"axis": about["axis"]}),
        "context": run.windows.window,
        "skip": sorted(options.filters.skip),
        "positions": options.filters.positions,
        "kept": keep,
        # These show in the last bits.
        "batch_tokens": activations.most,
        "device": next(iter(activations.layers.values())).device.type,
    }
