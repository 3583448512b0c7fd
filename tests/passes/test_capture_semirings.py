"""Reductions of broadcast sums become contractions over a semiring, where the sums are larger than terms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

import einfx
from einfx.passes import CaptureSemirings
from einfx.rewrite import readable_code
from tests.equivalence import check_optimised
from tests.program import tensor
from tests.rewriting import assert_same, check_declined, check_rewrite

A, B = torch.randn(5, 6), torch.randn(6, 7)
Program = Callable[..., torch.Tensor]

SPELLINGS: list[tuple[Program, str]] = [
    (lambda a, b: (a[:, :, None] + b).logsumexp(1), "log"),
    (lambda a, b: torch.logsumexp(torch.add(a.unsqueeze(2), b), dim=1), "log"),
    (lambda a, b: torch.logsumexp(a.unsqueeze(-1) + b, (-2,), keepdim=False), "log"),
    (lambda a, b: torch.logsumexp(input=a[..., None] + b, dim=[1]), "log"),
    (lambda a, b: (a[:, :, None] + b).max(1)[0], "max_plus"),
    (lambda a, b: torch.max(a[:, :, None] + b, dim=-2).values, "max_plus"),
    (lambda a, b: (a[:, :, None] + b).min(dim=1).values, "min_plus"),
    (lambda a, b: torch.min(a[:, :, None] + b, 1)[0], "min_plus"),
]


@pytest.mark.parametrize(("program", "semiring"), SPELLINGS)
def test_every_spelling_is_a_matrix_product_in_the_end(program: Program, semiring: str) -> None:
    traced = fx.symbolic_trace(program)
    first = next(node for node in traced.graph.nodes if node.op != "placeholder")
    view = readable_code(traced.graph).splitlines()[1].strip()
    check_rewrite(
        CaptureSemirings(),
        program,
        f"""
        {view}
        einsum = einfx_contract_einsum('abc,bc->ac', {first.name}, b, semiring = '{semiring}')
        return einsum
        """,
        (A, B),
        rewrites=1,
    )
    optimised = einfx.optimize(program, (A, B))
    assert f"('ab,bc->ac', a, b, semiring = '{semiring}')" in optimised.code
    assert_same(optimised(A, B), program(A, B))


def test_sums_of_many_terms_and_over_several_dimensions_are_one_contraction() -> None:
    check_rewrite(
        CaptureSemirings(),
        lambda a, b: (a[:, :, None, None] + (b[:, :, None] + b.t())).logsumexp((1, 2)),
        """
        getitem = a[(slice(None, None, None), slice(None, None, None), None, None)]
        getitem_1 = b[(slice(None, None, None), slice(None, None, None), None)]
        t = b.t()
        einsum = einfx_contract_einsum('abcd,bcd,cd->ad', getitem, getitem_1, t, semiring = 'log')
        return einsum
        """,
        (A, B),
    )


def test_a_constant_among_the_terms_stays_with_its_term() -> None:
    check_rewrite(
        CaptureSemirings(),
        lambda a, b: ((a + 1.0)[:, :, None] + b).max(1)[0],
        """
        add = a + 1.0
        getitem = add[(slice(None, None, None), slice(None, None, None), None)]
        einsum = einfx_contract_einsum('abc,bc->ac', getitem, b, semiring = 'max_plus')
        return einsum
        """,
        (A, B),
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: (a[:, :, None] + b).amax(1),
        lambda a, b: (a[:, :, None] + b).max(),
        lambda a, b: (a[:, :, None] + b).max(1)[1],
        lambda a, b: torch.max(a[:, :, None] + b, 1, keepdim=True)[0],
        lambda a, b: (a[:, :, None] + b).logsumexp(1, keepdim=True),
        lambda a, b: (a[:, :, None] - b).logsumexp(1),
        lambda a, b: torch.add(a[:, :, None], b, alpha=2).logsumexp(1),
        lambda a, b: (a[:, :, None] * b).logsumexp(1),
        lambda a, b: (a + 3.0).logsumexp(1),
        lambda a, b: (a + a).logsumexp(1),
        lambda a, b: (a + a[0]).logsumexp(1),
        lambda a, b: torch.max(a, a + a[:1]),
    ],
)
def test_what_is_no_broadcast_sum_reduced_over_a_semiring_stays(program: Program) -> None:
    check_declined(CaptureSemirings(), program, (A, B))


def test_indices_and_sums_that_something_else_needs_keep_the_sum() -> None:
    def both(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found = torch.max(a[:, :, None] + b, 1)
        return found[0] + found[1]

    def again(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total = a[:, :, None] + b
        return total.logsumexp(1) + total.sum(1)

    check_declined(CaptureSemirings(), both, (A, B))
    check_declined(CaptureSemirings(), again, (A, B))


def test_what_follows_a_contraction_over_the_semiring_goes_on_with_it() -> None:
    def chain(a: torch.Tensor, b: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ((a[:, :, None] + b).logsumexp(1).t() + w).logsumexp(0)

    check_rewrite(
        CaptureSemirings(),
        chain,
        """
        getitem = a[(slice(None, None, None), slice(None, None, None), None)]
        einsum = einfx_contract_einsum('abc,bc->ac', getitem, b, semiring = 'log')
        t = einsum.t()
        einsum_1 = einfx_contract_einsum('ab,b->b', t, w, semiring = 'log')
        return einsum_1
        """,
        (A, B, torch.randn(5)),
        rewrites=2,
    )
    check_rewrite(
        CaptureSemirings(),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="max_plus").max(0).values,
        """
        einsum = einfx_contract_einsum('ij,jk->ik', a, b, semiring = 'max_plus')
        einsum_1 = einfx_contract_einsum('ab->b', einsum, semiring = 'max_plus')
        return einsum_1
        """,
        (A, B),
    )


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="max_plus").logsumexp(0),
        lambda a, b: einfx.einsum("ij,jk->ik", a, b, semiring="log", grad_of_neg_inf=0.0).logsumexp(0),
        lambda a, b: (einfx.einsum("ij,jk->ik", a, b, semiring="log").exp() + b[0]).logsumexp(0),
    ],
)
def test_what_follows_another_contraction_does_not(program: Program) -> None:
    check_declined(CaptureSemirings(), program, (A, B))


def test_mixed_dtypes_and_writes_are_left_with_the_reason() -> None:
    check_declined(
        CaptureSemirings(), lambda a, b: (a[:, :, None] + b.double()).logsumexp(1), (A, B), "floating dtype"
    )
    check_declined(
        CaptureSemirings(), lambda a, b: (a[:, :, None] + b).logsumexp(1).mul_(2.0), (A, B), "result"
    )

    def written(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        total = a[:, :, None] + b
        b.mul_(2.0)
        return total.logsumexp(1)

    check_declined(CaptureSemirings(), written, (A, B), "writes to its terms")


@pytest.mark.parametrize(("program", "semiring"), SPELLINGS)
def test_captured_programs_keep_values_and_gradients(program: Program, semiring: str) -> None:
    a, b = tensor((5, 6), seed=1), tensor((6, 7), seed=2)
    optimised = check_optimised(program, a, b, gradients=True)
    assert semiring in optimised.code
    for n, m in ((1, 6), (5, 1), (3, 4)):
        x, y = tensor((n, m), seed=3), tensor((m if m > 1 else 6, 2), seed=4)
        assert_same(optimised(x, y), program(x, y))


def test_a_hidden_markov_model_written_with_torch_alone_becomes_a_chain_of_matrix_vector_products() -> None:
    def forward(t: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        matrix = (t[:, :, None] + t[None]).logsumexp(1)
        matrix = (matrix[:, :, None] + t[None]).logsumexp(1)
        return (scores[:, :, None] + matrix[None]).logsumexp(1)

    t, scores = tensor((20, 20), seed=1), tensor((2, 20), seed=2)
    optimised = check_optimised(forward, t, scores, gradients=True)
    assert "logsumexp" not in optimised.code
    assert optimised.report.flops_after == 3 * 2 * 2 * 20 * 20
