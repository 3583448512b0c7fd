"""Boolean matrix products are those of sets, whatever dtype computes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from einfx.errors import OperandError
from einfx.kernels import boolean
from tests.kernels.matrices import LAYOUTS, lay_out


@given(data=st.data())
@pytest.mark.parametrize("few", [0, 128**3])
def test_products_are_those_of_sets(few: int, data: st.DataObject) -> None:
    batch, rows, depth, columns = (data.draw(st.integers(0, 4)) for _ in range(4))
    a = torch.rand(batch, rows, depth) < 0.4
    b = torch.rand(batch, depth, columns) < 0.4
    if batch:
        a, b = (lay_out(x, data.draw(st.sampled_from(LAYOUTS))) for x in (a, b))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boolean, "FEW", few)
        product = boolean.matmul(a, b)
    assert product.dtype == torch.bool
    for n in range(batch):
        rows_of_a = [set(torch.nonzero(a[n, i]).flatten().tolist()) for i in range(rows)]
        columns_of_b = [set(torch.nonzero(b[n, :, j]).flatten().tolist()) for j in range(columns)]
        assert product[n].tolist() == [[not x.isdisjoint(y) for y in columns_of_b] for x in rows_of_a]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [255, 256, 257, 300, 70000])
def test_long_sums_of_ones_stay_true(dtype: torch.dtype, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boolean, "FEW", 0)
    monkeypatch.setattr(boolean, "_multiplies_bfloat16", lambda device: dtype == torch.bfloat16)
    a = torch.ones(1, 2, depth, dtype=torch.bool)
    a[0, 1] = False
    a[0, 1, depth // 2] = True
    assert boolean.matmul(a, a.mT).all()
    assert boolean.matmul(a, ~a.mT)[0].tolist() == [[False, True], [False, False]]


def test_it_maps_and_compiles() -> None:
    a, b = torch.rand(3, 2, 4, 5) < 0.3, torch.rand(2, 5, 3) < 0.3
    mapped = torch.func.vmap(boolean.matmul, in_dims=(0, None))(a, b)
    assert torch.equal(mapped, torch.stack([boolean.matmul(x, b) for x in a]))
    compiled = torch.compile(boolean.matmul, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(a[0], b), mapped[0])


def test_numbers_are_refused_with_the_remedy() -> None:
    with pytest.raises(OperandError, match=r"no torch\.float32 numbers.*it takes bool dtypes"):
        boolean.matmul(torch.ones(1, 2, 3), torch.ones(1, 3, 2))
