"""Digests: other for whatever differs, and the same for what does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.edited import edits
from univfast.checks import shown
from univfast.machine import digests
from univfast.machine.digests import DIGEST, digest_of, sealed, tensor_problem, unsealed

CONTENT: dict[str, Any] = {
    "none": None,
    "flags": [True, False],
    "numbers": (1, -7, 1 << 70, 0.5),
    "text": "a",
    "tensors": {
        "float64": torch.arange(12, dtype=torch.float64).view(3, 4),
        "bfloat16": torch.ones(5, dtype=torch.bfloat16),
        "bool": torch.tensor([True]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
    },
}


def test_every_edit_is_told() -> None:
    content = sealed(CONTENT)
    assert unsealed(content) is None
    for where, edited in edits(content):
        if isinstance(edited, dict) and unsealed(edited) is None:
            # Lists and tuples are alike, as are others that are the same to the bit.
            assert repr(edited).replace("(", "[").replace(")", "]") == repr(content).replace(
                "(", "["
            ).replace(")", "]"), where


def test_the_digest_does_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 30)
    expected = digest_of(x)
    spread = torch.zeros(40, 60)[:, ::2].copy_(x)
    assert not spread.is_contiguous()
    assert digest_of(spread) == digest_of(x.T.contiguous().T) == expected
    assert digest_of(x.T) != expected
    assert digest_of(torch.zeros(3).expand(1, 3)[:, 1:2]) == digest_of(torch.zeros(1, 1))
    monkeypatch.setattr(digests, "_PART", 1000)
    in_parts = digest_of(x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert digest_of(x) == in_parts != expected
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_saved_is_refused_soon() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (loop, object(), b"x", {1: {2}}):
        with pytest.raises(TypeError, match=r"^it holds "):
            digest_of(value)
        assert unsealed({"x": value, DIGEST: "x"})
    assert unsealed({"x": 1}) == "it has no digest"


def test_what_is_held_many_times_is_gone_through_once() -> None:
    many: list[Any] = []
    for _ in range(14):  # 2^56 values
        many = [many] * 16
    assert digest_of(many) == digest_of([many[0]] * 16) != digest_of(many[0])
    assert shown(many) == "a list"
    assert shown([1, {"a": "b\nc"}]) == "[1, {'a': 'b\\nc'}]"
    assert shown(10**5000) == "a int"


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (torch.zeros(3, device="meta"), "is no dense tensor"),
        (torch.zeros(3).to_sparse(), "is no dense tensor"),
        (torch.zeros(()).expand(1 << 40), "repeats its memory"),
        (torch.zeros(3, dtype=torch.complex64).conj(), "is a view that is not resolved"),
        (torch.zeros(6)[1::2], None),
        (torch.zeros(0, 4), None),
        (torch.nn.Parameter(torch.zeros(2)), None),
    ],
    ids=str,
)
def test_tensors_that_are_no_plain_memory(x: torch.Tensor, problem: str | None) -> None:
    assert tensor_problem(x) == problem


def test_a_tensor_behind_its_memory_is_told() -> None:
    x = torch.zeros(5, 4)
    x.untyped_storage().resize_(16)
    assert tensor_problem(x) == "reaches beyond its memory"
    assert tensor_problem(x[:1]) is None
    with pytest.raises(TypeError, match=r"^it holds a tensor that reaches beyond its memory"):
        digest_of({"x": x})
