"""Texts of plans in blocks are read as they were written; what was damaged is refused when it is read."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
import torch

import einfx
from einfx import SlicedPlan
from einfx.errors import PlanError

CHAIN = "ij,jk,kl->il"
SHAPES = [(30, 20), (20, 40), (40, 10)]
PLAN = einfx.contract_path(CHAIN, *SHAPES, memory_limit="3 KB")
GRADIENTS = einfx.contract_path("iij,jk->ik", (3, 3, 1), (4, 5), memory_limit="1 MiB").vjp()

DAMAGES: list[Any] = [
    *("x", None, -1, True),
    *([[]], [[1]], [[1, 2], [3, 4], [5, "a"]], [[0, 1], [0, 1]], [[-1, 2], [1, 1], [1, 1]]),
    *([[2.5, 1], [1, 1], [1, 1]], [["a", "b"], ["c", "d"], ["e", "f"]], [None, None], {"a": 1}, [[[1]]]),
    *([[1 << 64, 1], [1, 1], [1, 1]], [[20, 30], [20, 40], [40, 10]]),
]
ALWAYS_THERE = ("equation", "letters", "shapes", "strides", "path", "steps", "dtype", "device", "schedule")
FIGURES = ("flops", "peak_bytes", "naive_flops", "unlimited_flops")


def _damaged(plan: SlicedPlan, **fields: Any) -> str:
    return json.dumps({**json.loads(plan.to_text()), **fields})


@pytest.mark.parametrize(("plan", "name"), list(product((PLAN, GRADIENTS), json.loads(PLAN.to_text()))))
def test_whatever_is_damaged_is_refused_when_it_is_read(plan: SlicedPlan, name: str) -> None:
    damages = [*DAMAGES, *([[], "", {}] if name in ALWAYS_THERE else [])]
    if name == "strides":
        # Operands may lie like this, too.
        damages.remove([[20, 30], [20, 40], [40, 10]])
    if name in FIGURES:
        damages += [[], {}, [True], "5"]
    for damage in damages:
        with pytest.raises(PlanError):
            SlicedPlan.from_text(_damaged(plan, **{name: damage}))
    without = json.loads(plan.to_text())
    del without[name]
    with pytest.raises(PlanError, match=f"isn't the text of a plan in blocks: '{name}'"):
        SlicedPlan.from_text(json.dumps(without))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"path": []},
            r"'ab,bc,cd->ad' is broken: its \"path\" is \[\], but its \"steps\" are the path \[\[",
        ),
        ({"strides": [[1], [1], [1]]}, r"\"strides\" is .* not 3 lists of \[2, 2, 2\] whole numbers"),
        ({"shapes": [[30, 20]]}, r"\"shapes\" is \[\[30, 20\]\], not 3 lists"),
        ({"shapes": [[30, 20], [21, 40], [40, 10]]}, "broken: .*label 'b' has size"),
        ({"shapes": [[31, 20], [20, 40], [40, 10]]}, "its program is of another contraction"),
        ({"steps": [[1, 2]]}, r"\"steps\" is \[\[1, 2\]\], not steps that join .* 3 operand\(s\)"),
        ({"cuts": [[3, 9, 1]]}, r"\"cuts\" is \[\[3, 9, 1\]\], not triples"),
        ({"needs_grad": [True, True, True]}, "its program has 1 result"),
        ({"letters": []}, r"not 4 letters, one for each label.*make it again"),
        ({"device": "nowhere"}, r"\"device\" is \"nowhere\", not the name of a device"),
        ({"dtype": "nn"}, "not the name of a dtype"),
        ({"flops": "many"}, r"\"flops\" is \"many\", not a number"),
    ],
)
def test_errors_name_what_is_broken(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        SlicedPlan.from_text(_damaged(PLAN, **fields))
    with pytest.raises(PlanError, match=message):
        einfx.einsum(CHAIN, *[torch.ones(x) for x in SHAPES], optimize=_damaged(PLAN, **fields))


def test_texts_of_plans_with_loops_and_of_turned_operands_are_read_as_they_were_written() -> None:
    operands = [torch.randn(shape).t().contiguous().t() for shape in SHAPES]
    expanded = torch.randn(20).expand(30, 20)
    for limit, first in ((3300, operands[0]), ("1 MiB", operands[0]), ("1 MiB", expanded)):
        plan = einfx.contract_path(CHAIN, first, *operands[1:], memory_limit=limit)
        again = SlicedPlan.from_text(plan.to_text())
        assert again == plan
        assert SlicedPlan.from_text(plan.vjp((False, True, False)).to_text()).needs_grad == (
            False,
            True,
            False,
        )
    total = einfx.contract_path("ij->", (30, 20), memory_limit=64)
    assert SlicedPlan.from_text(total.to_text()) == total
