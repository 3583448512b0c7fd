"""One contraction into a part of a buffer: what it computes, and what it allocates meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from einfx.equation import Equation
from einfx.options import Options
from einfx.slicing.running.into import Place, into


def _place(tensor: Tensor) -> Place:
    return Place(tuple(tensor.shape), tuple(tensor.stride()))


def _laid_out(shape: list[int], pick: random.Random) -> Tensor:
    """A tensor whose dimensions lie in memory in some order, a part of a larger one or not."""
    order = list(range(len(shape)))
    pick.shuffle(order)
    extra = pick.choice((0, 1))
    made = torch.randn([shape[i] + extra for i in order], dtype=torch.float64)
    for dim, i in enumerate(order):
        made = made.narrow(dim, 0, shape[i])
    return made.permute([order.index(i) for i in range(len(shape))])


def _allocated(work: Callable[[], None]) -> int:
    """The most bytes that were allocated at a time."""
    now = most = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    for event in sorted(watched.profiler.kineto_results.events(), key=lambda x: x.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


CONTRACTIONS = (
    "ij,jk->ik ij,jk->ki ij,ki->jk ji,ik->kj ij,j->i bij,bj->bi bij,bi->jb bij,bjk->kbi "
    "ij,ij->i ij,ij->j ij->ji ij->j bij->jib ij,ij->ji i,j->ji bij,bi->j bij,jb->"
).split()


@pytest.mark.parametrize("text", ["ij,jk->ik", "ij,ij->ij", "bij,bjk->bik", "ij,j->ij", "ij->ji", "ij,ij->"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_operands_that_are_conjugated_or_expanded_views_are_read_as_they_are(
    text: str, accumulate: bool
) -> None:
    sizes = dict(zip("bijk", (2, 5, 6, 7), strict=True))
    inputs, output = text.split("->")
    shapes = [[sizes[x] for x in labels] for labels in inputs.split(",")]
    operands = [torch.randn(shape, dtype=torch.complex128).conj() for shape in shapes]
    operands[0] = torch.randn([1, *shapes[0][1:]], dtype=torch.complex128).expand(shapes[0]).conj()
    assert all(x.is_conj() for x in operands)
    target = torch.randn([sizes[x] for x in output], dtype=torch.complex128)
    expected = torch.einsum(text, *operands) + (target if accumulate else 0)
    places = [_place(x) for x in operands]
    how = into(Equation.parse(text), places, _place(target), accumulate, torch.complex128, "cpu")
    how.run(operands, target, lambda shape: torch.empty(tuple(shape), dtype=torch.complex128))
    torch.testing.assert_close(target, expected)


@pytest.mark.parametrize("text", CONTRACTIONS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_it_writes_what_einsum_gives_and_takes_no_more_than_it_says(text: str, accumulate: bool) -> None:
    pick = random.Random(text)
    sizes = dict(zip("bijk", (5, 64, 72, 80), strict=True))
    equation = Equation.parse(text)
    inputs, output = text.split("->")
    for _ in range(4):
        operands = [_laid_out([sizes[x] for x in labels], pick) for labels in inputs.split(",")]
        target = _laid_out([sizes[x] for x in output], pick)
        expected = torch.einsum(text, *operands) + (target if accumulate else 0)
        how = into(equation, [_place(x) for x in operands], _place(target), accumulate, torch.float64, "cpu")

        def scratch(shape: object) -> Tensor:
            return torch.empty(tuple(shape), dtype=torch.float64)  # type: ignore[arg-type]

        how.run(operands, target, scratch)
        torch.testing.assert_close(target, expected)
        if not accumulate:
            work = partial(how.run, operands, target, scratch)
            # BLAS takes vectors that lie in steps one after the other, each copied.
            assert _allocated(work) <= how.workspace_bytes + 8 * (sizes["j"] + sizes["k"])
            torch.testing.assert_close(target, expected)


def test_products_are_written_whichever_way_their_target_lies() -> None:
    equation = Equation.parse("ij,ki->jk")
    square = Place((64, 64), (64, 1))
    for target in (square, Place((64, 64), (1, 64))):
        how = into(equation, (square, square), target, False, torch.float64, "cpu")
        assert how.matrices
        assert how.workspace_bytes == 0


@pytest.mark.parametrize("accumulate", [False, True])
def test_large_sums_of_exponentials_take_no_more_than_they_say(accumulate: bool) -> None:
    equation, log = Equation.parse("ik,kj->ij"), Options.read("log")
    a, b = torch.randn(5000, 8), torch.randn(8, 4000)
    # The result is larger than all that its kernel may take beside it.
    target = torch.randn(4000, 5000).mT
    expected = torch.logsumexp(a[:7, :, None] + b, 1)
    expected = torch.logaddexp(target[:7], expected) if accumulate else expected
    how = into(equation, (_place(a), _place(b)), _place(target), accumulate, torch.float32, "cpu", log)
    assert _allocated(partial(how.run, (a, b), target, torch.empty)) <= how.workspace_bytes
    torch.testing.assert_close(target[:7], expected)


@pytest.mark.parametrize("accumulate", [False, True])
def test_products_that_blas_cannot_write_there_take_nothing_from_torch(accumulate: bool) -> None:
    # The batch's labels are not neighbours in the target, nor is either of the others its last one.
    equation, sizes = Equation.parse("kmfj,jfik->kimj"), {"k": 12, "m": 20, "f": 6, "j": 14, "i": 16}
    a, b, target = (torch.randn([sizes[x] for x in labels]) for labels in ("kmfj", "jfik", "kimj"))
    expected = torch.einsum("kmfj,jfik->kimj", a, b) + (target if accumulate else 0)
    how = into(equation, (_place(a), _place(b)), _place(target), accumulate, torch.float32, "cpu")
    assert how.matrices
    assert how.apart
    memory, used = torch.empty(how.workspace_bytes // 4), 0

    def scratch(shape: Sequence[int]) -> Tensor:
        nonlocal used
        used += prod(shape)
        return memory[used - prod(shape) : used].view(tuple(shape))

    assert _allocated(partial(how.run, (a, b), target, scratch)) < 1024
    torch.testing.assert_close(target, expected)
    assert used == memory.numel()


@pytest.mark.parametrize("text", ["ab,ab->", "a,ab->b", "ab,b->a", "cab,cab->c"])
def test_sums_of_many_blocks_are_rounded_as_sums_of_one(text: str) -> None:
    equation = Equation.parse(text)
    shapes = [
        tuple({"a": 30, "b": 40, "c": 3}[x] for x in labels) for labels in text.split("->")[0].split(",")
    ]
    operands = [torch.rand(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    one = torch.einsum(text, *[x.double() for x in operands])
    places = [Place(tuple(x.shape), x.stride()) for x in operands]
    total = torch.zeros(one.shape)
    how = into(equation, places, Place(tuple(total.shape), total.stride()), True, total.dtype, "cpu")
    for _ in range(3000):
        how.run(operands, total, torch.empty)
    # Each of 3000 additions may be off by half a unit in the last place.
    torch.testing.assert_close(total.double(), 3000 * one, rtol=3000 * 2.0**-25, atol=0.0)
