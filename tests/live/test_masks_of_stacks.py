"""The mask that counts is that of the stack, encoder or decoder, that a hook is in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import univfast as uf
from univfast import live
from univfast.runs.detail_streams import TokenRecord
from univfast.sums.token_facts import TokenFacts

PAD = 0


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.up(x)
        return found


class Config:
    is_encoder_decoder, pad_token_id = True, PAD


class Translator(nn.Module):
    """An encoder and a decoder; the cross attention's keys are of the encoder's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.config = nn.Embedding(50, 8), Config()
        self.encoder, self.decoder = Stack(), Stack()
        self.decoder.cross_attention = nn.Linear(6, 5)
        self.head = nn.Linear(6, 7)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        if decoder_input_ids is None:
            source = input_ids if labels is None else labels.clamp(min=0)
            decoder_input_ids = source.roll(1, 1)
        self.decoder.cross_attention(self.encoder(self.embed(input_ids)))
        found: Tensor = self.head(self.decoder(self.embed(decoder_input_ids)))
        return found


def pair() -> list[Translator]:
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(Translator().eval())
    return found


def batches(length: int = 12, masks: bool = True) -> list[dict[str, Tensor]]:
    """Of 12 tokens for the encoder, and so many for the decoder."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(4):
        own, theirs = torch.ones(4, 12).long(), torch.ones(4, length).long()
        own[0, 6:], theirs[1, 3:] = 0, 0
        batch = {
            "input_ids": torch.randint(1, 50, (4, 12), generator=generator),
            "attention_mask": own,
            "decoder_input_ids": torch.randint(1, 50, (4, length), generator=generator),
        }
        found.append({**batch, "decoder_attention_mask": theirs} if masks else batch)
    return found


def run(given: Any, hooks: str, **options: Any) -> uf.CorrelationResult:
    return uf.correlate_models(*pair(), given, hooks=hooks, match="index", draws=2, **options)


def expected(given: list[dict[str, Tensor]], side: str, mask: str | None) -> Any:
    """r of neurons of equal number of a stack, of the tokens of a mask."""
    rows = []
    for model in pair():
        stack = model.get_submodule(side)
        parts = []
        for batch in given:
            ids = batch["decoder_input_ids" if side == "decoder" else "input_ids"]
            keep = torch.ones_like(ids).bool() if mask is None else batch[mask].bool()
            parts.append(stack(model.embed(ids)).detach()[keep])
        rows.append(torch.cat(parts).double().numpy())
    return np.diagonal(np.corrcoef(rows[0].T, rows[1].T), offset=rows[0].shape[1])


@pytest.mark.parametrize("length", [12, 9])
@pytest.mark.parametrize(
    ("side", "mask"), [("encoder", "attention_mask"), ("decoder", "decoder_attention_mask")]
)
def test_each_stack_has_its_own_mask(side: str, mask: str, length: int) -> None:
    given = batches(length)
    found = run(given, f"{side}.up")
    assert found.summary["tokens"] == sum(int(batch[mask].sum()) for batch in given)
    np.testing.assert_allclose(found.correlation.numpy(), expected(given, side, mask), atol=1e-5)


def test_a_decoder_without_a_mask_counts_all_its_tokens() -> None:
    given = batches(masks=False)
    found = run(given, "decoder.up")
    assert found.summary["tokens"] == 4 * 48
    np.testing.assert_allclose(
        found.correlation.numpy(), expected(given, "decoder", None), atol=1e-5
    )


def test_details_of_a_decoder_are_of_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of no tokens, where it is open whose they are."""
    seen: list[Tensor | None] = []

    class Record(TokenRecord):
        def facts(self) -> TokenFacts:
            seen.append(self.ids())
            return super().facts()

    monkeypatch.setattr(live, "TokenRecord", Record)
    given = batches(masks=False)
    run(given, "decoder.up", details=True)
    run([{**x, "attention_mask": torch.ones(4, 12).long()} for x in given], "head", details=True)
    of_decoder, unknown = seen
    want = torch.cat([batch["decoder_input_ids"].flatten() for batch in given])
    assert of_decoder is not None
    assert torch.equal(of_decoder, want)
    assert unknown is None


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ("*.up", "hooks: match 'encoder.up' of the encoder and 'decoder.up' of the decoder, which"),
        ("head", "mask: layer 'head' may be of the tokens of the encoder or of the decoder, whose"),
        ("decoder.cross_attention", "mask: layer 'decoder.cross_attention' may be of the tokens"),
    ],
)
def test_ambiguous_masks_are_refused(hooks: str, message: str) -> None:
    with pytest.raises(uf.InputError, match=f"^{message}.*give mask="):
        run(batches(), hooks)
    found = run(batches(), hooks, mask=lambda batch: batch["attention_mask"])
    assert found.summary["tokens"] == 4 * 42


@pytest.mark.parametrize(
    ("hooks", "mask"),
    [("head", "decoder_attention_mask"), ("decoder.cross_attention", "attention_mask")],
)
def test_numbers_of_rows_tell_the_stack(hooks: str, mask: str) -> None:
    given = batches(9)
    assert run(given, hooks).summary["tokens"] == sum(int(x[mask].sum()) for x in given)


def test_masks_that_agree_need_not_be_told_apart() -> None:
    given = batches()
    for batch in given:
        batch["decoder_attention_mask"] = batch["attention_mask"].bool()
    assert run(given, "head").summary["tokens"] == 4 * 42


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"labels": torch.tensor([[5, 6, -100]])}, "whose tokens follow from labels with -100"),
        ({"decoder_input_ids": torch.tensor([[5, 6, PAD]])}, "whose decoder_input_ids end in pad"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "whose tokens follow from padded input"),
    ],
)
def test_padding_without_a_mask_is_refused(change: dict[str, Tensor], why: str) -> None:
    given = [{"input_ids": torch.tensor([[7, 8, 9]]), **change}]
    with pytest.raises(uf.InputError, match=f"mask: layer 'decoder.up' is of the decoder, {why}"):
        run(given, "decoder.up")


def test_controls_take_the_mask_of_their_stack() -> None:
    class Active(Translator):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.Sequential(nn.Linear(8, 6), nn.ReLU())

        def forward(self, input_ids: Tensor, decoder_input_ids: Tensor, **masks: Tensor) -> Tensor:
            found: Tensor = self.decoder(self.embed(decoder_input_ids))
            return found

    torch.manual_seed(0)
    model, given = Active(), batches()
    model.embed = nn.Embedding(400, 8)  # each token once, as equal ones are on one side of 0
    for batch, some in zip(given, torch.randperm(400)[:192].view(4, 4, 12), strict=True):
        batch["decoder_input_ids"] = some
    control = uf.control(model, batches=given, hooks="decoder.1")
    with torch.no_grad():
        active = [
            torch.cat(
                [
                    net.decoder(net.embed(x["decoder_input_ids"]))[x["decoder_attention_mask"] == 1]
                    for x in given
                ]
            )
            > 0
            for net in (model, control)
        ]
    assert torch.equal(active[0].sum(0), active[1].sum(0))


class Half(nn.Module):
    """A stack by itself, with the configuration of the whole that it was taken from."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.config, self.up = nn.Embedding(50, 8), Config(), nn.Linear(8, 6)
        self.encoder_attn = nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        found: Tensor = self.up(self.embed(input_ids))
        return found


def test_a_stack_by_itself_has_the_only_mask() -> None:
    torch.manual_seed(0)
    models = [Half().eval() for _ in range(2)]
    given = [{key: x[key] for key in ("input_ids", "attention_mask")} for x in batches()]
    found = uf.correlate_models(*models, given, hooks="up", match="index", draws=2)
    with torch.no_grad():
        a, b = (
            torch.cat([m(**x)[x["attention_mask"].bool()] for x in given]).double().numpy()
            for m in models
        )
    want = np.diagonal(np.corrcoef(a.T, b.T), offset=6)
    np.testing.assert_allclose(found.correlation.numpy(), want, atol=1e-5)
