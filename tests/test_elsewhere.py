"""Operands that are arrays, files, or on another device than the one that computes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx

import einfx
from einfx.elsewhere import contract_anywhere
from einfx.errors import FileError, OperandError, UsageError
from einfx.operands import is_resident, mapped
from einfx.slicing.running.run import run
from einfx.streaming.movers import POPULATE_READ, _advise
from tests.threads import transferring_threads

FILE = (1100, 600)  # 2.5 MiB of float32


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of random numbers."""
    path = tmp_path / "numbers"
    np.random.default_rng(0).standard_normal(FILE, dtype=np.float32).tofile(path)
    # What was written just now is in memory, and would be used where it lies.
    monkeypatch.setitem(contract_anywhere.__globals__, "is_resident", lambda x: False)
    return path


def _map(kind: str, path: Path) -> Any:
    """A file as one of the things that map it."""
    if kind == "load":
        torch.save(torch.from_numpy(np.fromfile(path, np.float32).reshape(FILE)), path.with_suffix(".pt"))
        return torch.load(path.with_suffix(".pt"), mmap=True)
    if kind == "from_file":
        return torch.from_file(str(path), shared=True, size=FILE[0] * FILE[1]).view(FILE)
    array = np.memmap(path, np.float32, "r" if kind == "transposed" else kind.split()[1], shape=FILE)  # type: ignore[call-overload]
    return array.reshape(FILE[::-1]).T if kind == "transposed" else array


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.T,
        lambda x: x[::2, 1:],
        lambda x: x[:, 0],
        lambda x: x[:0],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: x.astype(np.complex64),
        lambda x: x.astype(np.int16),
    ],
)
@pytest.mark.parametrize("writeable", [True, False])
def test_arrays_are_taken_as_they_are(change: Callable[[Any], Any], writeable: bool) -> None:
    array = change(np.arange(12, dtype=np.float64).reshape(3, 4))
    if array.flags.writeable:
        array.flags.writeable = writeable
    labels = "ab"[: array.ndim]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = einfx.einsum(f"{labels}->", array)
    assert found.item() == array.sum()


def test_arrays_and_tensors_go_together_in_every_style() -> None:
    a, b = np.ones((2, 3)), torch.ones(3, 4, dtype=torch.float64)
    for found in (
        einfx.einsum("ij,jk->ik", a, b),
        einfx.einsum("ij,jk->ik", [a, b]),
        einfx.einsum(a, [0, 1], b, [1, 2], [0, 2]),
        einfx.einsum("ij,jk->ik", b.T, a.T).T,
    ):
        assert found.tolist() == [[3.0] * 4] * 2
    assert einfx.einsum("ij,jk->ik", a, b, semiring="max_plus").tolist() == [[2.0] * 4] * 2
    assert einfx.einsum("ij->i", a, semiring="max_plus", return_argmax=True)[1].tolist() == [[0], [0]]


@pytest.mark.parametrize("fails", [False, True])
def test_operands_and_buffers_are_let_go_at_once(fails: bool, file: Path) -> None:
    whole = np.memmap(file, np.float32, "r", shape=FILE)
    known = weakref.ref(whole)

    def report(*numbers: int) -> None:
        if fails and numbers[2] > 0:
            raise KeyboardInterrupt

    gc.disable()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            einfx.einsum("ij,kj->ik", whole, torch.ones(3, FILE[1]), memory_limit="600 KiB", progress=report)
        del whole
        assert known() is None
    finally:
        gc.enable()


def test_a_view_of_an_array_shares_its_memory_unless_that_is_not_to_be_written() -> None:
    array = np.zeros((2, 3))
    einfx.einsum("ij->ji", array)[0, 1] = 7
    assert array[1, 0] == 7
    array.flags.writeable = False
    einfx.einsum("ij->ji", array)[0, 1] = 9
    assert array[1, 0] == 7


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 3))[::-1], r"operand 1 is an array of strides \(-24, 8\), .* numpy.ascontiguousarray"),
        (np.ones((2, 3), dtype=">f4"), "operand 1 is an array of >f4, whose bytes are in the other order"),
        (np.full((2, 3), "x"), "operand 1 is an array of <U1, of which there are no tensors"),
        (np.ones(6, dtype="f4,i2")["f0"].reshape(2, 3), "aren't multiples of its 4 bytes"),
    ],
)
def test_arrays_of_which_there_are_no_tensors_are_refused(array: Any, message: str) -> None:
    with pytest.raises(OperandError, match=message):
        einfx.einsum("jk,ij->ik", torch.ones(3, 4), array)


def test_arrays_that_are_not_to_be_written_are_operands_under_transforms_too() -> None:
    array: Any = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    whole, vectors = torch.from_numpy(array.copy()), torch.rand(4, 3, dtype=torch.float64)

    def product(vector: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = einfx.einsum("ij,j->i", array, vector, memory_limit="1MiB")
        return found

    torch.testing.assert_close(torch.vmap(product)(vectors), vectors @ whole.T)
    direction = torch.func.jvp(product, (vectors[0],), (vectors[1],))[1]
    torch.testing.assert_close(direction, whole @ vectors[1])
    kept = torch.vmap(lambda vector: (einfx.einsum("ij->ji", array).add_(1.0), vector)[0])(vectors)
    assert torch.equal(kept[0], whole.T + 1.0)
    assert array[0, 0] == 0.0


def test_other_operands_are_refused_as_before() -> None:
    for words in ({}, {"memory_limit": 1000}, {"device": "cpu"}):
        with pytest.raises(OperandError, match=r"operand 1 is a list, not a torch\.Tensor"):
            einfx.einsum("i,i->", torch.ones(2), [1.0, 2.0], **words)


@pytest.mark.parametrize("kind", ["memmap r", "memmap c", "memmap r+", "transposed", "from_file", "load"])
def test_files_are_read_in_blocks(kind: str, file: Path) -> None:
    mapping, whole = _map(kind, file), torch.from_numpy(np.fromfile(file, np.float32)).view(FILE)
    if kind == "transposed":
        whole = whole.view(FILE[::-1]).T
    other = torch.randn(whole.shape[1], 3)
    seen: list[tuple[int, int, int, int]] = []
    found = einfx.einsum(
        "ij,jk->ik", mapping, other, memory_limit="600 KiB", progress=lambda *numbers: seen.append(numbers)
    )
    torch.testing.assert_close(found, whole @ other, rtol=1e-4, atol=1e-4)
    slices_done, slices, moved, to_move = seen[-1]
    assert slices_done == slices > 4
    assert moved == to_move == whole.numel() * 4
    assert not transferring_threads()


def test_which_tensors_are_files(file: Path) -> None:
    whole = _map("from_file", file)
    shared = torch.randn(1 << 19).share_memory_()
    loaded = _map("load", file)
    arrays = torch.from_numpy(_map("memmap r+", file))
    assert mapped([whole, whole[3:5, ::2], loaded, arrays.T]) == (True,) * 4
    assert mapped([whole.clone(), torch.ones(3), shared, torch.empty(0), torch.ones(3, device="meta")]) == (
        (False,) * 5
    )


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="pages are asked for on Linux")
def test_what_is_in_memory_already_is_used_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.ones(FILE, dtype=np.float32).tofile(path)
    mapping = np.memmap(path, np.float32, "r", shape=FILE)
    assert mapping.sum() == mapping.size
    seen: list[tuple[int, int, int, int]] = []
    found = einfx.einsum(
        "ij->i", mapping, memory_limit="600 KiB", progress=lambda *numbers: seen.append(numbers)
    )
    assert found.tolist() == [FILE[1]] * FILE[0]
    if is_resident(einfx.einsum("ij->ij", np.memmap(path, np.float32, "r+", shape=FILE))):
        assert not any(moved for *_, moved, _ in seen)


def test_a_limit_that_leaves_no_room_for_blocks_reads_the_file_where_it_is(file: Path) -> None:
    whole = _map("from_file", file)
    found = einfx.einsum("ij->i", whole, memory_limit=FILE[0] * 4 + 3000)
    torch.testing.assert_close(found, whole.sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("semiring", ["real", "log", "max_times"])
def test_files_have_gradients(semiring: str, file: Path) -> None:
    whole = _map("from_file", file).abs_().requires_grad_()
    other = torch.rand(FILE[1], 3, requires_grad=True)
    gradients = []
    for limit in (None, "4 MB"):
        result = einfx.einsum("ij,jk->ik", whole, other, semiring=semiring, memory_limit=limit)
        gradients.append(torch.autograd.grad(result.sum(), (whole, other)))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def test_operands_that_become_others_whole_count(file: Path) -> None:
    whole, other = _map("memmap r", file).astype(np.float64), torch.ones(FILE[1], 3)
    path = file.with_suffix(".double")
    whole.tofile(path)
    mapping = np.memmap(path, np.float64, "r", shape=FILE)
    limited: list[int] = []
    contract = contract_anywhere.__globals__["contract_elsewhere"]

    def noted(equation: Any, operands: Any, optimize: Any, options: Any, where: Any) -> Tensor:
        limited.append(options.memory_limit)
        result: Tensor = contract(equation, operands, optimize, options, where)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(contract_anywhere.__globals__, "contract_elsewhere", noted)
        found = einfx.einsum("ij,jk->ik", mapping, other, memory_limit=10**6)
    assert limited == [10**6 - 8 * other.numel()]
    torch.testing.assert_close(found, torch.from_numpy(whole) @ other.double())


def test_domains_hold_for_files_too(file: Path) -> None:
    with pytest.raises(OperandError, match="max_times"):
        einfx.einsum("ij->i", _map("memmap r", file), semiring="max_times", memory_limit="1 MB")


def test_devices_that_are_not_there_are_refused() -> None:
    x = torch.ones(2)
    with pytest.raises(UsageError, match="device='toaster'"):
        einfx.einsum("i->", x, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="torch sees no GPU"):
            einfx.einsum("i->", x, device="cuda")


def test_on_the_device_where_they_are_operands_are_used_in_place() -> None:
    a, b = torch.randn(4, 5), torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(einfx.einsum("ij,jk->ik", a, a.T, device="cpu"), a @ a.T)
    torch.testing.assert_close(
        einfx.einsum("ij,jk->ik", a, b, device="cpu", memory_limit=4000), a.double() @ b
    )
    mantissa, exponent = einfx.einsum("ij,jk->ik", a, a.T, device=torch.device("cpu"), strip_exponent=True)
    torch.testing.assert_close(mantissa * 10**exponent, a @ a.T, check_dtype=False)


def test_what_is_compiled_or_traced_keeps_its_device() -> None:
    def model(a: Tensor, b: Tensor) -> Any:
        return einfx.einsum("ij,jk->ik", a, b, device="cpu")

    a, b = torch.randn(4, 5), torch.randn(5, 6)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(a, b), a @ b)
    traced = fx.symbolic_trace(model)
    assert "device = 'cpu'" in traced.code
    torch.testing.assert_close(traced(a, b), a @ b)
    torch.testing.assert_close(einfx.optimize(model, (a, b))(a, b), a @ b)
    mapped_over = torch.vmap(model, (0, None))(a.expand(3, 4, 5), b)
    torch.testing.assert_close(mapped_over[2], a @ b)


def test_what_goes_wrong_in_a_copy_reaches_the_caller(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError("the disk is gone")

    movers = run.__globals__["Transfers"].__init__.__globals__["mover_for"].__globals__
    monkeypatch.setattr(movers["_Host"], "read", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        einfx.einsum("ij->i", _map("memmap r", file), memory_limit="600 KiB")
    assert not transferring_threads()


@pytest.mark.parametrize("backward", [False, True])
def test_an_interruption_leaves_nothing_behind(backward: bool, file: Path) -> None:
    whole = _map("from_file", file).requires_grad_(backward)
    before = whole.detach().clone()
    calls = 0

    def interrupt(*numbers: int) -> None:
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt

    limit = 10**9
    result = einfx.einsum("ij,ik->jk", whole, whole, memory_limit="6 MB", progress=interrupt)
    limit = calls + 3 if backward else 3
    calls = calls if backward else 0

    def work() -> None:
        if backward:
            result.sum().backward()
        else:
            einfx.einsum("ij,ik->jk", whole, whole, memory_limit="6 MB", progress=interrupt)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not transferring_threads()
    assert whole.grad is None
    assert torch.equal(whole.detach(), before)
    again = einfx.einsum("ij,ik->jk", whole, whole, memory_limit="6 MB")
    torch.testing.assert_close(again, result, rtol=1e-4, atol=1e-4)


def test_a_bar_shows_bytes_and_slices(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    einfx.einsum("ij->i", _map("memmap r", file), memory_limit="600 KiB", progress=True)
    shown = capsys.readouterr().err
    assert "2.52M/2.52M" in shown
    assert "slice " in shown
    einfx.einsum("ij->i", _map("memmap r", file), memory_limit="600 KiB")
    assert not capsys.readouterr().err
    einfx.einsum("ij->i", torch.ones(300, 300), memory_limit="4 KiB", progress=True)
    assert "slice" in capsys.readouterr().err
    with pytest.raises(UsageError, match="progress=7"):
        einfx.einsum("ij->i", torch.ones(300, 300), memory_limit="4 KiB", progress=7)  # type: ignore[arg-type]


WORK = """
import signal, sys
# Where tests run in the background of a shell, Ctrl-C is ignored by what they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np, torch, einfx, einfx.elsewhere
torch.set_num_threads(1)
einfx.elsewhere.is_resident = lambda x: False
path, rows, limit, how = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
mapping = np.memmap(path, np.float32, "r", shape=(rows, 256))
weights = torch.ones(256, 8)
if how == "through a stream":
    # A pretended GPU, whose memory is that of the host: all copies are done at once.
    from contextlib import nullcontext
    from unittest.mock import MagicMock
    import einfx.streaming.movers
    class Mover(einfx.streaming.movers._Cuda):
        def __init__(self):
            super().__init__(torch.device("cpu", 0))
        def _is_load(self, target, source):
            return True
    einfx.streaming.movers._Host = Mover
    einfx.streaming.movers._pinned = lambda size: torch.empty(size, dtype=torch.uint8)
    for name in "Stream", "Event", "current_stream":
        setattr(torch.cuda, name, MagicMock())
    torch.cuda.stream = lambda stream: nullcontext()
    torch.Tensor.is_pinned = lambda x: False
def work(n):
    return einfx.einsum("ij,jk->ik", mapping[:n], weights, memory_limit=limit)
work(4096)
try:
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        result = work(rows)
        if how != "forever":
            break
except KeyboardInterrupt:
    pass
last = float(work(4096)[0, 0])
print(last, len(sys._current_frames()), flush=True)
"""


def _started(path: Path, rows: int, limit: str, how: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, str(path), str(rows), limit, how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _anonymous(process: subprocess.Popen[str]) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon")), 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what is resident is read on Linux")
@pytest.mark.parametrize(("how", "beside"), [("once", 0), ("through a stream", 16 << 20)])
def test_a_file_larger_than_the_limit_takes_no_more_anonymous_memory(
    how: str, beside: int, tmp_path: Path
) -> None:
    rows, limit = 1 << 17, 12 << 20  # 128 MiB; the result is 4 MiB
    path = tmp_path / "large"
    with path.open("wb") as stream:
        for _ in range(32):
            stream.write(np.ones((rows // 32, 256), dtype=np.float32).tobytes())
    process = _started(path, rows, str(limit) + " B", how)
    before = most = _anonymous(process)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    while process.poll() is None:
        most = max(most, _anonymous(process))
        time.sleep(0.002)
    assert process.stdout.read() == "256.0 1\n"
    # A GPU's memory, which is in the host's here, and two pieces of pinned memory.
    assert most - before <= limit * 1.05 + beside + (4 << 20)


@pytest.mark.skipif(sys.platform == "win32", reason="there are other signals")
def test_ctrl_c_ends_a_contraction_and_its_thread(file: Path) -> None:
    process = _started(file, FILE[0] * FILE[1] // 256, "600 KiB", "forever")
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert output.endswith(" 1\n")
    assert process.returncode == 0


OFTEN = """
import gc, random, signal, sys, time
import numpy as np, torch, einfx, einfx.elsewhere
torch.set_num_threads(1)
einfx.elsewhere.is_resident = lambda x: False
mapping, weights = np.memmap(sys.argv[1], np.float32, "r", shape=(1100, 600)), torch.ones(600, 8)
lost = []
sys.unraisablehook = lambda what: lost.append(str(what.object))
signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupted = 0
for _ in range(300):
    end = time.perf_counter() + 5
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 8e-3))
        while time.perf_counter() < end:
            einfx.einsum("ij,jk->ik", mapping, weights, memory_limit="600 KiB")
    except KeyboardInterrupt:
        interrupted += 1
for _ in range(100):
    gc.collect()
    # Python goes on counting a thread whose start is interrupted.
    if len(sys._current_frames()) == 1:
        break
    time.sleep(0.1)
print(interrupted, len(lost), len(sys._current_frames()))
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such clocks")
def test_interruptions_are_hardly_ever_lost_wherever_they_hit(file: Path) -> None:
    """Threads that died are forgotten by Python in a finalizer, which is seldom on the main thread."""
    found = subprocess.run(
        [sys.executable, "-c", OFTEN, str(file)], capture_output=True, text=True, check=True
    )
    interrupted, lost, threads = map(int, found.stdout.split())
    assert interrupted >= 298
    assert lost <= 2
    assert threads == 1


@pytest.mark.skipif(sys.platform != "linux", reason="pages are asked for on Linux")
def test_a_file_that_became_shorter_is_named_with_the_call(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((4000, 256), dtype=np.float32))
    rows = np.load(path, mmap_mode="r")
    os.truncate(path, 8192)
    start = rows.__array_interface__["data"][0] // 4096 * 4096
    if _advise()(start, 4096, POPULATE_READ):
        pytest.skip("this Linux has no such advice, and ends the process")
    with pytest.raises(FileError, match=r"einsum 'ni,nj->ij': .*the file is shorter than it was"):
        einfx.einsum("ni,nj->ij", rows, rows, memory_limit="1MiB")
