"""`explain`: what the neurons of a result do, from their activations and the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from univfast.checks import as_integer
from univfast.contexts.chosen import MOST_PAIRS, Chosen, choose
from univfast.contexts.columns import PairColumns, StoredColumns
from univfast.contexts.explained import Explained, Pairs, explain_pairs
from univfast.detail_options import ExplainOptions
from univfast.docstrings import documented
from univfast.errors import InputError
from univfast.features.explanations import explanation_bytes
from univfast.features.token_features import TokenFeatures, TokenText
from univfast.inputs.activations import check_files, open_activations, open_models
from univfast.inputs.axes import along_axis
from univfast.inputs.layers import Activations
from univfast.inputs.masks import kept_tokens
from univfast.machine.devices import thread_count
from univfast.machine.memory import available_memory
from univfast.machine.torch_state import in_plain_state
from univfast.options import complete
from univfast.result import CorrelationResult
from univfast.runs.comparisons import line_up
from univfast.runs.details import known_tokens

if TYPE_CHECKING:
    from typing_extensions import Unpack

_MOST_EXAMPLES, _MOST_AROUND = 1000, 1000
_ROUNDING = 1e-3  # of an r, of whatever products

__all__ = ["Look", "explain", "look_at", "text_of"]

Progress = Callable[[int, int], None]


@documented(ExplainOptions)
@in_plain_state
def explain(
    result: CorrelationResult,
    a: object,
    b: object,
    *,
    progress: Progress | None = None,
    **options: Unpack[ExplainOptions],
) -> CorrelationResult:
    """Looks at what the universal neurons of a result do, and their matches.

    The windows of tokens where each is highest, and where one is so alone, and which features of
    the tokens explain how much of either. What `correlate` does with ``details=True`` where token
    ids are known; for a result that has none yet, or other neurons.

    Args:
        result: what `correlate` gave.
        a: the activations of A that it is of, as `correlate` takes them.
        b: those of B, or a list of the other models.
        {options}
        progress: called after each slice with the number of tokens done, over all passes and
            models, and their total.

    Returns:
        The result with ``explained``, which `CorrelationResult.save` writes as ``contexts.jsonl``.

    Raises:
        InputError: no token ids, no such neurons, or activations of another result.
        TypeError: an argument of a type that cannot be used.
    """
    given = complete(ExplainOptions, options, "explain")
    files, width = given["files"], given["width"]
    check_files(files, a, b)
    opened = [open_activations(a, "a", files, width), *open_models(b, "b", files, width)]
    models = [along_axis(model, given["axis"]) for model in opened]
    if len(models) != len(result.summary["models"]):
        raise InputError(
            f"b: the result is of {len(result.summary['models'])} models, got {len(models)}; give"
            " the same ones"
        )
    names = [model.name for model in models]
    if names != result.summary["models"] and sorted(names) == sorted(result.summary["models"]):
        raise InputError(
            f"a: the result is of {', '.join(result.summary['models'])}, in this order"
        )
    lineup = line_up(models, [], [], None, True, 1)
    known = known_tokens(lineup, given["token_ids"])
    if known.ids is None:
        raise InputError("token_ids: are needed to say what neurons do; give which token is where")
    keep = kept_tokens(models, given["mask"], lineup.layers[0][0].shape[:-1])
    used = known.tokens if keep is None else int(keep.sum())
    if used != result.summary["tokens"]:
        raise InputError(
            f"mask: leaves {used} tokens, and the result is of {result.summary['tokens']}; give the"
            " activations, and the mask, that it is of"
        )
    text = text_of(given["token_text"], models)
    look = Look(TokenText(known.ids, known.window, text, known.places), given)
    found = look_at(result, models, keep, look, progress)
    _check_same(found)
    return found


def _check_same(result: CorrelationResult) -> None:
    """Refuses what was found of other activations than those that the result is of."""
    explained: Any = result.explained
    if explained is None:
        return
    for model, found in zip(result.by_model or (result,), explained.pairs, strict=True):
        expected = model.correlation[found.chosen.rows]
        far = (~((found.r - expected).abs() <= _ROUNDING)).nonzero()[:, 0].tolist()
        if far:
            (layer, neuron), i = found.chosen.a[far[0]], far[0]
            raise InputError(
                f"a: r of {layer}/{neuron} is {float(found.r[i]):.4g} here, and"
                f" {float(expected[i]):.4g} in the result; give the activations, and the mask, that"
                " the result is of"
            )


def text_of(
    given: Callable[[int], str] | None, models: Sequence[Activations]
) -> Callable[[int], str] | None:
    """What a token id stands for: as it was given, or as the first model says that does."""
    if given is not None:
        return given
    return next((model.text for model in models if model.text is not None), None)


class Look:
    """What is looked for.

    Args:
        tokens: the text of the run.
        options: complete.
        threads: at most this many; None for torch's number.
    """

    def __init__(
        self, tokens: TokenText, options: Mapping[str, Any], threads: int | None = None
    ) -> None:
        self.tokens, self._options = tokens, options
        as_integer("examples", options["examples"], 1, _MOST_EXAMPLES)
        as_integer("around", options["around"], 0, _MOST_AROUND)
        self._threads = thread_count(threads)
        self._features = TokenFeatures(tokens, options["features"] or {})

    def chosen(self, result: CorrelationResult) -> list[Chosen]:
        """The pairs with each other model."""
        models = result.by_model or (result,)
        names, most = self._options["neurons"], self._most_pairs()
        return [choose(model, result.universal, names, most) for model in models]

    def _most_pairs(self) -> int:
        """So many that sums of their neurons take a quarter of the memory that is available."""
        available = available_memory()
        if available is None:
            return MOST_PAIRS
        pair = 2 * (explanation_bytes(self._features, 2) - explanation_bytes(self._features, 1))
        return max(1, min(MOST_PAIRS, available // 4 // pair))

    def pairs(
        self, result: CorrelationResult, chosen: Chosen, columns: PairColumns, progress: Progress
    ) -> Pairs:
        """What is found of the pairs of a result of one other model."""
        means = None
        if result.mean is not None and result.match_mean is not None:
            means = (result.mean[chosen.rows], result.match_mean[chosen.rows])
        return explain_pairs(
            columns,
            chosen,
            self._features,
            means,
            self._options["examples"],
            self._options["around"],
            self._threads,
            progress,
        )

    def explained(self, result: CorrelationResult, pairs: list[Pairs]) -> CorrelationResult:
        """The result with what was found."""
        found = Explained(self.tokens, self._options["around"], pairs)
        result.summary["families"] = found.families(result)
        return replace(result, explained=found)


def look_at(
    result: CorrelationResult,
    models: Sequence[Activations],
    keep: Tensor | None,
    look: Look,
    progress: Progress | None,
) -> CorrelationResult:
    """The result with what its pairs do; one that has none to look at as it is.

    Args:
        result: of the models.
        models: A and the others.
        keep: bool ``[tokens]``, true for the tokens that count; None for all.
        look: what is looked for.
        progress: as `explain` takes it.
    """
    chosen = look.chosen(result)
    if not any(map(len, chosen)):
        return result
    first, *others = models
    window, found = look.tokens.window, []
    for number, (other, own, model) in enumerate(
        zip(others, chosen, result.by_model or (result,), strict=True)
    ):

        def advance(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, len(others) * total)

        if not len(own):
            found.append(Pairs(own, [], [], [], model.correlation[:0]))
            continue
        columns = StoredColumns(first, other, own, keep, window)
        found.append(look.pairs(model, own, columns, advance))
    return look.explained(result, found)
