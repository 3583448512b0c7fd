"""Every registered semiring keeps the laws, and its sums and products are those of plain Python."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from einfx import accumulators, semiring
from einfx.errors import OperandError, UsageError
from einfx.semiring import Semiring, get, register_semiring, semirings

Draw = Callable[[st.SearchStrategy[Any]], Any]


def log_sum(x: float, y: float) -> float:
    """log(exp(x) + exp(y)), by hand."""
    largest = max(x, y)
    if math.isinf(largest):
        return largest
    return largest + math.log(math.exp(x - largest) + math.exp(y - largest))


@dataclass(frozen=True)
class Oracle:
    """A semiring in plain Python, and numbers whose sums and products are exact (those of log aside)."""

    add: Callable[[Any, Any], Any]
    multiply: Callable[[Any, Any], Any]
    numbers: st.SearchStrategy[Any]
    dtype: torch.dtype = torch.float64


SMALL = st.integers(-9, 9).map(float)
NATURAL = st.integers(0, 9).map(float)
ORACLES = {
    "real": Oracle(lambda x, y: x + y, lambda x, y: x * y, SMALL),
    "log": Oracle(log_sum, lambda x, y: x + y, st.one_of(st.floats(-30, 30), st.just(-math.inf))),
    "max_plus": Oracle(max, lambda x, y: x + y, st.one_of(SMALL, st.just(-math.inf))),
    "min_plus": Oracle(min, lambda x, y: x + y, st.one_of(SMALL, st.just(math.inf))),
    "max_times": Oracle(max, lambda x, y: x * y, NATURAL),
    "max_min": Oracle(max, min, st.one_of(SMALL, st.just(-math.inf), st.just(math.inf))),
    "boolean": Oracle(lambda x, y: x or y, lambda x, y: x and y, st.booleans(), torch.bool),
}
NAMES = list(ORACLES)


def test_every_semiring_that_einfx_comes_with_has_an_oracle() -> None:
    program = "import einfx; print(*{x.name for x in einfx.semirings().values()})"
    alone = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert sorted(alone.stdout.split()) == sorted(ORACLES)
    assert get("viterbi") is get("max_plus")


@st.composite
def numbers(draw: Draw, name: str, count: int) -> list[Tensor]:
    oracle = ORACLES[name]
    return [torch.tensor(draw(oracle.numbers), dtype=oracle.dtype) for _ in range(count)]


def agree(x: Tensor, y: Tensor) -> bool:
    assert x.dtype == y.dtype
    if x.dtype == torch.bool:
        return bool(x == y)
    return torch.allclose(x, y, rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_addition_and_multiplication_are_associative_and_commutative(name: str, data: st.DataObject) -> None:
    x, y, z = data.draw(numbers(name, 3))
    for law in (get(name).add, get(name).multiply):
        assert agree(law(x, y), law(y, x))
        assert agree(law(law(x, y), z), law(x, law(y, z)))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_multiplication_distributes_over_addition(name: str, data: st.DataObject) -> None:
    semiring = get(name)
    x, y, z = data.draw(numbers(name, 3))
    left = semiring.multiply(x, semiring.add(y, z))
    assert agree(left, semiring.add(semiring.multiply(x, y), semiring.multiply(x, z)))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_identities_are_neutral_and_zero_annihilates(name: str, data: st.DataObject) -> None:
    semiring = get(name)
    (x,) = data.draw(numbers(name, 1))
    zero = torch.full_like(x, semiring.zero_of(x.dtype))
    one = torch.full_like(x, semiring.one_of(x.dtype))
    assert agree(semiring.add(x, zero), x)
    assert agree(semiring.multiply(x, one), x)
    assert agree(semiring.multiply(x, zero), zero)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_addition_is_idempotent_or_selects_where_it_says_so(name: str, data: st.DataObject) -> None:
    semiring = get(name)
    x, y = data.draw(numbers(name, 2))
    if semiring.idempotent:
        assert agree(semiring.add(x, x), x)
    if semiring.selective:
        assert agree(semiring.add(x, y), x) or agree(semiring.add(x, y), y)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_sums_are_those_of_plain_python_wherever_they_are_cut(name: str, data: st.DataObject) -> None:
    semiring, oracle = get(name), ORACLES[name]
    terms = data.draw(st.lists(oracle.numbers, min_size=0, max_size=7))
    cut = data.draw(st.integers(0, len(terms)))
    x = torch.tensor(terms, dtype=oracle.dtype)
    expected = semiring.zero_of(x.dtype)
    for term in terms:
        expected = oracle.add(expected, term)
    wanted = torch.tensor(expected, dtype=oracle.dtype)
    assert agree(semiring.sum(x, 0), wanted)

    sums = semiring.partial_sums
    parts = []
    for part in (x[:cut], x[cut:]):
        state = sums.init((), x.dtype, "cpu")
        parts.append(sums.update(state, part, 0) if len(part) else state)
    assert agree(sums.finish(sums.merge(*parts)), wanted)


@pytest.mark.parametrize("name", [name for name in NAMES if get(name).selective])
@given(data=st.data())
def test_the_first_of_equal_terms_is_selected_wherever_sums_are_cut(name: str, data: st.DataObject) -> None:
    semiring, oracle = get(name), ORACLES[name]
    terms = data.draw(st.lists(oracle.numbers, min_size=1, max_size=7))
    cut = data.draw(st.integers(0, len(terms)))
    x = torch.tensor(terms, dtype=oracle.dtype)
    state = semiring.selection().init((), x.dtype, "cpu")
    for part in (x[:cut], x[cut:]):
        state = semiring.selection().update(state, part, 0) if len(part) else state
    best = terms[0]
    for term in terms:
        best = oracle.add(best, term)
    assert agree(state[0], torch.tensor(best, dtype=oracle.dtype))
    # The index of a sum that never left the zero is 0.
    zero = semiring.zero_of(x.dtype)
    assert int(state[1]) == (0 if best == zero else terms.index(best))


@given(terms=st.lists(st.sampled_from([1.0, 2.0, math.nan]), min_size=1, max_size=6), cut=st.integers(0, 6))
@pytest.mark.parametrize("addition", [torch.maximum, lambda x, y: torch.maximum(x, y)])
def test_the_first_nan_is_selected(addition: Any, terms: list[float], cut: int) -> None:
    selection = accumulators.selecting(addition, lambda dtype: -math.inf)
    state = selection.init((), torch.float64, "cpu")
    for part in (terms[:cut], terms[cut:]):
        state = selection.update(state, torch.tensor(part).double(), 0) if part else state
    isnan = [math.isnan(term) for term in terms]
    assert bool(state[0].isnan()) == any(isnan)
    assert int(state[1]) == (isnan.index(True) if any(isnan) else terms.index(max(terms)))


@pytest.mark.parametrize("name", ["max_plus", "min_plus", "max_min"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_integers_have_an_infinity_that_annihilates(name: str, dtype: torch.dtype) -> None:
    semiring = get(name)
    x = torch.arange(-3, 4, dtype=dtype)
    zero = torch.full_like(x, semiring.zero_of(dtype))
    assert torch.equal(semiring.add(x, zero), x)
    assert torch.equal(semiring.multiply(x, zero), zero)


def test_the_log_of_infinite_terms() -> None:
    sums = {(-math.inf, -math.inf): -math.inf, (math.inf, 1.0): math.inf, (math.inf, -math.inf): math.inf}
    for terms, expected in sums.items():
        assert get("log").sum(torch.tensor(terms), 0).item() == expected
    assert get("log").sum(torch.tensor([math.nan, math.inf]), 0).isnan()


@pytest.mark.parametrize(
    ("name", "nothing", "something"),
    [("real", 0.0, math.inf), ("log", -math.inf, math.inf), ("max_plus", -math.inf, math.inf),
     ("min_plus", math.inf, -math.inf), ("max_times", 0.0, math.inf), ("log", -math.inf, math.nan)],
)  # fmt: skip
def test_zero_annihilates_where_asked(name: str, nothing: float, something: float) -> None:
    x, y = torch.tensor(nothing), torch.tensor(something)
    assert get(name).multiply(x, y).isnan()
    assert get(name).annihilating().multiply(x, y).item() == nothing
    assert get(name).annihilating().annihilating(False) == get(name)


def test_negative_numbers_are_refused_by_max_times_alone() -> None:
    get("max_plus").check(torch.tensor([-1.0]))
    get("max_times").check(torch.tensor([0.0, -0.0, math.nan]))
    with pytest.raises(OperandError, match="max_times is a semiring on non-negative numbers only"):
        get("max_times").check(torch.tensor([1.0]), torch.tensor([-1.0]))


def test_negative_numbers_are_refused_under_vmap_grad_and_jvp() -> None:
    def checked(x: Tensor) -> Tensor:
        get("max_times").check(x)
        return x.sum()

    good, bad = torch.ones(3, 2), -torch.ones(3, 2)
    calls: list[Callable[[Tensor], Any]] = [
        torch.func.vmap(checked),
        torch.func.grad(checked),
        torch.func.vmap(torch.func.grad(checked)),
        lambda x: torch.func.jvp(checked, (x,), (x,)),
        torch.compile(checked, backend="aot_eager", fullgraph=True),
    ]
    for call in calls:
        call(good)
        with pytest.raises((OperandError, RuntimeError), match="non-negative numbers only"):
            call(bad)


@pytest.mark.parametrize(
    ("name", "dtype"), [("boolean", torch.float32), ("log", torch.int64), ("max_plus", torch.uint8)]
)
def test_dtypes_without_a_meaning_are_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(OperandError, match=f"semiring '{name}' has no {dtype} numbers, which operand 1"):
        get(name).check(torch.ones(2, dtype=get_dtype(name)), torch.ones(2, dtype=dtype))


def get_dtype(name: str) -> torch.dtype:
    return ORACLES[name].dtype


def test_what_was_registered_is_listed_and_shadows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semiring, "_REGISTERED", semirings())
    before = semirings()
    mine = Semiring("of_the_listing", torch.maximum, torch.minimum, zero=0, one=9)
    assert register_semiring(mine, "of_the_listing_too") is mine
    assert semirings() == {**before, "of_the_listing": mine, "of_the_listing_too": mine}
    for name in before:
        with pytest.raises(UsageError, match=f"another semiring '{name}'"):
            register_semiring(Semiring("quite_new", torch.maximum, torch.minimum, zero=0, one=9), name)
    assert "quite_new" not in semirings()
    semirings().clear()
    assert get("of_the_listing") is mine


@pytest.mark.parametrize("largest", [-3000.0, 3000.0, -1e30, math.inf])
def test_log_sums_of_numbers_far_from_zero_meet_empty_ones(largest: float) -> None:
    log = get("log")
    x = torch.tensor([largest, largest], dtype=torch.float64)
    assert log.sum(x, 0) == largest + math.log(2)
    states = [log.partial_sums.init((), x.dtype, "cpu"), (x[0], torch.ones_like(x[0]))]
    for left, right in (states, states[::-1]):
        assert log.partial_sums.finish(log.partial_sums.merge(left, right)) == largest


def test_names_are_taken_once_and_unknown_ones_are_listed() -> None:
    with pytest.raises(UsageError, match="another semiring 'log'"):
        register_semiring(Semiring("log", torch.maximum, torch.add, zero=0, one=0))
    assert register_semiring(get("log")) is get("log")
    with pytest.raises(UsageError, match="no semiring 'lgo'; registered are real, log"):
        get("lgo")
    with pytest.raises(UsageError, match="'log' aren't one of their terms"):
        get("log").selection()
