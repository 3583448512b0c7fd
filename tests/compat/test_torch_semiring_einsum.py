"""The stand-in for torch_semiring_einsum: its contractions, beside the package itself and beside oracles."""

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
from einfx.compat.torch_semiring_einsum import AutomaticBlockSize, compile_equation
from einfx.errors import OperandError

EQUATION = "abce,abde,abdf->acd"
SHAPES = [(2, 3, 5, 11), (2, 3, 7, 11), (2, 3, 7, 13)]
BLOCK_SIZES = [1, 2, 3, 7, 100, AutomaticBlockSize(), AutomaticBlockSize(max_cpu_bytes=700)]
EQUATIONS = [
    "->",
    ",->",
    "i->",
    "i->i",
    "ij->ji",
    "i,i->i",
    "i,j->ji",
    "ij,jk->ik",
    "abc,b->a",
    "ab,bc,cd,de->ae",
    "ak,ak,ak->a",
    "bij,bjk,k->bi",
    "ij,ij->",
    "iij,ji->i",
    ",i,ij->j",
]

Binary = Callable[[Tensor, Tensor], Tensor]


def terms(text: str, args: Sequence[Tensor], law: Binary) -> tuple[Tensor, int]:
    """All products, output dimensions first, and how many of these there are."""
    inputs, output = text.split("->")
    letters = output + "".join(dict.fromkeys(x for x in inputs if x not in f",{output}"))
    views = []
    for labels, arg in zip(inputs.split(","), args, strict=True):
        own = sorted(set(labels), key=letters.index)
        view = torch.einsum(f"{labels}->{''.join(own)}", arg) if labels else arg
        views.append(view.reshape([view.shape[own.index(x)] if x in own else 1 for x in letters]))
    product = views[0]
    for view in views[1:]:
        product = law(product, view)
    sizes = {
        x: n
        for part, arg in zip(inputs.split(","), args, strict=True)
        for x, n in zip(part, arg.shape, strict=True)
    }
    return product.expand([sizes[x] for x in letters]), len(output)


def by_hand(name: str, text: str, args: Sequence[Tensor]) -> Tensor:
    """A contraction from all its products, in the dtype of the operands."""
    product, kept = terms(text, args, torch.mul if name == "real" else torch.add)
    flat = product.reshape(*product.shape[:kept], -1)
    if name == "real":
        return flat.sum(-1)
    if name == "log":
        return flat.logsumexp(-1)
    return flat.amax(-1) if name == "max" else flat.amin(-1)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "real": ours.einsum,
    "log": ours.log_einsum,
    "max": ours.max_tropical_einsum_forward,
    "min": ours.min_tropical_einsum_forward,
}


def operands(text: str, dtype: torch.dtype = torch.float64, size: int = 3) -> list[Tensor]:
    inputs = text.split("->")[0].split(",")
    return [torch.randn([size] * len(labels)).to(dtype) for labels in inputs]


@pytest.mark.parametrize("block_size", BLOCK_SIZES, ids=repr)
@pytest.mark.parametrize("text", EQUATIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_contractions_are_the_sums_of_all_products(name: str, text: str, block_size: Any) -> None:
    args = operands(text)
    got = FUNCTIONS[name](compile_equation(text), *args, block_size=block_size)
    torch.testing.assert_close(got, by_hand(name, text, args))
    assert got.is_contiguous()


@given(data=st.data())
def test_any_contraction_gives_what_the_peer_gives(data: st.DataObject) -> None:
    peer = pytest.importorskip("torch_semiring_einsum")
    parts = data.draw(st.lists(st.permutations("abcd").map("".join), min_size=1, max_size=4))
    parts = [part[: data.draw(st.integers(0, 3))] for part in parts]
    labels = data.draw(st.permutations(sorted(set("".join(parts)))))
    text = f"{','.join(parts)}->{''.join(labels[: data.draw(st.integers(0, len(labels)))])}"
    sizes = dict(zip("abcd", data.draw(st.tuples(*[st.integers(1, 4)] * 4)), strict=True))
    # Where both infinities meet, the order of sums and products decides whether that is nan.
    infinity = data.draw(st.sampled_from([-math.inf, math.inf]))
    numbers = st.sampled_from([infinity, math.nan, 0.0, 1.0, -3.0, 50.0, -200.0])
    special = data.draw(st.booleans())
    args = []
    for part in parts:
        shape = [sizes[x] for x in part]
        arg = torch.randn(shape, dtype=torch.float64)
        if special:
            count = arg.numel()
            arg = (
                torch.tensor(data.draw(st.lists(numbers, min_size=count, max_size=count)))
                .double()
                .reshape(shape)
            )
        args.append(arg)
    size = data.draw(st.sampled_from([1, 2, 3, 9]))
    theirs, equation = peer.compile_equation(text), compile_equation(text)
    for name in ("real_einsum_forward", "log_einsum_forward"):
        if special and name == "real_einsum_forward":
            continue  # there the order of sums and products decides about inf - inf and 0 · inf
        expected = getattr(peer, name)(theirs, *args, block_size=size)
        got = getattr(ours, name)(equation, *args, block_size=size)
        torch.testing.assert_close(got, expected, equal_nan=True)
    if not any(arg.isnan().any() for arg in args) and not (
        special and any(arg.isinf().any() for arg in args)
    ):
        values, places = peer.log_viterbi_einsum_forward(theirs, *args, block_size=size)
        got, where = ours.log_viterbi_einsum_forward(equation, *args, block_size=size)
        torch.testing.assert_close(got, values)
        if not special:
            assert torch.equal(where, places)


def test_the_small_case_of_the_peer_is_as_exact_as_the_peer_asks() -> None:
    """Float32, to 1e-7, as torch_semiring_einsum asks of itself."""
    exact = [0, 0, 0]
    for seed in range(20):
        torch.manual_seed(seed)
        args = [torch.empty(shape).uniform_(-10, 10) for shape in SHAPES]
        double = [arg.double() for arg in args]
        equation = compile_equation(EQUATION)
        for i, name in enumerate(("log", "max", "min")):
            got = FUNCTIONS[name](equation, *args, block_size=3).double()
            exact[i] += bool(torch.allclose(got, by_hand(name, EQUATION, double), rtol=1e-7, atol=0))
    assert min(exact) >= 15


@pytest.mark.parametrize("block_size", BLOCK_SIZES, ids=repr)
def test_viterbi_gives_the_largest_term_and_its_place(block_size: Any) -> None:
    args = [torch.empty(shape).uniform_(-10, 10) for shape in SHAPES]
    values, places = ours.log_viterbi_einsum_forward(compile_equation(EQUATION), *args, block_size=block_size)
    product, kept = terms(EQUATION, args, torch.add)
    flat = product.flatten(kept)
    torch.testing.assert_close(values, flat.amax(-1), rtol=1e-7, atol=0)
    expected = torch.stack(torch.unravel_index(flat.argmax(-1), product.shape[kept:]), -1)
    assert places.dtype == torch.int64
    assert torch.equal(places, expected)


@pytest.mark.parametrize("text", ["ab,bc,cd,de->ae", "ij,jk->ik", "bi,bij,bjk->b", "abc->", "ik,kj->i"])
@pytest.mark.parametrize("size", [2, 30])
def test_the_places_of_viterbi_are_those_of_its_value(text: str, size: int) -> None:
    args = operands(text, torch.float32, size)
    values, places = ours.log_viterbi_einsum_forward(compile_equation(text), *args)
    inputs, output = text.split("->")
    summed = [x for x in dict.fromkeys(inputs.replace(",", "")) if x not in output]
    grid = torch.meshgrid(*[torch.arange(size)] * len(output), indexing="ij") if output else ()
    index = dict(zip(output, grid, strict=True)) | {x: places[..., i] for i, x in enumerate(summed)}
    total = sum(arg[tuple(index[x] for x in part)] for arg, part in zip(args, inputs.split(","), strict=True))
    torch.testing.assert_close(total, values)


def test_viterbi_without_summed_variables_has_no_places() -> None:
    x = torch.arange(5, dtype=torch.float32)
    values, places = ours.log_viterbi_einsum_forward(compile_equation("a,a->a"), x, x, block_size=1)
    assert torch.equal(values, 2 * x)
    assert (places.shape, places.dtype) == ((5, 0), torch.int64)


def test_viterbi_of_equal_terms_takes_the_first() -> None:
    zeros = torch.zeros(3, 4)
    for size in (1, 2, 3, 9):
        value, place = ours.log_viterbi_einsum_forward(
            compile_equation("ij,ij->"), zeros, zeros, block_size=size
        )
        assert value == 0
        assert place.tolist() == [0, 0]


def test_viterbi_of_nothing_is_refused_and_other_sums_of_nothing_are_zero() -> None:
    equation, args = compile_equation("ij,jk->ik"), (torch.ones(2, 0), torch.ones(0, 3))
    with pytest.raises(OperandError, match="no argmax"):
        ours.log_viterbi_einsum_forward(equation, *args)
    for name, zero in (("real", 0.0), ("log", -math.inf), ("max", -math.inf), ("min", math.inf)):
        assert torch.equal(FUNCTIONS[name](equation, *args, block_size=2), torch.full((2, 3), zero))


def test_scalars_and_overflow() -> None:
    assert ours.einsum(compile_equation("->"), torch.tensor(1.0), block_size=1) == 1
    assert ours.log_einsum(compile_equation("->"), torch.tensor(2.0), block_size=1) == 2
    large = torch.tensor(2e38)
    assert ours.log_einsum(compile_equation(",->"), large, large, block_size=1) == math.inf
    args = [torch.empty(shape).uniform_(0, 100).requires_grad_() for shape in SHAPES]
    output = ours.log_einsum(compile_equation(EQUATION), *args, block_size=3)
    assert output.isfinite().all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(output.sum(), args))


INF, NAN = math.inf, math.nan
ROWS = [
    # row of the first operand, row of the second, their log sum, the gradients of both
    ([5, 5, 5], [5, 5, 5], 10 + math.log(3), [1 / 3] * 3, [1 / 3] * 3),
    ([-INF] * 3, [-INF] * 3, -INF, "neg", "neg"),
    ([-INF] * 3, [5, 5, 5], -INF, "neg", "neg"),
    ([5, -INF, 5], [-INF, 5, -INF], -INF, "neg", "neg"),
    ([5, -INF, 5], [5, 5, 5], 10 + math.log(2), [0.5, 0, 0.5], [0.5, 0, 0.5]),
    ([5, NAN, 5], [5, 5, 5], NAN, [NAN] * 3, [NAN] * 3),
    ([5, 5, 5], [5, 5, INF], INF, [0, 0, NAN], [0, 0, NAN]),
    ([1e4, -1e4, 0], [0, 0, 0], 1e4, [1, 0, 0], [1, 0, 0]),
]


@pytest.mark.parametrize("neg_inf", [NAN, 0.0, 0.25, "uniform"])
@pytest.mark.parametrize("block_size", [1, 2, 3, AutomaticBlockSize()], ids=repr)
@pytest.mark.parametrize("repeated", [1, 20])
def test_infinities_and_nan(neg_inf: Any, block_size: Any, repeated: int) -> None:
    # Repeated rows and columns make the contraction large enough for other kernels.
    a, b, expected, grad_a, grad_b = (
        torch.tensor(
            [[1 / 3 if neg_inf == "uniform" else neg_inf] * 3 if row[i] == "neg" else row[i] for row in ROWS]
        ).double()
        for i in range(5)
    )
    a, b = (x.repeat(repeated, 1).requires_grad_() for x in (a, b))
    out = ours.log_einsum(compile_equation("ab,ab->a"), a, b, block_size=block_size, grad_of_neg_inf=neg_inf)
    torch.testing.assert_close(out, expected.repeat(repeated), equal_nan=True)
    grads = torch.autograd.grad(out.sum(), (a, b))
    for grad, wanted in zip(grads, (grad_a, grad_b), strict=True):
        torch.testing.assert_close(grad, wanted.repeat(repeated, 1), equal_nan=True, rtol=1e-6, atol=1e-9)


def test_all_of_minus_infinity() -> None:
    args = [torch.full(shape, -INF) for shape in SHAPES]
    equation = compile_equation(EQUATION)
    assert (ours.log_einsum_forward(equation, *args, block_size=3) == -INF).all()
    grad = torch.ones(2, 5, 7)
    for value in ours.log_einsum_backward(equation, args, [True] * 3, grad, block_size=3):
        assert value is not None
        assert value.isnan().all()
    for value in ours.log_einsum_backward(equation, args, [True] * 3, grad, 3, grad_of_neg_inf=0.0):
        assert value is not None
        assert (value == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_floating_dtype_is_summed_as_exactly_as_it_can(name: str, dtype: torch.dtype) -> None:
    args = operands(EQUATION, dtype, 4)
    got = FUNCTIONS[name](compile_equation(EQUATION), *args, block_size=2)
    assert got.dtype == dtype
    expected = by_hand(name, EQUATION, [arg.double() for arg in args])
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=8 * tolerance)


def test_dtypes_promote() -> None:
    a, b = torch.randn(2, 3), torch.randn(3, 2, dtype=torch.float64)
    equation = compile_equation("ij,jk->ik")
    for name, function in FUNCTIONS.items():
        got = function(equation, a, b)
        torch.testing.assert_close(got, by_hand(name, "ij,jk->ik", (a.double(), b)))
    whole = torch.tensor([[1, 2], [3, 4], [5, 6]])
    torch.testing.assert_close(ours.einsum(equation, a, whole), a @ whole.float())
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    torch.testing.assert_close(ours.einsum(equation, a, mask), a @ mask.float())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("block_size", [1, 2, AutomaticBlockSize()], ids=repr)
def test_sums_of_integers_and_truth_values_count(dtype: torch.dtype, block_size: Any) -> None:
    peer = pytest.importorskip("torch_semiring_einsum")
    a, b = (torch.randint(0, 5, shape).to(dtype) for shape in ((4, 5), (5, 3)))
    size = block_size if isinstance(block_size, int) else peer.AUTOMATIC_BLOCK_SIZE
    for text in ("ij,jk->ik", "ij,jk->ijk"):
        expected = peer.einsum(peer.compile_equation(text), a, b, block_size=size)
        got = ours.einsum(compile_equation(text), a, b, block_size=block_size)
        assert got.dtype == expected.dtype
        assert torch.equal(got, expected)


@pytest.mark.parametrize("block_size", [1, 2, AutomaticBlockSize()], ids=repr)
def test_boolean_contractions(block_size: Any) -> None:
    args = [torch.rand(shape) >= 0.9 for shape in SHAPES]
    got = ours.boolean_einsum_forward(compile_equation(EQUATION), *args, block_size=block_size)
    product, kept = terms(EQUATION, args, torch.logical_and)
    expected = product.flatten(kept).any(-1)
    assert torch.equal(got, expected)
    assert not expected.all()
    whole = ours.boolean_einsum_forward(compile_equation(EQUATION), *[x.int() * 3 for x in args])
    assert whole.dtype == torch.int32
    assert torch.equal(whole, expected.int())


def test_tropical_contractions_with_infinities_and_integers() -> None:
    args = [torch.rand(shape).masked_fill(torch.rand(shape) > 0.3, INF) for shape in SHAPES]
    equation = compile_equation(EQUATION)
    got = ours.min_tropical_einsum_forward(equation, *args, block_size=3)
    # Sums of three numbers are rounded in another order.
    torch.testing.assert_close(got, by_hand("min", EQUATION, args), rtol=5e-7, atol=0)
    assert got.isinf().any()
    negative = ours.max_tropical_einsum_forward(equation, *[-arg for arg in args], block_size=3)
    assert torch.equal(negative, -got)
    whole = [torch.randint(-9, 9, shape) for shape in SHAPES]
    for name in ("min", "max"):
        assert torch.equal(FUNCTIONS[name](equation, *whole), by_hand(name, EQUATION, whole))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_expanded_and_permuted_operands(name: str) -> None:
    a = torch.randn(1, 4).expand(3, 4)
    b = torch.randn(5, 4).T
    got = FUNCTIONS[name](compile_equation("ij,jk->ik"), a, b, block_size=2)
    torch.testing.assert_close(got, by_hand(name, "ij,jk->ik", (a, b)))


def test_more_operands_and_variables_than_letters() -> None:
    count = 60
    inputs = [[i, i + 1] for i in range(count)]
    args = [torch.rand(2, 2, dtype=torch.float64) for _ in range(count)]
    equation = compile_equation(inputs=inputs, output=[0, count])
    expected = torch.linalg.multi_dot(args)
    torch.testing.assert_close(ours.einsum(equation, *args), expected)
    logs = [arg.log() for arg in args]
    torch.testing.assert_close(ours.log_einsum(equation, *logs), expected.log())


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("block_size", [3, AutomaticBlockSize(cache_available_cuda_memory=False)], ids=repr)
def test_results_stay_on_the_device_of_the_operands(device: str, block_size: Any) -> None:
    args = operands(EQUATION)
    equation = compile_equation(EQUATION)
    for name, function in FUNCTIONS.items():
        got = function(equation, *[arg.to(device) for arg in args], block_size=block_size)
        assert got.device.type == device
        torch.testing.assert_close(got.cpu(), by_hand(name, EQUATION, args))


def test_sizes_of_every_block_agree() -> None:
    args = operands(EQUATION)
    for name, function in FUNCTIONS.items():
        equation = compile_equation(EQUATION)
        results = [
            function(equation, *args, block_size=size) for size in (*range(1, 5), AutomaticBlockSize(1))
        ]
        for one, other in itertools.pairwise(results):
            torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("name", ["real", "log"])
def test_autocast_takes_no_precision(name: str) -> None:
    args = [torch.randn(80, 90), torch.randn(90, 100)]
    equation, backward = compile_equation("ij,jk->ik"), getattr(ours, f"{name}_einsum_backward")
    expected = by_hand(name, "ij,jk->ik", [arg.double() for arg in args])
    grad = torch.ones(80, 100)
    plain = backward(equation, args, (True, True), grad)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = FUNCTIONS[name](equation, *args)
        grads = backward(equation, args, (True, True), grad)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    for one, wanted in zip(grads, plain, strict=True):
        torch.testing.assert_close(one, wanted)
