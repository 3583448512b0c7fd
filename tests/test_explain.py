"""explain() prints what einfx does, for everything that it does something with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import einfx
from einfx.errors import UsageError

SHAPES = (10, 20), (20, 30), (30, 5)


def chain(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,jk,kl->il", a, b, c)


EXAMPLES = tuple(torch.rand(shape) for shape in SHAPES)


def test_an_optimised_module_is_explained_by_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    optimized = einfx.optimize(chain, EXAMPLES)
    assert einfx.explain(optimized) is optimized.report
    assert capsys.readouterr().out.strip() == str(optimized.report).strip()


@pytest.mark.parametrize("model", [chain, nn.Bilinear(20, 20, 3, bias=False)])
def test_a_model_is_explained_by_what_would_be_done(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    examples = EXAMPLES if model is chain else (torch.rand(4, 20), torch.rand(4, 20))
    report: Any = einfx.explain(model, *examples)
    assert report.flops_after <= report.flops_before
    assert "Contractions after" in capsys.readouterr().out


def test_a_plan_and_an_expression_are_explained_by_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    plan = einfx.contract_path("ij,jk,kl->il", *SHAPES)
    assert einfx.explain(plan) is plan
    printed = capsys.readouterr().out
    assert str(plan) in printed
    assert str(einfx.explain(einfx.contract_expression("ij,jk,kl->il", *SHAPES))) == str(plan)


@pytest.mark.parametrize("thing", ["ij,jk->ik", 3, None])
def test_other_things_are_refused(thing: Any) -> None:
    with pytest.raises(UsageError, match=f"not {type(thing).__name__}"):
        einfx.explain(thing)
