"""Random contractions under limits, down to the smallest there is, against sums of all products at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import einfx
from einfx.errors import MemoryLimitError
from tests.semiring_oracle import brute_force

SEMIRINGS = ("real", "log", "max_plus", "min_plus", "max_times", "max_min")
SPECIAL = {
    "log": (-math.inf,),
    "max_plus": (-math.inf,),
    "min_plus": (math.inf,),
    "max_min": (math.inf, -math.inf),
}
"""Infinities over which products distribute: others are nan in one order of steps, and not in another."""


class Case(NamedTuple):
    """A contraction: its text, operands and semiring, and how far above the smallest limit it is computed."""

    text: str
    operands: list[Tensor]
    semiring: str
    spare: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One to five operands that may share labels, of sizes from 1 up; labels may be summed in one alone."""
    parts = draw(st.lists(st.text("abcde", max_size=3).map(_once), min_size=1, max_size=5))
    used = sorted(set("".join(parts)))
    output = draw(st.permutations(used))[: draw(st.integers(0, min(3, len(used))))]
    size = {label: draw(st.integers(1, 4)) for label in used}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 20)))
    operands = [
        torch.randn([size[x] for x in part], dtype=torch.float64, generator=generator) for part in parts
    ]
    semiring = draw(st.sampled_from(SEMIRINGS))
    if semiring == "max_times":
        operands = [x.abs() for x in operands]
    spare = draw(st.sampled_from((1.0, 1.3, 2.0, 10.0)))
    return Case(f"{','.join(parts)}->{''.join(output)}", operands, semiring, spare)


def _once(text: str) -> str:
    return "".join(dict.fromkeys(text))


def _limited(case: Case, operands: list[Tensor]) -> Tensor:
    """The contraction within the smallest limit, or a little more."""
    try:
        result: Tensor = einfx.einsum(case.text, *operands, semiring=case.semiring, memory_limit=0)
    except MemoryLimitError as error:
        limit = int((error.needed_bytes or 0) * case.spare)
        result = einfx.einsum(case.text, *operands, semiring=case.semiring, memory_limit=limit)
    return result


def _everything(text: str, operands: list[Tensor], semiring: str) -> Tensor:
    """The contraction by a tensor of all products, in functions of torch that autograd follows."""
    inputs, output = text.split("->")
    order = output + "".join(sorted({x for x in inputs if x.isalpha()} - {*output}))
    views = []
    for part, operand in zip(inputs.split(","), operands, strict=True):
        present = [x for x in order if x in part]
        shape = [operand.shape[part.index(x)] if x in part else 1 for x in order]
        views.append(operand.permute([part.index(x) for x in present]).reshape(shape))
    terms = views[0]
    for view in views[1:]:
        if semiring in ("real", "max_times"):
            terms = terms * view
        else:
            terms = torch.minimum(terms, view) if semiring == "max_min" else terms + view
    summed = tuple(range(len(output), len(order)))
    if not summed:
        return terms
    if semiring in ("real", "log"):
        return terms.sum(summed) if semiring == "real" else torch.logsumexp(terms, summed)
    return terms.amin(summed) if semiring == "min_plus" else terms.amax(summed)


CHEAP = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CHEAP
@given(cases())
def test_values_and_gradients_are_those_of_all_products_at_once(case: Case) -> None:
    operands = [x.requires_grad_() for x in case.operands]
    found = _limited(case, operands)
    whole = _everything(case.text, operands, case.semiring)
    torch.testing.assert_close(found, whole, rtol=1e-9, atol=1e-9)
    gradient = torch.randn_like(whole)
    made = torch.autograd.grad(found, operands, gradient, allow_unused=True)
    expected = torch.autograd.grad(whole, operands, gradient, allow_unused=True)
    if case.semiring == "max_min" and len(operands) > 1:
        # Of the elements of a product several may be equal: any one of them is right.
        totals = [sum(float(x.sum()) for x in grads if x is not None) for grads in (made, expected)]
        assert math.isclose(*totals, rel_tol=1e-9, abs_tol=1e-9)
        return
    torch.testing.assert_close(made, expected, rtol=1e-8, atol=1e-8)


@CHEAP
@given(cases(), st.data())
def test_infinities_zeros_and_nans_come_through(case: Case, data: st.DataObject) -> None:
    special = (0.0, 1.0, math.nan, *SPECIAL.get(case.semiring, ()))
    for operand in case.operands:
        for position in data.draw(st.lists(st.integers(0, 1 << 10), max_size=3)):
            operand.view(-1)[position % operand.numel()] = data.draw(st.sampled_from(special))
    found = _limited(case, case.operands)
    expected = brute_force(case.text, case.operands, case.semiring)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize("text", [",->", "a,a->a", "a,b->ab", "a,b,a->"])
def test_an_operand_that_is_given_twice_has_the_sum_of_its_gradients(semiring: str, text: str) -> None:
    count = text.count(",") + 1
    shape = [3] * (len(text.split(",")[0]))
    x = torch.rand(shape, dtype=torch.float64).requires_grad_()
    found = einfx.einsum(text, *[x] * count, semiring=semiring, memory_limit=1 << 20)
    whole = _everything(text, [x] * count, semiring)
    for again in (False, True):
        made = torch.autograd.grad(found.sum(), x, create_graph=again, retain_graph=True)
        torch.testing.assert_close(made, torch.autograd.grad(whole.sum(), x, retain_graph=True))


@pytest.mark.parametrize("semiring", SEMIRINGS)
@pytest.mark.parametrize(
    ("text", "shapes"),
    [("ab->a", [(3, 0)]), ("ab,bc->ac", [(2, 0), (0, 3)]), ("a,abc,ab->", [(1,), (1, 0, 5), (1, 0)])],
)
def test_sums_without_terms_stay_within_a_limit(
    semiring: str, text: str, shapes: list[tuple[int, ...]]
) -> None:
    operands = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    found = einfx.einsum(text, *operands, semiring=semiring, memory_limit=1 << 20)
    assert torch.equal(found, brute_force(text, operands, semiring))
    for operand, gradient in zip(operands, torch.autograd.grad(found.sum(), operands), strict=True):
        assert torch.equal(gradient, torch.zeros_like(operand))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_negative_views_keep_their_sign_within_a_limit(dtype: torch.dtype) -> None:
    x, y = torch._neg_view(torch.ones(2, 3, dtype=dtype)), torch.ones(3, 4, dtype=dtype)
    assert torch.equal(einfx.einsum("ij->i", x, memory_limit=230), torch.full((2,), -3.0, dtype=dtype))
    assert torch.equal(
        einfx.einsum("ij,jk->ik", x, y, memory_limit=1000), torch.full((2, 4), -3.0, dtype=dtype)
    )
