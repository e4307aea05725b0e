"""The instruction sets of the CPU's core: which there are, and the exact answer on each."""

from __future__ import annotations

import os

import pytest

from support.processes import printed, python
from univfast import native

PAIRED = """
import sys, torch
from support.parity import activations, assert_parity, hard_cases, make_case
import univfast as uf
from univfast import native
torch.set_num_threads(1)
assert native.simd_level() == sys.argv[1], native.simd_level()
for neurons in (1, 3, 5, 15, 31, 65, 130, 257, 512, 1344, 1536):
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        case = make_case(f"{neurons}", *activations(530, neurons), dtype)
        assert_parity(uf.PairedCorrelation, case)
for dtype in (torch.float64, torch.float32):
    for case in hard_cases(dtype).values():
        assert_parity(uf.PairedCorrelation, case)
"""

ALL_PAIRS = """
import sys
import numpy as np
from univfast import native
assert native.simd_level() == sys.argv[1], native.simd_level()
import support.pairs as t
from support.dtypes import F16
a, b = t.models(300, (40, 7), (33, 64, 5), F16)
found = t.matches_of(t.accumulated(a, b, draws=2, seed=3, top_k=12, reverse=True))
t.assert_matches(found[0], *t.exact(a, b, "hadamard", 2, 3), "best", 1e-5)
t.assert_matches(found[1], *t.exact(b, a, "hadamard", 2, 3), "best", 1e-5)
a, b = t.models(300, (40, 7), (33, 64, 5))
found = t.matches_of(t.accumulated(a, b, draws=2, seed=3, top_k=12))
t.assert_matches(found[0], *t.exact(a, b, "hadamard", 2, 3), "best", 1e-12)
"""

DETAILS = """
import sys, torch
from univfast import native
from univfast.sums.token_facts import TokenFacts
from support.dtypes import BF16, F16, F32, F64
from support.matched import Matched, assert_statistics, matched
torch.set_num_threads(1)
assert native.simd_level() == sys.argv[1], native.simd_level()
for dtype, limit in ((F64, 1e-9), (F32, 2e-5), (F16, 2e-5), (BF16, 2e-5)):
    case = matched(dtype=dtype, masked=True)
    assert_statistics(case.accumulated(333, 367).finish(), case, limit)
    for neurons in (1, 3, 15, 31, 130, 257, 520):
        a, b = torch.randn(2, 90, neurons, generator=torch.Generator().manual_seed(0)).to(dtype)
        facts = TokenFacts(90, 9, torch.arange(90) % 7)
        for match in (torch.arange(neurons), torch.arange(neurons).flip(0)):
            case = Matched({"x": a}, {"y": b}, match, facts, top_k=3)
            assert_statistics(case.accumulated(77, 13).finish(), case, limit)
"""

CANDIDATES = """
import sys, torch
from support.candidates import feed, layout, pair_correlations, some_pairs
from support.dtypes import BF16, F16, F32, F64
from support.parity import activations, assert_close, hard_cases, tolerance
from univfast import native
from univfast.sums.candidates import CandidateSums
assert native.simd_level() == sys.argv[1], native.simd_level()
def check(a, b, limit):
    width = a.shape[1]
    pairs = some_pairs(width, width, each=7)
    sums = CandidateSums(layout("a", [width]), layout("b", [width]), pairs, threads=1)
    feed(sums, a, b, ([width], [width]))
    assert_close(sums.correlations(), pair_correlations(a, b, pairs), limit, "r")
for dtype in (F64, F32, F16, BF16):
    for tokens in (2, 5, 17, 127, 128, 129, 161, 1100):
        a, b = (torch.from_numpy(x).to(dtype) for x in activations(tokens, 67))
        check(a, b, tolerance(dtype))
for dtype in (F64, F32):
    for case in hard_cases(dtype).values():
        check(case.a, case.b, tolerance(dtype))
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", native.simd_levels())
@pytest.mark.parametrize(
    "code",
    [PAIRED, ALL_PAIRS, DETAILS, CANDIDATES],
    ids=["paired", "all pairs", "details", "candidates"],
)
def test_every_instruction_set(code: str, level: str) -> None:
    printed(python(code, level, UNIVFAST_SIMD=level))


def test_levels_are_listed_from_the_plainest() -> None:
    assert native.simd_levels()[0] == "baseline"
    forced = os.environ.get("UNIVFAST_SIMD")
    assert native.simd_level() == (forced or native.simd_levels()[-1])


@pytest.mark.slow
def test_an_unknown_instruction_set_is_refused() -> None:
    code = "from univfast import native; native.simd_level()"
    done = python(code, UNIVFAST_SIMD="sse9")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert "UNIVFAST_SIMD=sse9" in message
    assert all(level in message for level in native.simd_levels())
