"""The stand-in for torch_semiring_einsum: contractions with callbacks, block by block."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from einfx.compat import torch_semiring_einsum as ours
from einfx.compat.torch_semiring_einsum import (
    AutomaticBlockSize,
    combine,
    compile_equation,
    semiring_einsum_forward,
    utils,
)
from einfx.compat.torch_semiring_einsum.log_forward import resize_max_values

EQUATION = "abce,abde,abdf->acd"
SHAPES = [(2, 3, 5, 4), (2, 3, 2, 4), (2, 3, 2, 6)]
SUMMED = (3, 4, 6)  # b, e, f
BLOCK_SIZES = [1, 2, 3, 5, 100, AutomaticBlockSize(), AutomaticBlockSize(max_cpu_bytes=1000)]


def operands(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(shape).mul(3).to(dtype) for shape in SHAPES]


def terms(args: Sequence[Tensor], law: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """All products, of dimensions a, c, d, b, e, f."""
    x = args[0].permute(0, 2, 1, 3)[:, :, None, :, :, None]
    y = args[1].permute(0, 2, 1, 3)[:, None, :, :, :, None]
    z = args[2].permute(0, 2, 1, 3)[:, None, :, :, None, :]
    return law(law(x, y), z)


def real(compute_sum: Any) -> Any:
    return compute_sum(utils.add_in_place, utils.sum_block, utils.multiply_in_place)


def log(equation: Any) -> Callable[[Any], Any]:
    """A log sum in two passes, as clients write it."""

    def callback(compute_sum: Any) -> Tensor:
        largest: Tensor = compute_sum(utils.max_in_place, utils.max_block, utils.add_in_place)
        utils.clip_inf_in_place(largest)
        resized = resize_max_values(largest, equation)

        def block(a: Tensor, dims: Sequence[int]) -> Tensor:
            a.sub_(resized)
            a.exp_()
            return utils.sum_block(a, dims)

        total: Tensor = compute_sum(utils.add_in_place, block, utils.add_in_place)
        return total.log_().add_(largest)

    return callback


@pytest.mark.parametrize("block_size", BLOCK_SIZES, ids=repr)
def test_callbacks_define_the_semiring(block_size: Any) -> None:
    equation = compile_equation(EQUATION)
    args = operands()

    def run(*laws: Any) -> Any:
        return semiring_einsum_forward(equation, args, block_size, lambda compute_sum: compute_sum(*laws))

    summed, products = (3, 4, 5), terms(args, torch.mul)
    torch.testing.assert_close(
        run(utils.add_in_place, utils.sum_block, utils.multiply_in_place), products.sum(summed)
    )
    sums = terms(args, torch.add)
    largest = run(utils.max_in_place, utils.max_block, utils.add_in_place)
    torch.testing.assert_close(largest, sums.amax(summed))
    smallest = run(utils.min_in_place, utils.min_block, utils.add_in_place)
    torch.testing.assert_close(smallest, sums.amin(summed))
    got = semiring_einsum_forward(equation, args, block_size, log(equation))
    torch.testing.assert_close(got, sums.logsumexp(summed))
    truths = [x > 3 for x in args]
    some = semiring_einsum_forward(
        equation,
        truths,
        block_size,
        lambda compute_sum: compute_sum(
            utils.logical_or_in_place, utils.logical_or_block, utils.logical_and_in_place
        ),
    )
    assert torch.equal(some, terms(truths, torch.logical_and).flatten(3).any(-1))


@pytest.mark.parametrize("block_size", [1, 2, 4, 7])
def test_callbacks_see_every_term_once_and_know_where_it_is(block_size: int) -> None:
    seen = torch.zeros(SUMMED, dtype=torch.int64)
    args = operands()
    everything = terms(args, torch.mul)

    def block(a: Tensor, dims: tuple[int, ...], where: tuple[slice, ...]) -> Tensor:
        assert dims == (3, 4, 5)
        assert all(isinstance(x, slice) and x.stop - x.start <= block_size for x in where)
        torch.testing.assert_close(a, everything[:, :, :, where[0], where[1], where[2]])
        seen[where] += 1
        return a.sum(dims)

    def func(compute_sum: Any) -> Any:
        return compute_sum(utils.add_in_place, block, utils.multiply_in_place, include_indexes=True)

    got = semiring_einsum_forward(compile_equation(EQUATION), args, block_size, func)
    torch.testing.assert_close(got, everything.sum((3, 4, 5)))
    assert (seen == 1).all()


def test_sums_may_be_any_objects() -> None:
    """The largest term and its place, as a list of two tensors that is changed in place."""
    equation = compile_equation("ik,kj->ij")
    a, b = torch.randn(3, 7), torch.randn(7, 4)

    def block(x: Tensor, dims: tuple[int, ...], where: tuple[slice, ...]) -> list[Tensor]:
        value, place = x.max(dims[0])
        return [value, place + where[0].start]

    def better(left: list[Tensor], right: list[Tensor]) -> None:
        taken = right[0] > left[0]
        left[0], left[1] = torch.where(taken, right[0], left[0]), torch.where(taken, right[1], left[1])

    def func(compute_sum: Any) -> Any:
        return compute_sum(better, block, utils.add_in_place, True, (None, torch.int64))

    value, place = semiring_einsum_forward(equation, [a, b], 2, func)
    expected = (a[:, :, None] + b[None]).max(1)
    assert torch.equal(value, expected.values)
    assert torch.equal(place, expected.indices)


def test_callbacks_get_factors_that_broadcast_and_a_tensor_of_their_own() -> None:
    x, y = torch.rand(2, 3).expand(2, 3), torch.rand(1).expand(4)  # y has stride 0
    kept = [x.clone(), y.clone()]

    def multiply(a: Tensor, b: Tensor) -> None:
        assert a.shape == (3, 4, 2)
        assert a.is_contiguous()
        assert b.shape == (1, 4, 1)
        a *= b

    def block(a: Tensor, dims: tuple[int, ...]) -> Tensor:
        assert dims == (2,)
        return a.sum(2)

    got = semiring_einsum_forward(
        compile_equation("ij,k->jk"), (x, y), 5, lambda compute_sum: compute_sum(None, block, multiply)
    )
    torch.testing.assert_close(got, torch.outer(x.sum(0), y))
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


@pytest.mark.parametrize("text", ["->", "i->i", "ij->ji", "i->"])
def test_the_result_is_never_the_operand_itself(text: str) -> None:
    equation = compile_equation(text)
    (arg,) = [torch.ones([1] * len(variables)) for variables in equation.input_variables]
    functions = [
        lambda: semiring_einsum_forward(equation, [arg], 1, real),
        lambda: ours.einsum(equation, arg),
        lambda: ours.log_einsum(equation, arg),
        lambda: ours.max_tropical_einsum_forward(equation, arg),
        lambda: ours.log_viterbi_einsum_forward(equation, arg)[0],
        lambda: ours.boolean_einsum_forward(equation, arg),
    ]
    for function in functions:
        function().zero_()
        assert arg.sum() == 1


def test_diagonals_are_taken() -> None:
    x = torch.rand(4, 4, 4)
    for text, expected in (
        ("iii->i", torch.einsum("iii->i", x)),
        ("iij->ij", torch.einsum("iij->ij", x)),
        ("iij->j", torch.einsum("iij->j", x)),
        ("jii->", torch.einsum("jii->", x)),
    ):
        for size in (1, 3):
            got = semiring_einsum_forward(compile_equation(text), [x], size, real)
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("block_size", [1, 3, AutomaticBlockSize()], ids=repr)
def test_sums_over_nothing_are_the_zero_of_the_blocks(block_size: Any) -> None:
    equation = compile_equation("ik,kj->ij")
    args = [torch.ones(2, 0), torch.ones(0, 3)]

    def run(*laws: Any) -> Tensor:
        result: Tensor = semiring_einsum_forward(
            equation, args, block_size, lambda compute_sum: compute_sum(*laws)
        )
        assert result.shape == (2, 3)
        return result

    assert (run(utils.add_in_place, utils.sum_block, utils.multiply_in_place) == 0).all()
    assert (run(utils.max_in_place, utils.max_block, utils.add_in_place) == -math.inf).all()
    assert (run(utils.min_in_place, utils.min_block, utils.add_in_place) == math.inf).all()
    assert (semiring_einsum_forward(equation, args, block_size, log(equation)) == -math.inf).all()
    empty = [torch.ones(0, 2), torch.ones(2, 3)]
    assert semiring_einsum_forward(equation, empty, block_size, real).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_extrema_over_nothing_are_the_extreme_numbers_of_the_dtype(dtype: torch.dtype) -> None:
    nothing = torch.ones(2, 0, 3, dtype=dtype)
    low, high = (False, True) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    assert torch.equal(utils.max_block(nothing, (1,)), torch.full((2, 3), low, dtype=dtype))
    assert torch.equal(utils.min_block(nothing, (-2, 2)), torch.full((2,), high, dtype=dtype))


def test_blocks_without_dimensions_to_sum_stay_as_they_are() -> None:
    x = torch.rand(2, 3)
    for block in (utils.sum_block, utils.max_block, utils.min_block, utils.logical_or_block):
        assert block(x, ()) is x


def test_clipping_leaves_only_finite_numbers_and_nan() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 1.0], dtype=torch.float64)
    utils.clip_inf_in_place(x)
    largest = torch.finfo(torch.float64).max
    assert x[:2].tolist() == [largest, -largest]
    assert x[2].isnan()
    assert x[3] == 1


def test_functions_in_place_may_be_scripted() -> None:
    scripted: Any = torch.jit.script(utils.add_in_place)
    x = torch.ones(2)
    scripted(x, x)
    assert x.tolist() == [2, 2]


def test_several_passes_see_the_same_operands() -> None:
    equation = compile_equation("ik,kj->ij")
    a, b = torch.rand(2, 3), torch.rand(3, 4)

    def func(compute_sum: Any) -> Any:
        first = real(compute_sum)
        return first, real(compute_sum), compute_sum(utils.max_in_place, utils.max_block, utils.add_in_place)

    one, two, three = semiring_einsum_forward(equation, (a, b), 1, func)
    assert torch.equal(one, two)
    torch.testing.assert_close(three, (a[:, :, None] + b).amax(1))


@given(data=st.data())
def test_any_equation_gives_what_the_peer_gives(data: st.DataObject) -> None:
    peer = pytest.importorskip("torch_semiring_einsum")
    # The peer knows neither diagonals nor empty sums.
    parts = data.draw(st.lists(st.permutations("abcd").map("".join), min_size=1, max_size=3))
    parts = [part[: data.draw(st.integers(0, 3))] for part in parts]
    labels = data.draw(st.permutations(sorted(set("".join(parts)))))
    text = f"{','.join(parts)}->{''.join(labels[: data.draw(st.integers(0, len(labels)))])}"
    sizes = dict(zip("abcd", data.draw(st.tuples(*[st.integers(1, 3)] * 4)), strict=True))
    args = [torch.randn([sizes[x] for x in part], dtype=torch.float64) for part in parts]
    size = data.draw(st.integers(1, 3))
    expected = peer.semiring_einsum_forward(peer.compile_equation(text), args, size, real)
    torch.testing.assert_close(semiring_einsum_forward(compile_equation(text), args, size, real), expected)
    equation = compile_equation(text)
    expected = peer.log_einsum_forward(peer.compile_equation(text), *args, block_size=size)
    torch.testing.assert_close(semiring_einsum_forward(equation, args, size, log(equation)), expected)


def test_combine_makes_a_function_that_autograd_knows() -> None:
    """Products over max-times, with a derivative of its own and an option for each direction."""
    calls: list[Any] = []

    def forward(equation: Any, *args: Tensor, block_size: Any, scale: float = 1.0) -> Tensor:
        calls.append(("forward", block_size, scale))
        laws = utils.max_in_place, utils.max_block, utils.multiply_in_place
        return semiring_einsum_forward(equation, args, block_size, lambda f: f(*laws)).mul_(scale)

    def backward(
        equation: Any,
        args: Sequence[Tensor],
        needs_grad: Sequence[bool],
        grad: Tensor,
        block_size: Any,
        factor: float = 1.0,
    ) -> list[Tensor | None]:
        calls.append(("backward", block_size, factor, tuple(needs_grad)))
        return [
            grad.sum() * factor * torch.ones_like(x) if n else None
            for x, n in zip(args, needs_grad, strict=True)
        ]

    function = combine(forward, backward, forward_options=["scale"], backward_options=("factor",))
    equation = compile_equation("ik,kj->ij")
    a, b = torch.rand(2, 3, requires_grad=True), torch.rand(3, 2)
    got = function(equation, a, b, block_size=2, scale=3.0, factor=5.0)
    torch.testing.assert_close(got, 3 * (a[:, :, None] * b).amax(1))
    got.sum().backward()
    assert a.grad is not None
    assert torch.equal(a.grad, torch.full((2, 3), 20.0))
    assert calls == [("forward", 2, 3.0), ("backward", 2, 5.0, (True, False))]
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        function(equation, a, b, block_size=2, other=1)
    with pytest.raises(TypeError, match="block_size"):
        function(equation, a, b)


def test_the_package_is_made_of_functions_that_combine() -> None:
    einsum = combine(ours.real_einsum_forward, ours.real_einsum_backward)
    log_einsum = combine(ours.log_einsum_forward, ours.log_einsum_backward, (), ["grad_of_neg_inf"])
    equation = compile_equation(EQUATION)
    args = [x.requires_grad_() for x in operands()]
    for function, expected in ((einsum, ours.einsum), (log_einsum, ours.log_einsum)):
        got, want = function(equation, *args, block_size=2), expected(equation, *args, block_size=2)
        torch.testing.assert_close(got, want)
        weights = torch.randn(got.shape, dtype=torch.float64)
        pairs = zip(
            torch.autograd.grad(got, args, weights), torch.autograd.grad(want, args, weights), strict=True
        )
        for one, other in pairs:
            torch.testing.assert_close(one, other)


def test_blocks_come_in_the_order_of_the_variables() -> None:
    order: list[tuple[tuple[int, int], ...]] = []

    def block(a: Tensor, dims: tuple[int, ...], where: tuple[slice, ...]) -> Tensor:
        order.append(tuple((x.start, x.stop) for x in where))
        return a.sum(dims)

    semiring_einsum_forward(
        compile_equation("ij->"),
        [torch.ones(3, 2)],
        2,
        lambda compute_sum: compute_sum(utils.add_in_place, block, utils.multiply_in_place, True),
    )
    assert order == list(itertools.product([(0, 2), (2, 3)], [(0, 2)]))
