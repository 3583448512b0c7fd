"""Derivatives under a limit are those of the contraction, whatever its operands and gradients look like."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import einfx
from einfx.equation import Equation
from einfx.options import Options
from einfx.slicing.autograd.problem import Problem
from tests.semiring_oracle import brute_force

CHAIN = "ij,jk,kl->il"


def _random(*shape: int, dtype: torch.dtype = torch.float64, requires_grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=dtype, generator=generator).requires_grad_(requires_grad)


def _chain(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [_random(*shape, dtype=dtype) for shape in ((3, 4), (4, 5), (5, 2))]


def _limited(text: str, limit: int = 2000, **words: object) -> Callable[..., Tensor]:
    def function(*tensors: Tensor) -> Tensor:
        result: Tensor = einfx.einsum(text, *tensors, memory_limit=limit, **words)  # type: ignore[arg-type]
        return result

    return function


def _compare(text: str, operands: Sequence[Tensor], limit: int = 4000) -> None:
    """The contraction and its gradients are those of torch."""
    wanted = [x for x in operands if x.requires_grad]
    found, expected = _limited(text, limit)(*operands), torch.einsum(text, *operands)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, wanted, gradient), torch.autograd.grad(expected, wanted, gradient)
    )


@pytest.mark.parametrize("semiring", ["real", "log", "max_plus"])
@pytest.mark.parametrize("layout", ["expanded", "half expanded", "transposed", "every other"])
def test_a_gradient_may_lie_anyhow(semiring: str, layout: str) -> None:
    operands = _chain()
    gradient = {
        "expanded": torch.tensor(0.5, dtype=torch.float64).expand(3, 2),
        "half expanded": _random(3, 1, requires_grad=False).expand(3, 2),
        "transposed": _random(2, 3, requires_grad=False).t(),
        "every other": _random(6, 4, requires_grad=False)[::2, ::2],
    }[layout]
    given = gradient.clone()
    expected = torch.autograd.grad(einfx.einsum(CHAIN, *operands, semiring=semiring), operands, given)
    for limit in (700, 20_000):
        found = _limited(CHAIN, limit * (1 + 2 * (semiring != "real")), semiring=semiring)(*operands)
        torch.testing.assert_close(torch.autograd.grad(found, operands, gradient), expected)
    assert gradient.equal(given)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("ij,ij->", [(3, 4), (3, 4)]),
        ("ij,jk->ik", [(3, 1), (5, 4)]),
        ("ii,ij->ij", [(4, 4), (4, 3)]),
        ("iij,jj->i", [(3, 3, 4), (4, 4)]),
        (",i->i", [(), (5,)]),
        (",->", [(), ()]),
        ("ij->", [(3, 4)]),
        ("ij,k->ik", [(3, 4), (5,)]),
        ("ij,jk->ik", [(3, 0), (0, 4)]),
        ("ij,jk->ik", [(0, 3), (3, 4)]),
    ],
)
def test_gradients_of_operands_of_every_shape(text: str, shapes: list[tuple[int, ...]]) -> None:
    _compare(text, [_random(*shape) for shape in shapes])


def test_gradients_of_one_tensor_given_several_times_add_up() -> None:
    x = _random(4, 4)
    _compare("ij,jk,ki->", [x, x, x])
    _compare("ij,ij->ij", [x, x.t()])


@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 2)])
def test_gradients_of_some_operands_only(which: tuple[int, ...]) -> None:
    operands = [x.requires_grad_(i in which) for i, x in enumerate(_chain())]
    _compare(CHAIN, operands)
    everything = _chain()
    found = torch.autograd.grad(_limited(CHAIN)(*everything).sum(), [everything[i] for i in which])
    expected = torch.autograd.grad(torch.einsum(CHAIN, *everything).sum(), [everything[i] for i in which])
    torch.testing.assert_close(found, expected)


def test_operands_may_be_views_expanded_conjugated_or_negated() -> None:
    x, y = _random(4, 5), _random(5, dtype=torch.complex128)
    _compare("ij,jk->ik", [x.t(), x[:, :1].expand(4, 3)])
    _compare("ij,j->i", [x.to(torch.complex128)[::2], y.conj()])
    _compare("j,j->j", [y.conj().imag, x[0]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_second_derivatives_of_chains_and_of_hyperedges(dtype: torch.dtype) -> None:
    assert torch.autograd.gradcheck(_limited(CHAIN), _chain(dtype), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(_limited(CHAIN), _chain(dtype))
    shared = [_random(3, 2, dtype=dtype) for _ in range(3)]
    assert torch.autograd.gradgradcheck(_limited("ak,ak,ak->a"), shared)


def test_third_derivatives_over_real_numbers() -> None:
    a, b = _random(3), _random(3)

    def third(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        (first,) = torch.autograd.grad(function(a, a, a, b).sum(), a, create_graph=True)
        (second,) = torch.autograd.grad((first**2).sum(), a, create_graph=True)
        return torch.autograd.grad((second**2).sum(), (a, b))

    text = "i,i,i,i->"
    torch.testing.assert_close(third(_limited(text)), third(lambda *tensors: torch.einsum(text, *tensors)))


def test_transforms_of_torch_func_keep_the_limit() -> None:
    a, b, c = [x.detach() for x in _chain()]

    def limited(x: Tensor) -> Tensor:
        return (_limited(CHAIN, 4000)(x, b, c) ** 2).sum()

    def free(x: Tensor) -> Tensor:
        return (torch.einsum(CHAIN, x, b, c) ** 2).sum()

    batch = torch.randn(6, *a.shape, dtype=torch.float64)
    for transform in (torch.func.grad, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(transform(limited)(a), transform(free)(a))
    torch.testing.assert_close(torch.func.vmap(limited)(batch), torch.func.vmap(free)(batch))
    each = torch.func.vmap(torch.func.grad(limited)), torch.func.vmap(torch.func.grad(free))
    torch.testing.assert_close(each[0](batch), each[1](batch))


def test_nothing_is_saved_but_operands_and_over_semirings_the_result() -> None:
    operands, packed = _chain(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: packed.append(x) or x, lambda x: x):  # type: ignore[func-returns-value]
        _limited(CHAIN)(*operands)
        assert [x.data_ptr() for x in packed] == [x.data_ptr() for x in operands]
        packed.clear()
        result = _limited(CHAIN, 20_000, semiring="log")(*operands)
        assert [x.data_ptr() for x in packed] == [x.data_ptr() for x in (*operands, result)]


def test_checkpoints_inference_mode_and_no_grad() -> None:
    operands = _chain()
    whole = torch.einsum(CHAIN, *operands)
    found = checkpoint(_limited(CHAIN), *operands, use_reentrant=False)
    expected = torch.autograd.grad(whole.sum(), operands)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), operands), expected)
    with torch.no_grad():
        assert not _limited(CHAIN)(*operands).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(_limited(CHAIN)(*operands), whole)


def test_threads_may_contract_at_once() -> None:
    operands = [_random(20, 30), _random(30, 20), _random(20, 10)]
    expected = torch.autograd.grad(torch.einsum(CHAIN, *operands).sum(), operands)
    failures: list[BaseException] = []

    def work(limit: int) -> None:
        try:
            for _ in range(5):
                found = torch.autograd.grad(_limited(CHAIN, limit)(*operands).sum(), operands)
                torch.testing.assert_close(found, expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(20_000 + 64 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("semiring", ["real", "log", "max_plus"])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype, semiring: str) -> None:
    operands = [_random(*shape).detach().to(dtype).requires_grad_() for shape in ((6, 40), (40, 50), (50, 4))]
    exact = [x.detach().double().requires_grad_() for x in operands]
    whole = einfx.einsum(CHAIN, *exact, semiring=semiring)
    expected = torch.autograd.grad(whole.sum(), exact)
    for limit in (16_000 if semiring == "real" else 30_000, 200_000):
        found = _limited(CHAIN, limit, semiring=semiring)(*operands)
        assert found.dtype == dtype
        torch.testing.assert_close(found, whole.to(dtype), rtol=1e-2, atol=1e-2)
        made = torch.autograd.grad(found.sum(), operands)
        torch.testing.assert_close(made, tuple(x.to(dtype) for x in expected), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("semiring", "dtype"),
    [("boolean", torch.bool), ("max_plus", torch.int64), ("real", torch.int32), ("max_min", torch.uint8)],
)
@pytest.mark.parametrize("annihilates", [None, True])
def test_integers_and_booleans(semiring: str, dtype: torch.dtype, annihilates: bool | None) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((30, 20), (20, 40), (40, 30))
    operands = [torch.randint(0, 2, shape, generator=generator).to(dtype) for shape in shapes]
    if dtype == torch.bool:
        operands = [x & (torch.rand(x.shape, generator=generator) < 0.2) for x in operands]
    found = _limited(CHAIN, 12_000, semiring=semiring, zero_annihilates=annihilates)(*operands)
    assert found.dtype == dtype
    assert found.equal(brute_force(CHAIN, operands, semiring).to(dtype))


@pytest.mark.parametrize("semiring", ["max_plus", "min_plus", "max_min", "max_times"])
def test_of_many_equal_terms_one_gets_the_gradient(semiring: str) -> None:
    generator = torch.Generator().manual_seed(1)
    operands = [
        torch.randint(0, 3, shape, generator=generator).double().requires_grad_()
        for shape in ((8, 20), (20, 20), (20, 5))
    ]
    result = _limited(CHAIN, 12_000, semiring=semiring)(*operands)
    free = einfx.einsum(CHAIN, *operands, semiring=semiring, optimize=[(0, 1), (0, 1)])
    assert result.equal(free)
    found = torch.autograd.grad(result.sum(), operands)
    if semiring in ("max_plus", "min_plus"):
        # One term for each element of the result, from each operand one element.
        assert [x.sum().item() for x in found] == [40.0] * 3


def test_weights_of_zero_have_their_gradient_in_every_block() -> None:
    a, b = _random(6, 30).detach().requires_grad_(), _random(30, 4).detach().abs()
    b[::2] = 0
    b.requires_grad_()
    words = {"semiring": "log", "linear_operands": (1,)}
    expected = torch.autograd.grad(einfx.einsum("ij,jk->ik", a, b, **words).sum(), (a, b))  # type: ignore[arg-type]
    found = _limited("ij,jk->ik", 9_000, **words)(a, b)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), (a, b)), expected)


def test_a_semiring_of_ones_own_keeps_the_limit() -> None:
    widest = einfx.Semiring(
        "widest", torch.maximum, torch.minimum, zero=-torch.inf, one=torch.inf, selective=True
    )
    operands = [_random(*shape) for shape in ((30, 20), (20, 40), (40, 30))]
    expected = brute_force(CHAIN, operands, "max_min")
    found = _limited(CHAIN, 40_000, semiring=widest)(*[x.detach() for x in operands])
    torch.testing.assert_close(found, expected)
    graded = _limited(CHAIN, 200_000, semiring=widest)(*operands)
    one = torch.autograd.grad(graded.sum(), operands)
    other = torch.autograd.grad(einfx.einsum(CHAIN, *operands, semiring=widest).sum(), operands)
    torch.testing.assert_close(one, other)


def test_compiled_functions_keep_the_limit() -> None:
    operands = _chain()

    def function(*tensors: Tensor) -> Tensor:
        return _limited(CHAIN, 2_000)(*tensors).sum()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    found, expected = compiled(*operands), function(*operands)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, operands), torch.autograd.grad(expected, operands))
    torch._dynamo.reset()


def test_gradients_of_long_chains_take_three_times_the_contraction() -> None:
    sites = 40
    labels = [[2 * i, 2 * i + 1, 2 * i + 2] for i in range(sites)]
    bras = [[1000 + 2 * i, 2 * i + 1, 1000 + 2 * i + 2] for i in range(sites)]
    inputs = [part for pair in zip(labels, bras, strict=True) for part in pair]
    inputs = [[0, 1000], *inputs, [2 * sites, 1000 + 2 * sites]]
    equation = Equation(tuple(map(tuple, inputs)), ())
    shapes = [(4, 4), *[(4, 2, 4)] * (2 * sites), (4, 4)]
    operands = [torch.empty(shape) for shape in shapes]
    problem = Problem.of(equation, "greedy", Options.read(memory_limit="1MiB"))
    whole = problem.sliced(operands).demand.flops
    gradients = problem.sliced(operands, (True,) * len(operands)).demand.flops
    assert gradients <= 3 * whole
    second = problem.sliced(operands, (True,) * len(operands), (True,) * len(operands)).demand.flops
    assert second <= 9 * whole
