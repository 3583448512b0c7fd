"""The stand-in for einconv has its names, operands and shapes, and the numbers of torch."""

from __future__ import annotations

import importlib
import inspect
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Linear

from einfx.compat import einconv as ours
from einfx.compat.einconv import conv_index_pattern, functionals, modules, utils
from einfx.compat.einconv.expressions import utils as expression_utils
from einfx.errors import EquationError, OperandError
from einfx.pattern import IndexPattern
from tests.conv.reference import CONV, Draw, draws

TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
PATTERNS: list[tuple[int, int, int, Any, int]] = list(
    itertools.product([5, 9], [1, 2, 3], [1, 2, 4], [0, 1, "valid", "same"], [1, 2])
)

# The names of einconv's main branch; 0.1.0 has all but those of transposed convolutions.
NAMES = {
    "": "index_pattern simplify",
    "conv_index_pattern": "index_pattern index_pattern_logical",
    "simplifications": "simplify",
    "utils": "_tuple sync_parameters compare_attributes get_conv_paddings get_conv_output_size cpu "
    "get_conv_input_size",
    "functionals": "convNd unfoldNd unfoldNd_transpose",
    "functionals.conv": "convNd",
    "functionals.unfold": "unfoldNd",
    "functionals.unfold_transpose": "unfoldNd_transpose",
    "modules": "ConvNd UnfoldNd",
    "modules.conv": "ConvNd",
    "modules.unfold": "UnfoldNd",
    "expressions.utils": "create_conv_index_patterns create_conv_transpose_index_patterns "
    "translate_to_torch get_letters",
    **{
        f"expressions.{name}": "einsum_expression"
        for name in (
            "convNd_forward convNd_input_vjp convNd_weight_vjp convNd_unfold convNd_kfc convNd_kfac_reduce "
            "conv_transposeNd_forward conv_transposeNd_unfold conv_transposeNd_kfac_reduce"
        ).split()
    },
}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def module(package: str, name: str) -> Any:
    return importlib.import_module(f"{package}.{name}" if name else package)


@pytest.fixture(scope="module")
def peer() -> Any:
    return pytest.importorskip("einconv")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name: str) -> None:
    for attribute in NAMES[name].split():
        assert hasattr(module("einfx.compat.einconv", name), attribute)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_defaults_are_those_of_the_package(peer: Any, name: str) -> None:
    try:
        real = module("einconv", name)
    except ModuleNotFoundError:
        pytest.skip(f"this version of einconv has no {name}")
    for attribute in NAMES[name].split():
        theirs = getattr(real, attribute, None)
        mine = getattr(module("einfx.compat.einconv", name), attribute)
        if callable(theirs):
            arguments = [
                [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
                for function in (mine, theirs)
            ]
            assert arguments[0] == arguments[1]


def test_a_program_that_imports_einconv_finds_all_of_it() -> None:
    program = """
import einfx.compat
einfx.compat.install("einconv")
from einconv import index_pattern, simplify
from einconv.utils import get_conv_paddings
from einconv.expressions import convNd_forward, convNd_kfac_reduce, conv_transposeNd_unfold
from einconv.functionals import convNd
from einconv.modules.conv import ConvNd
import einconv.conv_index_pattern, importlib.metadata
print(index_pattern.__module__, convNd_forward.__name__, importlib.metadata.version("einconv"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "einfx.compat.einconv.conv_index_pattern",
        "einfx.compat.einconv.expressions.convNd_forward",
        "0.1.0",
    ]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.complex64])
def test_patterns_are_those_of_the_package(peer: Any, dtype: torch.dtype) -> None:
    tested = 0
    for size, kernel, stride, padding, dilation in PATTERNS:
        if dilation * (kernel - 1) + 1 > size or (padding == "same" and stride > 1):
            continue
        for name in ("index_pattern", "index_pattern_logical"):
            arguments = size, kernel, stride, padding, dilation
            real = getattr(peer.conv_index_pattern, name)(*arguments, dtype=dtype)
            mine = getattr(conv_index_pattern, name)(*arguments, dtype=dtype)
            assert torch.equal(mine, real)
            assert mine.dtype == dtype
            assert mine._pattern_hyperparams == real._pattern_hyperparams
        tested += 1
    assert tested > 50


def test_sizes_are_those_of_the_package_and_of_torch(peer: Any) -> None:
    for size, kernel, stride, padding, dilation in PATTERNS:
        if padding == "same" and stride > 1:
            for package in (peer.utils, utils):
                with pytest.raises(ValueError, match="not supported for strided convolutions"):
                    package.get_conv_paddings(kernel, stride, padding, dilation)
            continue
        arguments = kernel, stride, padding, dilation
        sides = utils.get_conv_paddings(*arguments)
        assert sides == peer.utils.get_conv_paddings(*arguments)
        output = utils.get_conv_output_size(size, *arguments)
        assert output == peer.utils.get_conv_output_size(size, *arguments)
        if isinstance(padding, int):
            inputs = [
                utils.get_conv_input_size(3, kernel, stride, padding, extra, dilation) for extra in (0, 1)
            ]
            up = F.conv_transpose1d(
                torch.ones(1, 1, 3),
                torch.ones(1, 1, kernel),
                stride=stride,
                padding=padding,
                dilation=dilation,
            )
            assert inputs == [up.shape[-1], up.shape[-1] + 1]
    with pytest.raises(ValueError, match="some"):
        utils.get_conv_paddings(3, 1, "some", 1)


def test_hyperparameters_are_numbers_or_tuples(peer: Any) -> None:
    for package in (peer.utils, utils):
        assert package._tuple(3, 2) == (3, 3)
        assert package._tuple((1, 2), 2) == (1, 2)
        for wrong in ((1, 2, 3), [1, 2], "ab", (1.0, 2)):
            with pytest.raises(ValueError, match=r".*"):
                package._tuple(wrong, 2)


def test_parameters_are_copied_unless_they_differ(peer: Any) -> None:
    for package in (peer.utils, utils):
        a, b = Linear(3, 2), Linear(3, 2)
        package.sync_parameters(a, b)
        assert torch.equal(a.weight, b.weight)
        assert a.weight is not b.weight
        assert a.weight.data_ptr() != b.weight.data_ptr()
        for other in (
            Linear(3, 2, bias=False),
            Linear(2, 2),
            Linear(3, 2).double(),
        ):
            with pytest.raises(ValueError, match=r".*"):
                package.sync_parameters(a, other)
        package.compare_attributes(a, b, ["in_features"])


def expression_arguments(name: str, draw: Draw) -> tuple[Any, ...]:
    """Positional arguments of an expression, with its hyper-parameters in its own order."""
    x = draw.x()
    if name.startswith("convNd"):
        vector = torch.randn_like(contracted_conv(draw, x, draw.weight()))
    return {
        "convNd_forward": lambda: (x, draw.weight(), draw.stride, draw.padding, draw.dilation, draw.groups),
        "convNd_input_vjp": lambda: (
            draw.weight(),
            vector,
            draw.input_size,
            draw.stride,
            draw.padding,
            draw.dilation,
            draw.groups,
        ),
        "convNd_weight_vjp": lambda: (
            x,
            vector,
            draw.kernel_size,
            draw.dilation,
            draw.padding,
            draw.stride,
            draw.groups,
        ),
        "convNd_unfold": lambda: (x, draw.kernel_size, draw.stride, draw.padding, draw.dilation),
        "convNd_kfc": lambda: (x, draw.kernel_size, draw.stride, draw.padding, draw.dilation, draw.groups),
        "convNd_kfac_reduce": lambda: (
            x,
            draw.kernel_size,
            draw.stride,
            draw.padding,
            draw.dilation,
            draw.groups,
        ),
    }[name]()


def contracted_conv(draw: Draw, x: Tensor, weight: Tensor) -> Tensor:
    return CONV[draw.n](x, weight, groups=draw.groups, **draw.hyper)


def contracted(expression: tuple[str, list[Tensor], tuple[int, ...]]) -> Tensor:
    equation, operands, shape = expression
    return torch.einsum(equation, *operands).reshape(shape)


SHARED = [name.removeprefix("expressions.") for name in NAMES if name.startswith("expressions.convNd")]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", SHARED)
def test_expressions_have_the_operands_shapes_and_values_of_the_package(peer: Any, name: str, n: int) -> None:
    real = module("einconv", f"expressions.{name}")
    mine = module("einfx.compat.einconv", f"expressions.{name}")
    tested = 0
    for draw in draws(n, 40, largest=7):
        if not draw.batch:
            continue
        tested += 1
        arguments = expression_arguments(name, draw)
        equation, operands, shape = mine.einsum_expression(*arguments, simplify=False)
        their_equation, theirs, their_shape = real.einsum_expression(*arguments, simplify=False)
        assert shape == tuple(their_shape)
        assert [tuple(x.shape) for x in operands] == [tuple(x.shape) for x in theirs]
        for one, other in zip(operands, theirs, strict=True):
            torch.testing.assert_close(one.as_subclass(Tensor), other, rtol=1e-6, atol=0)
        renamed = str.maketrans(equation, their_equation)
        assert equation.translate(renamed) == their_equation
        # Not of theirs: 0.1.0 rounds the scale of Kronecker factors to float32.
        expected = torch.einsum(equation, *(x.as_subclass(Tensor) for x in operands)).reshape(shape)
        close(contracted((equation, operands, shape)), expected)
        close(contracted(mine.einsum_expression(*arguments)), expected)
        close(contracted(ours_simplified(equation, operands, shape)), expected)
    assert tested > 10


def ours_simplified(equation: str, operands: list[Tensor], shape: Any) -> tuple[str, list[Tensor], Any]:
    return *ours.simplify(equation, operands), shape


@pytest.mark.parametrize("n", [1, 2, 3])
def test_functionals_and_modules_are_those_of_torch(n: int) -> None:
    for draw in draws(n, 25, largest=6):
        x, weight = draw.x(), draw.weight()
        bias = torch.randn(draw.out_channels, dtype=torch.float64)
        expected = contracted_conv(draw, x, weight) + bias.view(-1, *(1,) * n)
        close(functionals.convNd(x, weight, bias, groups=draw.groups, **draw.hyper), expected)
        patches = functionals.unfoldNd(x, draw.kernel_size, draw.dilation, draw.padding, draw.stride)
        made = modules.UnfoldNd(draw.kernel_size, draw.dilation, draw.padding, draw.stride)
        assert torch.equal(patches, made(x))
        if draw.groups == 1:
            close((weight.flatten(1) @ patches).view_as(expected), expected - bias.view(-1, *(1,) * n))


def test_modules_copy_parameters_of_torch(peer: Any) -> None:
    native = torch.nn.Conv2d(4, 6, 3, padding="same", groups=2)
    x = torch.randn(2, 4, 5, 6)
    for package in (module("einconv", "modules"), modules):
        made = package.ConvNd.from_nn_Conv(native, simplify=False)
        assert made.weight is not native.weight
        torch.testing.assert_close(made(x), native(x))
        assert repr(made) == (
            "ConvNd(2, 4, 6, kernel_size=(3, 3), stride=(1, 1), padding=same, groups=2, simplify=False)"
        )
        torch.manual_seed(0)
        first = package.ConvNd(2, 4, 6, 3).state_dict()
        torch.manual_seed(0)
        for name, value in torch.nn.Conv2d(4, 6, 3).state_dict().items():
            assert torch.equal(first[name], value)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed_expressions_are_torchs_transposed_convolution(n: int) -> None:
    forward = module("einfx.compat.einconv", "expressions.conv_transposeNd_forward").einsum_expression
    unfold = module("einfx.compat.einconv", "expressions.conv_transposeNd_unfold").einsum_expression
    factor = module("einfx.compat.einconv", "expressions.conv_transposeNd_kfac_reduce").einsum_expression
    for stride, padding, extra, dilation, groups in [(1, 0, 0, 1, 1), (3, 1, 2, 1, 2), (2, 0, 1, 3, 1)]:
        x = torch.randn(2, 4, *range(3, 3 + n), dtype=torch.float64)
        weight = torch.randn(4, 3, *(2,) * n, dtype=torch.float64)
        expected = TRANSPOSED[n](x, weight, None, stride, padding, extra, groups, dilation)
        matrix = weight.flatten(2).transpose(0, 1).flatten(1)
        for simplify in (True, False):
            made = forward(x, weight, stride, padding, extra, groups, dilation, simplify)
            close(contracted(made), expected)
            patches = contracted(unfold(x, 2, stride, padding, extra, dilation, simplify))
            close(functionals.unfoldNd_transpose(x, 2, stride, padding, extra, dilation), patches)
            if groups == 1:
                # matrix: (out_channels, in_channels * kernel elements)
                close((matrix @ patches).view_as(expected), expected)
            mean = patches.mean(-1).unflatten(1, (groups, -1))
            wanted = torch.einsum("ngp,ngq->gpq", mean, mean) / 2
            close(contracted(factor(x, 2, stride, padding, extra, None, dilation, groups, simplify)), wanted)
            sizes = tuple(expected.shape[2:])
            close(contracted(factor(x, 2, stride, padding, 0, sizes, dilation, groups, simplify)), wanted)


def test_simplification_recognises_patterns_by_what_they_hold() -> None:
    x = torch.randn(12)
    pattern = ours.index_pattern(12, 3, stride=3, dtype=torch.float32)
    equation, operands = ours.simplify("i,koi->ko", [x, pattern])
    assert len(operands) == 1
    assert torch.equal(torch.einsum(equation, *operands), x.view(4, 3).T)
    pattern[0, 0, 0] = 2.0
    equation, operands = ours.simplify("i,koi->ko", [x, pattern])
    expected = torch.einsum("i,koi->ko", x, pattern)
    assert torch.equal(torch.einsum(equation, *operands).view_as(expected), expected)
    padded = ours.index_pattern(12, 3, padding=1, dtype=torch.float32)
    equation, operands = ours.simplify("i,koi->ko", [x, padded])
    assert operands[1]._pattern_hyperparams["padding"] == 1  # type: ignore[attr-defined]
    assert ours.simplify("ij,jk->ik", [torch.ones(2, 3), torch.ones(3, 4)])[1][0].shape == (2, 3)


def test_patterns_of_the_package_itself_simplify_too(peer: Any) -> None:
    x = torch.randn(12)
    pattern = peer.index_pattern(12, 3, stride=3, dtype=torch.float32)
    equation, operands = ours.simplify("i,koi->ko", [x, pattern])
    assert len(operands) == 1
    assert torch.equal(torch.einsum(equation, *operands), x.view(4, 3).T)


def test_equations_with_long_names_translate_as_in_the_package(peer: Any) -> None:
    real = module("einconv", "expressions.utils")
    for equation in (
        "n g c_in i0 i1,k0 o0 i0,k1 o1 i1,g c_out c_in k0 k1->n g c_out o0 o1",
        "row j, j col -> row col",
        "a b -> b a",
        "X x, x -> X",
        "a ->",
    ):
        assert expression_utils.translate_to_torch(equation) == real.translate_to_torch(equation)
    for wrong in ("a, -> a", ", a -> a"):
        for package in (real, expression_utils):
            with pytest.raises(ValueError, match=r".*"):
                package.translate_to_torch(wrong)
    with pytest.raises(EquationError, match="'b' in the output"):
        expression_utils.translate_to_torch("a -> b")
    assert expression_utils.get_letters(0) == []
    with pytest.raises(ValueError, match="27 letters"):
        expression_utils.get_letters(27)


def test_patterns_of_all_dimensions_are_made_at_once() -> None:
    made = expression_utils.create_conv_index_patterns(2, (7, 8), 3, (1, 2), "valid", dtype=torch.int64)
    expected = IndexPattern(7, 3).tensor(torch.int64), IndexPattern(8, 3, stride=2).tensor(torch.int64)
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))
    up = expression_utils.create_conv_transpose_index_patterns(1, 4, 3, 2, 1, 1)
    assert torch.equal(up[0], IndexPattern(8, 3, stride=2, padding=1).tensor())


def test_more_dimensions_than_the_package_has_letters_for_work() -> None:
    x = torch.randn(1, 2, *(3,) * 5, dtype=torch.float64)
    expression = module("einfx.compat.einconv", "expressions.convNd_kfac_reduce").einsum_expression
    mean = functionals.unfoldNd(x, 2).mean(-1)
    close(contracted(expression(x, 2))[0], mean.T @ mean)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ours.index_pattern(3, 5), "kernel size can't be greater than the padded input"),
        (lambda: ours.index_pattern(3, 2, padding="some"), "invalid padding string"),
        (
            lambda: functionals.convNd(torch.ones(1, 2, 5), torch.ones(3, 1, 2)),
            "to have 1 channels, but got 2",
        ),
        (lambda: functionals.unfoldNd(torch.ones(1, 1, 2), 3), "kernel size can't be greater"),
        (
            lambda: functionals.unfoldNd_transpose(torch.ones(1, 1, 2), 3, 1, 0, 1),
            "output_padding=1",
        ),
        (lambda: utils._tuple((1, 2), 3), r"tuple of 3 integers, not \(1, 2\)"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        call()
