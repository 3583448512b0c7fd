"""An optimised program is right for every size, whatever sizes its example had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import einfx
from tests.program import tensor
from tests.rewriting import assert_same

E = torch.einsum
Program = Callable[..., Any]

# Each with the shapes of its arguments, in which "n" is the batch.
BATCHED: dict[str, tuple[Program, list[tuple[Any, ...]]]] = {
    "three operands": (lambda x, w, v: E("bi,ij,bj->b", x, w, v), [("n", 3), (3, 4), ("n", 4)]),
    "a chain": (lambda x, u, v: 2 * E("bi,ij,jk->bk", x, u, v) / 3, [("n", 3), (3, 4), (4, 5)]),
    "matmuls": (lambda x, u, v: x @ u @ v, [("n", 3), (3, 4), (4, 1)]),
    "batched matmul": (lambda x, y: torch.bmm(x, y.mT) * 2, [("n", 2, 3), ("n", 4, 3)]),
    "inner": (lambda x, y: E("nc,nc->n", x, y), [("n", 2), ("n", 2)]),
    "outer": (lambda x, y: E("nc,mc->nm", x, y), [("n", 2), ("n", 2)]),
    "summed batch": (lambda x, y: E("ni,nj->ij", x, y), [("n", 2), ("n", 3)]),
    "reshape": (lambda x, w: E("bi,ij->bj", x, w).reshape(x.shape[0], 2, -1) * 3, [("n", 3), (3, 4)]),
    "arithmetic on sizes": (lambda x, w: E("bi,ij->bj", x, w) / x.shape[0] ** 0.5, [("n", 3), (3, 4)]),
    "linear": (lambda x, w: F.linear(F.linear(x, w), w.T), [("n", 3), (4, 3)]),
    "ellipsis": (lambda x, w, v: E("...i,ij,jk->...k", x, w, v), [("n", 2, 3), (3, 4), (4, 3)]),
    "equal contractions": (lambda x, w: (E("bi,ij->bj", x, w), E("bi,ij->bj", x, w) * 2), [("n", 3), (3, 4)]),
    "diagonal": (lambda x, w: E("bii,ij->bj", x, w), [("n", 3, 3), (3, 4)]),
    "batch twice": (lambda x, y: E("bic,bjc,bk->bijk", x, y, x[:, :, 0]), [("n", 2, 3), ("n", 4, 3)]),
    "scaled sum": (lambda x, w: (3 * x).sum(0) @ (w / 2), [("n", 3), (3, 4)]),
    "multiply and sum": (lambda x, w: (x[:, :, None] * w).sum(1) * 2, [("n", 3), (3, 4)]),
}  # fmt: skip
NOT_EMPTY = ("reshape", "arithmetic on sizes")
"""Those that divide by the size of the batch, or ask for a size of -1."""


def arguments(shapes: Sequence[tuple[Any, ...]], n: int) -> list[torch.Tensor]:
    return [tensor([n if size == "n" else size for size in shape], seed=i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("example", [1, 5, 0])
@pytest.mark.parametrize("name", BATCHED)
def test_a_program_optimised_for_one_batch_is_right_for_every_other(name: str, example: int) -> None:
    program, shapes = BATCHED[name]
    sizes = (1, 2, 7) if name in NOT_EMPTY else (0, 1, 2, 7)
    optimised = einfx.optimize(program, arguments(shapes, max(example, sizes[0])))
    for n in sizes:
        got, expected = optimised(*arguments(shapes, n)), program(*arguments(shapes, n))
        assert_same(got, expected)


BROADCAST: dict[str, Program] = {
    "elementwise": lambda a, b: E("ij,ij->ij", a, b),
    "matmul": lambda a, b: E("ij,jk->ik", a, b),
    "transposed": lambda a, b: E("ij,kj->ki", a, b) * 2,
    "inner": lambda a, b: E("ij,ij->", a, b),
    "rows": lambda a, b: E("ij,ij->i", a, b),
    "columns": lambda a, b: E("ij,ij->j", a, b) / 3,
    "three": lambda a, b: E("ij,jk,ki->ik", a, b, a),
    "chain": lambda a, b: E("ij,jk->ik", E("ij,jk->ik", a, b), b),
    "fused": lambda a, b: E("ij,ij->i", E("ij,jk->ik", a, b), b),
    "summed twice": lambda a, b: E("ij,jk->k", a, b),
    "summed alone": lambda a, b: E("ij,kl->il", a, b),
    "implicit": lambda a, b: E("ij,ji", a, b),
    "ellipsis": lambda a, b: E("...j,...j->...", a, b),
    "four": lambda a, b: E("ij,jk,kl,li->jl", a, b, a, b),
    "shared": lambda a, b: E("ij,jk->ik", a, b) + E("jk,ij->ik", b, a),
    "product and sum": lambda a, b: (a * b).sum(-1),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_sizes_that_were_equal_in_the_example_may_be_1_in_one_operand_later(name: str) -> None:
    program = BROADCAST[name]
    optimised = einfx.optimize(program, (tensor((4, 4), seed=1), tensor((4, 4), seed=2)))
    sizes = (1, 3)
    compared = 0
    for shape in [(i, j, k, m) for i in sizes for j in sizes for k in sizes for m in sizes]:
        a, b = tensor(shape[:2], seed=1), tensor(shape[2:], seed=2)
        try:
            expected = program(a, b)
        except (RuntimeError, ValueError):
            continue
        assert_same(optimised(a, b), expected)
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("name", BROADCAST)
def test_sizes_that_were_1_in_the_example_may_be_larger_later(name: str) -> None:
    program = BROADCAST[name]
    for shapes in [((1, 1), (1, 1)), ((1, 4), (4, 4)), ((4, 1), (4, 4)), ((4, 4), (4, 1))]:
        try:
            program(*(torch.ones(shape) for shape in shapes))
        except (RuntimeError, ValueError):
            continue
        optimised = einfx.optimize(program, [tensor(shape, seed=i) for i, shape in enumerate(shapes)])
        a, b = tensor((3, 3), seed=1), tensor((3, 3), seed=2)
        assert_same(optimised(a, b), program(a, b))
        for first, second in [(a[:1], b), (a[:, :1], b), (a, b[:1]), (a, b[:, :1])]:
            try:
                expected = program(first, second)
            except (RuntimeError, ValueError):
                continue
            assert_same(optimised(first, second), expected)


@pytest.mark.parametrize("name", BROADCAST)
def test_dimensions_without_elements_give_zeros_or_nothing(name: str) -> None:
    program = BROADCAST[name]
    optimised = einfx.optimize(program, (tensor((4, 4), seed=1), tensor((4, 4), seed=2)))
    for first, second in [
        ((0, 0), (0, 0)),
        ((3, 0), (0, 3)),
        ((0, 3), (3, 3)),
        ((0, 3), (3, 0)),
        ((3, 0), (3, 0)),
    ]:
        a, b = tensor(first), tensor(second)
        try:
            expected = program(a, b)
        except (RuntimeError, ValueError):
            continue
        assert_same(optimised(a, b), expected)


def test_an_example_without_elements_is_as_good_as_any() -> None:
    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return E("ij,jk,kl->il", a, b, c)

    for shapes in [[(0, 3), (3, 4), (4, 5)], [(2, 0), (0, 4), (4, 5)], [(0, 0), (0, 0), (0, 0)]]:
        optimised = einfx.optimize(program, [tensor(shape) for shape in shapes])
        examples = [tensor(shape, seed=i) for i, shape in enumerate([(2, 3), (3, 4), (4, 5)])]
        assert_same(optimised(*examples), program(*examples))


RANKS: dict[str, Program] = {
    "a matmul": lambda x, w: (x.squeeze(0) @ w) @ w.mT,
    "all of them": lambda x, w: (x.squeeze() @ w) @ w.mT,
    "an ellipsis": lambda x, w: E("...i,ij->...j", x.squeeze(0), w) * 2,
    "a product and a sum": lambda x, w: (x.squeeze(0).unsqueeze(-1) * w).sum(-2),
}


@pytest.mark.parametrize("name", RANKS)
def test_a_rank_that_depends_on_sizes_is_not_that_of_the_example(name: str) -> None:
    program, w = RANKS[name], tensor((4, 5), seed=2)
    for example in (1, 5):
        optimised = einfx.optimize(program, (tensor((example, 3, 4), seed=1), w))
        for n in (1, 2, 5):
            x = tensor((n, 3, 4), seed=1)
            assert_same(optimised(x, w), program(x, w))


def test_one_compilation_serves_every_batch() -> None:
    program, shapes = BATCHED["three operands"]
    optimised = einfx.optimize(program, arguments(shapes, 5))
    compilations = 0

    def backend(graph_module: torch.fx.GraphModule, _: Any) -> Any:
        nonlocal compilations
        compilations += 1
        return graph_module.forward

    torch._dynamo.reset()
    compiled = torch.compile(optimised, backend=backend, dynamic=True, fullgraph=True)
    for n in (5, 6, 7, 8):
        assert_same(compiled(*arguments(shapes, n)), program(*arguments(shapes, n)))
    assert compilations == 1


def test_an_export_may_have_a_dynamic_batch() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return 2 * E("bi,ij,bj->b", x, w, v)

    shapes: list[tuple[Any, ...]] = [("n", 3), (3, 4), ("n", 4)]
    optimised = einfx.optimize(Model(), arguments(shapes, 5))
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(
        optimised, tuple(arguments(shapes, 5)), dynamic_shapes=({0: batch}, None, {0: batch})
    )
    for n in (2, 9):
        assert_same(exported.module()(*arguments(shapes, n)), Model()(*arguments(shapes, n)))
