"""On a GPU nothing waits by itself: what computes and what copies never touch a buffer at the same time.

Two streams are pretended: computations are counted as they're begun, and copies are made as late as they
may be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from einfx.slicing.running.memory import demand
from einfx.slicing.running.run import run
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.loads import Remote, depths, place
from einfx.slicing.schedules.schedule import Schedule
from einfx.slicing.schedules.tree import schedule
from tests.slicing.networks import network


class _Stretch(NamedTuple):
    """Memory from one address to another."""

    start: int
    end: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Stretch:
        last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        return cls(tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.itemsize)

    def meets(self, other: _Stretch) -> bool:
        return self.start < other.end and other.start < self.end


class _Copy(NamedTuple):
    stretch: _Stretch
    make: Callable[[], object]


class Race(AssertionError):
    """Two streams touch the same memory, and neither waits for the other."""


class _Streams(TorchDispatchMode):
    """What computes, which is seen operation by operation, and what copies, in place of ``Transfers``."""

    def __init__(self, host: Sequence[Tensor]) -> None:
        super().__init__()
        self.host = {x.untyped_storage().data_ptr() for x in host}
        self.begun, self.copies, self.copying = 0, 0, False
        self.touched: list[tuple[int, _Stretch]] = []
        self.under_way: dict[int, _Copy] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.copying and not func.is_view:
            self.begun += 1
            for x in tree_leaves((args, kwargs)):
                if isinstance(x, Tensor) and x.numel() and x.untyped_storage().data_ptr() not in self.host:
                    self._touch(_Stretch.of(x))
        return func(*args, **(kwargs or {}))

    def _touch(self, stretch: _Stretch) -> None:
        if any(copy.stretch.meets(stretch) for copy in self.under_way.values()):
            raise Race("computed with what is being copied")
        self.touched.append((self.begun, stretch))

    def mark(self) -> int:
        return self.begun

    def copy(self, target: Tensor, source: Tensor, *, after: Any = None, add: Any = None) -> int:
        if not target.numel():
            return 0
        stretch = _Stretch.of(source if target.untyped_storage().data_ptr() in self.host else target)
        if any(moment > (after or 0) and other.meets(stretch) for moment, other in self.touched):
            raise Race("copied from or to what is being computed with")
        self.copies += 1

        def make() -> None:
            target.copy_(source if add is None else add(target, source))

        self.under_way[self.copies] = _Copy(stretch, make)
        return self.copies

    def stays(self, target: Tensor, source: Tensor) -> bool:
        return False

    def wait(self, transfer: int) -> None:
        # Copies are made in their order.
        self.copying = True
        while transfer in self.under_way:
            self.under_way.pop(next(iter(self.under_way))).make()
        self.copying = False

    def end(self) -> None:
        assert not self.under_way


class _Entered:
    """What ``run`` makes of a device: a context with the streams."""

    def __init__(self, streams: _Streams) -> None:
        self.streams = streams

    def __call__(self, device: torch.device) -> _Entered:
        return self

    def __enter__(self) -> _Streams:
        self.streams.__enter__()
        return self.streams

    def __exit__(self, *exception: Any) -> None:
        self.streams.__exit__(*exception)
        if exception[0] is None:
            self.streams.end()


def _watched(
    made: Schedule, operands: Sequence[Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, ...]:
    found = demand(made, operands[0].dtype, "cpu", strides=[x.stride() for x in operands])
    stored: list[Tensor] = [*operands]
    streams = _Streams(stored)
    empty = torch.empty

    def noted(*args: Any, **words: Any) -> Tensor:
        tensor: Tensor = empty(*args, **words)
        if words.get("dtype") is torch.float64 and args[0] in shapes:
            streams.host.add(tensor.untyped_storage().data_ptr())
        return tensor

    # Outputs that lie elsewhere are in host memory too; these are the only ones of their shapes.
    shapes = {made.shape(value) for value in made.stored}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", noted)
        patch.setitem(run.__globals__, "Transfers", _Entered(streams))
        return run(made, operands, found)


def _anywhere(pick: random.Random, made: Schedule) -> Schedule:
    remote = Remote(
        tuple(pick.random() < 0.7 for _ in range(made.count)),
        tuple(pick.random() < 0.5 for _ in made.outputs),
        pick.random() < 0.5,
    )
    return place(made, remote, {value: pick.choice(to) for value, to in depths(made, remote).items()})


def _runs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contraction and its gradients, checked against those with everything in place."""
    _, tree, cuts, operands = network(seed)
    forward = schedule(tree, cuts)
    (expected,) = run(forward, operands, demand(forward, torch.float64, "cpu"))
    gradient = torch.randn_like(expected)
    back = adjoint(forward, [True] * len(operands))
    given = [*operands, gradient]
    gradients = run(back, given, demand(back, torch.float64, "cpu"))
    pick = random.Random(seed)
    (result,) = _watched(_anywhere(pick, forward), operands, monkeypatch)
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)
    found = _watched(_anywhere(pick, back), given, monkeypatch)
    torch.testing.assert_close(found, gradients, rtol=1e-10, atol=1e-10)


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_stream_waits_for_the_other(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _runs(seed, monkeypatch)


def _too_early(self: Any) -> None:
    return None


@pytest.mark.parametrize("mistake", ["moments", "stores", "slots"])
def test_waiting_too_little_is_noticed(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def placed(self: Any, value: int, slot: int, *rest: Any) -> Tensor:
        tensor: Tensor = slots(self, value, 0, *rest)
        return tensor

    running = run.__globals__["Running"]
    slots = running._slot
    if mistake == "moments":
        monkeypatch.setattr(_Streams, "mark", _too_early)
    elif mistake == "stores":
        monkeypatch.setattr(run.__globals__["Moving"], "_settle", lambda self, value: None)
    else:
        monkeypatch.setattr(running, "_slot", placed)
    noticed = 0
    for seed in SEEDS:
        try:
            _runs(seed, monkeypatch)
        except AssertionError:
            noticed += 1
    assert noticed > 3
