"""Blocks are copied in the background, on a GPU's own stream too, which a pretended one stands for here."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from einfx.equation import Equation
from einfx.errors import FileError
from einfx.options import Options
from einfx.slicing.autograd.streamed import Elsewhere, contract_elsewhere
from einfx.slicing.running.run import run
from einfx.slicing.schedules.loads import dense_strides
from einfx.streaming import movers
from einfx.streaming.pieces import is_stretch, pieces

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
    """Copies that don't block wait on a stream; host memory that takes part in them has to be pinned."""

    def __init__(self, stream: _Stream, host: set[int]) -> None:
        super().__init__()
        self.stream, self.host = stream, host

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.copy_ and (kwargs or {}).get("non_blocking"):
            target, source = args
            for x in (target, source):
                assert x.untyped_storage().data_ptr() not in self.host or x.is_pinned()
            self.stream.waiting.append(lambda: target.copy_(source))
            return target
        return func(*args, **(kwargs or {}))


PINNED: set[int] = set()
"""Storages in host memory that are pretended to be pinned."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """A pretended GPU, which is given the storages that lie in host memory."""
    host: set[int] = set()
    PINNED.clear()

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
    monkeypatch.setattr(Tensor, "is_pinned", lambda x: x.untyped_storage().data_ptr() in PINNED)
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: now)
    monkeypatch.setattr(
        torch.cuda, "stream", lambda stream: contextlib.ExitStack() if stream is now else _Late(stream, host)
    )
    return host


@pytest.mark.parametrize("name", ["real", "log"])
@pytest.mark.parametrize(("limit", "pinned"), [(6000, False), (3500, False), (3500, True)])
def test_what_goes_through_a_stream_arrives_before_it_is_read(
    gpu: set[int], limit: int, pinned: bool, name: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    operands = [
        torch.randn(shape, generator=generator).requires_grad_() for shape in [(30, 20), (20, 25), (25, 10)]
    ]
    gpu.update(x.untyped_storage().data_ptr() for x in operands)
    if pinned:
        PINNED.update(gpu)
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


def test_pinned_memory_is_copied_from_where_it_lies_and_other_memory_through_two_buffers(
    gpu: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def pinned_memory(size: int) -> Tensor:
        made.append(size)
        return torch.zeros(size, dtype=torch.uint8)

    monkeypatch.setitem(OURS, "_pinned", pinned_memory)
    source = torch.arange(600.0).view(20, 30)
    gpu.add(source.untyped_storage().data_ptr())
    for pinned, view, buffers in ((True, source, 0), (True, source[:, 3:9], 2), (False, source, 2)):
        made.clear()
        PINNED.clear()
        PINNED.update(gpu if pinned else ())
        target = torch.zeros(view.shape)
        with Transfers(CPU) as transfers:
            transfers.wait(transfers.copy(target, view))
            assert torch.equal(target, view)
        assert made == [256] * buffers


def test_a_device_without_a_number_is_the_current_one_of_whoever_asks(
    gpu: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    of = {text: OURS["_Cuda"](torch.device(text)).device for text in ("cuda", "cuda:0", "cuda:1")}
    assert of == {"cuda": torch.device("cuda:3"), **{x: torch.device(x) for x in ("cuda:0", "cuda:1")}}


def test_what_goes_wrong_at_the_end_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def close(self: Any) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(OURS["_Host"], "close", close)
    with pytest.raises(RuntimeError, match="illegal memory access"), Transfers(CPU) as transfers:
        transfers.wait(transfers.copy(torch.zeros(3), torch.ones(3)))
    with pytest.raises(KeyError), Transfers(CPU):
        raise KeyError


def test_blocks_side_by_side_are_not_copied_on_a_cpu() -> None:
    whole = torch.arange(24.0).view(4, 6)
    with Transfers(CPU) as transfers:
        for source, stays in (
            (whole[1:3], True),
            (whole.T[:, 1:3], True),
            (whole[:, 1:3], False),
            (whole[:, None, 2], False),
            (whole[1:3].double(), False),
            (torch.complex(whole, whole).conj()[:2], False),
        ):
            shape = tuple(source.shape)
            dtype = source.dtype if source.is_complex() else torch.float32
            target = torch.empty(shape, dtype=dtype).as_strided(shape, dense_strides(shape, source.stride()))
            assert transfers.stays(target, source) == stays
            transfers.wait(transfers.read(source) if stays else transfers.copy(target, source))
            assert torch.equal(source if stays else target, source.to(dtype))


@pytest.mark.skipif(sys.platform != "linux", reason="pages are asked for on Linux")
def test_a_file_that_became_shorter_is_an_error_rather_than_the_end(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(1 << 20))
    mapping = torch.from_file(str(path), size=1 << 18)
    os.truncate(path, 1 << 14)
    if OURS["_advise"]()(mapping.data_ptr(), 1 << 14, OURS["POPULATE_READ"]):
        pytest.skip("this Linux has no such advice")
    with Transfers(CPU) as transfers, pytest.raises(FileError, match="the file is shorter than it was"):
        transfers.wait(transfers.read(mapping))


def test_pages_are_asked_for_where_most_of_them_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def advise(start: int, length: int, advice: int) -> int:
        asked.append(length)
        return 0

    monkeypatch.setitem(OURS, "_advise", lambda: advise)
    monkeypatch.setitem(OURS, "sys", SimpleNamespace(platform="linux"))
    matrix = torch.zeros(64, 4096)
    have_pages = OURS["have_pages"]
    for view in (matrix, matrix[:, :2048], matrix[3:5], matrix[:0], matrix[:, :16], matrix[:, 0]):
        have_pages(view)
    assert [round(length / (64 * 4096 * 4), 1) for length in asked] == [1.0, 1.0, 0.0]
