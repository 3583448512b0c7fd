"""Contractions that are left too little memory are limited, in an order in which little is alive."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from einfx.errors import MemoryLimitError
from einfx.graphs.shapes import propagate
from einfx.passes import LimitMemory
from tests.program import tensor
from tests.rewriting import check_declined, check_rewrite

E = torch.einsum
A, B, C = tensor((30, 40), seed=1), tensor((40, 50), seed=2), tensor((50, 3), seed=3)


def _chain(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return E("ij,jk,kl->il", a.exp(), b, c).relu()


def _traced(program: Callable[..., Tensor], *inputs: Tensor) -> fx.GraphModule:
    traced = fx.symbolic_trace(program)
    propagate(traced, inputs)
    return traced


def test_nothing_is_limited_without_a_limit() -> None:
    check_declined(LimitMemory(), _chain, (A, B, C))


def test_a_contraction_that_has_enough_stays_as_it_is() -> None:
    check_declined(LimitMemory(memory_limit=30 * 50 * 8), lambda a, b: E("ij,jk->ik", a, b), (A, B))


def test_a_contraction_gets_what_is_alive_beside_it_less() -> None:
    text = """
        exp = a.exp()
        einsum_1 = einfx_contract_einsum('ab,bc,cd->ad', exp, b, c, memory_limit = 1600)
        relu = einsum_1.relu()
        return relu
    """
    check_rewrite(LimitMemory(memory_limit=30 * 40 * 8 + 1600), _chain, text, (A, B, C), rewrites=1)


def test_a_contraction_is_limited_where_that_is_asked_for_and_leaves_what_is_asked_for() -> None:
    text = """
        exp = a.exp()
        einsum_1 = einfx_contract_einsum('ab,bc,cd->ad', exp, b, c, memory_limit = 2400)
        relu = einsum_1.relu()
        return relu
    """
    forced = LimitMemory(memory_limit=30 * 40 * 8 + 2500, beside=(("einsum", 100),))
    traced = _traced(_chain, A, B, C)
    assert forced.apply(traced) == 1
    traced.recompile()
    assert "memory_limit = 2400" in traced.code, text


def test_another_order_is_enough_where_less_is_alive_in_it() -> None:
    def program(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        other = a.exp()
        return E("ij,jk,kl->il", a, b, c) + other[:, :3]

    text = """
        einsum = torch.functional.einsum('ij,jk,kl->il', a, b, c)
        exp = a.exp()
        getitem = exp[(slice(None, None, None), slice(None, 3, None))]
        add = einsum + getitem
        return add
    """
    check_rewrite(LimitMemory(memory_limit=11040), program, text, (A, B, C), rewrites=1)


def test_random_numbers_are_drawn_in_the_order_of_the_program() -> None:
    def program(x: Tensor) -> Tensor:
        first, second = torch.rand_like(x), torch.rand_like(x[:50])
        return second.sum() - first.sum()

    traced = _traced(program, tensor((100,), seed=4))
    LimitMemory(memory_limit=850).apply(traced)
    names = [node.name for node in traced.graph.nodes]
    assert names.index("rand_like") < names.index("rand_like_1")
    assert names.index("sum_2") < names.index("rand_like_1")


def test_the_order_stays_where_the_program_writes_in_place() -> None:
    def program(x: Tensor) -> Tensor:
        first, second = x.exp(), x.sin()
        first.add_(1)
        return first.sum() + second.sum()

    with pytest.raises(MemoryLimitError, match="is too little for the model"):
        LimitMemory(memory_limit=900).apply(_traced(program, tensor((100,), seed=4)))


def test_a_product_in_another_spelling_is_limited_where_torch_copies_what_broadcasts() -> None:
    a, b = tensor((8, 1, 100, 40), seed=1), tensor((1, 8, 40, 2), seed=2)
    text = """
        einsum = einfx_contract_einsum('abcd,abde->abce', a, b, memory_limit = 200000)
        return einsum
    """
    check_rewrite(LimitMemory(memory_limit=200_000), lambda a, b: a @ b, text, (a, b))


def test_the_error_names_the_node_what_is_beside_it_and_what_would_be_enough() -> None:
    with pytest.raises(MemoryLimitError) as caught:
        LimitMemory(memory_limit=20000).apply(_traced(lambda a, b: E("ij,jk->ik", a, b).flip(0), A, B))
    found = r"flip at .* takes 12000 bytes .* beside einsum .*; it needs 24000 bytes"
    assert re.search(found, str(caught.value))
    assert caught.value.needed_bytes == 24000


def test_the_error_says_why_an_elementwise_operation_cannot_take_the_place_of_its_operand() -> None:
    def program(x: Tensor) -> Tensor:
        y = x.exp()
        return y.sin() + y

    with pytest.raises(
        MemoryLimitError, match=r"in place, since exp is read afterwards\); it needs 1600 bytes"
    ):
        LimitMemory(memory_limit=1000).apply(_traced(program, tensor((100,))))
    assert LimitMemory(memory_limit=1600).apply(_traced(program, tensor((100,)))) == 0


def test_the_limit_that_an_error_names_is_enough() -> None:
    with pytest.raises(MemoryLimitError) as caught:
        LimitMemory(memory_limit=100).apply(_traced(_chain, A, B, C))
    needed = caught.value.needed_bytes
    assert needed is not None
    assert 720 <= needed < 9600
    assert LimitMemory(memory_limit=needed).apply(_traced(_chain, A, B, C)) >= 1


def test_with_gradients_each_contraction_is_limited_by_itself() -> None:
    text = """
        exp = a.exp()
        einsum_1 = einfx_contract_einsum('ab,bc,cd->ad', exp, b, c, memory_limit = 40000)
        relu = einsum_1.relu()
        return relu
    """
    check_rewrite(LimitMemory(memory_limit=40000, gradients=True), _chain, text, (A, B, C))
    check_declined(LimitMemory(memory_limit=1 << 20, gradients=True), _chain, (A, B, C))


def test_with_gradients_a_contraction_stays_whose_operands_are_written() -> None:
    def program(a: Tensor, b: Tensor) -> Tensor:
        c = a.exp()
        d = E("ij,jk->ik", c, b)
        c.zero_()
        return d

    reason = "autograd may have saved"
    check_declined(LimitMemory(memory_limit=10, gradients=True), program, (A, B), reason)


def test_a_result_whose_strides_are_seen_keeps_them() -> None:
    a, b = tensor((30, 40, 5), seed=1), tensor((5, 40, 50), seed=2)
    text = """
        einsum_1 = einfx_contract_einsum('abc,cbd->cad', a, b, memory_limit = 60000)
        permute = torch.permute(einsum_1, (1, 2, 0))
        return permute
    """
    limited = LimitMemory(memory_limit=60000)
    traced = check_rewrite(limited, lambda a, b: E("ijb,bjk->ikb", a, b), text, (a, b))
    assert traced(a, b).stride() == E("ijb,bjk->ikb", a, b).stride()
