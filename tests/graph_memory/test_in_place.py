"""Operations written over an operand compute what they do elsewhere, or do that where they may not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from einfx.graph_memory.in_place import PARTWISE, elementwise, in_parts, product
from tests.program import tensor


@pytest.mark.parametrize("name", sorted(PARTWISE))
def test_parts_are_the_same_numbers_as_the_whole_up_to_rounding(name: str) -> None:
    together = {"softmax": (1,), "log_softmax": (1,), "layer_norm": (-2, -1)}.get(name, ())
    arguments = {
        "softmax": (1,),
        "log_softmax": (1,),
        "layer_norm": ((7, 90),),
        "rsub": (2,),
        "rtruediv": (2,),
    }
    for x in (tensor((30, 7, 90)), tensor((1, 7, 90)), tensor((0, 7, 90)), tensor((5, 7, 90)).float()):
        expected = PARTWISE[name](x, *arguments.get(name, ()))
        given = x.clone()
        assert in_parts(name, together, given, *arguments.get(name, ())) is given
        eps = torch.finfo(x.dtype).eps
        torch.testing.assert_close(given, expected, rtol=8 * eps, atol=eps)


def test_parts_are_small() -> None:
    sizes: list[int] = []

    def noted(part: Tensor) -> Tensor:
        sizes.append(part.numel())
        return part

    PARTWISE["noted"] = noted
    try:
        for shape, together in (((4, 100, 30), (2,)), ((1, 8000), ()), ((3, 5), (0, 1))):
            del sizes[:]
            in_parts("noted", together, torch.ones(shape))
            total = torch.Size(shape).numel()
            assert sum(sizes) == total
            assert max(sizes) <= total // 16 or len(together) == len(shape)
    finally:
        del PARTWISE["noted"]


def test_what_is_larger_than_the_operand_goes_elsewhere() -> None:
    x, y = torch.ones(3), torch.ones(2, 3)
    assert elementwise("add", 0, x, y).shape == (2, 3)
    assert elementwise("add", 1, x, y) is y
    assert x.sum() == 3


def test_a_method_writes_over_its_tensor() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert elementwise("relu_", 0, x) is x
    assert x.tolist() == [0, 2]


def test_nothing_is_overwritten_where_gradients_are_recorded() -> None:
    x = tensor((4, 5)).requires_grad_()
    y = x.exp()
    for result in (elementwise("mul", 0, y, 2), elementwise("relu_", 0, y), in_parts("softmax", (1,), y, 1)):
        assert result is not y
        (gradient,) = torch.autograd.grad(result.square().sum(), x, retain_graph=True)
        assert gradient.isfinite().all()
    with torch.no_grad():
        z = y * 1
        assert in_parts("softmax", (1,), z, 1) is z


def test_a_product_takes_its_factor_in_the_order_of_the_result() -> None:
    x, factor = tensor((2, 3, 4)), tensor((4, 2), seed=1)
    expected = torch.einsum("abc,ca->abc", x, factor)
    assert product(x, factor, (1, 0), (1,)) is x
    torch.testing.assert_close(x, expected)
