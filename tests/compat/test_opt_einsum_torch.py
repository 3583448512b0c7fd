"""The interface of opt-einsum-torch: what it computes, within which limit, and what it adds to the peer."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from typing import Any

import numpy
import pytest
import torch

from einfx.compat.opt_einsum_torch import EinsumPlanner, einsum
from einfx.compat.opt_einsum_torch.planner import EinsumPlanner as FromItsModule
from einfx.errors import EinfxError, MemoryLimitError, UsageError

CPU = torch.device("cpu")

EXAMPLE = "jrl,ijr,ijrk,ijrl,ikmn->imn"
"""What the peer was made for, here with small sizes."""


def example(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Operands for it."""
    i, j, r, k, m = 6, 12, 3, 10, 4
    shapes = [(j, r, k), (i, j, r), (i, j, r, k), (i, j, r, k), (i, k, m, m)]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]


@pytest.mark.parametrize("limit", [8192, 100_000, 0.5])
@pytest.mark.parametrize("async_computation", [True, False])
def test_its_example_fits_its_limit(limit: float | int, async_computation: bool) -> None:
    operands = example()
    found = einsum(
        EXAMPLE, *operands, cuda_device="cpu", cuda_mem_limit=limit, async_computation=async_computation
    )
    expected = torch.einsum(EXAMPLE, *[x.double() for x in operands])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-2)


def test_numpy_arrays_and_tensors_mix() -> None:
    a, b = numpy.random.default_rng(0).normal(size=(3, 4)), torch.randn(4, 5, dtype=torch.float64)
    found = EinsumPlanner(CPU).einsum("ij,jk->ik", a, b)
    assert isinstance(found, torch.Tensor)
    assert found.device == CPU
    torch.testing.assert_close(found, torch.tensor(a) @ b)


@pytest.mark.parametrize(
    ("formula", "shapes", "dtype"),
    [
        ("...ij,jk", [(2, 3, 4), (4, 5)], torch.float64),
        ("bij,bjk->bik", [(2, 3, 4), (1, 4, 5)], torch.float64),
        ("ii->i", [(4, 4)], torch.float64),
        ("ij,jk->ik", [(3, 4), (4, 5)], torch.complex128),
        ("ij,jk->ik", [(3, 4), (4, 5)], torch.int64),
    ],
)
def test_what_the_peer_lacks_works(formula: str, shapes: list[Any], dtype: torch.dtype) -> None:
    operands = [torch.randn(shape, dtype=torch.complex128).mul(5) for shape in shapes]
    operands = [(x if dtype.is_complex else x.real).to(dtype) for x in operands]
    found = einsum(formula, *operands, cuda_device="cpu", cuda_mem_limit=1 << 20)
    torch.testing.assert_close(found, torch.einsum(formula, *operands))


def test_gradients_stay_within_the_limit_too() -> None:
    operands = [x.requires_grad_() for x in example(torch.float64)]
    found = einsum(EXAMPLE, *operands, cuda_device="cpu", cuda_mem_limit=100_000)
    gradient = torch.randn_like(found)
    expected = torch.autograd.grad(torch.einsum(EXAMPLE, *operands), operands, gradient)
    torch.testing.assert_close(torch.autograd.grad(found, operands, gradient), expected)


def test_a_limit_is_in_bytes_or_a_part_of_what_is_available() -> None:
    assert EinsumPlanner(CPU, 5000).cuda_mem_limit == 4096
    assert EinsumPlanner(CPU, numpy.int64(5000)).cuda_mem_limit == 4096  # type: ignore[arg-type]
    whole, half = EinsumPlanner(CPU, 1.0).cuda_mem_limit, EinsumPlanner(CPU, 0.5).cuda_mem_limit
    assert 1 << 20 < half < whole
    assert EinsumPlanner("cpu").cuda_device == CPU


def test_the_planner_is_found_in_its_module() -> None:
    assert FromItsModule is EinsumPlanner


@pytest.mark.parametrize("limit", ["1 GiB", 0, 0.0, 1.5, -1, True, None])
def test_other_limits_are_refused(limit: Any) -> None:
    with pytest.raises(UsageError, match="cuda_mem_limit="):
        EinsumPlanner(CPU, limit)


def test_a_limit_that_is_too_small_says_what_would_do() -> None:
    with pytest.raises(MemoryLimitError, match=r"cuda_mem_limit=1024 .* needs \d+ bytes"):
        einsum("i,j->ij", torch.ones(30), torch.ones(30), cuda_device="cpu", cuda_mem_limit=1024)


def test_programs_that_catch_what_the_peer_raises_catch_it() -> None:
    with pytest.raises(ValueError, match="it needs"):
        einsum("i,j->ij", torch.ones(30), torch.ones(30), cuda_device="cpu", cuda_mem_limit=1024)
    with pytest.raises(ValueError, match="cuda_mem_limit"):
        EinsumPlanner(CPU, "half")  # type: ignore[arg-type]


def test_more_than_what_is_free_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    einsum("ij->i", torch.ones(2, 2), cuda_device="cpu", cuda_mem_limit=1 << 50)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "less free memory" in caplog.text


README = """
import einfx.compat
einfx.compat.install("opt_einsum_torch")
from opt_einsum_torch import EinsumPlanner
import torch
arr1, arr2 = torch.rand(3, 4, 5), torch.rand(4, 5, 6)
ee = EinsumPlanner(torch.device(DEVICE), cuda_mem_limit=0.9)
result = ee.einsum('ijk,jkl->il', arr1, arr2)
print(result.device, abs(result.numpy() - torch.einsum('ijk,jkl->il', arr1, arr2).numpy()).max() < 1e-4)
from opt_einsum_torch.einsum import einsum
import opt_einsum_torch
print(einsum is opt_einsum_torch.einsum, callable(opt_einsum_torch.einsum))
"""


def test_the_program_of_its_readme_runs() -> None:
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    program = README.replace("DEVICE", repr(device))
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "cpu True\nTrue True\n"


def test_signatures_are_those_of_the_peer() -> None:
    assert str(inspect.signature(einsum)).partition(" ->")[0].replace(" ", "") == (
        "(formula:'str',*tensors:'Any',cuda_device:'str|torch.device'='cuda:0',"
        "cuda_mem_limit:'float|int'=0.9,async_computation:'bool'=True)"
    )
    assert list(inspect.signature(EinsumPlanner).parameters) == ["cuda_device", "cuda_mem_limit"]
    assert list(inspect.signature(EinsumPlanner.einsum).parameters) == [
        "self",
        "formula",
        "tensors",
        "async_computation",
    ]


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="it is a CUDA device, or 'cpu'"):
        EinsumPlanner("meta")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="'cpu' computes on the CPU"):
            einsum("ij->i", torch.ones(2, 2))


def test_errors_are_those_of_einfx() -> None:
    with pytest.raises(EinfxError, match="label 'b' has size 3"):
        einsum("ij,jk->ik", torch.ones(2, 4), torch.ones(3, 4), cuda_device="cpu")


def test_its_logger_tells_of_calls(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="OptimalEinsum"):
        einsum("ij->i", torch.ones(2, 2), cuda_device="cpu", cuda_mem_limit=4096)
    assert "'ij->i' on cpu within 4096 bytes" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_results_of_a_gpu_come_back_to_the_cpu() -> None:
    operands = example()
    found = einsum(EXAMPLE, *operands, cuda_mem_limit=1 << 20)
    assert found.device == CPU
    torch.testing.assert_close(found, torch.einsum(EXAMPLE, *operands), rtol=1e-4, atol=1e-2)
