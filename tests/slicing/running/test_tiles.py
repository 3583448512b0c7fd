"""Operations by element in tiles give what they give at once, and take no more memory than is said."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from einfx.equation import Equation
from einfx.slicing.running import tiles
from einfx.slicing.running.into import Place, into
from einfx.slicing.running.tiles import in_tiles, tiles_of

SHAPE = (70, 33, 4, 150)


def _numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("order", list(permutations(range(4)))[::3])
@pytest.mark.parametrize("work", [Tensor.copy_, Tensor.add_])
def test_a_tensor_may_lie_in_any_order(order: tuple[int, ...], work: Callable[..., Any]) -> None:
    stored = _numbers(*[SHAPE[dim] for dim in order])
    source = stored.permute([order.index(dim) for dim in range(4)])
    found, expected = _numbers(*SHAPE), _numbers(*SHAPE)
    in_tiles(work, found, [source])
    work(expected, source)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
def test_factors_may_be_the_same_along_dimensions_and_parts_of_others(dtype: torch.dtype) -> None:
    first = _numbers(151, 71, 4, 40, dtype=dtype)[1:, 1:, :, 3:36].permute(1, 3, 2, 0)
    second = _numbers(4, 70, dtype=dtype).T[:, None, :, None]
    whole = _numbers(70, 2, 33, 4, 150, dtype=dtype)
    found = whole.clone()
    in_tiles(Tensor.addcmul_, found[:, 1], [first, second])
    expected = whole.clone()
    expected[:, 1].addcmul_(first, second)
    assert torch.equal(found, expected)


def test_what_lies_alike_or_is_small_is_done_at_once() -> None:
    shape, dense = (1024, 1024), (1024, 1)
    assert tiles_of(shape, dense, (dense,)) is None
    assert tiles_of(shape, dense, ((2048, 1), (0, 1), (1, 0))) is None
    assert tiles_of((100, 100), (100, 1), ((1, 100),)) is None
    assert tiles_of((16, 1 << 16), (1 << 16, 1), ((1, 16),)) is not None


def test_copies_of_tiles_are_made_where_memory_is_given() -> None:
    given: list[int] = []

    def scratch(shape: Any) -> Tensor:
        memory = torch.full((10 + shape[0],), torch.nan)[10:]
        given.append(memory.numel())
        return memory

    target, source = torch.zeros(900, 1000), torch.randn(1000, 900).T
    in_tiles(Tensor.add_, target, [source], scratch)
    assert torch.equal(target, source)
    found = tiles_of((900, 1000), (1000, 1), ((1, 900),))
    assert found is not None
    assert given == [found.elements]
    assert found.elements <= tiles.tile_elements(torch.get_num_threads())


def test_products_of_elements_say_what_tiles_take() -> None:
    equation = Equation.parse("ij,ji->ij")
    lying = Place((1024, 1024), (1024, 1))
    how = into(equation, [lying, lying], lying, True, torch.float32, "cpu")
    found = tiles_of(lying.shape, lying.strides, (lying.strides, (1, 1024)))
    assert found is not None
    assert how.elementwise
    assert how.workspace_bytes == 4 * found.elements > 0
    a, b, target = torch.randn(1024, 1024), torch.randn(1024, 1024), torch.ones(1024, 1024)
    how.run([a, b], target, torch.empty)
    torch.testing.assert_close(target, 1 + a * b.T)
