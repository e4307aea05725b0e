"""What batches are: those that a model does not take, or that could be taken in two ways."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import univfast as uf
from support.live_models import POST, Plain, padded, token_ids
from support.networks import HOOKS, OPTIONS, Network, by_hand, expected, inputs

Lone = namedtuple("Lone", "x")


class Masked(Network):
    """Takes what need not be given."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Hands(nn.Module):
    """Hands all on, as wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Network(1)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def labelled(shuffle: bool = False) -> DataLoader[Any]:
    data = TensorDataset(torch.cat(inputs()), torch.arange(18))
    return DataLoader(data, batch_size=6, shuffle=shuffle)


def correlated(batches: Any, a: nn.Module | None = None, **more: Any) -> uf.CorrelationResult:
    return uf.correlate_models(
        a or Network(1), Network(2), batches, **{"hooks": HOOKS, **OPTIONS, **more}
    )


def first(pair: Any) -> Any:
    return pair[0]


@pytest.mark.parametrize(
    "batches",
    [
        lambda: [(x,) for x in inputs()],
        lambda: [[x] for x in inputs()],
        lambda: [Lone(x) for x in inputs()],
        lambda: [{"x": x} for x in inputs()],
        lambda: DataLoader(TensorDataset(torch.cat(inputs())), batch_size=6),
    ],
    ids=["tuples", "lists", "named", "mappings", "loader"],
)
def test_what_models_take(batches: Callable[[], Any]) -> None:
    assert torch.equal(correlated(batches()).match_neuron, expected().match_neuron)


def test_inputs_say_what_of_a_batch_is_taken() -> None:
    right = expected()
    for batches in (labelled(), iter(labelled()), [*labelled()]):
        assert torch.equal(correlated(batches, inputs=first).match_neuron, right.match_neuron)
    sizes: list[int | None] = []
    found = correlated(
        labelled(),
        inputs=first,
        controls_a=[Network(3)],
        controls_b=[Network(4)],
        progress=lambda done, total: sizes.append(total),
    )
    assert found.summary["controls"] is not None
    assert sizes == [6] * 6
    controls = [Network(3)]
    with pytest.raises(uf.InputError, match="is another when they are gone through again"):
        correlated(labelled(shuffle=True), inputs=first, controls_a=controls)
    with pytest.raises(uf.InputError, match=r"^batches: is an iterator, which can be used"):
        correlated(iter(labelled()), inputs=first, controls_a=[Network(3)])
    with pytest.raises(TypeError, match=r"^inputs: expected a function of a batch, got str; give"):
        correlated(labelled(), inputs="x")
    with pytest.raises(TypeError, match=r"^batches: expected an iterable of batches, got Tensor"):
        correlated(inputs()[0], inputs=first)


def test_the_mask_is_that_of_what_models_are_given() -> None:
    batches, masks = padded()
    pairs = [(batch, torch.zeros(6)) for batch in batches]
    options: dict[str, Any] = {"hooks": POST, "rotation": "none"}
    ids = [{"ids": x["input_ids"], "attention_mask": x["attention_mask"]} for x in batches]
    kept = sum(int(mask.sum()) for mask in masks)
    given = [(x, label) for x, (_, label) in zip(ids, pairs, strict=True)]
    found = uf.correlate_models(Plain(seed=1), Plain(seed=2), given, inputs=first, **options)
    assert found.summary["tokens"] == kept < 480
    found = uf.correlate_models(
        *(Plain(seed=1), Plain(seed=2), given),
        inputs=first,
        mask=lambda batch: batch["ids"] > 3,
        **options,
    )
    assert found.summary["tokens"] == sum(int((x > 3).sum()) for x in token_ids())


def test_controls_and_ablation_take_inputs() -> None:
    right = uf.control(Network(1), 0, batches=inputs(), hooks=HOOKS)
    found = uf.control(Network(1), 0, batches=labelled(), inputs=first, hooks=HOOKS)
    x = inputs()[0]
    with torch.no_grad():
        assert torch.equal(found(x), right(x))
    with pytest.raises(uf.InputError, match=r"^inputs: is what rates are matched by; leave it"):
        uf.control(Network(1), match_rate=False, inputs=first)

    class Predicts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.act, self.head = nn.Embedding(9, 6), nn.ReLU(), nn.Linear(6, 9)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.act(self.embed(ids)))

    ids = [torch.randint(0, 9, (4, 7), generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    options: dict[str, Any] = {"hooks": "act", "neurons": {"act": [0]}, "repeats": 0}
    alone = uf.ablate(Predicts(), ids, **options)
    pairs = uf.ablate(Predicts(), [(x, torch.zeros(4)) for x in ids], inputs=first, **options)
    assert pairs.loss == alone.loss
    assert pairs.tokens == alone.tokens == 48


REFUSED = {
    "labels": (
        labelled,
        Network,
        r"a tuple or list of 2 \(Tensor, Tensor\), and a \(Network\) takes 1 by place \(x\); say"
        r" what the model is given, as inputs=lambda batch: batch\[0\]$",
    ),
    "labels that fall on a mask": (
        labelled,
        Masked,
        r"int64 \[6\] where a \(Masked\) takes 'mask', and may be a label; say .*'mask'$",
    ),
    "token labels that fall on a mask": (
        lambda: [(x, torch.arange(60).view(6, 10)) for x in inputs()],
        Masked,
        r"int64 \[6, 10\] where a \(Masked\) takes 'mask', and may be a label; say",
    ),
    "targets that fall on a mask": (
        lambda: [(x, torch.ones(6)) for x in inputs()],
        Masked,
        r"float32 \[6\] where a \(Masked\) takes 'mask', and may be a label; say",
    ),
    "names": (
        lambda: [{"x": x, "labels": x, "overflow": x} for x in inputs()],
        Network,
        r"has 'labels', 'overflow', which a \(Network\) does not take; leave out what is for others"
        r", as inputs=lambda batch: \{name: batch\[name\] for name in \['x'\]\}$",
    ),
    "names within": (
        lambda: [{"x": x, "labels": x} for x in inputs()],
        Hands,
        r"has 'labels', which a \(Hands\) does not take; leave it out, as by inputs=$",
    ),
    "nothing": (
        lambda: [{}],
        Network,
        r"does not fit what a \(Network\) takes \(missing a req.*'x'",
    ),
    "text": (lambda: ["abc"], Network, "holds text, 'abc', and no tensors; give token ids"),
    "texts": (lambda: [["abc", "d"]], Network, "holds text, 'abc', and no tensors; give token ids"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_model_does_not_take(kind: str) -> None:
    batches, make, message = REFUSED[kind]
    hooks = f"*{HOOKS}"
    with pytest.raises(uf.InputError, match=f"^batches: one .*{message}"):
        correlated(batches(), make(), hooks=hooks)


def _masked(mask: Tensor) -> uf.CorrelationResult:
    batches = [(x, mask) for x in inputs()]
    return uf.correlate_models(Masked(1), Masked(2), batches, hooks=HOOKS, **OPTIONS)


def test_what_may_fall_on_a_mask() -> None:
    right = expected().match_neuron
    for mask in (torch.ones(6, 10, dtype=torch.int64), torch.ones(6, 10) > 0, torch.ones(6, 10)):
        assert torch.equal(_masked(mask).match_neuron, right)


def test_objects_are_given_as_they_are() -> None:
    @dataclass
    class Batch:
        x: Tensor

    class Reads(Network):
        def forward(self, batch: Batch) -> Tensor:  # type: ignore[override]
            return super().forward(batch.x)

    a, b, batches = Reads(1), Reads(2), [Batch(x) for x in inputs()]
    found = uf.correlate_models(a, b, batches, hooks=HOOKS, **OPTIONS)
    assert torch.equal(found.match_neuron, expected().match_neuron)
    del a.layers[1]
    with torch.no_grad():
        right = by_hand(Network(1), inputs())["layers.0.act"]
    with uf.capture(a, HOOKS) as captured:
        captured.run(batches[0])
        torch.testing.assert_close(captured["layers.0.act"], right[:6])


def test_a_generator_is_gone_through_once() -> None:
    def generator() -> Iterator[Any]:
        yield from labelled()

    found = correlated(generator(), inputs=first)
    assert torch.equal(found.match_neuron, expected().match_neuron)
