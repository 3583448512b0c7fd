"""Windows copied and added by C code: all against a loop over positions, on every instruction set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from einfx.conv.windows import copies as windows
from einfx.errors import OperandError
from einfx.kernels import windows_native
from einfx.kernels.native import LEVELS
from einfx.pattern import IndexPattern

built = pytest.mark.skipif(windows_native.describe() == "not built", reason="there is no C code to test")

DTYPES = [
    torch.bool,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.float32,
    torch.int64,
    torch.float64,
    torch.complex64,
    torch.complex128,
]

Patterns = tuple[IndexPattern, ...]


def by_loop(x: Tensor, patterns: Patterns, channels_first: bool) -> Tensor:
    """Windows by a loop over kernel positions and outputs: the definition."""
    kernels, outputs = [p.kernel_size for p in patterns], [p.output_size for p in patterns]
    out = torch.zeros(*x.shape[:2], *kernels, *outputs, dtype=x.dtype)
    inner, n = (x.movedim((0, 1), (-2, -1)), out.movedim((0, 1), (-2, -1))), len(patterns)
    for position in itertools.product(*[range(size) for size in (*kernels, *outputs)]):
        pairs = zip(patterns, position[:n], position[n:], strict=True)
        places = tuple(p.dilation * k + p.stride * o - p.left for p, k, o in pairs)
        if all(0 <= i < p.input_size for p, i in zip(patterns, places, strict=True)):
            inner[1][position] = inner[0][places]
    return out.movedim(0, 1 + len(patterns)) if channels_first else out


def added_by_loop(windows: Tensor, patterns: Patterns, channels_first: bool) -> Tensor:
    """The adjoint by a loop over the same positions."""
    n = len(patterns)
    if channels_first:
        windows = windows.movedim(1 + n, 0)
    out = torch.zeros(*windows.shape[:2], *[p.input_size for p in patterns], dtype=windows.dtype)
    read, sums = windows.movedim((0, 1), (-2, -1)), out.movedim((0, 1), (-2, -1))
    for position in itertools.product(*[range(size) for size in windows.shape[2:]]):
        pairs = zip(patterns, position[:n], position[n:], strict=True)
        places = tuple(p.dilation * k + p.stride * o - p.left for p, k, o in pairs)
        if all(0 <= i < p.input_size for p, i in zip(patterns, places, strict=True)):
            sums[places] += read[position]
    return out


def some(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers none of which is 0, all different where the dtype has so many."""
    x = torch.arange(1, 1 + torch.Size(shape).numel()).reshape(shape)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    if dtype in (torch.int8, torch.uint8, torch.float16, torch.bfloat16):
        return (x % 113 + 1).to(dtype)
    return (x * (1 + 2j) if dtype.is_complex else x).to(dtype)


def check(x: Tensor, patterns: Patterns) -> None:
    for channels_first in (False, True):
        got = windows_native.copy_windows(x, patterns, channels_first)
        expected = by_loop(x, patterns, channels_first)
        assert got.is_contiguous()
        assert got.dtype == x.dtype
        assert torch.equal(got, expected), (patterns, tuple(x.shape), x.stride(), channels_first)


@pytest.fixture(params=range(len(LEVELS)))
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instruction set; a machine without it takes a worse one."""
    monkeypatch.setattr(windows_native, "LEVEL", request.param)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Patterns, torch.dtype, int, int, int]:
    """Patterns of one to four dimensions, a dtype, a layout, a batch and an instruction set."""
    n = draw(st.integers(1, 4))
    largest = (90, 20, 6, 4)[n - 1]
    patterns = []
    for _ in range(n):
        size, kernel = draw(st.integers(1, largest)), draw(st.integers(1, 1 + largest // n))
        stride, dilation = draw(st.integers(1, 9 if n == 1 else 4)), draw(st.integers(1, 3))
        padding = draw(st.tuples(st.integers(-2, 4), st.integers(-2, 4)))
        try:
            patterns.append(IndexPattern(size, kernel, stride, padding, dilation))
        except OperandError:
            patterns.append(IndexPattern(size, 1, stride, 0, dilation))
    layout, batch = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    return tuple(patterns), draw(st.sampled_from(DTYPES)), layout, batch, draw(st.integers(0, 2))


def laid_out(shape: tuple[int, ...], dtype: torch.dtype, layout: int) -> Tensor:
    """Numbers, contiguous, channels last, of a larger tensor, of every second element, or expanded."""
    if layout == 1:
        return some(shape, dtype).movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == 2:
        larger = some((*shape[:-1], shape[-1] + 3), dtype)
        return larger[..., 1 : 1 + shape[-1]]
    if layout == 3:
        return some((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
    if layout == 4:
        return some((1, *shape[1:]), dtype).expand(shape)
    return some(shape, dtype)


@built
@settings(deadline=None, max_examples=300)
@given(problems())
def test_windows_hold_what_the_definition_says(problem: tuple[Patterns, torch.dtype, int, int, int]) -> None:
    patterns, dtype, layout, batch, level = problem
    x = laid_out((batch, 2, *(p.input_size for p in patterns)), dtype, layout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_native, "LEVEL", level)
        check(x, patterns)


@built
@settings(deadline=None, max_examples=200)
@given(problems(), st.booleans())
def test_sums_of_windows_hold_what_the_definition_says(
    problem: tuple[Patterns, torch.dtype, int, int, int], channels_first: bool
) -> None:
    patterns, _, layout, batch, level = problem
    kernels, outputs = [p.kernel_size for p in patterns], [p.output_size for p in patterns]
    shape = (2, *kernels, batch, *outputs) if channels_first else (batch, 2, *kernels, *outputs)
    # Whole numbers: every order of adding them gives the same.
    windows = torch.randint(-99, 99, shape).to(torch.float64 if layout % 2 else torch.float32)
    assert windows_native.adds(windows, patterns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_native, "LEVEL", level)
        got = windows_native.add_windows(windows, patterns, channels_first)
    assert torch.equal(got, added_by_loop(windows, patterns, channels_first))


@built
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (5, 1, 0), (3, 2, 1), (7, 3, 2), (2, 4, 0)]
)
def test_sums_are_as_exact_as_those_of_torch(
    kernel: int, stride: int, padding: int, dtype: torch.dtype
) -> None:
    patterns = (IndexPattern(38, kernel, stride, padding), IndexPattern(45, kernel, stride, padding))
    windows = torch.randn(3, 4, kernel, kernel, *[p.output_size for p in patterns], dtype=dtype)

    def fold(x: Tensor) -> Tensor:
        return F.fold(x.view(3, 4 * kernel**2, -1), (38, 45), kernel, padding=padding, stride=stride)

    got, exact = windows_native.add_windows(windows, patterns), fold(windows.double())
    error, allowed = (got - exact).abs().max(), (fold(windows) - exact).abs().max()
    assert error <= 2 * allowed + torch.finfo(dtype).eps * exact.abs().max()


@built
def test_only_contiguous_floats_are_added() -> None:
    pattern = IndexPattern(5, 3)
    x = torch.ones(1, 2, 3, 3)
    assert windows_native.adds(x, (pattern,))
    assert not windows_native.adds(x.mT, (pattern,))
    for dtype in (torch.float16, torch.bfloat16, torch.int32, torch.complex64):
        assert not windows_native.adds(x.to(dtype), (pattern,))
    summed = windows.add_windows(torch.ones(1, 1, 1, 1).expand(1, 2, 3, 3), (pattern,))
    assert torch.equal(summed, torch.tensor([1.0, 2, 3, 2, 1]).expand(1, 2, 5))


@built
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [
        (7, 3, 1, 1, 1),  # masks for whole blocks
        (40, 3, 1, 1, 1),  # masks that repeat
        (37, 3, 1, 1, 1),  # masks that repeat late, or never
        (14, 3, 2, 1, 1),  # planes split in four
        (23, 7, 2, 3, 1),
        (20, 5, 1, 4, 2),
        (19, 3, 1, 0, 1),  # rows gathered once
        (19, 4, 2, 0, 1),
        (40, 4, 4, 0, 1),  # rows that are read once
        (40, 1, 2, 0, 1),
        (150, 3, 9, 0, 1),
    ],
)
def test_every_way_takes_every_dtype(
    dtype: torch.dtype, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    pattern = IndexPattern(size, kernel, stride, padding, dilation)
    x = some((2, 2, size, size), dtype)
    got = windows_native.copy_windows(x, (pattern, pattern))
    wide = x.to(torch.complex128)
    parts = (
        F.unfold(part, kernel, dilation=dilation, padding=padding, stride=stride)
        for part in (wide.real.contiguous(), wide.imag.contiguous())
    )
    expected = torch.complex(*parts).reshape(got.shape)
    assert torch.equal(got.to(torch.complex128), expected)


@built
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("shape", [(1, 3, 300, 200), (16, 64, 14, 14)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_threads_share_the_work(shape: tuple[int, int, int, int], padding: int, stride: int) -> None:
    x = torch.randn(shape)
    patterns = tuple(IndexPattern(size, 3, stride, padding) for size in shape[2:])
    expected = F.unfold(x, 3, padding=padding, stride=stride)
    assert torch.equal(windows_native.copy_windows(x, patterns).view(expected.shape), expected)
    first = windows_native.copy_windows(x, patterns, channels_first=True)
    assert torch.equal(first.movedim(3, 0).reshape(expected.shape), expected)
    folded = F.fold(expected.double(), shape[2:], 3, padding=padding, stride=stride)
    assert torch.allclose(windows_native.add_windows(first, patterns, True).double(), folded, atol=1e-5)


@built
@pytest.mark.parametrize("size", [1024, 70_000])
def test_planes_that_fit_no_cache_are_taken_in_strips(size: int) -> None:
    x = torch.randn(1, 1, 600, size)[:, :, :, ::4] if size == 1024 else torch.randn(1, 1, 9, size)
    patterns = (
        IndexPattern(x.shape[2], 3, 2, (2, 0), 2),
        IndexPattern(x.shape[3], 2, 1, (1, 0)),
    )
    padded = F.pad(x, (1, 0, 2, 0))
    expected = F.unfold(padded, (3, 2), dilation=(2, 1), stride=(2, 1))
    assert torch.equal(windows_native.copy_windows(x, patterns).view(expected.shape), expected)


@built
def test_large_results_are_right() -> None:
    x = torch.randn(4, 64, 56, 56)
    patterns = (IndexPattern(56, 3, padding=1),) * 2
    expected = F.unfold(x, 3, padding=1)
    assert torch.equal(windows_native.copy_windows(x, patterns).view(expected.shape), expected)


@built
@pytest.mark.usefixtures("level")
def test_nothing_beside_the_input_is_seen() -> None:
    whole = torch.full((4, 40), float("nan"))
    x = whole[1:3, 5:21]
    x.copy_(some((2, 16)))
    for stride, padding in itertools.product((1, 2, 3, 4), (0, 1, 2)):
        patterns = (IndexPattern(2, 2, padding=1), IndexPattern(16, 3, stride, padding))
        check(x[None, None], patterns)


@built
def test_empty_tensors_have_empty_windows() -> None:
    pattern = IndexPattern(5, 3)
    assert windows_native.copy_windows(torch.ones(0, 2, 5), (pattern,)).shape == (0, 2, 3, 3)
    assert windows_native.copy_windows(torch.ones(2, 0, 5), (pattern,), True).shape == (0, 3, 2, 3)


@built
def test_it_takes_only_memory_that_nobody_watches() -> None:
    x = torch.randn(1, 1, 4, dtype=torch.complex64)
    patterns = (IndexPattern(4, 2),)
    assert windows_native.takes(x, patterns)
    assert windows_native.takes(torch.nn.Parameter(x), patterns)
    assert not windows_native.takes(x.conj(), patterns)
    assert not windows_native.takes(x.to("meta"), patterns)
    assert not windows_native.takes(x.to_sparse(), patterns)
    assert not windows_native.takes(torch.ones((1, 1) + (1,) * 9), (IndexPattern(1, 1),) * 9)
    mapped = torch.func.vmap(lambda y: y * windows_native.takes(y, patterns))(x[None])
    assert mapped.abs().sum() == 0


@built
def test_what_is_traced_has_no_numbers_in_it() -> None:
    pattern = IndexPattern(5, 3, padding=1)
    traced = torch.jit.trace(lambda x: windows.copy_windows(x, (pattern,)), torch.zeros(1, 1, 5))
    x = torch.arange(1.0, 6.0).reshape(1, 1, 5)
    assert torch.equal(traced(x), by_loop(x, (pattern,), False))


@built
def test_derivatives_of_every_order_pass_through_it() -> None:
    patterns = (IndexPattern(5, 3, 2, 1), IndexPattern(4, 2, padding=(0, 1)))
    x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)

    def square(x: Tensor) -> Tensor:
        return windows.copy_windows(x, patterns) ** 2

    assert torch.autograd.gradcheck(square, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(square, (x,))


@pytest.mark.parametrize("channels_first", [False, True])
def test_windows_without_it_are_the_same(channels_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = some((2, 3, 9, 10), torch.complex128)
    patterns = (IndexPattern(9, 3, 2, (2, -1)), IndexPattern(10, 2, 1, 1, 3))
    monkeypatch.setattr(windows_native, "_library", lambda: None)
    assert windows_native.describe() == "not built"
    assert not windows_native.takes(x, patterns)
    with pytest.raises(RuntimeError, match="isn't built"):
        windows_native.copy_windows(x, patterns)
    for y in (x, x.conj(), x.transpose(2, 3).contiguous().transpose(2, 3)):
        got = windows.copy_windows(y, patterns, channels_first)
        assert torch.equal(got, by_loop(y.resolve_conj(), patterns, channels_first))


def test_it_says_which_instructions_it_uses(capsys: pytest.CaptureFixture[str]) -> None:
    from einfx.cli import main

    assert windows_native.describe() in {"not built", *(f"C, {name}" for name in LEVELS)}
    main(["info"])
    assert f"windows {windows_native.describe()}" in capsys.readouterr().out
