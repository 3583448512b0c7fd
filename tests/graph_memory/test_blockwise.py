"""Parts of a graph whose rows don't depend on one another are computed some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import einfx
from einfx.errors import MemoryLimitError
from einfx.graph_memory.blockwise import Blockwise, computed_in_blocks
from einfx.graphs.shapes import propagate
from tests.measuring import allocated_bytes
from tests.program import tensor

E = torch.einsum


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = E("bqhd,bkhd->bhqk", q, k) / math.sqrt(8)
    return E("bhqk,bkhd->bqhd", torch.softmax(scores, -1), v)


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widened, self.narrowed = nn.Linear(6, 200), nn.Linear(200, 6)
        self.norm, self.act = nn.LayerNorm(200), nn.GELU()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.narrowed(self.act(self.norm(self.widened(x))))
        return result


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    scores = (x @ x.transpose(0, 1)).masked_fill(mask, -1.0)
    return torch.log_softmax(scores, 1) @ x


def _transposed(x: Tensor, y: Tensor) -> Tensor:
    return E("ij,jk->ki", E("ia,ja->ij", x, y).exp(), y)


HEADS = tuple(tensor((2, 40, 3, 8), seed=i) for i in range(3))
PROGRAMS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "attention": (_attention, HEADS),
    "a perceptron": (Perceptron(), (tensor((60, 6)),)),
    "a mask": (_masked, (tensor((80, 5)), tensor((80, 80), seed=1) > 0)),
    "a result in another order": (_transposed, (tensor((70, 4)), tensor((90, 4), seed=1))),
    "rows of three dimensions": (Perceptron(), (tensor((3, 40, 6)),)),
}


def _made(program: Any, inputs: tuple[Tensor, ...], limit: int) -> tuple[fx.GraphModule, Blockwise | None]:
    traced = fx.symbolic_trace(program)

    propagate(traced, inputs)
    made = computed_in_blocks(traced, inputs, limit)
    return (traced if made is None else fx.GraphModule(traced, made.graph)), made


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("parts", [2, 4])
def test_a_part_in_blocks_gives_the_same_numbers_and_takes_less(name: str, parts: int) -> None:
    program, inputs = PROGRAMS[name]
    with torch.no_grad():
        expected, whole = program(*inputs), allocated_bytes(program, *inputs)
        module, made = _made(program, inputs, whole // parts)
        assert made is not None
        assert len(made.parts) == 1
        found = module(*inputs)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
        assert found.stride() == expected.stride()
        assert allocated_bytes(module, *inputs) <= whole // parts + 1000


@pytest.mark.parametrize("name", PROGRAMS)
def test_models_stay_within_parts_of_what_they_take(name: str) -> None:
    program, inputs = PROGRAMS[name]
    with torch.no_grad():
        expected, whole = program(*inputs), allocated_bytes(program, *inputs)
        for parts in (2, 3):
            limited = einfx.optimize(program, inputs, memory_limit=whole // parts)
            torch.testing.assert_close(limited(*inputs), expected, rtol=1e-12, atol=1e-13)
            assert allocated_bytes(limited, *inputs) <= whole // parts + 1000
            memory = limited.report.memory
            assert memory is not None
            assert ("together in" in str(limited.report)) == bool(memory.parts)


@pytest.mark.parametrize(
    "program",
    [
        lambda x: (E("ij,kj->ik", x, x).cumsum(0) * 2).sum(1),
        lambda x: E("ij,kj->ik", x, x).softmax(0).softmax(1) @ x,
        lambda x: (lambda y: (y.exp() @ x, y.sin() @ x))(E("ij,kj->ik", x, x)),
        lambda x: (lambda y: E("ij,ji->i", y, y))(E("ij,kj->ik", x, x)),
        lambda x: torch.exp(E("ij,kj->ik", x, x)),
        lambda x: (lambda y: (y + torch.rand_like(y)) @ x)(E("ij,kj->ik", x, x)),
    ],
)
def test_rows_that_depend_on_one_another_or_are_read_elsewhere_stay_whole(program: Any) -> None:
    _, made = _made(program, (tensor((50, 3)),), 5000)
    assert made is None or all(blocks == 1 for _, blocks in made.parts)


def test_smaller_and_larger_inputs_are_computed_within_the_limit() -> None:
    program, inputs = PROGRAMS["attention"]
    limit = allocated_bytes(program, *inputs) // 3
    limited = einfx.optimize(program, inputs, memory_limit=limit)
    for places in (40, 17, 1, 44):
        fewer = [tensor((2, places, 3, 8), seed=i) for i in range(3)]
        torch.testing.assert_close(limited(*fewer), program(*fewer), rtol=1e-12, atol=1e-13)
        assert allocated_bytes(limited, *fewer) <= limit + 1000


def test_parameters_are_those_of_the_call() -> None:
    program, inputs = PROGRAMS["a perceptron"]
    with torch.no_grad():
        limited = einfx.optimize(program, inputs, memory_limit=allocated_bytes(program, *inputs) // 4)
        assert limited.report.memory is not None
        assert limited.report.memory.parts
        state = {key: x * 2 for key, x in program.state_dict().items()}  # type: ignore[attr-defined]
        found = torch.func.functional_call(limited, state, inputs)
        expected = torch.func.functional_call(program, state, inputs)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_gradients_are_those_of_the_graph_itself() -> None:
    program = Perceptron()
    x = tensor((60, 6))
    with torch.no_grad():
        limited = einfx.optimize(program, (x,), memory_limit=allocated_bytes(program, x) // 4)
    try:
        found = torch.autograd.grad(limited(x).square().sum(), list(limited.parameters()))
    except MemoryLimitError:
        return
    expected = torch.autograd.grad(program(x).square().sum(), list(program.parameters()))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
