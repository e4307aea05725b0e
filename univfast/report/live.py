"""What of a report moves: tiles, charts and the table of neurons, which `page.js` fills."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from univfast.report.facts import all_pairs
from univfast.report.page import middle, named, number, text, whole
from univfast.report.verdict import by_chance_in_words, can_be_universal
from univfast.report.web.data import (
    AXIS,
    MOST_DOTS,
    MOST_LISTED,
    listed,
    outlines,
    page_axis,
    thresholds,
)
from univfast.report.web.matches import match_counts_by_layer

if TYPE_CHECKING:
    from univfast.result import CorrelationResult

__all__ = [
    "SWITCH",
    "charts",
    "histogram_legend",
    "layers_chart",
    "models_named",
    "neuron_table",
    "tiles",
]

_MOST_NAMED = 4  # models, in the head


def models_named(summary: Mapping[str, Any]) -> str:
    """The models, in few words."""
    first, *others = (named(name, 36) for name in summary["models"])
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    return f"A {first} &#8594; {'B ' if len(others) == 1 else ''}" + (
        ", ".join(others[:_MOST_NAMED]) + more
    )


def tiles(summary: Mapping[str, Any]) -> str:
    """The counts that matter, each with what it is to be seen beside."""
    live = summary["neurons"] - summary["dead"]
    universal = summary["universal"]
    share = f"{universal / live:.1%} of {live:,} live" if live else "no live neuron"
    if live and not can_be_universal(summary):
        share = "none can be, without a baseline"
    found = [("universal", whole(universal), share)]
    if all_pairs(summary):
        where = "in B" if len(summary["models"]) == 2 else "in the other models"
        partners = summary["universal_partners"]
        absent = "not counted when this was saved"
        found.append(("distinct partners", whole(partners), absent if partners is None else where))
        mutual = summary["universal_mutual"]
        each = "each is the other's best" if len(summary["models"]) == 2 else "see each model"
        found.append(("mutual", whole(mutual), each))
    by_control = summary["universal_by_control"]
    if summary["controls"] is None:
        found.append(("by control", "no controls", "not compared with untrained networks"))
    else:
        fdr = summary["fdr_control"]
        note = "flagged without training" if fdr is None else f"{fdr:.0%} of those flagged"
        found.append(("by control", number(by_control, ",.1f"), note))
        margin = f"above controls by {summary['controls']['margin']:g}"
        found.append(("learned", whole(summary["learned"]), margin))
    found.append(("by chance", *_chance(summary)))
    cells = "\n".join(
        f"<div{' class=first' if not i else ''}><dt>{text(name)}</dt>"
        f"<dd{' class=words' if ' ' in count else ''}>{text(count)}</dd><dd>{text(note)}</dd></div>"
        for i, (name, count, note) in enumerate(found)
    )
    return f'<dl class="tiles">\n{cells}\n</dl>'


def _chance(summary: Mapping[str, Any]) -> tuple[str, str]:
    said = by_chance_in_words(summary)
    if said is None:
        return whole(None), "needs at least two draws"
    draws = len(summary["chance_counts"])
    bound = said.partition("(")[2].rstrip(")")
    return number(summary["universal_by_chance"], ",.1f"), f"in {draws} draws" + (
        f"; {bound}" if bound else ""
    )


def charts(result: CorrelationResult) -> str:
    """Slider and charts of the excess and of r."""
    if bool(result.correlation.isnan().all()):
        reason = "Nothing to draw: no neuron has a correlation, as the verdict says."
        return f'<p class="empty">{reason}</p>{_SLIDER_OFF}'
    has_excess = not bool(result.excess.isnan().all())
    axis = page_axis(result)
    wide = tuple(axis) != AXIS
    low, high = (f"{x:g}".replace("-", "\N{MINUS SIGN}") for x in axis)
    note = f"Axes from {low} to {high}" + (
        ", wider than the usual \N{MINUS SIGN}0.2 to 1, as some neurons lie outside of that."
        if wide
        else ", as in every report. No neuron lies outside."
    )
    outside = [
        f"{_share(outline['outside'])} of {outline['label']}"
        for outline in outlines(result, axis)
        if outline["outside"]
    ]
    note += f" Outlines leave out what lies outside: {', '.join(outside)}." if outside else ""
    how = '<span class="drag">Drag over a chart to filter the table of neurons.</span>'
    parts = [
        '<div class="live">',
        _slider(result) if has_excess else _SLIDER_OFF,
        SWITCH,
        f'<p class="note">{note} {how}</p>',
        '<div class="pair">' if has_excess else "",
        _histogram(result, axis, has_excess),
        _cloud(result) if has_excess else _NO_BASELINE,
        "</div>" if has_excess else "",
        _range(result),
        "</div>",
    ]
    return "\n".join(filter(None, parts))


def _share(share: float) -> str:
    return f"{share:.2%}" if share >= 1e-4 else "under 0.01%"


# The scripts read it where there is nothing to slide.
_SLIDER_OFF = (
    '<div hidden><input type="range" id="threshold" min="0" max="0" value="0">'
    '<b id="threshold-value"></b><b id="now-universal"></b><b id="now-share"></b>'
    '<button type="button" id="reset-threshold"></button></div>'
)
SWITCH = (
    '<div class="switches"><fieldset><legend>Counts</legend>'
    '<label><input type="radio" name="counts" value="linear" checked>linear</label>'
    '<label><input type="radio" name="counts" value="log">log</label></fieldset></div>'
)
_NO_BASELINE = (
    '<p class="empty">No excess and no plot against the baseline: the result was computed with '
    "rotation none, so there is no baseline. Compute it with a rotation to have them.</p>"
)


def _slider(result: CorrelationResult) -> str:
    summary = result.summary
    chance = (
        '<span>by chance <b id="now-chance"></b></span>'
        if result.null_excess is not None
        else "<span>by chance: needs at least two draws</span>"
    )
    controls = "<span>no controls</span>"
    if summary["controls"] is not None:
        count = number(summary["universal_by_control"], ",.1f")
        controls = (
            '<span>learned <b id="now-learned"></b></span>'
            f'<span id="now-control">by control <b>{count}</b> '
            f"(counted at {summary['threshold']:g} only)</span>"
        )
    steps = thresholds(summary["threshold"])
    own = steps.index(summary["threshold"])
    return (
        '<div class="panel"><label for="threshold">Threshold of the excess: '
        '<output id="threshold-value" for="threshold"></output></label>\n'
        f'<input type="range" id="threshold" min="0" max="{len(steps) - 1}" value="{own}">\n'
        '<p class="now" aria-live="polite"><span>universal <b id="now-universal"></b> '
        f'<span id="now-share"></span></span>{chance}{controls}'
        f'<button type="button" class="plain" id="reset-threshold">back to '
        f"{summary['threshold']:g}</button></p></div>"
    )


def histogram_legend(result: CorrelationResult, axis: list[float]) -> str:
    """What the colours of a histogram are."""
    keys = [("accent", "universal"), ("other", "other neurons")]
    if bool(result.excess.isnan().all()):
        keys = [("other", "neurons")]
    swatches = "".join(f'<li><i class="{tone}"></i>{name}</li>' for tone, name in keys)
    return swatches + "".join(
        f'<li><i class="rule {outline["tone"]}"></i>{text(outline["label"])}, scaled to as many'
        " neurons</li>"
        for outline in outlines(result, axis)
    )


def _histogram(result: CorrelationResult, axis: list[float], has_excess: bool) -> str:
    title = "Excess of each neuron" if has_excess else "Correlation of each neuron"
    missing = (
        '<p class="note">No outline of chance: that needs at least two draws.</p>'
        if has_excess and result.null_excess is None
        else ""
    )
    return (
        f'<figure><h3>{title}</h3><div class="chart" id="histogram" role="img" '
        f'aria-label="{title}, as a histogram"></div>'
        f'<ul class="legend">{histogram_legend(result, axis)}</ul>{missing}</figure>'
    )


def _cloud(result: CorrelationResult) -> str:
    live = int((~result.excess.isnan()).sum())
    note = (
        f"The density of {live:,} neurons, and a dot for each universal one"
        + (f" of the {MOST_LISTED:,} with the largest excess." if live > MOST_LISTED else ".")
        if live > MOST_DOTS
        else "A dot a neuron."
    )
    draws = result.summary["rotation"]["draws"]
    narrow = (
        f" The baseline is a mean over {draws} draws, and so narrower than r even where nothing"
        " is shared."
        if draws > 1
        else ""
    )
    return (
        '<figure><h3>Correlation against baseline</h3><div class="chart" id="cloud" role="img" '
        'aria-label="Correlation against baseline"></div>'
        f"<figcaption>{note} Above the dashed line, universal.{narrow}</figcaption></figure>"
    )


def _range(result: CorrelationResult) -> str:
    if result.correlation_min is None:
        return ""
    return (
        '<figure><h3>Over the models</h3><div class="chart" id="range" role="img" '
        'aria-label="Smallest against largest correlation over the models"></div>'
        "<figcaption>Near the diagonal r is about the same in all models; far below it, one of "
        "them has a neuron like it and another has none.</figcaption></figure>"
    )


def layers_chart(result: CorrelationResult) -> str:
    """Layers by depth, and the map of where matches are."""
    if bool(result.correlation.isnan().all()):
        return '<p class="empty">Nothing to draw: no neuron has a match.</p>'
    if bool(result.excess.isnan().all()):
        reason = "Universal neurons by depth: none can be, without a baseline (rotation none)."
        depth = f'<p class="empty">{reason}</p>'
        return f'<div class="live"><div class="pair">\n{depth}\n{_heat(result)}\n</div></div>'
    controls = result.summary["controls"] is not None
    chance = result.null_excess is not None
    keys = '<li><i class="accent"></i>universal</li>'
    keys += '<li><i class="chance"></i>by chance, mean over draws</li>' if chance else ""
    keys += (
        f'<li><i class="control"></i>by control, at {result.summary["threshold"]:g}</li>'
        if controls
        else ""
    )
    depth = (
        '<figure><h3>By depth</h3><div class="chart" id="layers-chart" role="img" '
        'aria-label="Universal neurons of each layer"></div>'
        f'<ul class="legend">{keys}</ul></figure>'
    )
    return f'<div class="live"><div class="pair">\n{depth}\n{_heat(result)}\n</div></div>'


def _heat(result: CorrelationResult) -> str:
    tables = match_counts_by_layer(result)
    if not tables:
        reason = "No map of where matches are: by index each neuron's match is in its own layer."
        return f'<p class="empty">{reason}</p>'
    has_excess = not bool(result.excess.isnan().all())
    asked = ("universal", "mutual") if has_excess else ("mutual",)
    kinds = [name for name in asked if all(one[name] for one in tables)] + ["all"]
    radios = "".join(
        f'<label><input type="radio" name="kind" value="{kind}"'
        f"{' checked' if not i else ''}>{kind}</label>"
        for i, kind in enumerate(kinds)
    )
    options = "".join(
        f'<option value="{i}">{text(middle(one["model"], 40))}</option>'
        for i, one in enumerate(tables)
    )
    model = f'<label>model <select id="model">{options}</select></label>' if tables[1:] else ""
    at = f"Universal at threshold {result.summary['threshold']:g}. " if "universal" in kinds else ""
    return (
        '<figure><h3>Where matches are</h3><div class="switches">'
        f"<fieldset><legend>Matches</legend>{radios}</fieldset>"
        '<fieldset><legend>as</legend><label><input type="radio" name="as" value="count" checked>'
        'counts</label><label><input type="radio" name="as" value="ratio">ratio</label></fieldset>'
        f'{model}</div><div class="chart" id="heat" role="img" '
        'aria-label="Layers of A by layers of the matches"></div>'
        f"<figcaption>{at}As ratio: to what the numbers "
        "of neurons in the row and of matches in the column give alone, 1 where layers do not "
        "matter. A click on a cell filters the table.</figcaption></figure>"
    )


def neuron_table(result: CorrelationResult) -> str:
    """The table, empty: `page.js` fills it."""
    rows = len(listed(result))
    has_excess = not bool(result.excess.isnan().all())
    if not rows:
        return '<p class="live empty">None: no neuron has a correlation.</p>'
    if not has_excess:
        shown = "By correlation, as there is no baseline; none is called universal."
    else:
        shown = "Those above the slider's threshold. A row opens what is known of its neuron."
    cut = result.summary["neurons"] > rows == MOST_LISTED
    what = "excess" if has_excess else "correlation"
    more = (
        f" Only the {rows:,} with the largest {what} are on this page; neurons.csv has all."
        if cut
        else ""
    )
    options = "".join(
        f'<option value="{i}">{text(middle(layer["layer"], 60))}</option>'
        for i, layer in enumerate(result.summary["layers"])
    )
    return (
        f'<div class="live neurons"><p class="note">{shown}{more}</p>\n'
        '<div class="switches"><label>Search <input type="search" id="search" '
        'placeholder="layer or layer/number"></label>'
        f'<label>Layer <select id="layer"><option value="">all</option>{options}</select></label>'
        '<span id="count" aria-live="polite"></span>'
        '<button type="button" id="previous">Previous</button>'
        '<button type="button" id="next">Next</button></div>\n'
        '<div class="chips" id="chips"></div>\n'
        '<div class="wide"><table><thead><tr id="head"></tr></thead><tbody id="rows"></tbody>'
        "</table></div>\n"
        '<p class="empty" id="nothing" hidden>No neuron passes the threshold and the filters.</p>\n'
        '<div class="detail" id="detail" tabindex="-1" hidden></div></div>\n'
    )
