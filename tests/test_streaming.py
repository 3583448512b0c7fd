"""Blocks are copied in the background, on a GPU's own stream too, which a pretended one stands for here."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from einfx import movers
from einfx.equation import Equation
from einfx.options import Options
from einfx.pieces import is_stretch, pieces
from einfx.slicing.autograd.streamed import Elsewhere, contract_elsewhere
from einfx.slicing.running.run import run

CPU = torch.device("cpu")
Transfers = run.__globals__["Transfers"]
OURS = Transfers.__init__.__globals__["mover_for"].__globals__
"""What the module of movers holds, by whatever name it was imported."""

ONE_AT_A_TIME = threading.RLock()


@pytest.mark.parametrize("seed", range(60))
def test_pieces_are_small_and_cover_all(seed: int) -> None:
    pick = random.Random(seed)
    shape = [
        pick.randint(0, 7) if pick.random() < 0.1 else pick.randint(1, 7) for _ in range(pick.randint(0, 4))
    ]
    order = pick.sample(range(len(shape)), len(shape))
    target = torch.zeros([shape[i] for i in order]).permute([order.index(i) for i in range(len(shape))])
    wide = torch.randn([2 * n for n in shape])
    source = wide[tuple(slice(0, n) for n in shape)]
    most, scattered = 4 * pick.randint(1, 60), pick.choice([None, 2, 9])
    count = 0
    for part, other in pieces(target, source, most, scattered):
        assert part.numel() * 4 <= most or part.numel() == 1
        assert scattered is None or part.numel() <= scattered or is_stretch(part, other)
        part.add_(other)
        count += part.numel()
    assert count == target.numel()
    assert torch.equal(target, source)


def test_copies_are_made_in_their_order_and_add_up() -> None:
    target, ones = torch.zeros(5, 3), torch.ones(5, 3)
    with Transfers(CPU) as transfers:
        for factor in range(1, 4):
            last = transfers.copy(target, factor * ones, add=torch.add)
        transfers.wait(last)
        assert target.tolist() == [[6.0] * 3] * 5
        transfers.wait(transfers.copy(target.double(), ones))
        transfers.wait(transfers.copy(target.T, 2 * ones.T))
        assert target.tolist() == [[2.0] * 3] * 5


def test_what_goes_wrong_is_told_to_whoever_waits_and_to_all_after() -> None:
    def add(target: Tensor, source: Tensor) -> Tensor:
        raise ArithmeticError("no sum")

    with Transfers(CPU) as transfers:
        first = transfers.copy(torch.zeros(3), torch.ones(3), add=add)
        target = torch.zeros(3)
        second = transfers.copy(target, torch.ones(3))
        for transfer in (first, second):
            with pytest.raises(ArithmeticError, match="no sum"):
                transfers.wait(transfer)
        assert target.tolist() == [0, 0, 0]


def test_closing_stops_what_is_under_way() -> None:
    entered, leave = threading.Event(), threading.Event()

    def add(target: Tensor, source: Tensor) -> Tensor:
        entered.set()
        leave.wait(10)
        return source

    target = torch.zeros(5, movers.PIECE_BYTES // 4)
    transfers = Transfers(CPU)
    transfers.copy(target, torch.ones(()).expand(target.shape), add=add)
    later = torch.zeros(3)
    transfers.copy(later, torch.ones(3))
    entered.wait(10)
    threading.Timer(0.1, leave.set).start()
    transfers.close()
    assert target[:, 0].tolist() == [1, 0, 0, 0, 0]
    assert later.tolist() == [0, 0, 0]


class _Stream:
    """A stream of a GPU that does nothing before somebody waits for it."""

    def __init__(self, device: Any = None) -> None:
        self.waiting: list[Callable[[], object]] = []

    def wait_event(self, event: _Event) -> None:
        self.waiting.append(event.synchronize)

    def synchronize(self) -> None:
        with ONE_AT_A_TIME:
            while self.waiting:
                self.waiting.pop(0)()


class _Event:
    def __init__(self) -> None:
        self.stream, self.passed = _Stream(), True

    def record(self, stream: _Stream) -> None:
        self.stream, self.passed = stream, False
        stream.waiting.append(lambda: setattr(self, "passed", True))

    def synchronize(self) -> None:
        with ONE_AT_A_TIME:
            while not self.passed:
                self.stream.waiting.pop(0)()


class _Now(_Stream):
    """The stream that computes, which is where the calls are: what it waits for has to happen."""

    def wait_event(self, event: _Event) -> None:
        event.synchronize()


class _Late(TorchFunctionMode):
    """Copies that don't block wait on a stream."""

    def __init__(self, stream: _Stream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_ and (kwargs or {}).get("non_blocking"):
            target, source = args
            self.stream.waiting.append(lambda: target.copy_(source))
            return target
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """A pretended GPU, which is given the storages that lie in host memory."""
    host: set[int] = set()

    base: Any = OURS["_Cuda"]

    class Mover(base):  # type: ignore[misc]
        piece_bytes = 256

        def __init__(self) -> None:
            super().__init__(torch.device("cpu", 0))

        def _is_load(self, target: Tensor, source: Tensor) -> bool:
            return source.untyped_storage().data_ptr() in host

    now = _Now()
    monkeypatch.setitem(OURS, "_Host", Mover)
    monkeypatch.setitem(OURS, "_pinned", lambda bytes_: torch.zeros(bytes_, dtype=torch.uint8))
    monkeypatch.setattr(Tensor, "is_pinned", lambda x: False)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(
        torch.cuda, "stream", lambda stream: contextlib.ExitStack() if stream is now else _Late(stream)
    )
    return host


@pytest.mark.parametrize("name", ["real", "log"])
@pytest.mark.parametrize("limit", [6000, 3500])
def test_what_goes_through_a_stream_arrives_before_it_is_read(gpu: set[int], limit: int, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    operands = [
        torch.randn(shape, generator=generator).requires_grad_() for shape in [(30, 20), (20, 25), (25, 10)]
    ]
    gpu.update(x.untyped_storage().data_ptr() for x in operands)
    where = Elsewhere(CPU, torch.float32, (True,) * 3, True)
    options = Options.read(name, memory_limit=limit)
    found = contract_elsewhere(Equation.parse("ij,jk,kl->il"), operands, "auto", options, where)
    a, b, c = operands
    if name == "real":
        expected = a @ b @ c
    else:
        expected = torch.logsumexp((a[:, :, None] + b)[..., None] + c, (1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gradient = torch.randn(found.shape, generator=generator)
    gpu.update(x.untyped_storage().data_ptr() for x in (gradient, found))
    torch.testing.assert_close(
        torch.autograd.grad(found, operands, gradient),
        torch.autograd.grad(expected, operands, gradient),
        rtol=1e-4,
        atol=1e-4,
    )
