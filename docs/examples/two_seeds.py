# %% [markdown]
# # Two seeds of one small model
#
# Two transformers of one architecture, trained from different initial weights on different text.
# Their neurons have no numbers in common, so each neuron of A is matched with the one of B that
# it correlates with most. The question is always the same: how many are flagged, and how many
# would be without anything that both learned?
#
# A notebook as a script: `python docs/examples/two_seeds.py` runs it, and editors that know `#
# %%` show it in cells.

# %%
import univfast as uf
from univfast.experiment import (
    ModelConfig,
    TrainingOptions,
    control_of,
    record_mlp,
    test_tokens,
    train,
)

STEPS = 150  # a few seconds; the demo takes 1,200, and shares more

options = TrainingOptions(steps=STEPS, samples=2_000, test_samples=200)
config = ModelConfig(layers=1, d_model=64, d_mlp=128)
a = train(config, "docs", 1, "first", options)
b = train(config, "docs", 2, "second", options)

# %% [markdown]
# Both read the same text, which neither was trained on. A layer's activations are `[samples,
# sequence, neurons]`.

# %%
tokens = test_tokens(a)
of_a, of_b = (record_mlp(trained.model(), tokens, "post") for trained in (a, b))
print({name: tuple(x.shape) for name, x in of_a.items()})

# %% [markdown]
# Rotations of B say how high the best match would be if B's axes meant nothing. After a ReLU they
# nearly always mean something, also in networks that learned nothing. So the same is asked of
# controls: networks of the same architecture with random weights, whose neurons are as often
# active.

# %%
controls_a, controls_b = (
    [
        record_mlp(control_of(trained, seed, match_rate=True).model(), tokens, "post")
        for seed in range(2)
    ]
    for trained in (a, b)
)


result = uf.correlate(
    of_a,
    of_b,
    draws=10,
    controls_a=controls_a,
    controls_b=controls_b,
    details=True,
    token_ids=tokens,
)
print(result)

# %% [markdown]
# What it means, in words; and the neurons that stand out most. With so little training little is
# shared, and the verdict says whether the count is more than controls give.

# %%
print(result.verdict())
print(result.top(5))

# %%
result.save("two-seeds/")  # tables, figures and report.html
assert len(result) == config.d_mlp
assert result.summary["universal_by_control"] is not None
