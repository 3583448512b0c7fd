"""Large products and their sums: values in blocks, and gradients of every order."""

import pytest
import torch
from torch import Tensor

import einfx
from einfx.kernels.helpers import multiply, multiply_sum

SIZES = (3, 20, 320, 130)


def _operands(shapes: tuple[tuple[int, ...], ...], orders: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Tensors of these shapes whose dimensions lie in memory in these orders."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape, order in zip(shapes, orders, strict=True):
        plain = torch.randn([shape[i] for i in order], dtype=torch.float64, generator=generator)
        made.append(plain.permute([order.index(i) for i in range(len(order))]))
    return made


LAYOUTS = [
    ((0, 1, 2, 3), (0, 1, 2, 3)),
    ((3, 2, 1, 0), (3, 2, 1, 0)),
    ((2, 0, 3, 1), (0, 1, 2, 3)),
    ((1, 3, 0, 2), (3, 0, 1, 2)),
]


@pytest.mark.parametrize("orders", LAYOUTS)
@pytest.mark.parametrize("dims", [[-1], [-4], [-2, -3], [-1, -4], [-1, -2, -3, -4]])
def test_blocks_give_the_sum_however_the_operands_lie_in_memory(
    orders: tuple[tuple[int, ...], ...], dims: list[int]
) -> None:
    a, b = _operands((SIZES, SIZES), orders)
    torch.testing.assert_close(multiply_sum(a, b, dims), (a * b).sum(dims))


@pytest.mark.parametrize(
    "shapes",
    [
        (SIZES, SIZES),
        ((3, 1, 320, 130), (20, 320, 1)),
        ((130,), (3, 20, 320, 1)),
        ((1, 20, 320, 1), SIZES),
    ],
)
@pytest.mark.parametrize("dims", [[-1], [-2, -4], [-3]])
def test_gradients_are_those_of_the_product(shapes: tuple[tuple[int, ...], ...], dims: list[int]) -> None:
    a, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    found, expected = multiply_sum(a, b, dims), (a * b).sum(dims)
    direction = torch.randn_like(expected)
    mine = torch.autograd.grad(found, (a, b), direction, create_graph=True)
    theirs = torch.autograd.grad(expected, (a, b), direction, create_graph=True)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        torch.autograd.grad([(x**2).sum() for x in mine], (a, b)),
        torch.autograd.grad([(x**2).sum() for x in theirs], (a, b)),
    )


def test_gradients_of_complex_products_are_conjugated() -> None:
    a, b = (torch.randn(200, 150, 80, dtype=torch.complex128, requires_grad=True) for _ in range(2))
    direction = torch.randn(200, 80, dtype=torch.complex128)
    torch.testing.assert_close(
        torch.autograd.grad(multiply_sum(a, b, [-2]), (a, b), direction),
        torch.autograd.grad((a * b).sum(-2), (a, b), direction),
    )


def test_forward_derivatives_follow_the_product_rule() -> None:
    a, b, da, db = (torch.randn(200, 150, 80, dtype=torch.float64) for _ in range(4))
    found = torch.func.jvp(lambda x, y: multiply_sum(x, y, [-1]), (a, b), (da, db))
    torch.testing.assert_close(found[1], (da * b + a * db).sum(-1))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(a.requires_grad_(), da)
        result = torch.autograd.forward_ad.unpack_dual(multiply_sum(dual, b, [-1]))
    torch.testing.assert_close(result.tangent, (da * b).sum(-1))


def test_gradients_of_small_operands_are_never_as_large_as_the_product() -> None:
    a, b = torch.randn(2000, 1, 60, requires_grad=True), torch.randn(50, 60)
    large = 2000 * 50 * 60
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made._base is None:
                sizes.append(made.untyped_storage().nbytes() // made.itemsize)
            return made

    result = multiply_sum(a, b, [-1])
    with Watch():
        result.sum().backward()
    assert max(sizes) < large / 10


def test_operands_of_two_dtypes_have_gradients_of_their_own_dtypes() -> None:
    a = torch.randn(2000, 1, 60, requires_grad=True)
    b = torch.randn(50, 60, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(multiply_sum(a, b, [-1]).sum(), (a, b))
    expected = torch.autograd.grad((a * b).sum(-1).sum(), (a, b))
    assert [x.dtype for x in found] == [torch.float32, torch.float64]
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    "shapes", [((40, 1), (30,)), ((1, 7, 5), (6, 1, 5)), ((3, 1), (2, 1, 4)), ((0, 1), (3,))]
)
def test_a_product_itself_has_gradients_of_every_order(
    shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype
) -> None:
    a, b = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    found, expected = multiply(a, b), a * b
    direction = torch.randn_like(expected)
    mine = torch.autograd.grad(found, (a, b), direction, create_graph=True)
    theirs = torch.autograd.grad(expected, (a, b), direction, create_graph=True)
    torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(
        torch.autograd.grad([(x.abs() ** 2).sum() for x in mine], (a, b)),
        torch.autograd.grad([(x.abs() ** 2).sum() for x in theirs], (a, b)),
    )


@pytest.mark.parametrize("equation", ["bi,bj->bij", "bi,bj->jbi", "i,bj->bij", "ij,k->kij"])
def test_gradients_of_large_outer_products_are_contractions(equation: str) -> None:
    left, right = equation.split("->")[0].split(",")
    sizes = {"b": 90, "i": 80, "j": 82, "k": 85}
    operands = [torch.randn([sizes[x] for x in own], dtype=torch.float64) for own in (left, right)]
    operands = [x.requires_grad_() for x in operands]
    found, expected = (call(equation, *operands) for call in (einfx.einsum, torch.einsum))
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    names = []

    def visit(function: torch.autograd.graph.Node | None) -> None:
        if function is not None:
            names.append(function.name())
            for inner, _ in function.next_functions:
                visit(inner)

    visit(found.grad_fn)
    assert not [x for x in names if x.startswith("Mul")], names
    mine, theirs = (torch.autograd.grad(x, operands, direction) for x in (found, expected))
    torch.testing.assert_close(mine, theirs)


def test_optimised_models_have_them_too_and_script() -> None:
    class Outer(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.einsum("bi,bj->bij", x, y)

    operands = tuple(torch.randn(90, n, dtype=torch.float64, requires_grad=True) for n in (80, 82))
    optimised = einfx.optimize(Outer(), operands)
    expected = torch.einsum("bi,bj->bij", *operands)
    direction = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, operands, direction)
    assert "helpers_multiply(" in optimised.code
    for model in (optimised, torch.jit.script(einfx.jitable(optimised))):
        found = model(*operands)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, operands, direction), theirs)
