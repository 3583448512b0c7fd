"""Gradients over logarithms of operands that have labels for themselves alone, and of sums that are -inf."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import einfx
from einfx.equation import Equation
from einfx.options import Options
from einfx.slicing.running.into import Place
from einfx.slicing.running.local_gradients import LocalGradients, _local
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.schedule import Adjoint
from einfx.slicing.schedules.tree import ContractionTree
from einfx.slicing.schedules.tree import schedule as program

SIZES = {"b": 3, "i": 40, "j": 50, "k": 30, "p": 6, "q": 4}

CONTRACTIONS = ("ipk,kj->ij", "ik,pkqj->ji", "pbik,kbqj->bij", "ikq,jkp->ij")


def _aligned(tensor: Tensor, labels: str, all_labels: str) -> Tensor:
    """A view with a dimension for every label."""
    order = sorted(labels, key=all_labels.index)
    tensor = tensor.permute([labels.index(x) for x in order])
    return tensor[tuple(slice(None) if x in labels else None for x in all_labels)]


def _expected(text: str, operands: list[Tensor], gradient: Tensor, empty: float | str) -> list[Tensor]:
    """From every single term."""
    (first, second), output = text.split("->")[0].split(","), text.split("->")[1]
    summed = "".join(sorted({*first, *second} - {*output}))
    everything = output + summed
    terms = _aligned(operands[0], first, everything) + _aligned(operands[1], second, everything)
    total = terms.flatten(len(output)).logsumexp(1 if not output else -1)
    wide = total[(..., *[None] * len(summed))]
    shares = (terms - wide).exp()
    each = 1 / math.prod(SIZES[x] for x in summed) if empty == "uniform" else float(empty)
    shares = torch.where(wide == -math.inf, each, shares) * gradient[(..., *[None] * len(summed))]
    made = []
    for labels in (first, second):
        gone = [everything.index(x) for x in everything if x not in labels]
        rest = [x for x in everything if x in labels]
        part = shares.sum(gone) if gone else shares
        made.append(part.permute([rest.index(x) for x in labels]))
    return made


def _found(
    text: str, operands: list[Tensor], gradient: Tensor, empty: float | str
) -> tuple[str, list[Tensor]]:
    """By one line of a schedule of gradients: how they were found, and the gradients."""
    equation = Equation.parse(text)
    sizes = equation.sizes([tuple(x.shape) for x in operands])
    tree = ContractionTree(equation, tuple(sizes[x] for x in equation.labels), ((0, 1),))
    schedule = adjoint(program(tree), (True, True), needs_results=True)
    (line,) = [x for x in schedule.statements if isinstance(x, Adjoint)]
    options = Options.read("log", grad_of_neg_inf=empty)
    total = einfx.einsum(text, *operands, semiring="log")
    targets = [torch.zeros_like(x) for x in operands]
    values = {**dict(zip(line.operands, operands, strict=True)), line.target: total, line.gradient: gradient}
    values.update(zip(line.gradients, targets, strict=True))
    places = {x: Place(tuple(tensor.shape), tensor.stride()) for x, tensor in values.items()}
    how = LocalGradients.of(line, schedule, places, torch.float64, "cpu", options)

    def scratch(shape: object) -> Tensor:
        return torch.full(tuple(shape), math.nan, dtype=torch.float64)  # type: ignore[arg-type]

    how.add(operands, targets, total, gradient, scratch, consumed=False)
    return how.way, targets


def _operands(text: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(text))
    shapes = [[SIZES[x] for x in labels] for labels in text.split("->")[0].split(",")]
    return [3 * torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def _gradient(text: str) -> Tensor:
    return torch.randn([SIZES[x] for x in text.split("->")[1]], dtype=torch.float64)


@pytest.mark.parametrize("text", CONTRACTIONS)
def test_gradients_are_the_sums_of_all_shares(text: str) -> None:
    operands, gradient = _operands(text), _gradient(text)
    way, found = _found(text, operands, gradient, math.nan)
    assert way == "presummed"
    torch.testing.assert_close(found, _expected(text, operands, gradient, math.nan))


@pytest.mark.parametrize("empty", [0.0, 0.25, "uniform", math.nan])
@pytest.mark.parametrize("text", CONTRACTIONS[:2])
def test_every_term_of_an_empty_sum_has_what_was_asked_for(text: str, empty: float | str) -> None:
    operands, gradient = _operands(text), _gradient(text)
    # A row of each is -inf, and single elements within what is summed first.
    operands[0][3] = -math.inf
    operands[1][..., 7] = -math.inf
    operands[0][5, :2] = -math.inf
    way, found = _found(text, operands, gradient, empty)
    assert way == "presummed"
    torch.testing.assert_close(found, _expected(text, operands, gradient, empty), equal_nan=True)


def test_where_nothing_depends_on_an_empty_sum_its_terms_have_no_gradient() -> None:
    text = CONTRACTIONS[0]
    operands, gradient = _operands(text), _gradient(text)
    operands[0][3] = -math.inf
    gradient[3] = 0
    found = _found(text, operands, gradient, math.nan)[1]
    expected = _expected(text, operands, gradient, 0.0)
    torch.testing.assert_close(found, expected)


def test_of_few_terms_operands_are_not_summed_first() -> None:
    text = "ik,kp->i"
    operands = [torch.randn(256, 16, dtype=torch.float64), torch.randn(16, 8, dtype=torch.float64)]
    gradient = torch.randn(256, dtype=torch.float64)
    way, found = _found(text, operands, gradient, math.nan)
    assert way == "shares"
    terms = operands[0][:, :, None] + operands[1]
    shares = terms.flatten(1).softmax(1).view_as(terms) * gradient[:, None, None]
    torch.testing.assert_close(found, [shares.sum(2), shares.sum(0)])


@pytest.mark.parametrize("text", CONTRACTIONS)
def test_no_more_is_allocated_than_was_told_even_where_sums_are_empty(text: str) -> None:
    operands, gradient = [x.float() for x in _operands(text)], _gradient(text).float()
    operands[0][3] = -math.inf
    equation = Equation.parse(text)
    total = einfx.einsum(text, *operands, semiring="log")
    targets = [torch.zeros_like(x) for x in operands]
    tensors = (*operands, total, gradient, *targets)
    places = tuple([Place(tuple(x.shape), x.stride()) for x in tensors])
    options = Options.read("log", grad_of_neg_inf=0.0)
    how = _local(equation, places, (True, True), 1, torch.float32, "cpu", options, 1)
    assert how.way == "presummed"
    given = torch.empty(how.work.inside // 4)
    start = 0

    def scratch(shape: Sequence[int]) -> Tensor:
        nonlocal start
        first, start = start, start + math.prod(shape)
        assert start <= given.numel()
        return given[first:start].view(tuple(shape))

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        how.add(operands, targets, total, gradient, scratch, consumed=False)
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    # Single numbers and the sizes of small tensors are rounded up.
    assert max(accumulate(sizes, initial=0)) <= how.work.apart + 4096


def test_a_limit_takes_no_longer_where_an_operand_has_a_label_of_its_own() -> None:
    """Predicted seconds: all terms would be a hundred times as many as there are products of sums."""
    shapes = ((64, 64), (64, 96, 64))
    for limit in ("8 MiB", "3 MiB"):
        plan = einfx.contract_path("ij,jpk->ik", *shapes, semiring="log", memory_limit=limit)
        assert plan.vjp().seconds < 0.02


@pytest.mark.parametrize("limit", [60_000, 200_000])
def test_networks_under_a_limit_have_the_gradients_of_torch(limit: int) -> None:
    text, shapes = "ijp,jkq,kl->li", ((12, 16, 9), (16, 14, 7), (14, 10))
    generator = torch.Generator().manual_seed(5)
    operands = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    found = einfx.einsum(text, *operands, semiring="log", memory_limit=limit)
    made = [x.logsumexp(2) for x in operands[:2]]
    first = (made[0][:, :, None] + made[1]).logsumexp(1)
    expected = (first[:, :, None] + operands[2]).logsumexp(1).T
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, operands, gradient), torch.autograd.grad(expected, operands, gradient)
    )
