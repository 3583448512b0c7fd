"""One large contraction with and without a limit, and its gradients.

It is the example of opt-einsum-torch, which contracts it on a GPU that it doesn't fit. On a CPU it has fewer
``i`` here, so that its operands fit any machine; where there is a GPU, it is contracted in full too, from
operands in host memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import opt_einsum
import torch
from torch import Tensor

import einfx

from . import alone
from .measure import MIB, Point, available_bytes, measured, peak_of, stay_within

__all__ = ["EQUATION", "FULL", "Run", "run", "shapes"]

EQUATION = "jrl,ijr,ijrk,ijrl,ikmn->imn"
FULL, SCALED = 500, 40
FRACTIONS = (2, 4, 10)
SECONDS = 30.0
SPARE_BYTES = 2 << 30

Calls = dict[tuple[str, int | None], Callable[[], Any]]


class Run(NamedTuple):
    """The example in one setting.

    Attributes:
        title: which setting.
        points: the contenders, einfx without a limit first.
    """

    title: str
    points: list[Point]


def shapes(count: int) -> list[tuple[int, ...]]:
    """Of the operands, with so many ``i``."""
    return [
        (1000, 3, 1024),
        (count, 1000, 3),
        (count, 1000, 3, 1024),
        (count, 1000, 3, 1024),
        (count, 1024, 9, 9),
    ]


def run(count: int = SCALED, seconds: float = SECONDS) -> list[Run]:
    """Measure the contenders in every setting, each in a process of its own.

    Args:
        count: how many ``i`` there are on the CPU.
        seconds: for the times of one setting.
    """
    settings = ["forward", "gradients"] + ["gpu"] * torch.cuda.is_available()
    found = []
    for answer in alone.each(f"{__name__}:contest", [[name, count, seconds] for name in settings]):
        if answer.failure:
            raise RuntimeError(f"the example ({answer.argument[0]}) failed: {answer.failure}")
        title, points = answer.value
        found.append(Run(title, [Point(*point) for point in points]))
    return found


def contest(argument: Sequence[Any]) -> tuple[str, list[Point]]:
    """Measure one setting."""
    name, count, seconds = argument
    if name == "gpu":
        operands = [torch.randn(shape, device="cuda").cpu() for shape in shapes(FULL)]
        torch.cuda.empty_cache()
        title = f"i = {FULL}, forward, operands in host memory, computed on {torch.cuda.get_device_name()}"
        return title, measured(on_gpu(operands), seconds, device="cuda")
    generator = torch.Generator().manual_seed(0)
    operands = [torch.randn(shape, generator=generator) for shape in shapes(count)]
    stay_within(available_bytes() - SPARE_BYTES)
    if name == "forward":
        return f"i = {count}, forward", measured(forward(operands), seconds)
    return f"i = {count}, forward and gradients of all operands", measured(gradients(operands), seconds)


def forward(operands: list[Tensor]) -> Calls:
    """The contenders without gradients."""
    peak = einfx.contract_path(EQUATION, *operands).peak_bytes
    calls: Calls = {("einfx", None): lambda: einfx.einsum(EQUATION, *operands)}
    for limit in [peak // fraction for fraction in FRACTIONS]:
        calls["einfx", limit] = lambda limit=limit: einfx.einsum(EQUATION, *operands, memory_limit=limit)  # type: ignore[misc]
    return calls | others(operands)


def gradients(operands: list[Tensor]) -> Calls:
    """The contenders with gradients. The limits leave a part of what einfx takes beside the gradients."""

    def backward(contract: Callable[..., Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(contract().sum(), leaves)

    leaves = [x.requires_grad_() for x in operands]
    unlimited = backward(lambda: einfx.einsum(EQUATION, *leaves))
    unlimited()
    returned = sum(x.nbytes for x in leaves)
    beside = peak_of(unlimited) - returned
    calls: Calls = {("einfx", None): unlimited}
    for limit in [returned + beside, returned + beside // 2, returned + beside // 4]:
        calls["einfx", limit] = backward(
            lambda limit=limit: einfx.einsum(EQUATION, *leaves, memory_limit=limit)
        )
    for key, call in others(leaves).items():
        calls[key] = backward(call)
    return calls


def others(operands: list[Tensor]) -> Calls:
    """What else contracts it."""
    elements = max(x.numel() for x in operands)
    return {
        ("torch.einsum, along opt_einsum's path", None): lambda: torch.einsum(EQUATION, *operands),
        ("torch.einsum, from left to right", None): lambda: _from_left(operands),
        ("opt_einsum (auto)", None): lambda: opt_einsum.contract(EQUATION, *operands),
        ("opt_einsum, memory_limit of the largest operand", None): lambda: opt_einsum.contract(
            EQUATION, *operands, memory_limit=elements
        ),
    }


def on_gpu(operands: list[Tensor]) -> Calls:
    """The contenders on a GPU; in every call operands come from host memory, and the result goes there."""

    def moved(contract: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: contract([x.cuda() for x in operands]).cpu()

    calls: Calls = {}
    for limit in (8 << 30, 2 << 30, 512 * MIB, 128 * MIB):
        calls["einfx, streamed", limit] = lambda limit=limit: einfx.einsum(  # type: ignore[misc]
            EQUATION, *operands, device="cuda", memory_limit=limit
        ).cpu()
    calls["einfx, operands moved first", None] = moved(lambda there: einfx.einsum(EQUATION, *there))
    for name, _ in others(operands):
        calls[name, None] = moved(lambda there, name=name: others(there)[name, None]())
    return calls


def _from_left(operands: list[Tensor]) -> Tensor:
    with _without_paths():
        return torch.einsum(EQUATION, *operands)


@contextmanager
def _without_paths() -> Any:
    """As where opt_einsum isn't installed."""
    settings: Any = torch.backends.opt_einsum
    before = settings.enabled
    settings.enabled = False
    try:
        yield
    finally:
        settings.enabled = before
