"""Which axis neurons are on in what modules give: by class, by `axis`, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import univfast as uf

IMAGES = [torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def cnn(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 25, 5),
    ).eval()


class ChannelNorm(nn.LayerNorm):
    """As there are in vision models: it norms the second axis."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class Stem(nn.Module):
    """A convolution, and what works on ``[samples, tokens, neurons]`` behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.turn = nn.Identity()
        self.up, self.act = nn.Linear(6, 7), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.act(self.up(self.turn(self.conv(x).transpose(1, 2))))
        return found


def captured(model: nn.Module, x: Tensor, hooks: str, **options: Any) -> Tensor:
    with uf.capture(model, hooks, **options) as found:
        model(x)
        return found[hooks]


def r_by_number(a: Tensor, b: Tensor) -> np.ndarray[Any, Any]:
    """Of neurons ``[tokens, neurons]``, each with that of its number."""
    both = np.corrcoef(a.double().numpy().T, b.double().numpy().T)
    return np.diagonal(both, offset=a.shape[1])


@pytest.mark.parametrize("part", [1, 2])
def test_channels_of_convolutions_and_norms_are_neurons(part: int) -> None:
    a, b = cnn(0), cnn(1)
    found = uf.correlate_models(a, b, IMAGES, hooks=str(part - 1), match="index", draws=2)
    with torch.no_grad():
        rows = [
            torch.cat([model[:part](x).permute(0, 2, 3, 1).reshape(-1, 16) for x in IMAGES])
            for model in (a, b)
        ]
    assert found.summary["tokens"] == 3 * 8 * 10 * 10
    np.testing.assert_allclose(found.correlation.numpy(), r_by_number(*rows), atol=1e-5)


def test_tokens_are_samples_then_space_in_its_order() -> None:
    model, x = cnn(0), IMAGES[0]
    got = captured(model, x, "0")
    whole = model[0](x).detach()
    assert got.shape == (8, 10, 10, 16)
    assert torch.equal(got[3, 4, 5], whole[3, :, 4, 5])
    assert torch.equal(captured(model, x, "0:input")[1, 2, 3], x[1, :, 2, 3])


@pytest.mark.parametrize(
    ("module", "shape", "want"),
    [
        (nn.Conv1d(4, 6, 1), (2, 4, 20), (2, 20, 6)),
        (nn.Conv1d(4, 6, 1), (4, 20), (20, 6)),
        (nn.Conv2d(3, 5, 1), (3, 7, 8), (7, 8, 5)),
        (nn.Conv3d(2, 5, 1), (1, 2, 3, 4, 6), (1, 3, 4, 6, 5)),
        (nn.ConvTranspose2d(3, 5, 1), (2, 3, 7, 8), (2, 7, 8, 5)),
        (nn.BatchNorm1d(4), (2, 4, 9), (2, 9, 4)),
        (nn.BatchNorm1d(4), (2, 4), (2, 4)),
        (nn.InstanceNorm1d(4), (4, 9), (9, 4)),
        (nn.GroupNorm(2, 4), (2, 4, 3, 9), (2, 3, 9, 4)),
        (nn.GroupNorm(2, 4), (2, 4, 9), (2, 9, 4)),
        (nn.AvgPool2d(2), (2, 3, 8, 6), (2, 4, 3, 3)),
        (nn.PReLU(4), (2, 4, 9), (2, 9, 4)),
        (nn.Linear(9, 5), (2, 4, 3, 9), (2, 4, 3, 5)),
        (nn.LayerNorm(9), (2, 4, 3, 9), (2, 4, 3, 9)),
        (ChannelNorm(4), (2, 4, 3, 9), (2, 3, 9, 4)),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "x".join(map(str, x)),
)
def test_classes_say_where_channels_are(
    module: nn.Module, shape: tuple[int, ...], want: tuple[int, ...]
) -> None:
    model, x = nn.Sequential(module).eval(), torch.randn(shape)
    got, whole = captured(model, x, "0"), module.eval()(x).detach()
    assert got.shape == want
    axis = next(i for i in range(whole.ndim) if torch.equal(whole.movedim(i, -1), got))
    assert whole.shape[axis] == want[-1]


@pytest.mark.parametrize(
    ("model", "x", "hooks", "message"),
    [
        (cnn(0), IMAGES[0], "2", r"\[8, 16, 10, 10\].* 10 neurons .*\(axis=-1\).* 16 .*\(axis=1\)"),
        (
            nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU()),
            torch.randn(2, 4, 20),
            "1",
            r"comes after a convolution .* 18 neurons .* 6 channels \(axis=1\)",
        ),
        (
            nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU()),
            torch.randn(4, 20),
            "1",
            r"18 neurons .* 6 channels \(axis=0\)",
        ),
        (
            nn.Sequential(nn.ReLU(), nn.Conv1d(4, 6, 3)),
            torch.randn(2, 4, 20),
            "0",
            "goes into a Conv1d",
        ),
        (Stem(), torch.randn(2, 4, 20), "turn", r"\[2, 20, 6\], which comes after a convolution"),
        (
            nn.Sequential(nn.LayerNorm([4, 3, 9])),
            torch.randn(2, 4, 3, 9),
            "0",
            "which has 4 axes",
        ),
        (nn.Sequential(nn.Identity()), torch.randn(2, 4, 3, 9), "0", "which has 4 axes"),
    ],
)
def test_what_cannot_be_told_is_refused(
    model: nn.Module, x: Tensor, hooks: str, message: str
) -> None:
    with pytest.raises(uf.InputError, match=f"^axis: layer '{hooks}' .*{message}.*; say which$"):
        captured(model, x, hooks)


def test_axis_says_it() -> None:
    model, x = cnn(0), IMAGES[0]
    with torch.no_grad():
        whole = model[:3](x)
    assert torch.equal(captured(model, x, "2", axis=1), whole.movedim(1, -1))
    assert torch.equal(captured(model, x, "2", axis=-1), whole)
    found = uf.correlate_models(model, cnn(1), IMAGES, hooks="2", axis=1, match="index", draws=2)
    with torch.no_grad():
        rows = [
            torch.cat([m[:3](x).movedim(1, -1).reshape(-1, 16) for x in IMAGES])
            for m in (model, cnn(1))
        ]
    np.testing.assert_allclose(found.correlation.numpy(), r_by_number(*rows), atol=1e-5)


@pytest.mark.parametrize(
    ("hooks", "axis", "message"),
    [
        ("0", -1, r"axis: is -1, and layer '0', a Conv2d, has its 16 channels on axis 1 of"),
        ("2", 4, r"axis: layer '2' has shape \[8, 16, 10, 10\], and no axis 4; give one from -4"),
        ("2", -5, r"no axis -5"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(hooks: str, axis: int, message: str) -> None:
    with pytest.raises(uf.InputError, match=message):
        captured(cnn(0), IMAGES[0], hooks, axis=axis)


def test_an_axis_is_an_integer() -> None:
    with pytest.raises(TypeError, match="axis: expected an integer, got str"):
        captured(cnn(0), IMAGES[0], "2", axis="1")


@pytest.mark.parametrize("hooks", ["up", "act", "up:input"])
def test_behind_a_convolution_linear_layers_tell(hooks: str) -> None:
    """As in models of speech and vision, whose blocks work on ``[samples, tokens, neurons]``."""
    model, x = Stem().eval(), torch.randn(2, 4, 20)
    got = captured(model, x, hooks)
    assert got.shape == (2, 20, 6 if hooks == "up:input" else 7)


def test_rates_are_not_matched_on_another_axis() -> None:
    batches = [{"input": x} for x in IMAGES]
    with pytest.raises(uf.InputError, match="rates cannot be matched at layer '2', whose neurons"):
        uf.control(cnn(0), batches=batches, hooks="2", axis=1)
    plain = uf.control(cnn(0), match_rate=False)
    result = uf.correlate_models(
        cnn(0), cnn(1), batches, hooks="0", controls_a=plain, control_margin=0.1
    )
    assert len(result.summary["controls"]["flagged_a"]) == 1


def two_of(make: Callable[[], nn.Module]) -> list[nn.Module]:
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(make().eval())
    return found


@pytest.mark.slow
def test_models_with_a_convolution_in_front_need_no_axis() -> None:
    """Of transformers: the MLPs of images and of speech, and the blocks that hold them."""
    from transformers import ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    vision = two_of(lambda: ViTModel(ViTConfig(**small, image_size=16, patch_size=4)))
    images = [torch.randn(3, 3, 16, 16) for _ in range(2)]
    found = uf.correlate_models(*vision, images, hooks="*.mlp.fc1", draws=2)
    assert (found.summary["tokens"], found.summary["neurons"]) == (2 * 3 * 17, 48)
    with pytest.raises(uf.InputError, match=r"axis: layer 'embeddings' gave shape \[3, 17, 16\]"):
        uf.correlate_models(*vision, images, hooks="embeddings")

    speech = two_of(
        lambda: Wav2Vec2Model(
            Wav2Vec2Config(
                **small,
                conv_dim=(8, 8),
                conv_kernel=(4, 3),
                conv_stride=(2, 2),
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
                feat_extract_norm="layer",
            )
        )
    )
    sounds = [torch.randn(2, 400) for _ in range(2)]
    name = "feature_extractor.conv_layers.0"
    found = uf.correlate_models(*speech, sounds, hooks="encoder.layers.?", draws=2)
    assert (found.summary["tokens"], found.summary["neurons"]) == (2 * 2 * 99, 32)
    found = uf.correlate_models(*speech, sounds, hooks=f"{name}.conv", draws=2)
    assert (found.summary["tokens"], found.summary["neurons"]) == (2 * 2 * 199, 8)
    with pytest.raises(uf.InputError, match=r"\[2, 8, 199\], which comes after a convolution"):
        uf.correlate_models(*speech, sounds, hooks=f"{name}.activation")


class Scaled(nn.Module):
    """What a convolution is given is made of what the hooked module gave."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.conv, self.up = nn.Tanh(), nn.Conv1d(4, 6, 3), nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.up(self.conv(2 * self.own(x)))
        return found


def test_what_a_convolution_is_given_a_multiple_of_is_refused() -> None:
    x = torch.randn(5, 4, 20)
    with pytest.raises(uf.InputError, match=r"'own' gave shape .* shape of what a Conv1d .*axis=1"):
        captured(Scaled(), x, "own")
    assert captured(Scaled(), x, "own", axis=1).shape == (5, 20, 4)


RECURRENT: list[Callable[[], nn.Module]] = [
    lambda: nn.LSTM(6, 8, batch_first=True),
    lambda: nn.GRU(6, 4, batch_first=True, bidirectional=True),
    lambda: nn.MultiheadAttention(6, 2, batch_first=True),
    lambda: nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
]


@pytest.mark.parametrize("make", RECURRENT)
def test_layers_of_sequences_behind_a_convolution_say_their_axis(
    make: Callable[[], nn.Module],
) -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.inner = nn.Conv1d(4, 6, 3), make()

        def forward(self, x: Tensor) -> object:
            x = self.conv(x).transpose(1, 2)
            three = isinstance(self.inner, nn.MultiheadAttention)
            return self.inner(*[x] * (3 if three else 1))

    torch.manual_seed(0)
    model, x = Behind().eval(), torch.randn(5, 4, 20)
    with torch.no_grad():
        out = model(x)
        with uf.capture(model, ["inner", "conv"]) as found:
            model(x)
            inner, conv = found["inner"], found["conv"]
        assert conv.shape == (5, 18, 6)
        torch.testing.assert_close(inner, out if isinstance(out, Tensor) else out[0])
