"""Contractions whose steps may be taken in another order, and those whose may not."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from einfx.graphs.regrouping import why_not_combine, why_not_regroup
from einfx.options import Options


def nodes(*dtypes: torch.dtype) -> list[fx.Node]:
    graph = fx.Graph()
    made = [graph.placeholder(f"x{i}") for i in range(len(dtypes))]
    for node, dtype in zip(made, dtypes, strict=True):
        node.meta["val"] = torch.empty(2, dtype=dtype)
    return made


@pytest.mark.parametrize(
    ("semiring", "dtype", "allowed"),
    [
        ("real", torch.float32, True),
        ("real", torch.complex64, True),
        ("real", torch.int64, False),
        ("log", torch.float64, True),
        ("log", torch.bfloat16, True),
        ("max_plus", torch.float32, True),
        ("max_plus", torch.int64, False),
        ("min_plus", torch.int32, False),
        ("min_plus", torch.uint8, False),
        ("max_times", torch.float32, True),
        ("max_times", torch.int64, False),
        ("max_times", torch.bool, True),
        ("max_min", torch.int64, True),
        ("max_min", torch.uint8, True),
        ("max_min", torch.bool, True),
        ("boolean", torch.bool, True),
    ],
)
def test_arithmetic_that_is_exact_or_rounded_may_be_regrouped(
    semiring: str, dtype: torch.dtype, allowed: bool
) -> None:
    assert (why_not_regroup(Options.read(semiring), nodes(dtype, dtype)) is None) is allowed


def test_integers_that_overflow_give_another_number_in_another_order() -> None:
    lowest = torch.iinfo(torch.int8).min
    plus = Options.read("max_plus").semiring.multiply
    a, b, c = (torch.tensor(x, dtype=torch.int8) for x in (-100, -28, 50))
    assert int(plus(plus(a, b), c)) == lowest
    assert int(plus(a, plus(b, c))) == -78


def test_mixed_and_unknown_dtypes_stay() -> None:
    for semiring in ("real", "log", "max_min"):
        options = Options.read(semiring)
        assert why_not_regroup(options, nodes(torch.float32, torch.float64)) is not None
        assert why_not_regroup(options, [fx.Graph().placeholder("x")]) is not None


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (Options.read("log"), True),
        (Options.read("log", linear_operands=(0,), zero_annihilates=True), True),
        (Options.read("log", grad_of_neg_inf=0.0), True),
        (Options.read("log", grad_of_neg_inf=1.0), False),
        (Options.read("log", grad_of_neg_inf="uniform"), False),
        (Options.read("log", block_size=4), False),
        (Options.read(memory_limit="1MiB"), False),
    ],
)
def test_what_is_said_of_the_whole_keeps_it_whole(options: Options, allowed: bool) -> None:
    assert (why_not_combine(options) is None) is allowed
    assert (why_not_regroup(options, nodes(torch.float32)) is None) is allowed
