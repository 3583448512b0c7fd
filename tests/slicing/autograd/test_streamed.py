"""Operands that lie elsewhere are contracted in blocks, within the limit, and differentiated so too."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from einfx.equation import Equation
from einfx.errors import MemoryLimitError
from einfx.options import Options
from einfx.semiring_dispatch import contract_over
from einfx.slicing.autograd.streamed import Elsewhere, contract_elsewhere
from tests.slicing.networks import network
from tests.threads import transferring_threads

CPU = torch.device("cpu")


def _whole(text: str, operands: list[Tensor], name: str) -> Tensor:
    result: Tensor = contract_over(text, operands, "auto", Options.read(name))
    return result


def _needed(text: str, operands: list[Tensor], where: Elsewhere, name: str) -> int:
    """The limit that an error says to be enough."""
    with pytest.raises(MemoryLimitError) as caught:
        contract_elsewhere(Equation.parse(text), operands, "auto", Options.read(name, memory_limit=1), where)
    return int(str(caught.value).split("it needs ")[1].split()[0])


@pytest.mark.parametrize("name", ["real", "log", "max_plus"])
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 7, 8, 14, 15, 18, 21, 22, 28])
def test_results_and_gradients_are_those_of_operands_in_place(seed: int, name: str) -> None:
    text, _, _, operands = network(seed)
    pick = random.Random(seed)
    for x in operands:
        x.requires_grad_(pick.random() < 0.7)
    there = tuple(pick.random() < 0.7 for _ in operands)
    where = Elsewhere(CPU, torch.float64, there, pick.random() < 0.7)
    limit = int(_needed(text, operands, where, name) * (1 + 3 * pick.random()))
    options = Options.read(name, memory_limit=limit)
    found = contract_elsewhere(Equation.parse(text), operands, "auto", options, where)
    expected = _whole(text, operands, name)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    wanted = [x for x in operands if x.requires_grad]
    if wanted:
        gradient = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad(found, wanted, gradient), torch.autograd.grad(expected, wanted, gradient)
        )


def test_real_results_are_those_of_torch() -> None:
    for seed in (30, 33, 34, 38, 40):
        text, _, _, operands = network(seed)
        where = Elsewhere(CPU, torch.float64, (True,) * len(operands), True)
        limit = 2 * _needed(text, operands, where, "real")
        options = Options.read(memory_limit=limit)
        found = contract_elsewhere(Equation.parse(text), operands, "auto", options, where)
        torch.testing.assert_close(found, torch.einsum(text, *operands), rtol=1e-10, atol=1e-10)


def test_operands_have_dtypes_of_their_own() -> None:
    a, b = torch.arange(6).view(2, 3), torch.ones(3, 4, dtype=torch.float32)
    where = Elsewhere(CPU, torch.float64, (True, True), True)
    options = Options.read(memory_limit=4000)
    found = contract_elsewhere(Equation.parse("ij,jk->ik"), (a, b), "auto", options, where)
    assert found.dtype == torch.float64
    assert found[:, 0].tolist() == [3, 12]


@pytest.mark.parametrize("stores", [False, True])
def test_buffers_stay_within_the_limit(stores: bool) -> None:
    operands = [torch.randn(shape, dtype=torch.float64) for shape in [(300, 200), (200, 400), (400, 500)]]
    limit, result_bytes = 500_000, 300 * 500 * 8
    where = Elsewhere(CPU, torch.float64, (True, False, True), stores)
    if stores:
        # All of them elsewhere: so is the result, which doesn't count.
        where = where._replace(operands=(True, True, True))
    else:
        limit += result_bytes
    options = Options.read(memory_limit=limit)
    equation = Equation.parse("ij,jk,kl->il")

    def work() -> Tensor:
        return contract_elsewhere(equation, operands, "auto", options, where)

    result = work()
    torch.testing.assert_close(result, torch.einsum("ij,jk,kl->il", *operands))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        work()
    now = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    assert most <= limit * 1.05 + stores * result_bytes


@pytest.mark.parametrize("inference", [False, True])
def test_no_thread_and_no_gradient_is_left(inference: bool) -> None:
    x = torch.randn(50, 60)
    where = Elsewhere(CPU, torch.float32, (True, True), True)
    options = Options.read(memory_limit=20_000)
    with torch.inference_mode(inference):
        found = contract_elsewhere(Equation.parse("ij,kj->ik"), (x, x), "auto", options, where)
        torch.testing.assert_close(found, x @ x.T)
    assert not transferring_threads()


def test_it_can_be_differentiated_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in [(3, 4), (4, 5), (5,)]
    )
    where = Elsewhere(CPU, torch.float64, (True, True, True), True)
    options = Options.read(memory_limit=3000)

    def function(*tensors: Tensor) -> Tensor:
        return contract_elsewhere(Equation.parse("ij,jk,k->i"), tensors, "auto", options, where)

    assert torch.autograd.gradcheck(function, (a, b, c))
    assert torch.autograd.gradgradcheck(function, (a, b, c))


@pytest.mark.parametrize("stores", [False, True])
def test_over_logarithms_too(stores: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in [(3, 4), (4, 5)]
    )
    where = Elsewhere(CPU, torch.float64, (True, True), stores)
    options = Options.read("log", memory_limit=3000)

    def function(*tensors: Tensor) -> Tensor:
        return contract_elsewhere(Equation.parse("ij,jk->ik"), tensors, "auto", options, where)

    assert torch.autograd.gradcheck(function, (a, b))
    assert torch.autograd.gradgradcheck(function, (a, b))


def test_selected_terms_have_no_second_derivatives_but_those_of_the_incoming_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.rand(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in [(3, 4), (4, 5)]
    )
    where = Elsewhere(CPU, torch.float64, (True, True), False)
    results = []
    for contract in (
        lambda: contract_elsewhere(
            Equation.parse("ij,jk->ik"), (a, b), "auto", Options.read("max_times", memory_limit=3000), where
        ),
        lambda: (a[:, :, None] * b).amax(1),
    ):
        first = torch.autograd.grad(contract().sum(), a, create_graph=True)[0]
        results.append(torch.autograd.grad((first**2).sum(), b)[0])
    torch.testing.assert_close(*results)


def test_operands_of_other_dtypes_that_do_not_fit_whole_are_refused() -> None:
    a, b = torch.rand(30, 40, requires_grad=True), torch.rand(40, 50)
    where = Elsewhere(CPU, torch.float64, (True, True), False)
    options = Options.read("log", memory_limit=19_000)
    equation = Equation.parse("ij,jk->")
    found = contract_elsewhere(equation, (a, b), "auto", options, where)
    with pytest.raises(MemoryLimitError, match="second derivatives over 'log'"):
        torch.autograd.grad(found, a, create_graph=True, retain_graph=True)
    torch.autograd.grad(found, a)


def test_weights_that_are_loaded_stay_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    logs, weights = torch.randn(30, 40, generator=generator), torch.rand(40, 50, generator=generator)
    where = Elsewhere(CPU, torch.float32, (True, True), True)
    options = Options.read("log", linear_operands=(1,), memory_limit=8000)
    found = contract_elsewhere(Equation.parse("ij,jk->ik"), (logs, weights), "auto", options, where)
    torch.testing.assert_close(found, (logs.exp() @ weights).log())
