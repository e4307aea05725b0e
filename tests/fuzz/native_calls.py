"""Valid calls of each operation of the core, of random shapes, layouts, dtypes and threads.

Each answer is compared with a plain computation in float64. Run by itself, as a sanitizer would
have it: ``PYTHONPATH=tests python -m fuzz.native_calls --calls 500 --seed 0``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzz.draws import DTYPES, TOKENS, Draw, close, precision, turned
from univfast.native import views
from univfast.native.candidates import candidate_products, standardise_transposed
from univfast.native.cpu import (
    add_product,
    best_pairs,
    extreme_tokens,
    group_sums,
    neuron_moments,
    pair_details,
    paired_moments,
    rotate,
    rotated_best,
    rotated_variance,
    standardise,
)
from univfast.native.products import (
    Packed,
    add_packed_product,
    multiplies_bfloat16,
    pack,
    packed_size,
)
from univfast.native.sparse import (
    EntryList,
    add_entry_moments,
    add_entry_products,
    group_entries,
    repeated_entry,
)

# ---- operations ----------------------------------------------------------------------------------


def call_rotate(d: Draw) -> None:
    neurons, draws, seed = d.width, d.draws, d.rng.getrandbits(63)
    x = d.matrix(d.tokens, neurons, d.rng.choice(DTYPES[:2]))
    signs, threads = views.rotation_signs(neurons, draws, seed), torch.get_num_threads()
    torch.set_num_threads(d.threads)  # which it takes; torch's own must not run under sanitizers
    got = rotate(x, signs)
    torch.set_num_threads(threads)
    expected = np.array(turned(x.double().numpy(), draws, seed)).reshape(draws, *x.shape)
    close("rotate", got, expected, (2e-5 if x.dtype == DTYPES[0] else 1e-12) * float(x.norm() + 1))


def call_paired_moments(d: Draw) -> None:
    neurons, tokens, draws, seed = d.width, d.tokens, d.draws, d.rng.getrandbits(63)
    a, b = (d.matrix(tokens, neurons, d.rng.choice(DTYPES)) for _ in range(2))
    rows, total = d.rows(tokens), d.rng.choice((0, 1, 4, 20))
    lags = d.rng.choice((1, views.SHARED_LAGS))
    leads = d.numbers(neurons, -(-total // lags))
    shifts = views.Shifts(leads, d.numbers(neurons, lags), total)
    bad = d.rng.random() < 0.1
    if bad:
        a = a.clone()
        token, neuron = d.rng.randrange(tokens), d.rng.randrange(neurons)
        a[token, neuron] = d.rng.choice((float("nan"), float("inf"), -float("inf")))
    signs = views.rotation_signs(neurons, draws, seed)
    got = paired_moments(a, b, rows, signs, d.threads, shifts)
    if bad and (rows is None or token in rows.tolist()):
        assert isinstance(got, views.BadValue)
        assert (got.in_b, got.token, got.neuron) == (False, token, neuron), got
        return
    assert isinstance(got, Tensor)
    x, y = (v.double().numpy()[slice(None) if rows is None else rows.numpy()] for v in (a, b))
    means = x.mean(axis=0), y.mean(axis=0)
    x, y = x - means[0], y - means[1]
    if bad:  # in a token that is not used
        x = np.nan_to_num(x)
    expected = [*means, (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)]
    for z in turned(y, draws, seed):
        expected += [(z * z).sum(0), (x * z).sum(0)]
    expected += [(x * np.roll(y, -int(s), axis=1)).sum(0) for s in shifts.each(neurons)]
    size = max(float((x * x).sum()), float((y * y).sum())) / min(neurons, 4) + float(len(x))
    limit = precision(a.dtype, b.dtype) * (size + np.abs(np.array(expected)).max())
    close("paired_moments", got, np.array(expected), limit)


def call_neuron_moments(d: Draw) -> None:
    x = d.matrix(d.tokens, d.width, d.rng.choice(DTYPES))
    got = neuron_moments(x, d.threads)
    assert isinstance(got, Tensor)
    y = x.double().numpy()
    expected = np.array([y.mean(0), ((y - y.mean(0)) ** 2).sum(0)])
    close("neuron_moments", got, expected, 1e-11 * (np.abs(y).max() ** 2 + 1) * len(y))


def call_standardise(d: Draw) -> None:
    x = d.matrix(d.tokens, d.width, d.rng.choice(DTYPES))
    mean, scale = d.values(x.shape[1]), d.values(x.shape[1])
    dtype = d.rng.choice(DTYPES[1:2] if x.dtype == torch.float64 else DTYPES[:2])
    room = torch.full((len(x), x.shape[1] + d.rng.choice((0, 3))), 7, dtype=dtype)
    standardise(x, mean, scale, room[:, : x.shape[1]], d.threads)
    assert torch.equal(room[:, : x.shape[1]], ((x.double() - mean) * scale).to(dtype))
    assert bool((room[:, x.shape[1] :] == 7).all())


def call_standardise_transposed(d: Draw) -> None:
    x = d.matrix(d.tokens, d.width, d.rng.choice(DTYPES))
    mean, scale = d.values(x.shape[1]), d.values(x.shape[1])
    dtype = d.rng.choice(DTYPES[1:2] if x.dtype == torch.float64 else DTYPES[:2])
    room = torch.full((x.shape[1], len(x) + d.rng.choice((0, 3))), 7, dtype=dtype)
    standardise_transposed(x, mean, scale, room[:, : len(x)], d.threads)
    assert torch.equal(room[:, : len(x)], ((x.double() - mean) * scale).T.to(dtype))
    assert bool((room[:, len(x) :] == 7).all())


def call_candidate_products(d: Draw) -> None:
    dtype, tokens, neurons = d.rng.choice(DTYPES[:2]), d.tokens, (d.width, d.width)
    x, y = (d.matrix(n, tokens, dtype) for n in neurons)
    counts = torch.tensor([d.rng.choice((0, 1, 2, 5, 9)) for _ in x])
    if d.wide:
        counts[0] = 1000
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(dim=0)])
    rows, places = (
        torch.arange(len(x)).repeat_interleave(counts),
        d.numbers(len(y), int(starts[-1])),
    )
    scales, deltas = (tuple(d.values(n) for n in neurons) for _ in range(2))
    sums = d.values(len(places))
    terms = x[rows].double() * y[places].double() * (scales[0][rows] * scales[1][places])[:, None]
    expected = sums + terms.sum(dim=1) + deltas[0][rows] * deltas[1][places]
    candidate_products(x, y, (starts, places), scales, deltas, sums, d.threads)
    limit = precision(dtype) * (terms.abs().sum(dim=1) + expected.abs() + 1)
    close("candidate_products", sums, expected, limit)


def call_add_product(d: Draw) -> None:
    product = d.matrix(d.tokens, d.width, d.rng.choice(DTYPES[:2]))
    c = d.matrix(*product.shape, torch.float64).clone()
    scales, deltas = (tuple(d.values(n) for n in c.shape) for _ in range(2))
    expected = c + product.double() * torch.outer(*scales) + torch.outer(*deltas)
    add_product(c, product, scales, deltas, d.threads)
    close("add_product", c, expected, 1e-12 * float(expected.abs().max() + 1))


def _tile(d: Draw) -> tuple[Tensor, Tensor, Tensor | None]:
    """Co-moments, 1 / norm of the rows, some NaN, and the column that each row leaves out."""
    c = d.matrix(d.rng.choice(TOKENS), d.width, torch.float64).clamp(-0.9, 0.9)
    skip = d.numbers(c.shape[1] + 2, len(c)) - 1 if d.rng.random() < 0.5 else None
    return c, _inverse(d, len(c)), skip


def _inverse(d: Draw, *shape: int) -> Tensor:
    found = d.values(*shape).sigmoid() * 0.9
    found[d.values(*shape) > 2] = torch.nan
    return found


def call_best_pairs(d: Draw) -> None:
    """In tiles of columns, as the state is searched."""
    c, rows, skip = _tile(d)
    columns, count = _inverse(d, c.shape[1]), d.rng.choice((1, 1, 2, 10))
    first = d.rng.choice((0, 0, 1000))
    best = views.Best.none(len(c), count)
    best_column = views.Best.none(c.shape[1]) if d.rng.random() < 0.7 else None
    cut = d.rng.choice((c.shape[1], max(c.shape[1] // 2, 1)))
    for start in range(0, c.shape[1], cut):
        part = slice(start, start + cut)
        own = None if skip is None else skip - start
        given = None
        if best_column is not None:
            given = views.Best(*(x[part] for x in best_column))
        inverse = rows, columns[part]
        best_pairs(c[:, part], inverse, (5, first + start), best, given, own, d.threads)
    r = (c * rows[:, None] * columns).clamp(-1, 1)
    for i in range(len(r)) if skip is not None else ():
        if 0 <= (at := int(skip[i])) < r.shape[1]:  # type: ignore[index]
            r[i, at] = torch.nan
    values = r.nan_to_num(-torch.inf)
    top = values.sort(dim=1, descending=True, stable=True)
    for k in range(count):
        live = top.values[:, k] if k < r.shape[1] else torch.full((len(r),), -torch.inf)
        close("best", best.correlation[:, k], live, 1e-12)
        for i in (live > -torch.inf).nonzero()[:, 0].tolist():
            found = int(best.place[i, k]) - first
            close("best's place", values[i, found], values[i, top.indices[i, k]], 1e-12)
    if best_column is not None:
        close("best of a column", best_column.correlation, values.max(dim=0).values, 1e-12)


def call_rotated_best(d: Draw) -> None:
    c, rows, skip = _tile(d)
    draws, seed = d.draws, d.rng.getrandbits(63)
    inverse = _inverse(d, draws, c.shape[1])
    best = torch.full((draws, len(c) + 2), -torch.inf, dtype=torch.float64)[:, : len(c)]
    signs = views.rotation_signs(c.shape[1], draws, seed)
    number = d.numbers(c.shape[1] + 1, len(c)) - 1
    room = torch.full((draws, len(c) + 1), 7.0, dtype=torch.float64)
    single = (number, room[:, : len(c)]) if d.rng.random() < 0.5 else None
    rotated_best(c, (rows, inverse), signs, best, skip, d.threads, single)
    for draw, z in enumerate(turned(c.numpy(), draws, seed)):
        r = z * rows.numpy()[:, None] * inverse[draw].numpy()
        asked = (number >= 0) & ~rows.isnan() if single else torch.zeros(len(c)) > 0
        alone = np.where(asked, np.clip(r[np.arange(len(c)), number.clamp(min=0)], -1, 1), 7.0)
        close("rotated_best's single", room[draw, : len(c)], alone, 1e-11)
        for i in range(len(r)) if skip is not None else ():
            if 0 <= (at := int(skip[i])) < r.shape[1]:  # type: ignore[index]
                r[i, at] = np.nan
        expected = np.where(np.isnan(r), -np.inf, np.clip(r, -1, 1)).max(axis=1)
        close("rotated_best", best[draw], expected, 1e-11)


def call_rotated_variance(d: Draw) -> None:
    neurons, draws, seed = d.width, max(d.draws, 1), d.rng.getrandbits(63)
    y = d.values(20, neurons)
    room = torch.zeros(neurons, neurons + d.rng.choice((0, 3)), dtype=torch.float64)
    c = room[:, :neurons].copy_(y.T @ y)
    got = rotated_variance(c, views.rotation_signs(neurons, draws, seed), d.threads)
    expected = [(z * z).sum(0) for z in turned(y.numpy(), draws, seed)]
    close("rotated_variance", got, np.array(expected), 1e-10 * float(c.abs().max() * neurons + 1))


def call_group_sums(d: Draw) -> None:
    x = d.matrix(d.tokens, d.width, d.rng.choice(DTYPES))
    count = d.rng.choice((1, 3, 40))
    rows = d.numbers(len(x), d.rng.choice((0, 1, len(x))))
    groups = d.numbers(count, len(rows))
    groups = groups.sort().values if d.rng.random() < 0.5 else groups
    pivot, sums = d.values(x.shape[1]), d.matrix(count, x.shape[1], torch.float64).clone()
    expected = sums.clone().index_add_(0, groups, x.double()[rows] - pivot)
    group_sums(x, rows, groups, pivot, sums, d.threads)
    close("group_sums", sums, expected, 1e-10 * float(x.double().abs().max() + 1) * (len(x) + 1))


def call_extreme_tokens(d: Draw) -> None:
    x = (2 * d.matrix(d.tokens, d.width, d.rng.choice(DTYPES[::2]))).round()  # with ties
    tokens = 10 + d.numbers(5, len(x)).cumsum(0) + torch.arange(len(x))
    shape, cut = (x.shape[1], d.rng.choice((1, 3, 8))), d.rng.randint(0, len(x))
    high, low = ((torch.full(shape, -torch.inf), torch.full(shape, -1)) for _ in range(2))
    for part in d.rng.sample((slice(0, cut), slice(cut, len(x))), 2):  # in any order
        extreme_tokens(x[part], tokens[part], high, low, d.threads)
    for (value, token), values in ((high, x.float()), (low, -x.float())):
        order = values.argsort(dim=0, stable=True, descending=True)[: shape[1]]
        assert torch.equal(value.T[: len(order)], values.gather(0, order))
        assert torch.equal(token.T[: len(order)], tokens[order])
        assert (token.T[len(order) :] == -1).all()


def call_pair_details(d: Draw) -> None:
    tokens, widths = d.tokens, [[d.width for _ in range(d.rng.choice((1, 2)))] for _ in range(2)]
    layers = [[d.matrix(tokens, w, d.rng.choice(DTYPES)) for w in side] for side in widths]
    dtypes = [x.dtype for side in layers for x in side]
    kind = torch.float64 if torch.float64 in dtypes or d.rng.random() < 0.3 else torch.float32
    a, b = (torch.cat([x.double() for x in side], dim=1) for side in layers)
    neurons = a.shape[1]
    match = d.numbers(b.shape[1], neurons)
    if d.rng.random() < 0.5:
        match = (torch.arange(neurons) + d.rng.randrange(5)) % b.shape[1]
    rows, first = d.rows(tokens), d.rng.choice((0, 1000))
    used = torch.arange(tokens) if rows is None else rows
    cuts = sorted(d.rng.randint(0, len(used)) for _ in range(d.rng.choice((0, 1, 4))))
    ends = torch.tensor([*cuts, len(used)], dtype=torch.int64)
    frame = torch.stack([d.values(2, neurons), d.values(2, neurons).sigmoid()]).to(kind)
    count = d.rng.choice((1, 3, 16))
    top = [views.Contexts.none(neurons, count) for _ in range(2)]
    sums = views.PairSums(
        torch.zeros(len(ends), 5, neurons, dtype=torch.float64),
        torch.zeros(9, neurons, dtype=torch.float64),
        *top,
    )
    told = views.UsedTokens(rows, ends, first)
    pair_details(frame, (layers[0], layers[1]), match, told, sums, d.threads)
    values = [a[used], b[used][:, match]]
    pivot, scale = frame.double()
    x, y = ((v - p) * s for v, p, s in zip(values, pivot, scale, strict=True))
    start = 0
    for block, end in enumerate(ends.tolist()):
        u, v = x[start:end], y[start:end]
        terms = (u, v, u * u, v * v, u * v)
        limit = precision(kind) * torch.stack([t.abs().sum(0) for t in terms]).add(1)
        close("pair_details", sums.pairs[block], torch.stack([t.sum(0) for t in terms]), limit)
        start = end
    terms = (x * x * y, x * y * y, x * x * y * y, x**3, x**4, y**3, y**4)
    limit = 10 * precision(kind) * torch.stack([t.abs().sum(0) for t in terms]).add(1)
    close("powers", sums.powers[:7], torch.stack([t.sum(0) for t in terms]), limit)
    active = torch.stack([(v > 0).sum(0) for v in values])
    close("active", sums.powers[7:], active, 0)
    for side, (own, other) in enumerate((values, values[::-1])):
        _check_contexts(top[side], own, other, used + first, kind)


def _check_contexts(
    found: views.Contexts, own: Tensor, other: Tensor, numbers: Tensor, kind: torch.dtype
) -> None:
    """The highest values, of equal ones the lower token first, and those of the partner there."""
    order = own.to(kind).double().sort(dim=0, descending=True, stable=True).indices.T
    for k in range(found.value.shape[1]):
        if k >= len(own):
            assert bool((found.token[:, k] == -1).all())
            continue
        at = order[:, k : k + 1]
        assert torch.equal(found.token[:, k], numbers[at[:, 0]])
        for got, expected in ((found.value, own), (found.partner, other)):
            assert torch.equal(got[:, k], expected.T.gather(1, at)[:, 0].to(kind).double())


def call_packed_product(d: Draw) -> None:
    """Of whole numbers, whose sums are exact; nothing where the processor has no such products."""
    if not multiplies_bfloat16():
        return
    tokens, sides = d.tokens, []
    for _ in range(2):
        neurons, first = d.width, d.rng.choice((0, 0, 1, 47, 48, 50))
        x = d.matrix(tokens, first + neurons, torch.bfloat16).round().clamp(-8, 8)
        data = torch.full((packed_size(*x.shape),), -1, dtype=torch.int32)
        whole, cut = Packed(data, tokens, x.shape[1]), d.rng.randrange(x.shape[1] + 1)
        scale = 2.0 ** d.rng.choice((-20, 0, 30))
        for start, part in ((0, x[:, :cut]), (cut, x[:, cut:])):
            if part.shape[1]:
                pack(part, torch.full((part.shape[1],), scale), whole.at(start), d.threads)
        sides.append((whole.at(first), (x[:, first:].double() * scale)))
    (x, left), (y, right) = sides
    rows, columns, deltas = left.shape[1], right.shape[1], d.rng.choice((1, 2))
    room = d.values(rows, columns + d.rng.choice((0, 3)))
    c, scales = room[:, :columns], (d.values(rows), d.values(columns))
    beside = d.values(deltas, rows), d.values(deltas, columns)
    product = left.T @ right * scales[0][:, None] * scales[1]
    expected = c + product + beside[0].T @ beside[1]
    limit = 1e-12 * (c.abs() + product.abs() + expected.abs() + 10)
    add_packed_product(c, x, y, scales, beside, d.threads)
    close("add_packed_product", c, expected, limit)


def call_sparse_features(d: Draw) -> None:
    tokens, kind = d.tokens, d.rng.choice((torch.float32, torch.float64))
    sides = []
    for width in (d.width, d.width):
        x = d.values(tokens, width).to(kind)
        x[d.values(tokens, width) < d.rng.choice((-9.0, 0.5, 1.5, 9.0))] = 0
        token, feature = x.nonzero().int().T.contiguous()
        sides.append((x.double(), EntryList(token, feature, x[x != 0])))
    (x, a), (y, b) = sides
    room = d.values(x.shape[1], y.shape[1] + d.rng.choice((0, 3)))
    c = room[:, : y.shape[1]]
    expected = c + x.T @ y
    rows = group_entries(a.feature, a.token, a.value, x.shape[1], d.threads)
    columns = group_entries(b.token, b.feature, b.value, tokens, d.threads)
    add_entry_products(c, rows, columns, d.threads)
    close("add_entry_products", c, expected, 1e-10 * (tokens + 1))
    sums, squares = d.values(2, x.shape[1])
    total = torch.stack([sums + x.sum(0), squares + (x * x).sum(0)])
    add_entry_moments(a, sums, squares)
    close("add_entry_moments", torch.stack([sums, squares]), total, 1e-10 * (tokens + 1))
    assert repeated_entry(a, x.shape[1]) is None
    if a.entries:
        at = d.rng.randrange(a.entries)
        twice = EntryList(*(torch.cat([z[: at + 1], z[at:]]) for z in a))
        assert repeated_entry(twice, x.shape[1]) == at + 1


OPERATIONS: dict[str, Callable[[Draw], None]] = {
    name.removeprefix("call_"): value
    for name, value in list(globals().items())
    if name.startswith("call_")
}


def call(operation: str, number: int, seed: int = 0) -> None:
    """Call ``number`` of an operation; one in ten is wide. Raises AssertionError if it is wrong."""
    rng = Random(f"{seed} {operation} {number}")
    try:
        OPERATIONS[operation](Draw(rng, wide=number % 10 == 9))
    except Exception as error:
        raise AssertionError(f"call {operation}:{number} of seed {seed}: {error!r}") from error


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fuzz.native_calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=500, help="of all operations together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    given = parser.parse_args(arguments)
    for operation in given.only:
        for number in range(given.calls // len(given.only)):
            call(operation, number, given.seed)
    print(f"{given.calls} native calls of seed {given.seed}: all right")


if __name__ == "__main__":
    main()
