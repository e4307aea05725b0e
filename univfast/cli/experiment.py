"""The experiment: `univfast demo`, `univfast train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import click

from univfast.cli.options import PATH, Command, figures_option, quiet_option
from univfast.cli.printing import load_pictures, say
from univfast.cli.progress import progress_bar, progress_bars
from univfast.cli.results import print_result, print_side_by_side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from univfast.experiment import Half, ModelConfig, Site, TrainedModel, TrainingOptions
    from univfast.result import CorrelationResult
    from univfast.search.matchings import Match

__all__ = ["demo", "train"]

# Of the demo: seeds of its models, controls of each, and rotations.
_SEEDS = (1, 2)
_CONTROLS = 4
_DRAWS = 20

_data = click.option(
    "--data",
    type=PATH,
    default="docs",
    show_default=True,
    metavar="docs|random|FILE",
    help="Text to train on: Python's own documentation, random tokens, or a text file.",
)
_test_samples = click.option(
    "--test-samples",
    type=int,
    default=1_000,
    show_default=True,
    help="Held-out samples of 64 tokens that activations are captured on.",
)


@click.command(
    cls=Command,
    short_help="Train a tiny transformer and save it.",
    epilog="""\b
Examples:
  univfast train a.ckpt --seed 1
  univfast train b.ckpt --seed 2 --steps 2400 --d-mlp 512""",
)
@click.argument("out", type=PATH, metavar="OUT")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and samples.")
@_data
@click.option(
    "--half",
    type=click.Choice(["auto", "first", "second"]),
    default="auto",
    show_default=True,
    help="Half of the training text to read. 'auto': first for odd seeds, second for even ones.",
)
@click.option("--steps", type=int, default=1_200, show_default=True, help="Optimiser steps.")
@click.option("--samples", type=int, default=10_000, show_default=True, help="Training samples.")
@_test_samples
@click.option(
    "--weight-decay", type=float, default=0.1, show_default=True, help="Of the optimiser, AdamW."
)
@click.option(
    "--sparsity",
    type=float,
    default=8e-3,
    show_default=True,
    help="Weight of an L1 penalty on what neurons add. 0: the cross entropy alone.",
)
@click.option("--layers", type=int, default=2, show_default=True, help="Transformer blocks.")
@click.option("--d-model", type=int, default=128, show_default=True, help="Width of the embedding.")
@click.option("--d-mlp", type=int, default=256, show_default=True, help="Neurons of each MLP.")
@click.option("--heads", type=int, default=4, show_default=True, help="Attention heads.")
@quiet_option
def train(
    out: str,
    seed: int,
    data: str,
    half: str,
    steps: int,
    samples: int,
    test_samples: int,
    weight_decay: float,
    sparsity: float,
    quiet: bool,
    **sizes: int,
) -> None:
    """Train a tiny transformer on next-token prediction and save it to OUT.

    The model file carries its own configuration: 'univfast capture' and 'univfast correlate' need
    nothing else. Models trained with an odd and an even seed read disjoint halves of the text; the
    text that activations are captured on is held out of both.
    """
    from univfast.experiment import ModelConfig, TrainingOptions, save_model
    from univfast.machine.files import check_writable
    from univfast.machine.locks import holding_file

    options = TrainingOptions(
        steps=steps,
        samples=samples,
        test_samples=test_samples,
        weight_decay=weight_decay,
        sparsity=sparsity,
    )
    check_writable(out)
    with holding_file(out):
        save_model(out, _Job(ModelConfig(**sizes), options, data, quiet).run(seed, half))


@click.command(
    cls=Command,
    short_help="Run the whole experiment, end to end. Start here.",
    epilog="""\b
Examples:
  univfast demo
  univfast demo --untrained --out untrained/""",
)
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    default="univfast-demo",
    show_default=True,
    help="Directory for the models, the tables, the plots and the report.",
)
@_data
@click.option(
    "--steps", type=int, default=1_200, show_default=True, help="Optimiser steps of each model."
)
@_test_samples
@click.option(
    "--untrained",
    is_flag=True,
    help="Train nothing: two networks as they are before training, to see that they are told.",
)
@figures_option
@quiet_option
def demo(
    out: str,
    data: str,
    steps: int,
    test_samples: int,
    untrained: bool,
    figures: tuple[str, ...],
    quiet: bool,
) -> None:
    """Run the whole experiment: train two models, capture, correlate, plot, report.

    Two tiny transformers learn from different initialisations on 10,000 different samples each.
    Both then read the same test text, and the neurons of the first are matched with those of the
    second in two ways, by index and by best correlation, before and after the ReLU, each against
    random rotations of the second. By best correlation after the ReLU, they are also compared with
    four controls of either model: networks that learned nothing, and are active as often. Needs no
    data and no network, and takes under three minutes on two cores.
    """
    from univfast.experiment import ModelConfig, TrainingOptions
    from univfast.machine.locks import holding_directory

    job = _Job(ModelConfig(), TrainingOptions(steps=steps, test_samples=test_samples), data, quiet)
    with holding_directory(out):
        _experiment(out, job, untrained, figures)


def _experiment(out: str, job: _Job, untrained: bool, figures: tuple[str, ...]) -> None:
    """What `demo` does, which alone writes to its directory."""
    from univfast.experiment import save_model
    from univfast.machine.files import make_directory
    from univfast.report.files import save_result

    load_pictures()
    quiet = job.quiet
    models = [job.initial(seed) for seed in _SEEDS] if untrained else job.run_together(_SEEDS)
    folder = make_directory(out)
    paths = [str(folder / name) for name in ("a.ckpt", "b.ckpt")]
    for path, model in zip(paths, models, strict=True):
        save_model(path, model)
    controls = job.controls(models)
    none: list[list[TrainedModel]] = [[], []]
    sites: tuple[Site, ...] = ("post", "pre")
    matches: tuple[Match, ...] = ("best", "index")
    main = ("best", "post")  # written as the result; the others stand beside it
    results = {
        f"{match}-{site}": _matched(
            models, paths, controls if (match, site) == main else none, site, match, quiet
        )
        for site in sites
        for match in matches
    }
    result = results["-".join(main)]
    beside = {name: (r.summary["title"], r) for name, r in results.items() if r is not result}
    every = [result, *(other for _, other in beside.values())]
    try:
        save_result(result, out, published=False, beside=beside, formats=figures)
    except Exception:
        print_side_by_side(every)  # what was found, where it can be
        print_result(result, as_json=False, out=None)
        raise
    if not quiet:
        print_side_by_side(every)
        print_result(result, as_json=False, out=out)


def _matched(
    models: Sequence[TrainedModel],
    paths: list[str],
    controls: Sequence[Sequence[TrainedModel]],
    site: Site,
    match: Match,
    quiet: bool,
) -> CorrelationResult:
    """The neurons of one model matched with those of the other, at a site."""
    import univfast
    from univfast.experiment import capture_mlp, live_activations, test_tokens

    a, b = (capture_mlp(trained, site) for trained in models)
    sides = [
        [live_activations(x, f"{path} (control {x.control})", site) for x in of_one] or None
        for path, of_one in zip(paths, controls, strict=True)
    ]
    phases = (f"read ({match}, {site})", "tokens"), ("search", "pairs")
    with progress_bars(quiet, *phases) as (read, search):
        result = univfast.correlate(
            a,
            b,
            match=match,
            draws=_DRAWS,
            controls_a=sides[0],
            controls_b=sides[1],
            details=bool(sides[0]),
            token_ids=test_tokens(models[0]) if sides[0] else None,
            token_text=chr if sides[0] else None,
            progress=read,
            search_progress=search,
        )
    when = {"pre": "before the ReLU", "post": "after the ReLU"}[site]
    result.summary["models"], result.summary["site"] = paths, site
    result.summary["title"] = f"match {match}, {when}"
    return result


@dataclass(frozen=True)
class _Job:
    """What `train` and `demo` share."""

    config: ModelConfig
    options: TrainingOptions
    data: str
    quiet: bool

    def initial(self, seed: int) -> TrainedModel:
        """A model before its training."""
        from univfast.experiment import default_half, untrained

        return untrained(self.config, self.data, seed, default_half(seed), self.options)

    def controls(self, models: Sequence[TrainedModel]) -> list[list[TrainedModel]]:
        """Of each model its controls, active as often as it is."""
        from univfast.experiment import control_of

        found: list[list[TrainedModel]] = []
        total = _CONTROLS * len(models)
        with progress_bar("make controls", "networks", self.quiet) as progress:
            for number, model in enumerate(models):
                found.append([])
                for seed in range(_CONTROLS):
                    found[-1].append(control_of(model, seed))
                    progress(number * _CONTROLS + seed + 1, total)
        return found

    def run(self, seed: int, half: str) -> TrainedModel:
        """Trains one model."""
        from univfast.experiment import default_half, train

        chosen = default_half(seed) if half == "auto" else cast("Half", half)
        with progress_bar(f"train (seed {seed})", "steps", self.quiet) as progress:
            trained = train(self.config, self.data, seed, chosen, self.options, progress)
        self._tell(trained)
        return trained

    def run_together(self, seeds: Sequence[int]) -> list[TrainedModel]:
        """Trains several models at the same time."""
        from univfast.experiment import train_together

        with progress_bar(f"train ({len(seeds)} models)", "steps", self.quiet) as progress:
            models = train_together(self.config, self.data, seeds, self.options, progress)
        for trained in models:
            self._tell(trained)
        return models

    def _tell(self, trained: TrainedModel) -> None:
        if not self.quiet:
            steps, loss = trained.steps, trained.loss
            say(f"model of seed {trained.seed}: {steps} steps, loss {loss:.3f}")
