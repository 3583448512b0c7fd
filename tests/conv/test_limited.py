"""Gradients of contractions with patterns keep to the memory limit, and have the values they have without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import einfx
from einfx.conv.contraction import network_of
from einfx.conv.limited import gradient_network, limited
from einfx.errors import MemoryLimitError
from einfx.pattern import IndexPattern
from tests.conv.planning.test_limits import CASES, SAME, kfc, measured, tensor
from tests.conv.reference import close


def leaves(operands: tuple[Tensor | IndexPattern, ...]) -> list[Tensor]:
    """The tensors that are given, each once, asked for their gradients."""
    return list({id(x): x.requires_grad_() for x in operands if isinstance(x, Tensor)}.values())


def least(equation: str, operands: tuple[Tensor | IndexPattern, ...]) -> int:
    """The smallest limit that is enough, as the error tells it."""
    network, limit = network_of(equation, operands), 1
    wanted = frozenset(p for p, x in enumerate(operands) if isinstance(x, Tensor))
    for _ in range(2):
        try:
            limited(
                network, torch.float64, "cpu", limit, "auto", frozenset(), wanted, torch.get_num_threads()
            )
        except MemoryLimitError as error:
            limit = int(str(error).split("enough is ")[1].split(" ")[0])
    return limit


@pytest.mark.parametrize("room", [2.5, 5.0])
@pytest.mark.parametrize("name", [*CASES, "kfc"])
def test_both_passes_stay_within_the_limit(name: str, room: float) -> None:
    equation, operands = kfc() if name == "kfc" else (CASES[name][0], CASES[name][1]())
    tensors = leaves(operands)
    expected = einfx.einsum(equation, *operands)
    vector = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, tensors, vector)
    # A result and gradients in the least memory that there can be take blocks of single elements.
    limit = int(room * least(equation, operands)) + 20_000

    def forward() -> Tensor:
        result: Tensor = einfx.einsum(equation, *operands, memory_limit=limit)
        return result

    result = forward()
    assert close(result, expected, 1e-12)
    for got, wanted in zip(torch.autograd.grad(result, tensors, vector), gradients, strict=True):
        assert close(got, wanted, 1e-11)
    made = [forward()]
    assert measured(forward) <= limit

    def backward() -> Tensor:
        made.extend(torch.autograd.grad(made[0], tensors, vector))
        return made[-1]

    assert measured(backward) <= limit


def test_what_is_too_little_for_gradients_is_refused_before_the_forward_pass() -> None:
    x, weight = tensor(6, 8, 64).requires_grad_(), tensor(2, 8, 3)
    operands = x, IndexPattern(64, 3), weight
    limit = 6 * 2 * 62 * 8 + 6000
    einfx.einsum("nci,koi,dck->ndo", x.detach(), *operands[1:], memory_limit=limit)
    with pytest.raises(MemoryLimitError, match=r"gradients of operand\(s\) 0: .* not for the backward pass"):
        einfx.einsum("nci,koi,dck->ndo", *operands, memory_limit=limit)
    with torch.no_grad():
        einfx.einsum("nci,koi,dck->ndo", *operands, memory_limit=limit)


EQUATIONS: dict[str, tuple[str, tuple[Tensor | IndexPattern, ...]]] = {
    "broadcast": ("nci,koi,dck->ndo", (tensor(2, 1, 16), SAME, tensor(3, 2, 3))),
    "a label of its own": ("nci,koi,dckm->ndo", (tensor(2, 2, 16), SAME, tensor(3, 2, 3, 2))),
    "a diagonal": ("nni,koi,k->no", (tensor(3, 3, 16), SAME, tensor(3))),
    "twice": ("nci,koi,ndj,lpj->ckdl", (x := tensor(2, 2, 16), SAME, x, SAME)),
    "a size of one": ("nci,koi,dck->ndo", (tensor(2, 1, 16), SAME, tensor(1, 1, 3))),
    "complex": (
        "nci,koi,dck->ndo",
        (
            torch.randn(2, 2, 16, dtype=torch.complex128),
            SAME,
            torch.randn(3, 2, 3, dtype=torch.complex128),
        ),
    ),
    "strided": ("nci,koi,dck->ndo", (tensor(16, 2, 2).permute(2, 1, 0), SAME, tensor(3, 2, 3))),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_any_contraction_differentiates_twice_within_a_limit(name: str) -> None:
    equation, operands = EQUATIONS[name]
    tensors = [x.detach().requires_grad_() for x in dict.fromkeys(operands) if isinstance(x, Tensor)]
    places = [x for x in dict.fromkeys(operands) if isinstance(x, Tensor)]

    def contracted(*tensors: Tensor) -> Tensor:
        given = [x if isinstance(x, IndexPattern) else tensors[_index(places, x)] for x in operands]
        result: Tensor = einfx.einsum(equation, *given, memory_limit=12_000)
        return result

    assert torch.autograd.gradcheck(contracted, tensors)
    assert torch.autograd.gradgradcheck(contracted, tensors)


def _index(tensors: list[Tensor], tensor: Tensor) -> int:
    return [id(x) for x in tensors].index(id(tensor))


def test_a_gradient_that_is_not_contiguous_is_taken_as_it_is() -> None:
    x, weight = tensor(6, 8, 16).requires_grad_(), tensor(4, 8, 3).requires_grad_()
    equation, operands = "nci,koi,dck->ndo", (x, SAME, weight)
    limit = least(equation, operands) + 4000
    for vector in (torch.ones((), dtype=torch.float64).expand(6, 4, 16), tensor(16, 4, 6).permute(2, 1, 0)):
        result = einfx.einsum(equation, *operands, memory_limit=limit)
        wanted = torch.autograd.grad(einfx.einsum(equation, *operands), (x, weight), vector)
        made: list[Tensor] = []

        def backward(result: Tensor = result, vector: Tensor = vector, made: list[Tensor] = made) -> Tensor:
            made.extend(torch.autograd.grad(result, (x, weight), vector))
            return made[-1]

        assert measured(backward) <= limit
        assert all(close(got, each, 1e-12) for got, each in zip(made, wanted, strict=True))


def test_a_gradient_is_a_contraction_of_the_other_operands() -> None:
    network = network_of("nci,koi,dck->ndo", (tensor(2, 1, 16), SAME, tensor(3, 2, 3)))
    first, second = gradient_network(network, 0), gradient_network(network, 2)
    assert first.text == "abc,dce,bfd->ae"
    assert second.text == "abc,ade,fce->bdf"
    # Along what it broadcasts against it is the same.
    assert second.shape == (3, 1, 3)


def test_low_precision_gradients_are_summed_in_float32() -> None:
    x, v = torch.ones(4096, 1, 8).bfloat16(), torch.ones(4096, 1, 8).bfloat16()
    weight = torch.ones(1, 1, 3).bfloat16().requires_grad_()
    pattern = IndexPattern(8, 3, padding=1)
    result = einfx.einsum("nci,koi,dck->ndo", x, pattern, weight, memory_limit="90 KiB")
    (gradient,) = torch.autograd.grad(result, weight, v)
    assert gradient.flatten().tolist() == [4096 * 7, 4096 * 8, 4096 * 7]
