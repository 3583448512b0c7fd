"""Plans written as functions."""

from __future__ import annotations

import torch

from einfx.equation import Equation
from einfx.planning import plan
from einfx.program import compile_program

from .kernels.memory import peak_bytes

CHAIN = "ab,bc,cd,de,ef,fg,gh->ah"


def test_intermediates_are_freed_where_they_are_last_used() -> None:
    operands = [torch.rand(256, 256) for _ in range(7)]
    program = compile_program(plan(Equation.parse(CHAIN), [(256, 256)] * 7))
    taken = peak_bytes(lambda: program(*operands))
    # Of six results two are there at a time: that which is read and that which is written.
    assert taken == 2 * operands[0].nbytes


def test_operands_that_are_given_twice_are_freed_once() -> None:
    x = torch.rand(8, 8, dtype=torch.float64)
    program = compile_program(plan(Equation.parse("ab,bc,cd,ad->"), [(8, 8)] * 4, dtype=torch.float64))
    torch.testing.assert_close(program(x, x, x, x), ((x @ x @ x) * x).sum())
