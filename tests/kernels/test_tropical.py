"""Products over max_plus, min_plus, max_times and max_min: the C extension and the torch loop alike."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from einfx import cli
from einfx.errors import OperandError
from einfx.kernels import native, tropical, tropical_loop, tropical_native
from einfx.semiring import get
from tests.kernels.matrices import LAYOUTS, by_hand, lay_out
from tests.kernels.memory import peak_bytes

ROOT = Path(__file__).parents[2]
NAMES = ["max_plus", "min_plus", "max_times", "max_min"]
Kernel = Callable[[str, Tensor, Tensor, bool], tuple[Tensor, Tensor]]


def nan_or(choose: Callable[[float, float], float]) -> Callable[[float, float], float]:
    """A maximum or minimum that lets nan through."""
    return lambda x, y: math.nan if math.isnan(x) or math.isnan(y) else choose(x, y)


LAWS: dict[str, tuple[float, Any, Any]] = {
    "max_plus": (-math.inf, nan_or(max), lambda x, y: x + y),
    "min_plus": (math.inf, nan_or(min), lambda x, y: x + y),
    "max_times": (0.0, nan_or(max), lambda x, y: x * y),
    "max_min": (-math.inf, nan_or(max), nan_or(min)),
}


def annihilating(name: str) -> tuple[float, Any, Any]:
    zero, add, multiply = LAWS[name]
    return zero, add, lambda x, y: zero if zero in (x, y) else multiply(x, y)


def in_c(level: str) -> Kernel:
    def kernel(name: str, a: Tensor, b: Tensor, annihilate: bool) -> tuple[Tensor, Tensor]:
        if not tropical_native.available():
            pytest.skip("the C extension isn't built")
        values, places = tropical_native.tropical_matmul(
            name, a, b, argmax=True, zero_annihilates=annihilate, level=level
        )
        alone, nothing = tropical_native.tropical_matmul(name, a, b, zero_annihilates=annihilate, level=level)
        assert nothing is None
        assert torch.equal(alone.nan_to_num(7.5), values.nan_to_num(7.5))
        assert places is not None
        return values, places

    return kernel


def in_torch(name: str, a: Tensor, b: Tensor, annihilate: bool) -> tuple[Tensor, Tensor]:
    semiring = get(name).annihilating(annihilate)
    values, places = tropical_loop.matmul(semiring, a, b, argmax=True)
    alone, _ = tropical_loop.matmul(semiring, a, b)
    assert torch.equal(alone.nan_to_num(7.5), values.nan_to_num(7.5))
    assert places is not None
    return values, places


KERNELS: dict[str, Kernel] = {**{level: in_c(level) for level in native.LEVELS}, "torch": in_torch}


def numbers(name: str, special: bool) -> st.SearchStrategy[float]:
    low = 0 if name == "max_times" else -3
    ordinary = st.integers(low, 3).map(float)
    odd = [math.inf, math.nan] + ([] if name == "max_times" else [-math.inf])
    return st.one_of(ordinary, ordinary, ordinary, st.sampled_from(odd)) if special else ordinary


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_values_and_first_indices_are_those_of_plain_python(
    name: str, kernel: str, data: st.DataObject
) -> None:
    batch, rows, depth, columns = (data.draw(st.integers(1, most)) for most in (2, 4, 5, 4))
    element = numbers(name, data.draw(st.booleans()))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    annihilate = data.draw(st.booleans())

    def draw(*shape: int) -> Tensor:
        count = math.prod(shape)
        values = data.draw(st.lists(element, min_size=count, max_size=count))
        return lay_out(torch.tensor(values, dtype=dtype).reshape(shape), data.draw(st.sampled_from(LAYOUTS)))

    a, b = draw(batch, rows, depth), draw(batch, depth, columns)
    values, places = KERNELS[kernel](name, a, b, annihilate)
    expected, first = by_hand(a, b, *(annihilating(name) if annihilate else LAWS[name]))
    wanted = torch.tensor(expected, dtype=dtype).reshape(values.shape)
    assert torch.equal(values.nan_to_num(99.5), wanted.nan_to_num(99.5))
    assert places.flatten().tolist() == first


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 97, 385, 33),
        (3, 13, 40, 513),
        (2, 1, 800, 1),
        (1, 200, 1, 70),
        (5, 24, 32, 32),
        (1, 50, 2500, 130),
    ],
)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_blocks_tiles_and_threads_meet_without_seams(
    name: str, kernel: str, shape: tuple[int, int, int, int], threads: int
) -> None:
    torch.set_num_threads(threads)
    batch, rows, depth, columns = shape
    # Few different numbers, so that there are ties in every sum.
    a = torch.randint(0, 50, (batch, rows, depth)).float()
    b = torch.randint(0, 50, (batch, depth, columns)).float()
    values, places = KERNELS[kernel](name, a, b, False)
    terms = get(name).multiplication(a[..., None], b[:, None])
    expected = terms.amin(2) if name == "min_plus" else terms.amax(2)
    assert torch.equal(values, expected)
    assert torch.equal(places, (terms == expected[:, :, None]).int().argmax(2))


@pytest.mark.parametrize("name", NAMES)
def test_one_nan_in_a_large_matrix_reaches_its_row_alone(name: str) -> None:
    a, b = torch.rand(1, 150, 600), torch.rand(1, 600, 90)
    expected = tropical.matmul(a, b, name)
    a[0, 100, 30] = math.nan
    values, places = tropical.matmul(a, b, name, return_argmax=True)
    assert values[0, 100].isnan().all()
    assert (places[0, 100] == 30).all()
    rest = [i for i in range(150) if i != 100]
    assert torch.equal(values[0, rest], expected[0, rest])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    a, b = torch.rand(2, 5, 7).to(dtype), torch.rand(2, 7, 3).to(dtype)
    values = tropical.matmul(a, b, name)
    assert values.dtype == dtype
    assert torch.equal(values, tropical.matmul(a.float(), b.float(), name).to(dtype))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_integers_keep_their_dtype_and_their_infinity(name: str, dtype: torch.dtype) -> None:
    a, b = torch.randint(0, 9, (2, 5, 7)).to(dtype), torch.randint(0, 9, (2, 7, 3)).to(dtype)
    values = tropical.matmul(a, b, name)
    assert values.dtype == dtype
    assert torch.equal(values.double(), tropical.matmul(a.double(), b.double(), name))
    nothing = torch.full_like(a, get(name).zero_of(dtype))
    assert torch.equal(tropical.matmul(nothing, b, name), torch.full_like(values, get(name).zero_of(dtype)))


def test_bool_has_maximum_and_minimum() -> None:
    a, b = torch.rand(2, 5, 7) < 0.4, torch.rand(2, 7, 3) < 0.4
    for name in ("max_times", "max_min"):
        assert torch.equal(tropical.matmul(a, b, name), (a.float() @ b.float()) > 0)


def test_dtypes_promote_as_in_torch() -> None:
    a, b = torch.ones(1, 2, 3, dtype=torch.int64), torch.ones(1, 3, 2, dtype=torch.float16)
    assert tropical.matmul(a, b).dtype == torch.float16


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 3, 0, 4), (2, 3, 4, 0), (0, 0, 0, 0)])
def test_empty_dimensions_give_the_zero(name: str, shape: tuple[int, int, int, int]) -> None:
    batch, rows, depth, columns = shape
    a, b = torch.rand(batch, rows, depth), torch.rand(batch, depth, columns)
    values = tropical.matmul(a, b, name)
    assert values.shape == (batch, rows, columns)
    assert (values == get(name).zero_of(values.dtype)).all()


def test_what_does_not_fit_is_refused_with_its_shapes() -> None:
    a = torch.rand(2, 3, 4)
    with pytest.raises(OperandError, match=r"not \(2, 3, 4\) and \(2, 3, 4\)"):
        tropical.matmul(a, a)
    with pytest.raises(OperandError, match="non-negative"):
        tropical.matmul(-a, a.mT, "max_times")
    with pytest.raises(OperandError, match="no argmax"):
        tropical.matmul(a[..., :0], a.mT[:, :0], return_argmax=True)
    with pytest.raises(OperandError, match=r"no torch\.complex64 numbers"):
        tropical.matmul(a.to(torch.complex64), a.mT.to(torch.complex64))


def distinct(*shape: int) -> Tensor:
    """Numbers far enough apart that a finite difference changes no choice."""
    return (torch.randperm(math.prod(shape)).double().reshape(shape) + 1) / 7 + torch.rand(
        shape
    ).double() / 50


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_first_and_second_order_are_right(name: str) -> None:
    a, b = distinct(2, 3, 4).requires_grad_(), distinct(2, 4, 2).requires_grad_()

    def product(x: Tensor, y: Tensor) -> Tensor:
        return tropical.matmul(x, y, name)

    assert gradcheck(product, (a, b), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(product, (a, b))


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_goes_to_the_first_of_equal_terms(name: str) -> None:
    a, b = torch.ones(1, 1, 3, requires_grad=True), torch.ones(1, 3, 1, requires_grad=True)
    tropical.matmul(a, b, name).sum().backward()
    assert a.grad is not None
    assert a.grad.flatten().tolist() == [1, 0, 0]
    assert b.grad is not None
    assert b.grad.flatten().tolist() == ([0, 0, 0] if name == "max_min" else [1, 0, 0])


def test_transforms_of_torch_func_compose() -> None:
    a, b = distinct(3, 2, 4, 5), distinct(2, 5, 3)

    def total(x: Tensor, y: Tensor) -> Tensor:
        return (tropical.matmul(x, y, "max_times") ** 2).sum()

    mapped = torch.func.vmap(total, in_dims=(0, None))(a, b)
    assert torch.allclose(mapped, torch.stack([total(x, b) for x in a]))
    slopes = torch.func.vmap(torch.func.grad(total), in_dims=(0, None))(a, b)
    assert torch.allclose(slopes, torch.stack([torch.func.grad(total)(x, b) for x in a]))
    value, tangent = torch.func.jvp(lambda x: total(x, b), (a[0],), (a[1],))[:2]
    assert torch.allclose(tangent, (slopes[0] * a[1]).sum())
    assert torch.allclose(value, mapped[0])
    hessian = torch.func.hessian(lambda x: total(x, b))(a[0])
    assert torch.allclose(hessian, torch.func.jacrev(torch.func.jacrev(lambda x: total(x, b)))(a[0]))
    last = torch.func.vmap(lambda x: tropical.matmul(x, b, return_argmax=True), in_dims=3, out_dims=1)
    values, places = last(a.movedim(0, 3))
    assert torch.equal(values[:, 1], tropical.matmul(a[1], b))
    assert torch.equal(places[:, 1], tropical.matmul(a[1], b, return_argmax=True)[1])


@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_as_one_graph_with_and_without_gradients(name: str) -> None:
    compiled = torch.compile(
        lambda x, y: tropical.matmul(x, y, name), backend="aot_eager", fullgraph=True, dynamic=True
    )
    a, b = distinct(2, 3, 4), distinct(2, 4, 2)
    expected = tropical.matmul(a, b, name)
    assert torch.equal(compiled(a, b), expected)
    x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
    assert torch.equal(compiled(x, y), expected)
    grads = torch.autograd.grad(compiled(x, y).sum(), (x, y))
    wanted = torch.autograd.grad(tropical.matmul(x, y, name).sum(), (x, y))
    assert all(torch.equal(g, w) for g, w in zip(grads, wanted, strict=True))


def test_the_operator_passes_torchs_own_checks() -> None:
    for argmax in (False, True):
        torch.library.opcheck(
            torch.ops.einfx.select_matmul,
            (torch.rand(2, 3, 4), torch.rand(2, 4, 2), "max_plus", False, argmax),
        )


@pytest.mark.parametrize("name", ["max_plus", "max_min"])
@pytest.mark.parametrize("argmax", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_the_workspace_is_what_it_says(name: str, argmax: bool, dtype: torch.dtype) -> None:
    a, b = torch.randint(0, 90, (2, 300, 400)).to(dtype), torch.randint(0, 90, (2, 400, 500)).to(dtype)
    said = tropical.workspace_bytes(2, 300, 400, 500, dtype, argmax=argmax)
    results = 2 * 300 * 500 * (dtype.itemsize + 8 * argmax)
    spent = peak_bytes(lambda: tropical.matmul(a, b, name, return_argmax=argmax))
    assert results <= spent <= results + said
    tile = tropical_loop.workspace_bytes(
        2, 300, 400, 500, dtype.itemsize, argmax, "cpu", simple=dtype.is_floating_point
    )
    if dtype != torch.bfloat16:
        loop = peak_bytes(lambda: tropical_loop.matmul(get(name), a, b, argmax=argmax))
        assert results <= loop <= results + tile
        assert loop >= results + tile // 3


def test_other_threads_run_while_the_extension_computes() -> None:
    if not tropical_native.available():
        pytest.skip("the C extension isn't built")
    a = torch.rand(1, 1500, 1500)
    torch.set_num_threads(1)
    tropical.matmul(a[:, :8], a)
    done = threading.Event()

    def compute() -> None:
        tropical.matmul(a, a, return_argmax=True)
        done.set()

    worker = threading.Thread(target=compute)
    worker.start()
    ticks = 0
    while not done.is_set():
        time.sleep(0.001)
        ticks += 1
    worker.join()
    assert ticks > 5


def test_a_build_without_a_compiler_carries_on(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "lib")]
    command += ["--build-temp", str(tmp_path / "temp")]
    for compiler in ("false", "/there/is/no/compiler"):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "CC": compiler},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "einfx is built without its C extension" in done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_it_says_what_it_runs_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    assert tropical_native.describe() in capsys.readouterr().out
    assert tropical_native.available() == tropical_native.describe().startswith("C, ")
    monkeypatch.setattr(tropical_native, "_library", lambda: None)
    assert tropical_native.describe() == "not built"
    a = torch.rand(1, 3, 4)
    assert torch.equal(tropical.matmul(a, a.mT), (a[..., None] + a.mT[:, None]).amax(2))
    with pytest.raises(RuntimeError, match="isn't built"):
        tropical_native.tropical_matmul("max_plus", a, a.mT)
