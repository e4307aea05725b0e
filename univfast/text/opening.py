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
from univfast.text.corpus import CorpusOptions, holds_tokens, read_corpus
from univfast.text.filters import TokenFilters, kept_tokens, padding
from univfast.text.live_layers import model_activations
from univfast.text.models import LanguageModel, load_model
from univfast.text.vocabulary import common_vocabulary, load_vocabulary
from univfast.text.windows import TokenWindows

__all__ = ["TextOptions", "TextRun", "described", "identity", "open_run", "read_text"]


@dataclass(frozen=True)
class TextOptions:
    """What models read, and which tokens count.

    Attributes:
        text: the file, as `read_corpus` takes it.
        corpus: how it is read.
        filters: which tokens count.
        batch_tokens: of a forward pass; None to choose by the width of the layers.
    """

    text: str
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    filters: TokenFilters = field(default_factory=TokenFilters)
    batch_tokens: int | None = None


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
    windows: TokenWindows
    keep: Tensor | None


@contextmanager
def open_run(
    directories: Sequence[str],
    hooks: Sequence[Sequence[str]],
    options: TextOptions,
    device: torch.device,
) -> Iterator[TextRun]:
    """Models on one text, valid within the block.

    Args:
        directories: of the models; all are held in memory.
        hooks: glob patterns of layers, for each model.
        options: the text and the filters.
        device: where the models run.

    Raises:
        InputError: a directory, the text, an option or the hooks cannot be used, or the models do
            not go together.
    """
    models, windows, keep = read_text(directories, options, device)
    with ExitStack() as stack:
        activations = []
        for model, patterns in zip(models, hooks, strict=True):
            found = stack.enter_context(
                model_activations(model, patterns, windows, options.batch_tokens)
            )
            rows = [x.as_row() for x in matched([*found.layers], patterns)]
            about = {**described(options, windows), "hooks": list(patterns), "matched": rows}
            activations.append(
                dataclasses.replace(found, about=about, ids=windows.ids, text=windows.text)
            )
        yield TextRun(models, activations, windows, keep)


def read_text(
    directories: Sequence[str], options: TextOptions, device: torch.device
) -> tuple[list[LanguageModel], TokenWindows, Tensor | None]:
    """Models, what they read, and the tokens that count, as bool ``[tokens]``, None for all.

    Raises:
        InputError: a directory, the text or an option cannot be used, or the models do not go
            together.
    """
    models = [load_model(directory, device) for directory in directories]
    # A file of tokens needs no tokenizer, unless it is asked which of them are what.
    used = not holds_tokens(options.text) or options.corpus.bos or bool(options.filters.skip)
    vocabulary = common_vocabulary([load_vocabulary(m.directory, m.config) for m in models], used)
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


def described(options: TextOptions, windows: TokenWindows) -> dict[str, object]:
    """What is read, and of which tokens activations count; for reports."""
    return {
        "file": options.text,
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
    keep = None
    if run.keep is not None and not bool(run.keep.all()):
        keep = hashlib.sha256(run.keep.numpy().data).hexdigest()
    return {
        "model": model.fingerprint.hex(),
        "text": run.windows.digest.hex(),
        "hooks": list(hooks),
        "context": run.windows.window,
        "skip": sorted(options.filters.skip),
        "positions": options.filters.positions,
        "kept": keep,
        # These show in the last bits.
        "batch_tokens": activations.most,
        "device": next(iter(activations.layers.values())).device.type,
    }
