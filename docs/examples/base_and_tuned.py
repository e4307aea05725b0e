# %% [markdown]
# # A base and its fine-tuned copy
#
# Fine-tuning leaves neurons where they are: neuron 7 of the base is neuron 7 of the tuned model.
# So they are compared by number, and what is interesting are the neurons that *changed*.
#
# A notebook as a script: `python docs/examples/base_and_tuned.py` runs it, and editors that know
# `# %%` show it in cells.

# %%
import copy

import torch

import univfast as uf

torch.manual_seed(0)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(200, 48)
        self.up = torch.nn.Linear(48, 192)
        self.act = torch.nn.GELU()
        self.down = torch.nn.Linear(192, 200)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.up(self.embed(ids))))


def train(model: Model, shift: int, steps: int) -> None:
    """To predict the token `shift` numbers on."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        ids = torch.randint(200, (512,))
        loss = torch.nn.functional.cross_entropy(model(ids), (ids + shift) % 200)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


base = Model()
train(base, shift=1, steps=150)
tuned = copy.deepcopy(base)
train(tuned, shift=2, steps=40)

# %% [markdown]
# Both run side by side on the same batches, and no activation outlives its batch. `hooks` are
# glob patterns of module names; the output of a module that matches is a layer.

# %%
batches = [torch.randint(200, (16, 64)) for _ in range(10)]  # token ids
result = uf.correlate_models(
    base, tuned, batches, hooks="act", match="index", names=("base", "tuned")
)
print(result)

# %% [markdown]
# By number, the null are wrong partners: neuron *i* with neuron *i + s*. They flag next to none,
# so numbers mean something here: the models are of one lineage. The search through all neurons
# says the same.

# %%
by_search = uf.correlate_models(
    base, tuned, batches, hooks="act", match="best", names=("base", "tuned")
)
print(by_search.verdict())
same = sum(int(x) == int(y) for x, y in zip(by_search.neuron, by_search.match_neuron, strict=True))
print(f"{same} of {len(by_search)} best matches are the neuron of the same number")

# %% [markdown]
# The neurons that fine-tuning changed most are those with the lowest correlation.

# %%
table = sorted(result.top(len(result)), key=lambda row: row.correlation)
print([(row.neuron, round(row.correlation, 2)) for row in table[:5]])
assert same > len(by_search) / 2
