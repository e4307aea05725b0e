"""The experiment: model, corpora, training, model files, capture."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from univfast import experiment
from univfast.errors import InputError
from univfast.experiment import (
    HALVES,
    ModelConfig,
    TinyTransformer,
    TrainedModel,
    TrainingOptions,
    capture_mlp,
    default_half,
    from_dict,
    load_corpus,
    load_model,
    record_mlp,
    save_model,
    train,
)
from univfast.experiment.data import TextCorpus, generator, shuffled
from univfast.inputs.model_paths import is_model_file

SMALL = ModelConfig(sequence=16, d_model=16, heads=2, layers=3, d_mlp=24)
WEIGHT = "blocks.0.mlp.up.weight"
BRIEF = TrainingOptions(steps=3, batch_size=8, samples=50, test_samples=70)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Checkpoints repeat to the bit only with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained() -> TrainedModel:
    return train(SMALL, "docs", 1, "first", BRIEF)


def text_file(folder: Path, characters: int = 5_000, name: str = "text.txt") -> Path:
    """A text in which every window of 16 characters is unlike all others."""
    path = folder / name
    path.write_text(" ".join(f"{i:05d}" for i in range(characters))[:characters], encoding="utf-8")
    return path


def same_state(a: TrainedModel, b: TrainedModel) -> bool:
    return all(torch.equal(a.state[name], b.state[name]) for name in a.state)


# Model


@pytest.mark.parametrize("length", [1, 7, 16])
def test_logits_have_a_row_for_every_token(length: int) -> None:
    tokens = torch.randint(128, (5, length), generator=generator("tokens", 0))
    assert TinyTransformer(SMALL)(tokens).shape == (5, length, 128)


def test_a_later_token_never_changes_earlier_logits() -> None:
    model = TinyTransformer(SMALL).eval()
    tokens = torch.randint(128, (4, 16), generator=generator("tokens", 1))
    before = model(tokens)
    for position in range(16):
        changed = tokens.clone()
        changed[:, position] = (changed[:, position] + 1) % 128
        after = model(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-6)
        later = (after[:, position:] - before[:, position:]).abs().amax(dim=(0, 2))
        assert (later > 1e-4).all(), "a token must reach its own and every later position"


def test_positions_are_told_apart() -> None:
    """Without positional encoding, equal tokens would give equal logits everywhere."""
    logits = TinyTransformer(SMALL)(torch.full((1, 16), 65))[0]
    assert torch.pdist(logits).min() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 127}, "^vocabulary: got 127, expected at least 128$"),
        ({"sequence": 0}, "^sequence: got 0, expected at least"),
        ({"d_model": 10**9}, "^d_model: got 1000000000, expected at most"),
        ({"layers": -1}, "^layers: got -1, expected at least"),
        ({"d_mlp": 0}, "^d_mlp: got 0, expected at least"),
        ({"heads": 3}, "^heads: 3 does not divide d_model 128; change one so that it does$"),
    ],
)
def test_bad_sizes_are_named(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(**change)


@pytest.mark.parametrize("value", [2.0, True, "2"])
def test_sizes_must_be_ints(value: Any) -> None:
    with pytest.raises(TypeError, match="layers: expected an integer"):
        ModelConfig(layers=value)


# Corpora


def test_the_parts_of_a_text_share_no_character(tmp_path: Path) -> None:
    corpus = load_corpus(str(text_file(tmp_path)), 16)
    assert isinstance(corpus, TextCorpus)
    read = {
        half: corpus.training_starts(half, 3_000, generator("starts", 0))[:, None]
        + torch.arange(17)
        for half in HALVES
    }
    test = corpus.test_starts(400)[:, None] + torch.arange(16)
    assert read["first"].min() == 0
    assert read["first"].max() < read["second"].min()
    assert read["second"].max() < test.min()
    assert test.max() == len(corpus.tokens) - 1


def test_samples_are_windows_of_the_text_at_different_places(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    text = path.read_text(encoding="utf-8")
    corpus = load_corpus(str(path), 16)
    for samples, size in ((corpus.training("second", 500, 3), 17), (corpus.test(400), 16)):
        windows = {"".join(map(chr, row)) for row in samples.tolist()}
        assert len(windows) == len(samples)
        assert all(len(window) == size and window in text for window in windows)


def test_a_draw_repeats_only_when_it_must() -> None:
    counts = torch.bincount(shuffled(10, 25, generator("draw", 0)), minlength=10)
    assert counts.tolist().count(2) == 5
    assert counts.tolist().count(3) == 5


@pytest.mark.parametrize("source", ["docs", "random"])
def test_samples_depend_on_seed_and_half(source: str) -> None:
    corpus = load_corpus(source, 32)
    samples = corpus.training("first", 1_000, 1)
    assert samples.shape == (1_000, 33)
    assert samples.dtype == torch.int64
    assert 0 <= int(samples.min()) <= int(samples.max()) < 128
    assert torch.equal(samples, load_corpus(source, 32).training("first", 1_000, 1))
    draws = (
        samples,
        corpus.training("first", 1_000, 2),
        corpus.training("second", 1_000, 1),
    )
    rows = [set(map(tuple, draw.tolist())) for draw in draws]
    # Two draws of 1,000 from one half of docs share a few windows by chance.
    assert len(rows[0] & rows[1]) < 50
    assert len(rows[0] & rows[2]) < 10
    assert not rows[0] & set(map(tuple, corpus.test(1_000).tolist()))


@pytest.mark.parametrize("source", ["docs", "random"])
def test_the_test_set_is_always_the_same(source: str) -> None:
    torch.manual_seed(16)
    tokens = load_corpus(source, 64).test()
    torch.manual_seed(17)
    assert tokens.shape == (1_000, 64)
    assert torch.equal(tokens, load_corpus(source, 64).test())


def test_docs_hardly_repeat_themselves_across_parts() -> None:
    corpus = load_corpus("docs", 64)
    assert isinstance(corpus, TextCorpus)
    text = corpus.tokens.numpy().tobytes()
    assert len(text) > 200_000
    parts = (corpus.part("first"), corpus.part("second"), corpus.part("test"))
    first, second, test = (
        {text[i : i + 64] for i in range(begin, end - 63)} for begin, end in parts
    )
    assert len(first & second) < 0.02 * len(first)
    assert len(test & (first | second)) < 0.02 * len(test)


def test_characters_beyond_ascii_become_question_marks(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("é☃😀a" * 500, encoding="utf-8")
    assert load_corpus(str(path), 4).test(1).tolist() == [[63, 63, 63, 97]]


def test_a_text_is_found_again_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    corpus = load_corpus("text.txt", 16)
    monkeypatch.chdir("/")
    assert torch.equal(load_corpus(corpus.source, 16).test(9), corpus.test(9))


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file; give 'docs', 'random' or the path of a text file"),
        (Path.mkdir, "cannot be read .*; give a text file"),
        (write(b"\xff\xfe" * 5_000), "is not UTF-8 text; give a text file"),
        (write(b"a\0" * 5_000), "is not text .*; give a UTF-8 text file"),
        (write(b""), "too short for a sample of 16 tokens: it has 0 characters; give at least 170"),
        (write(b"a" * 169), "too short for a sample of 16 tokens: it has 169 characters"),
        (write(b"a" * 849), "too short for 70 test samples of 16 tokens: .* give at least 850"),
    ],
)
def test_bad_texts_are_named(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = tmp_path / "bad.txt"
    make(path)
    with pytest.raises(InputError, match=rf"^{path}: {reason}.*$"):
        train(SMALL, str(path), 1, "first", BRIEF)


def test_the_shortest_text_will_do(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(b"a" * 850)
    assert train(SMALL, str(path), 1, "first", BRIEF).data == str(path)


# Training


def test_the_loss_falls() -> None:
    losses: list[float] = []
    options = TrainingOptions(steps=40, batch_size=16)
    trained = train(
        ModelConfig(), "docs", 1, "first", options, lambda step, steps, loss: losses.append(loss)
    )
    assert len(losses) == 40
    assert losses[0] > 4.5, "about log(128) before anything is learnt"
    assert losses[-1] < 3.3
    assert trained.loss == losses[-1]


def test_random_tokens_cannot_be_predicted() -> None:
    """A model that saw its targets would do better than log(128), which is 4.85."""
    options = TrainingOptions(steps=40, batch_size=16)
    assert train(ModelConfig(), "random", 1, "first", options).loss > 4.8


def test_the_seed_alone_sets_the_initial_weights() -> None:
    untrained = dataclasses.replace(BRIEF, learning_rate=0)
    one, other_half, other_seed = (
        train(SMALL, "docs", seed, half, untrained)
        for seed, half in ((1, HALVES[0]), (1, HALVES[1]), (2, HALVES[0]))
    )
    assert same_state(one, other_half)
    assert not torch.equal(one.state[WEIGHT], other_seed.state[WEIGHT])


def test_a_seed_gives_one_model_file(trained: TrainedModel) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = train(SMALL, "docs", 1, "first", BRIEF)
    assert same_state(trained, again)
    assert again.loss == trained.loss
    capture_mlp(again, "pre")
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was moved"


@pytest.mark.parametrize(
    ("data", "seed", "half"),
    [
        ("docs", 2, "first"),
        ("docs", 1, "second"),
        ("random", 1, "first"),
    ],
)
def test_seed_half_and_data_change_the_model(
    trained: TrainedModel, data: str, seed: int, half: experiment.Half
) -> None:
    assert not same_state(trained, train(SMALL, data, seed, half, BRIEF))


def test_halves_follow_the_seed() -> None:
    assert [default_half(seed) for seed in range(4)] == ["second", "first", "second", "first"]


def test_a_diverging_loss_is_reported() -> None:
    options = dataclasses.replace(BRIEF, steps=50, learning_rate=10.0, weight_decay=10.0)
    with pytest.raises(InputError, match=r"^learning_rate: 10\.0 is too large, the loss is"):
        train(SMALL, "docs", 1, "first", options)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"steps": 0}, InputError, "^steps: got 0, expected at least 1$"),
        ({"batch_size": 0}, InputError, "^batch_size: got 0, expected at least"),
        ({"samples": 0}, InputError, "^samples: got 0, expected at least"),
        ({"test_samples": 0}, InputError, "^test_samples: got 0, expected at least"),
        ({"learning_rate": float("nan")}, InputError, "^learning_rate: got nan, expected a finite"),
        ({"weight_decay": -1}, InputError, "^weight_decay: got -1.0, expected at least 0$"),
        ({"learning_rate": "1"}, TypeError, "^learning_rate: expected a number, got str"),
    ],
)
def test_bad_options_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TrainingOptions(**change)


@pytest.mark.parametrize(
    ("seed", "half", "message"),
    [
        (-1, "first", "^seed: got -1, expected at least"),
        (1, "third", "^half: got 'third', expected first or second$"),
    ],
)
def test_a_bad_seed_or_half_is_named(seed: int, half: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(SMALL, "docs", seed, half, BRIEF)


# Checkpoints


def test_a_model_file_comes_back_as_it_was(tmp_path: Path, trained: TrainedModel) -> None:
    path = tmp_path / "a.ckpt"
    path.write_text("older")
    save_model(path, trained)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]
    loaded = torch.load(path, weights_only=True)
    assert (loaded["format"], loaded["version"]) == ("univfast-checkpoint", 1)
    assert is_model_file(loaded)
    back = load_model(path)
    assert same_state(trained, back)
    for name in ("config", "data", "seed", "half", "steps", "loss", "test_samples"):
        assert getattr(back, name) == getattr(trained, name)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, trained: TrainedModel) -> None:
    path = tmp_path / "a.ckpt"
    path.write_text("older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # bytes: as if the disk were full
    try:
        with pytest.raises(InputError, match=rf"^{path}: cannot be written"):
            save_model(path, trained)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ckpt"]
    assert path.read_text() == "older"


@pytest.mark.parametrize("name", ["folder", "absent/a.ckpt", "file/a.ckpt"])
def test_an_unwritable_model_file_is_named(
    tmp_path: Path, trained: TrainedModel, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"^{tmp_path / name}: cannot be written"):
        save_model(tmp_path / name, trained)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = str(victim)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.victim,)


def test_a_malicious_model_file_is_refused(tmp_path: Path) -> None:
    path, victim = tmp_path / "bad.ckpt", tmp_path / "victim"
    torch.save({"format": "univfast-checkpoint", "version": 1, "config": Malicious(victim)}, path)
    with pytest.raises(InputError, match=rf"^{path}: .* alone can be loaded safely"):
        load_model(path)
    assert not victim.exists()


def save(obj: object) -> Callable[[Path], object]:
    return lambda path: torch.save(obj, path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "cannot be read"),
        (write(b""), "is damaged"),
        (write(b"PK\x03\x04 garbage"), "is damaged"),
        (write(b"{'some': 'text'}\n"), "is damaged"),
        (save(torch.ones(3)), "is not a model file of univfast"),
        (save({"layer": torch.ones(3)}), "is not a model file of univfast"),
        (save({"format": torch.ones(3)}), "is not a model file of univfast"),
    ],
)
def test_files_that_are_no_model_file_are_named(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "bad.ckpt"
    make(path)
    with pytest.raises(InputError, match=rf"^{path}: {reason}.*; [^\n]+$"):
        load_model(path)


def test_a_truncated_model_file_is_named(tmp_path: Path, trained: TrainedModel) -> None:
    path = tmp_path / "cut.ckpt"
    save_model(path, trained)
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(InputError, match=rf"^{path}: is damaged"):
        load_model(path)


ABSENT = object()


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (["version"], 2, "has model file version 2, this univfast reads 1; update univfast"),
        (["seed"], ABSENT, "is a model file without seed"),
        (["seed"], "1", r"is a damaged model file \(seed: expected an integer, got str\)"),
        (["half"], "third", r"is a damaged model file \(half: got 'third'"),
        (["loss"], None, r"is a damaged model file \(loss must be a float"),
        (
            ["test_samples"],
            0,
            r"is a damaged model file \(test_samples: got 0, expected at least 1",
        ),
        (["config"], [], r"is a damaged model file \(config must be a dict, not list\)"),
        (["config", "heads"], ABSENT, r"is a damaged model file \(config: must have d_mlp, "),
        (["config", "heads"], 3, r"is a damaged model file \(heads: 3 does not divide"),
        (["config", "layers"], 2, r"is a damaged model file \(state: blocks.2.\S+ is missing or"),
        (["config", "layers"], 16_000, r"is a damaged model file \(state: too few tensors"),
        (["config", "d_mlp"], 25, r"\(state: blocks.0.mlp.up.weight has shape \[24, 16\], exp"),
        (["state", WEIGHT], ABSENT, rf"\(state: {WEIGHT} is missing or unexpected\)"),
        (["state", WEIGHT], [1.0], rf"\(state: {WEIGHT} must be a torch.float32 tensor\)"),
        (["state", "more"], torch.ones(1), r"\(state: more is missing or unexpected\)"),
    ],
)
def test_damaged_model_files_are_named(
    tmp_path: Path, trained: TrainedModel, keys: list[str], value: object, reason: str
) -> None:
    save_model(tmp_path / "a.ckpt", trained)
    obj = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert same_state(from_dict(obj, "before"), trained)
    parent = obj[keys[0]] if len(keys) == 2 else obj
    if value is ABSENT:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = value
    with pytest.raises(InputError, match=rf"^model\.ckpt: .*{reason}[^\n]+$"):
        from_dict(obj, "model.ckpt")


# Capture


def test_capture_is_the_hidden_layer_on_the_test_set(trained: TrainedModel) -> None:
    pre, post = capture_mlp(trained, "pre"), capture_mlp(trained, "post")
    assert list(pre) == list(post) == ["mlp.0", "mlp.1", "mlp.2"]
    for name in pre:
        assert pre[name].shape == (70, 16, 24)
        assert pre[name].dtype == torch.float32
        assert not pre[name].requires_grad
        assert (pre[name] < 0).any()
        assert torch.equal(post[name], pre[name].relu())


def test_captured_values_are_those_of_the_formula(trained: TrainedModel) -> None:
    """The first layer by hand, on a sample of the second batch of the capture."""
    model = trained.model()
    tokens = load_corpus("docs", 16).test(70)[65:66]
    block = model.get_submodule("blocks.0")
    with torch.no_grad():
        x = model.embedding(tokens) + model.positions
        x = x + block.get_submodule("attention")(block.get_submodule("attention_norm")(x))
        x = block.get_submodule("mlp_norm")(x)
    by_hand = x[0] @ trained.state[WEIGHT].T + trained.state["blocks.0.mlp.up.bias"]
    captured = capture_mlp(trained, "pre")["mlp.0"][65]
    torch.testing.assert_close(captured, by_hand, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_capture_leaves_no_hooks(trained: TrainedModel, fails: bool) -> None:
    model = trained.model()
    tokens = torch.full((2, 16), 1_000 if fails else 65)
    if fails:
        with pytest.raises(IndexError):
            record_mlp(model, tokens, "pre")
    else:
        record_mlp(model, tokens, "pre")
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_site_is_named(trained: TrainedModel) -> None:
    site: Any = "middle"
    with pytest.raises(InputError, match=r"^site: got 'middle', expected pre or post$"):
        capture_mlp(trained, site)


def test_the_test_set_is_described(tmp_path: Path, trained: TrainedModel) -> None:
    assert experiment.test_set_name(trained) == "docs, 70 samples of 16 tokens"
    path = text_file(tmp_path)
    of_text = dataclasses.replace(trained, data=str(path))
    before = experiment.test_set_name(of_text)
    assert before.startswith("text.txt (")
    path.write_text(path.read_text(encoding="utf-8") + "more", encoding="utf-8")
    assert experiment.test_set_name(of_text) != before, "another text is another test set"
