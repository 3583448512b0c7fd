"""Paths: what ``optimize`` may be, and how good they are, whatever the equation."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import einfx
from einfx.equation import Equation
from einfx.errors import PlanError
from einfx.paths.choices import fewest_multiplications, linear_to_ssa

CHAIN = "ab,bc,cd,de->ae"
SHAPES = [(4, 5), (5, 6), (6, 3), (3, 2)]

Shapes = Sequence[Sequence[int]]


def multiplications(equation: Equation, shapes: Shapes, path: Sequence[Sequence[int]]) -> int:
    """Counted with sets, by single-assignment numbers; what one operand alone has is summed before."""
    sizes: dict[int, int] = {}
    for labels, shape in zip(equation.inputs, shapes, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    # A dimension of size 1 is none: it broadcasts.
    alive = {
        i: {x for x, n in zip(labels, shape, strict=True) if n != 1}
        for i, (labels, shape) in enumerate(zip(equation.inputs, shapes, strict=True))
    }
    total = 0
    for number, step in enumerate(path, len(shapes)):
        made = alive.pop(step[0])
        for place, other in enumerate(step[1:], 2):
            taken = alive.pop(other)
            rest = set(equation.output).union(*alive.values(), *[alive.get(x, set()) for x in step[place:]])
            labels_left = {x for x in made | taken if x in rest or (x in made and x in taken)}
            total += math.prod(sizes[x] for x in labels_left)
            made = labels_left & rest
        alive[number] = made
    assert len(alive) == 1
    return total


@st.composite
def contractions(draw: st.DrawFn) -> tuple[Equation, list[tuple[int, ...]]]:
    """Hyperedges, shared output labels, parts that nothing connects, scalars, sizes of 0 and 1."""
    count = draw(st.integers(1, 9))
    labels = draw(st.integers(1, 10))
    sizes = draw(st.lists(st.sampled_from((0, 1, 1, 2, 3, 5, 8)), min_size=labels, max_size=labels))
    if draw(st.booleans()):
        sizes = [max(size, 1) for size in sizes]
    part = st.lists(st.integers(0, labels - 1), max_size=4, unique=True).map(tuple)
    inputs = draw(st.lists(part, min_size=count, max_size=count))
    used = sorted({x for one in inputs for x in one})
    output = draw(st.lists(st.sampled_from(used), max_size=3, unique=True)) if used else []
    shapes = [tuple(1 if draw(st.integers(0, 19)) == 0 else sizes[x] for x in one) for one in inputs]
    return Equation(tuple(inputs), tuple(output)), shapes


def peers(equation: Equation, shapes: Shapes) -> list[list[tuple[int, ...]]]:
    """Paths of opt_einsum's greedy and dp, by single-assignment numbers, for what broadcasting leaves."""
    sizes = {str(x): n for x, n in equation.sizes(shapes).items()}
    sets = [
        frozenset(str(x) for x, n in zip(labels, shape, strict=True) if n != 1)
        for labels, shape in zip(equation.inputs, shapes, strict=True)
    ]
    output = frozenset(str(x) for x in equation.output if sizes[str(x)] != 1)
    found = [opt_einsum.paths.greedy(list(sets), output, sizes)]
    if all(sets):
        found.append(opt_einsum.DynamicProgramming(minimize="flops")(list(sets), output, sizes))
    return [linear_to_ssa(path, len(shapes)) for path in found if path]


@settings(deadline=None, max_examples=80)
@example((Equation(((), ()), ()), [(), ()]))
@example((Equation(((0,), (1,), (2,)), (0,)), [(0,), (3,), (1,)]))
@example((Equation(((), (0, 1, 2), (2, 0, 3)), (2,)), [(), (1, 1, 2), (1, 1, 2)]))
@example((Equation(((0, 1), (0, 1), (0, 1), (0,)), (0,)), [(5, 8), (5, 1), (1, 8), (5,)]))
@given(contractions())
def test_paths_are_valid_and_of_few_multiplications_whatever_the_equation(
    case: tuple[Equation, list[tuple[int, ...]]],
) -> None:
    equation, shapes = case
    path = fewest_multiplications(equation, shapes)
    ours = multiplications(equation, shapes, path)  # which also checks that it contracts everything
    if any(0 in shape for shape in shapes):
        return  # then there is nothing to multiply
    for other in peers(equation, shapes):
        assert ours <= 1.1 * multiplications(equation, shapes, other)


@settings(deadline=None, max_examples=40)
@given(contractions(), st.sampled_from(("auto", "multiplications", "greedy", "dp")))
@example((Equation.parse(",a,ba->"), [(), (1,), (0, 1)]), "dp")
def test_contractions_along_them_are_those_of_torch(
    case: tuple[Equation, list[tuple[int, ...]]], optimize: str
) -> None:
    equation, shapes = case
    generator = torch.Generator().manual_seed(0)
    operands = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    path = einfx.contract_path(str(equation), *shapes, optimize=optimize).path
    assert len(path) == max(1, len(shapes) - 1)
    found = einfx.einsum(str(equation), *operands, optimize=optimize)
    torch.testing.assert_close(found, torch.einsum(str(equation), *operands))


CHOICES: dict[str, Callable[[], Any]] = {
    "a strategy of opt_einsum": lambda: "random-greedy",
    "a function of opt_einsum": lambda: opt_einsum.paths.greedy,
    "an optimizer of opt_einsum": lambda: opt_einsum.DynamicProgramming(minimize="size"),
    "one that branches": lambda: opt_einsum.BranchBound(nbranch=2),
    "what opt_einsum says of a path": lambda: opt_einsum.contract_path(CHAIN, *SHAPES, shapes=True)[1],
    "a path": lambda: [(0, 1), (0, 2), (0, 1)],
    "a path of NumPy's numbers": lambda: [tuple(np.array(step)) for step in ((0, 1), (0, 2), (0, 1))],
    "a path of several at once": lambda: [(0, 1, 2), (0, 1)],
    "a plan": lambda: einfx.contract_path(CHAIN, *SHAPES, dtype=torch.float64),
    "a plan's text": lambda: einfx.contract_path(CHAIN, *SHAPES, dtype=torch.float64).to_text(),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_kind_of_path_is_taken(choice: str) -> None:
    operands = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    found = einfx.einsum(CHAIN, *operands, optimize=CHOICES[choice]())
    torch.testing.assert_close(found, torch.einsum(CHAIN, *operands))


@pytest.mark.parametrize("optimize", ["best", 3, None, True])
def test_what_is_no_choice_is_told_all_there_are(optimize: Any) -> None:
    with pytest.raises(PlanError) as caught:
        einfx.contract_path(CHAIN, *SHAPES, optimize=optimize)
    for name in (repr(optimize), "'auto'", "'multiplications'", "'cotengra'", "'greedy'", "[(0, 1), (0, 1)]"):
        assert name in str(caught.value)


@pytest.mark.parametrize("path", [[(0, 5)], [(0, 1)], [(0, 0), (0, 1)], ["ab", "cd"], [0, 1], [(0, 1.5)]])
def test_paths_that_are_none_are_refused(path: Any) -> None:
    with pytest.raises(PlanError, match="path"):
        einfx.contract_path(CHAIN, *SHAPES, optimize=path)


WITHOUT = """
import sys
sys.modules["cotengra"] = None  # as if it weren't installed
import torch, einfx, einfx.errors
operands = [torch.ones(4, 5), torch.ones(5, 6), torch.ones(6, 3)]
text = einfx.contract_path("ab,bc,cd->ad", *operands, memory_limit="2 KiB").to_text()
print(einfx.einsum("ab,bc,cd->ad", *operands, optimize=text)[0, 0].item())
for name in ("hyper", "cotengra"):
    try:
        einfx.contract_path("ab,bc,cd->ad", *operands, optimize=name)
    except einfx.errors.PlanError as error:
        print("einfx[planner]" in str(error))
"""


def test_without_cotengra_plans_are_kept_and_its_strategies_say_what_to_install() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["30.0", "True", "True"]


def test_strategies_of_cotengra_are_found_though_nobody_imported_it() -> None:
    pytest.importorskip("cotengra")
    shapes = "(2, 3), (3, 4), (4, 5)"
    code = f"import einfx; print(einfx.contract_path('ab,bc,cd->ad', {shapes}, optimize='hyper').path)"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "((0, 1), (0, 1))"
