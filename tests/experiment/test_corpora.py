"""The corpora: parts that share nothing, and texts that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.tiny_models import BRIEF, SMALL, text_file, write
from univfast.errors import InputError
from univfast.experiment import HALVES, load_corpus, train
from univfast.experiment.data import TextCorpus, generator, shuffled


def test_the_parts_of_a_text_share_no_character(tmp_path: Path) -> None:
    corpus = load_corpus(str(text_file(tmp_path)), 16)
    assert isinstance(corpus, TextCorpus)
    read = {
        half: corpus.training_starts(half, 3_000, generator("starts", 0))[:, None]
        + torch.arange(17)
        for half in HALVES
    }
    test = corpus.test_starts(50)[:, None] + torch.arange(16)
    assert read["first"].min() == 0
    assert read["first"].max() < read["second"].min()
    assert read["second"].max() < test.min()
    assert test.max() == len(corpus.tokens) - 1


def test_samples_are_windows_of_the_text_at_different_places(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    text = path.read_text(encoding="utf-8")
    corpus = load_corpus(str(path), 16)
    for samples, size in ((corpus.training("second", 500, 3), 17), (corpus.test(50), 16)):
        windows = {"".join(map(chr, row)) for row in samples.tolist()}
        assert len(windows) == len(samples)
        assert all(len(window) == size and window in text for window in windows)


@pytest.mark.parametrize("characters", [5_000, 5_077, 5_085])
def test_test_samples_share_no_character(tmp_path: Path, characters: int) -> None:
    """However many there are, up to all that fit, and from the first character to the last."""
    corpus = load_corpus(str(text_file(tmp_path, characters)), 16)
    assert isinstance(corpus, TextCorpus)
    most = corpus.most_test_samples
    assert most == characters // 5 // 16
    begin, end = corpus.part("test")
    for samples in (1, 2, 7, most - 1, most):
        starts = corpus.test_starts(samples)
        assert (starts.diff() >= 16).all()
        assert starts[0] == begin
        assert samples == 1 or starts[-1] == end - 16
    with pytest.raises(InputError, match=f"too short for {most + 1} test samples"):
        corpus.test(most + 1)


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


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file; give 'docs', 'random' or the path of a text file"),
        (Path.mkdir, "cannot be read .*; give a text file"),
        (write(b"\xff\xfe" * 5_000), "is not UTF-8 text; give a text file"),
        (write(b"a\0" * 5_000), "is not text .*; give a UTF-8 text file"),
        (write(b""), "too short for a sample of 16 tokens: it has 0 characters; give at least 85"),
        (write(b"a" * 84), "too short for a sample of 16 tokens: it has 84 characters"),
        (
            write(b"a" * 5_599),
            "too short for 70 test samples of 16 tokens, which share no character: it has 5599 "
            "characters; give at least 5600, or ask for at most 69 test samples",
        ),
    ],
)
def test_bad_texts_are_named(tmp_path: Path, make: Callable[[Path], object], reason: str) -> None:
    path = tmp_path / "bad.txt"
    make(path)
    with pytest.raises(InputError, match=rf"^{path}: {reason}.*$"):
        train(SMALL, str(path), 1, "first", BRIEF)


def test_the_shortest_text_will_do(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_bytes(b"a" * 5_600)
    assert train(SMALL, str(path), 1, "first", BRIEF).data == str(path)
