"""Tiny models of Hugging Face's kind, of random weights, with a tokenizer, made offline."""

from __future__ import annotations

import json
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import univfast as uf
from univfast.text import CorpusOptions, TextOptions, TextRun, TokenFilters, open_run
from univfast.text.vocabulary import load_vocabulary

LINES = (
    "the quick brown fox jumps over the lazy dog\n",
    "  a neuron that two networks learned,\n\n\n and a third did not\n\n",
    "naïve tests say little about 1,024 tokens\n",
)
CONTEXT = 16
CPU = torch.device("cpu")
GPT2_HOOKS = "transformer.h.*.mlp.act"
LLAMA_HOOKS = "model.layers.*.mlp.down_proj:input"
# Options of the commands.
FILTERS = ("--context", CONTEXT, "--skip", "special,newline", "--positions", "1:")


@dataclass(frozen=True)
class Directories:
    """Where the models are; all but ``bare`` and ``other`` have the same tokenizer.

    ``bare`` has none, and the weights of ``gpt2``; ``half`` is ``gpt2`` in bfloat16; ``llama`` is
    another model.
    """

    gpt2: Path
    half: Path
    llama: Path
    bare: Path
    other: Path
    text: Path


def make_directories(folder: Path) -> Directories:
    import transformers

    found = Directories(
        *(folder / name for name in ("gpt2", "half", "llama", "bare", "other", "corpus.txt"))
    )
    found.text.write_text("".join(LINES) * 40)
    tokenizer = make_tokenizer("".join(LINES))
    transformers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        gpt2 = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=len(tokenizer),
                n_positions=32,
                n_embd=16,
                n_layer=2,
                n_head=2,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=2,
                initializer_range=0.3,
            )
        )
        llama = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
                initializer_range=0.3,
            )
        )
        for directory in (found.gpt2, found.bare, found.other):
            gpt2.save_pretrained(directory)
        llama.save_pretrained(found.llama)
        gpt2.to(torch.bfloat16).save_pretrained(found.half)
        for directory in (found.gpt2, found.half, found.llama):
            tokenizer.save_pretrained(directory)
        make_tokenizer("".join(reversed("".join(LINES)))).save_pretrained(found.other)
    return found


def make_tokenizer(text: str):  # type: ignore[no-untyped-def]  # of a library without types
    """A byte-level BPE trained on ``text``: special tokens <s>, </s>, <pad>, <x>, of ids 0 to 3."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>", "<x>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text] * 2, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def reference_layers(
    directory: Path, hooks: list[str], ids: Tensor, window: int
) -> dict[str, Tensor]:
    """``[tokens, neurons]`` of modules' outputs, one window at a time, by hooks of this file."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    rows: dict[str, list[Tensor]] = {name: [] for name in hooks}
    for name in hooks:
        module = model.get_submodule(name.removesuffix(":input"))
        if name.endswith(":input"):
            module.register_forward_pre_hook(lambda m, args, n=name: rows[n].append(args[0][0]))
        else:
            module.register_forward_hook(lambda m, args, out, n=name: rows[n].append(out[0]))
    with torch.no_grad():
        for part in ids.long().split(window):
            model(input_ids=part[None])
    return {name: torch.cat(parts) for name, parts in rows.items()}


def open_one(
    stack: ExitStack, directory: Path, text: Path, hooks: str = GPT2_HOOKS, **options: object
) -> TextRun:
    """A run of one model; options of the corpus, the filters and the run, by name."""
    kinds = (CorpusOptions, TokenFilters)
    parts = [
        kind(**{name: value for name, value in options.items() if name in kind.__annotations__})
        for kind in kinds
    ]
    batch = options.get("batch_tokens")
    run = open_run([str(directory)], [[hooks]], TextOptions(str(text), *parts, batch), CPU)
    return stack.enter_context(run)


def on_text(directories: Directories, *options: object, hooks: str = GPT2_HOOKS) -> list[object]:
    """Options of a command that runs models on the text."""
    return ["--text", directories.text, "--hooks", hooks, *options]


def captured(folder: Path) -> dict[str, Tensor]:
    """The layers of a capture, of all shards."""
    about = json.loads((folder / "capture.json").read_text())
    paths = sorted(folder.glob("shard-*.safetensors"))
    assert len(paths) == about["shards"]
    shards = [load_file(path) for path in paths]
    layers = {name: torch.cat([shard[name] for shard in shards]) for name in about["layers"]}
    assert {len(layer) for layer in layers.values()} == {about["tokens"]}
    return layers


def ids_of(directories: Directories) -> Tensor:
    """The tokens of the text, tokenised in one piece."""
    text = directories.text.read_text()
    return torch.from_numpy(load_vocabulary(str(directories.gpt2), None).encode(text)).int()


def refused(stack: ExitStack, match: str, directory: Path, text: Path, **options: object) -> None:
    with pytest.raises(uf.InputError, match=match) as caught:
        open_one(stack, directory, text, **options)
    assert "\n" not in str(caught.value)
    assert ";" in str(caught.value) or "expected" in str(caught.value)  # what to do
