"""Records as Neuronpedia's tools read them: ``batch-*.json`` files, a directory a model and layer.

The format is what SAEDashboard (github.com/jbloomAus/SAEDashboard, ``NeuronpediaDashboardBatch`` in
``sae_dashboard/neuronpedia/neuronpedia_dashboard.py``) writes, and what Neuronpedia
(github.com/hijohnnylin/neuronpedia, ``convert-saedashboard-to-neuronpedia-export.py`` in
``utils/neuronpedia-utils``) makes an import of, as of August 2026. What is not known is left empty:
logits, histograms, alignments, the number of prompts, the data set.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from univfast.checks import shown
from univfast.contexts.records import (
    Example,
    PairRecord,
    contexts_file,
    read_head,
    record_at,
    records_with_offsets,
)
from univfast.errors import InputError
from univfast.machine.files import making_directory
from univfast.machine.reading import open_file
from univfast.machine.torch_state import in_plain_state

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

__all__ = ["PAIRS", "write_neuronpedia"]

PAIRS = "pairs.jsonl"
"""Beside the directories: which model and layer a correlated neuron is of, as the format has no
place for them."""

_FEATURES = 128  # of a file, as SAEDashboard has by default
_DIGITS = 6
# What SAEDashboard says of the highest activations, which are of no interval.
_TOP = {"bin_min": -1.0, "bin_contains": -1.0}
_OF_A, _OF_MATCH = ("top", "only"), ("match_top", "match_only")

# By number of the model and layer: of each neuron, where the records that tell of it begin.
_Places = dict[tuple[int, str], dict[int, list[int]]]


@in_plain_state
def write_neuronpedia(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    result: CorrelationResult | None = None,
    layer_numbers: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Writes the neurons of all pairs, of all models, as features; returns how many by directory.

    Each has the windows around its highest tokens, and as correlated neurons its matches (of a
    neuron of A: one a model; of another: all neurons of A that it is the match of). Records are
    read from their places in the file, so memory does not grow with their examples.

    Args:
        path: a result's directory, or its ``contexts.jsonl``.
        out: a directory, which is new or empty; whole or not there.
        result: what ``frac_nonzero`` (the share of tokens above 0) and ``correlated_neurons_l1``
            (the cosine of both neurons over tokens) are computed from, where it has details and is
            of two models; else they are 0 and empty.
        layer_numbers: of layers whose names do not hold exactly one number.

    Raises:
        InputError: ``path`` cannot be read or ``out`` written, a layer has no number, or an example
            has neither text nor token ids.
    """
    models = read_head(path).models
    known = _Known(result)
    numbers = {} if layer_numbers is None else layer_numbers
    written = {}
    with making_directory(out) as folder, open_file(contexts_file(path)) as file:
        places = _places(path, models, folder / PAIRS)
        of_model: dict[int, set[str]] = {}
        for model, layer in places:
            of_model.setdefault(model, set()).add(layer)
        if unknown := numbers.keys() - {layer for _, layer in places}:
            raise InputError(
                f"layer {shown(min(unknown))}: has a number, and is not among those of the pairs;"
                " check its name"
            )
        for (model, layer), neurons in places.items():
            batch = {
                "model_id": _text(_base(models[model])),
                "layer": _number(layer, of_model[model], numbers),
                "sae_set": _source_set(layer),
                "sae_id_suffix": None,
            }
            name = f"{_letter(model)}-{_quoted(_base(models[model]))}/{_quoted(layer)}"
            (folder / name).mkdir(parents=True)
            features = (
                _feature(neuron, model > 0, [record_at(file, path, x) for x in offsets], known)
                for neuron, offsets in sorted(neurons.items())
            )
            for i, some in enumerate(_in_batches(features)):
                text = json.dumps({**batch, "features": some}, allow_nan=False)
                (folder / name / f"batch-{i}.json").write_text(text, encoding="ascii")
            written[name] = len(neurons)
    return written


class _Known:
    """What a result with details says of the neurons of its pairs."""

    def __init__(self, result: CorrelationResult | None) -> None:
        self._result = result if result is not None and result.active is not None else None
        self._rows: dict[tuple[str, int], int] = {}
        if self._result is not None and len(self._result.summary["models"]) == 2:
            names = zip(self._result.layer, self._result.neuron.tolist(), strict=True)
            self._rows = {name: row for row, name in enumerate(names)}

    def active(self, record: PairRecord, of_match: bool) -> float:
        """The share of tokens at which a neuron is above 0; 0 where that is not known."""
        row, found = self._rows.get((record.layer, record.neuron)), self._result
        values = None if found is None else found.match_active if of_match else found.active
        share = 0.0 if row is None or values is None else float(values[row])
        return 0.0 if math.isnan(share) else round(share, _DIGITS)

    def cosine(self, record: PairRecord) -> float | None:
        """The cosine of both neurons' activations; None where that is not known."""
        row, found = self._rows.get((record.layer, record.neuron)), self._result
        if row is None or found is None or record.correlation is None:
            return None
        columns = (found.mean, found.std, found.match_mean, found.match_std)
        values = [math.nan if column is None else float(column[row]) for column in columns]
        mean, std, match_mean, match_std = values
        product = record.correlation * std * match_std + mean * match_mean
        size = math.hypot(mean, std) * math.hypot(match_mean, match_std)
        return round(product / size, _DIGITS) if size > 0 else None  # NaN is not


def _places(path: str | os.PathLike[str], models: Sequence[str], pairs: Path) -> _Places:
    """Where each neuron's records are; and a line a pair into a file."""
    places: _Places = {}
    numbers = {name: i for i, name in enumerate(models)}
    with open(pairs, "x", encoding="ascii") as file:
        for offset, record in records_with_offsets(path):
            of_a = (0, record.layer), record.neuron
            of_match = (numbers[record.model], record.match_layer), record.match_neuron
            for place, neuron in (of_a, of_match):
                places.setdefault(place, {}).setdefault(neuron, []).append(offset)
            explanations = (record.explanation, record.match_explanation)
            told = {
                "model": models[0],
                "layer": record.layer,
                "neuron": record.neuron,
                "match_model": record.model,
                "match_layer": record.match_layer,
                "match_neuron": record.match_neuron,
                "correlation": record.correlation,
                "explanation": explanations[0] and explanations[0].feature,
                "match_explanation": explanations[1] and explanations[1].feature,
            }
            file.write(json.dumps(told) + "\n")
    return dict(sorted(places.items(), key=lambda place: place[0][0]))


def _feature(
    neuron: int, of_match: bool, records: Sequence[PairRecord], known: _Known
) -> dict[str, Any]:
    """A neuron in all fields that the format has."""
    matched = [one for one in records if one.correlation is not None]
    matched.sort(key=lambda one: -(one.correlation or 0))
    cosines = [known.cosine(one) for one in matched]
    return {
        "feature_index": neuron,
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [x.neuron if of_match else x.match_neuron for x in matched],
        "correlated_neurons_l1": [] if None in cosines else cosines,
        "correlated_neurons_pearson": [round(one.correlation or 0, _DIGITS) for one in matched],
        "correlated_features_indices": [],
        "correlated_features_l1": [],
        "correlated_features_pearson": [],
        "neg_str": [],
        "neg_values": [],
        "pos_str": [],
        "pos_values": [],
        "frac_nonzero": known.active(records[0], of_match),
        "freq_hist_data_bar_values": [],
        "freq_hist_data_bar_heights": [],
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "n_prompts_total": 0,
        "n_tokens_in_prompt": 0,
        "dataset": "",
        "decoder_weights_dist": [],
        "activations": _activations(records, of_match),
        "vector": [],
    }


def _activations(records: Sequence[PairRecord], of_match: bool) -> list[dict[str, Any]]:
    """The windows of a neuron, each token once, from the highest on."""
    kinds = {*(_OF_MATCH if of_match else _OF_A)}
    windows = {
        example.token: (record, example)
        for record in records
        for example in record.examples
        if kinds & {*example.kinds}
    }
    values = {token: example.values(of_match) for token, (_, example) in windows.items()}
    highest = max(map(max, values.values()), default=0.0)
    order = sorted(windows, key=lambda token: -values[token][windows[token][1].at])
    return [
        {
            **_TOP,
            "bin_max": highest,
            "tokens": _tokens(*windows[token]),
            "values": values[token],
            "qualifying_token_index": windows[token][1].at,
        }
        for token in order
    ]


def _tokens(record: PairRecord, example: Example) -> list[str]:
    if example.tokens is not None:
        return [_text(token) for token in example.tokens]
    if example.ids is not None:
        return [f" {token}" for token in example.ids]
    raise InputError(
        f"{record.layer}/{record.neuron}: has neither text nor token ids, which Neuronpedia's"
        " features need; correlate with token_ids=, or on a text"
    )


def _number(layer: str, layers: set[str], numbers: Mapping[str, int]) -> int:
    """The number of a layer, which its name holds."""
    if layer in numbers:
        return numbers[layer]
    found = re.findall(r"[0-9]{1,6}", layer)
    if len(found) == 1:
        return int(found[0])
    if not found and len(layers) == 1:
        return 0
    some = [*found[:3], *(["others"] if len(found) > 3 else [])]
    said = f"could be number {' or '.join(some)}" if found else "has no number in its name"
    raise InputError(f"layer {shown(layer)}: {said}; say which by layer_numbers=LAYER=N")


def _source_set(layer: str) -> str:
    """A name of layers that differ in their number alone."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"[0-9]{1,6}", "", layer, count=1).lower())
    return "-".join(["univfast", *words])


def _in_batches(features: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while some := list(islice(features, _FEATURES)):
        yield some


def _base(model: str) -> str:
    return os.path.basename(os.path.normpath(model))


def _letter(model: int) -> str:
    return ascii_uppercase[model] if model < len(ascii_uppercase) else str(model)


def _quoted(name: str) -> str:
    """A name as one of a directory; other names stay other ones."""
    text = quote(name, safe="", errors="surrogatepass")
    return text if text.strip(".") else text.replace(".", "%2E") or "%"


def _text(text: str) -> str:
    """Of characters that UTF-8 has, which the tools insist on."""
    return text.encode("utf-8", "replace").decode()
