"""The stand-in for torch_semiring_einsum: derivatives, of differentiable and of backward functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from einfx.compat import torch_semiring_einsum as ours
from einfx.compat.torch_semiring_einsum import AutomaticBlockSize, compile_equation
from einfx.errors import OperandError, UsageError

EQUATIONS = [
    "->",
    "i->i",
    "ij->j",
    ",i->",
    "ij,jk->ik",
    "abc,b->a",
    "ak,ak,ak->a",
    "ab,bc,cd->da",
    "abce,abde,abdf->acd",
    "iij,j->i",
]
BLOCK_SIZES = [1, 3, AutomaticBlockSize(), AutomaticBlockSize(max_cpu_bytes=700)]
FORWARD: dict[str, Callable[..., Tensor]] = {"real": ours.einsum, "log": ours.log_einsum}
BACKWARD: dict[str, Callable[..., list[Tensor | None]]] = {
    "real": ours.real_einsum_backward,
    "log": ours.log_einsum_backward,
}


def operands(text: str, size: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    sizes = {x: size if x != "b" else 2 for x in text}
    return [torch.randn([sizes[x] for x in part], dtype=dtype) for part in text.split("->")[0].split(",")]


def reference(name: str, text: str, args: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Gradients by autograd through torch.einsum, of exponentials for log."""
    leaves = [arg.detach().clone().requires_grad_() for arg in args]
    if name == "real":
        output = torch.einsum(text, *leaves)
    else:
        output = torch.einsum(text, *[leaf.exp() for leaf in leaves]).log()
    return list(torch.autograd.grad(output, leaves, grad))


@pytest.mark.parametrize("block_size", BLOCK_SIZES, ids=repr)
@pytest.mark.parametrize("text", EQUATIONS)
@pytest.mark.parametrize("name", FORWARD)
def test_gradients_are_those_of_torch(name: str, text: str, block_size: Any) -> None:
    equation, args = compile_equation(text), operands(text)
    leaves = [arg.clone().requires_grad_() for arg in args]
    output = FORWARD[name](equation, *leaves, block_size=block_size)
    grad = torch.randn_like(output)
    expected = reference(name, text, args, grad)
    got = torch.autograd.grad(output, leaves, grad)
    direct = BACKWARD[name](equation, args, [True] * len(args), grad, block_size=block_size)
    for one, other, wanted in zip(got, direct, expected, strict=True):
        torch.testing.assert_close(one, wanted)
        torch.testing.assert_close(other, wanted)


@pytest.mark.parametrize("block_size", [1, 2, AutomaticBlockSize(), AutomaticBlockSize(700)], ids=repr)
@pytest.mark.parametrize("size", [3, 40])
def test_derivatives_of_large_and_small_contractions(size: int, block_size: Any) -> None:
    """Kernels for matrices, and those for few terms, with signs of all kinds in the incoming gradient."""
    for text in ("ij,jk->ik", "bij,bjk->bik", "ij,jk,kl->il"):
        args = operands(text, size)
        grad = torch.randn_like(torch.einsum(text, *args))
        equation = compile_equation(text)
        for name in FORWARD:
            got = BACKWARD[name](equation, args, [True] * len(args), grad, block_size)
            for one, wanted in zip(got, reference(name, text, args, grad), strict=True):
                torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize("text", ["ij,jk->ik", "ak,ak,ak->a", "abc,b->a", ",i->i"])
@pytest.mark.parametrize(
    "function", [*FORWARD.values(), ours.max_tropical_einsum_forward], ids=attrgetter("__name__")
)
@pytest.mark.parametrize("block_size", [1, AutomaticBlockSize()], ids=repr)
def test_first_and_second_derivatives(text: str, function: Any, block_size: Any) -> None:
    equation = compile_equation(text)
    args = [arg.requires_grad_() for arg in operands(text)]

    def call(*inputs: Tensor) -> Tensor:
        result: Tensor = function(equation, *inputs, block_size=block_size)
        return result

    assert gradcheck(call, args)
    assert gradgradcheck(call, args)


@pytest.mark.parametrize("name", FORWARD)
def test_backward_functions_may_be_differentiated(name: str) -> None:
    equation = compile_equation("ij,jk->ik")
    a, b = (arg.requires_grad_() for arg in operands("ij,jk->ik"))
    grad = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        first, second = BACKWARD[name](equation, inputs[:2], (True, True), inputs[2])
        assert first is not None
        assert second is not None
        return first, second

    assert gradcheck(call, (a, b, grad))


def test_gradients_are_those_of_the_peer() -> None:
    peer = pytest.importorskip("torch_semiring_einsum")
    text = "abce,abde,abdf->acd"
    args, equation = operands(text), compile_equation(text)
    grad = torch.empty(3, 3, 3, dtype=torch.float64).uniform_(-5, 5)
    for name in ("real_einsum_backward", "log_einsum_backward"):
        expected = getattr(peer, name)(peer.compile_equation(text), args, [True] * 3, grad, block_size=3)
        got = getattr(ours, name)(equation, args, [True] * 3, grad, block_size=3)
        for one, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize("name", FORWARD)
def test_only_wanted_gradients_are_computed(name: str) -> None:
    equation = compile_equation("ij,jk->ik")
    a, b = torch.randn(2, 3), torch.randn(3, 4)
    grad = torch.randn(2, 4)
    first, second = BACKWARD[name](equation, (a, b), (True, False), grad)
    assert first is not None
    assert second is None
    assert BACKWARD[name](equation, (a, b), (False, False), grad) == [None, None]
    assert not first.requires_grad


@pytest.mark.parametrize("name", FORWARD)
def test_an_operand_given_twice_has_a_gradient_at_each_place(name: str) -> None:
    equation = compile_equation("ij,jk->ik")
    a = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 3, dtype=torch.float64)
    expected = reference(name, "ij,jk->ik", (a, a), grad)
    for operand in (a, a.detach()):
        got = BACKWARD[name](equation, (operand, operand), (True, True), grad)
        for one, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(one, wanted)
    output = FORWARD[name](equation, a, a)
    torch.testing.assert_close(torch.autograd.grad(output, a, grad)[0], expected[0] + expected[1])


@pytest.mark.parametrize("name", FORWARD)
def test_what_does_not_fit_is_refused(name: str) -> None:
    equation = compile_equation("ij,jk->ik")
    a, b = torch.randn(2, 3), torch.randn(3, 4)
    with pytest.raises(OperandError, match=r"gradient of the output of 'ij,jk->ik' has shape \(4, 2\)"):
        BACKWARD[name](equation, (a, b), (True, True), torch.ones(4, 2))
    with pytest.raises(UsageError, match=r"needs_grad says for 1 operand\(s\)"):
        BACKWARD[name](equation, (a, b), (True,), torch.ones(2, 4))
    with pytest.raises(OperandError, match=r"takes 2 operand\(s\)"):
        BACKWARD[name](equation, (a,), (True,), torch.ones(2, 4))


EQUATION = "abce,abde,abdf->acd"


@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("block_size", [1, 2, 9, AutomaticBlockSize()], ids=repr)
def test_the_parts_of_a_log_sum_are_those_of_the_peer(flags: tuple[bool, bool], block_size: Any) -> None:
    peer = pytest.importorskip("torch_semiring_einsum")
    args = [arg * 30 for arg in operands(EQUATION)]
    args[0][0, 0, 0] = -math.inf
    args[0][1, :, 1] = -math.inf
    args[1][2, 0, 0] = math.inf
    words = {"return_max": flags[0], "return_sumexpsub": flags[1]}
    size = block_size if isinstance(block_size, int) else peer.AUTOMATIC_BLOCK_SIZE
    expected = peer.log_einsum_forward(peer.compile_equation(EQUATION), *args, block_size=size, **words)
    got = ours.log_einsum_forward(compile_equation(EQUATION), *args, block_size=block_size, **words)
    if not any(flags):
        expected, got = (expected,), (got,)
    assert isinstance(got, tuple)
    assert len(got) == len(expected) == 1 + sum(flags)
    for one, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(one, wanted, equal_nan=True)


@pytest.mark.parametrize("size", [3, 50])
def test_the_parts_of_large_and_small_sums_belong_together(size: int) -> None:
    equation, args = compile_equation("ij,jk->ik"), [arg * 50 for arg in operands("ij,jk->ik", size)]
    args[0][0] = -math.inf
    args[0][1, 1] = math.inf
    words = {"return_max": True, "return_sumexpsub": True}
    output, largest, sums = ours.log_einsum_forward(equation, *args, **words)
    terms = args[0][:, :, None] + args[1]
    torch.testing.assert_close(largest, terms.amax(1).nan_to_num(nan=math.nan))
    torch.testing.assert_close(sums, (terms - largest[:, None]).exp().sum(1))
    torch.testing.assert_close(output, sums.log() + largest)
    mixed = ours.log_einsum_forward(equation, args[0].float(), args[1], **words)
    assert [x.dtype for x in mixed] == [torch.float64] * 3


@pytest.mark.parametrize("size", [3, 40])
@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("neg_inf", [math.nan, 0.0, 0, 0.5, "uniform"])
def test_saved_parts_give_the_same_gradients(given: tuple[bool, bool], neg_inf: Any, size: int) -> None:
    equation = compile_equation("ik,kj,kj->ij")
    args = [arg * 5 for arg in operands("ik,kj,kj->ij", size)]
    args[0][1] = -math.inf
    _, largest, sums = ours.log_einsum_forward(equation, *args, return_max=True, return_sumexpsub=True)
    grad = torch.randn(size, size, dtype=torch.float64)
    words: dict[str, Any] = {"block_size": 2, "grad_of_neg_inf": neg_inf}
    expected = ours.log_einsum_backward(equation, args, [True] * 3, grad, **words)
    saved: dict[str, Any] = {
        "saved_max": largest if given[0] else None,
        "saved_sumexpsub": sums if given[1] else None,
    }
    got = ours.log_einsum_backward(equation, args, [True, True, False], grad, **words, **saved)
    assert got[2] is None
    for one, wanted in zip(got[:2], expected[:2], strict=True):
        torch.testing.assert_close(one, wanted, equal_nan=True)


def test_saved_parts_may_be_those_of_a_larger_sum() -> None:
    """Each half of a sum gets its share in the whole, as the halves on two machines would."""
    equation = compile_equation("ik,kj->ij")
    a, b = torch.randn(3, 8, dtype=torch.float64), torch.randn(8, 4, dtype=torch.float64)
    a[0, :4] = -math.inf
    grad = torch.randn(3, 4, dtype=torch.float64)
    expected = ours.log_einsum_backward(equation, (a, b), (True, True), grad)
    halves = [(a[:, :4], b[:4]), (a[:, 4:], b[4:])]
    outputs = [ours.log_einsum(equation, *half) for half in halves]
    largest = torch.maximum(*outputs)
    sums = (outputs[0] - largest).exp() + (outputs[1] - largest).exp()
    got = [
        ours.log_einsum_backward(equation, half, (True, True), grad, saved_max=largest, saved_sumexpsub=sums)
        for half in halves
    ]
    for position, dim in ((0, 1), (1, 0)):
        parts = [half[position] for half in got]
        assert parts[0] is not None
        assert parts[1] is not None
        torch.testing.assert_close(torch.cat((parts[0], parts[1]), dim), expected[position])


def test_saved_parts_of_diagonals() -> None:
    equation = compile_equation("iij,j->i")
    args = operands("iij,j->i")
    _, largest, sums = ours.log_einsum_forward(equation, *args, return_max=True, return_sumexpsub=True)
    grad = torch.randn(3, dtype=torch.float64)
    expected = ours.log_einsum_backward(equation, args, (True, True), grad)
    got = ours.log_einsum_backward(
        equation, args, (True, True), grad, saved_max=largest, saved_sumexpsub=sums
    )
    for one, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize("save_max", [True, False])
@pytest.mark.parametrize("save_sumexpsub", [True, False])
def test_what_is_saved_changes_nothing(save_max: bool, save_sumexpsub: bool) -> None:
    equation = compile_equation(EQUATION)
    args = [arg.requires_grad_() for arg in operands(EQUATION)]
    plain = ours.log_einsum(equation, *args, block_size=10)
    other = ours.log_einsum(equation, *args, block_size=10, save_max=save_max, save_sumexpsub=save_sumexpsub)
    assert torch.equal(plain, other)
    pairs = zip(torch.autograd.grad(plain.sum(), args), torch.autograd.grad(other.sum(), args), strict=True)
    assert all(torch.equal(one, wanted) for one, wanted in pairs)


def test_the_gradient_of_a_largest_sum_is_its_path() -> None:
    text = "i,ij,jk->"
    args = [arg.requires_grad_() for arg in operands(text, 4)]
    value, places = ours.log_viterbi_einsum_forward(compile_equation(text), *args)
    i, j, k = places.tolist()
    grads = torch.autograd.grad(value, args)
    assert [x.nonzero().tolist() for x in grads] == [[[i]], [[i, j]], [[j, k]]]


def test_a_posterior_is_a_gradient_of_a_sum_over_sequences() -> None:
    """The probability of each edge of a chain, beside all sequences by hand."""
    text = "i,ij,jk->"
    args = [arg.requires_grad_() for arg in operands(text, 3)]
    total = ours.log_einsum(compile_equation(text), *args, block_size=1)
    scores = args[0][:, None, None] + args[1][:, :, None] + args[2][None]
    posterior = scores.flatten().softmax(0).reshape(scores.shape)
    grads = torch.autograd.grad(total, args)
    for grad, dims in zip(grads, ((1, 2), (2,), (0,)), strict=True):
        torch.testing.assert_close(grad, posterior.sum(dims))


@pytest.mark.parametrize("function", list(FORWARD.values()), ids=attrgetter("__name__"))
def test_transformations_of_torch_func(function: Any) -> None:
    equation = compile_equation("ij,jk->ik")
    a, b = operands("ij,jk->ik")
    batch = torch.stack((a, a * 2))

    def call(x: Tensor) -> Tensor:
        result: Tensor = function(equation, x, b, block_size=2)
        return result

    torch.testing.assert_close(torch.func.vmap(call)(batch)[1], call(2 * a))
    leaf = a.clone().requires_grad_()
    expected = torch.autograd.grad(call(leaf).sum(), leaf)[0]
    torch.testing.assert_close(torch.func.grad(lambda x: call(x).sum())(a), expected)
    tangent = torch.func.jvp(call, (a,), (torch.ones_like(a),))[1]
    torch.testing.assert_close(tangent.sum(), expected.sum())


@pytest.mark.parametrize(
    "function", [*FORWARD.values(), ours.max_tropical_einsum_forward], ids=attrgetter("__name__")
)
@pytest.mark.parametrize("block_size", [2, AutomaticBlockSize()], ids=repr)
def test_contractions_compile_as_one_graph(function: Any, block_size: Any) -> None:
    torch._dynamo.reset()
    equation = compile_equation("ij,jk->ik")
    a, b = (arg.requires_grad_() for arg in operands("ij,jk->ik"))

    def call(*inputs: Tensor) -> Tensor:
        result: Tensor = function(equation, *inputs, block_size=block_size)
        return result

    compiled: Any = torch.compile(call, fullgraph=True, backend="aot_eager")
    got, expected = compiled(a, b), call(a, b)
    torch.testing.assert_close(got, expected)
    pairs = zip(
        torch.autograd.grad(got.sum(), (a, b)), torch.autograd.grad(expected.sum(), (a, b)), strict=True
    )
    for one, wanted in pairs:
        torch.testing.assert_close(one, wanted)
