"""Large blocks of memory go back to the system at once."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch

from einfx import mapped_memory
from einfx.free_memory import give_back, resident_bytes
from einfx.mapped_memory import LEAST_BYTES, block, make_resident

CPU = torch.device("cpu")
MIB = 1 << 20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads and maps memory as Linux does")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.bool])
@pytest.mark.parametrize("size", [0, 1024, LEAST_BYTES, LEAST_BYTES + 1024])
def test_a_block_is_a_vector_that_can_be_written(size: int, dtype: torch.dtype) -> None:
    made = block(size // dtype.itemsize, dtype, CPU)
    assert made.shape == (size // dtype.itemsize,)
    assert made.dtype == dtype
    assert made.device == CPU
    assert bool((made.fill_(1) == 1).all())


@on_linux
def test_a_block_is_resident_while_it_is_in_use_and_not_after() -> None:
    # The allocator of the C library keeps blocks of up to the size of the largest that was ever freed.
    torch.ones(31 << 18)
    give_back()
    before = resident_bytes()
    assert before is not None
    made = block(24 * MIB, torch.uint8, CPU).fill_(1)
    during = resident_bytes()
    del made
    after = resident_bytes()
    assert during is not None
    assert after is not None
    assert during - before > 20 * MIB
    assert after - before < 4 * MIB


@on_linux
def test_a_view_of_a_block_keeps_it() -> None:
    part = block(LEAST_BYTES, torch.uint8, CPU).fill_(3)[-5:]
    assert part.tolist() == [3] * 5


def test_what_the_system_refuses_to_map_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert block(LEAST_BYTES, torch.uint8, CPU).shape == (LEAST_BYTES,)


@on_linux
def test_a_system_without_huge_pages_gives_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)
    assert mapped_memory.block(LEAST_BYTES, torch.uint8, CPU).fill_(2)[-1] == 2


def test_blocks_lie_where_they_are_meant_to() -> None:
    assert block(LEAST_BYTES, torch.uint8, torch.device("meta")).device.type == "meta"


@on_linux
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.complex128])
def test_a_block_can_be_resident_before_it_is_written(dtype: torch.dtype) -> None:
    made = block(24 * MIB // dtype.itemsize, dtype, CPU)
    before = resident_bytes()
    make_resident(made)
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert 23 * MIB < after - before < 27 * MIB
    make_resident(made[:0])
