"""Operands that don't fit: what torch refuses is refused, by errors that name it and its sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import einfx
from einfx.conv import (
    ConvNd,
    ConvTransposeNd,
    FoldNd,
    UnfoldNd,
    conv_transposeNd,
    convNd,
    expressions,
    foldNd,
    kfac_reduceNd,
    kfcNd,
    unfoldNd,
)
from einfx.errors import OperandError

X, WEIGHT, UP = torch.ones(1, 4, 8, 8), torch.ones(6, 4, 3, 3), torch.ones(4, 6, 3, 3)

# What is wrong, and what is said of it; of convolutions and transposed ones alike.
ALIKE: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input should be a Tensor, but got NoneType"),
    ({"input": [1.0]}, "input should be a Tensor, but got list"),
    ({"weight": None}, "weight should be a Tensor, but got NoneType"),
    ({"weight": torch.ones(6, 4, 3, 3).numpy()}, "weight should be a Tensor, but got ndarray"),
    ({"weight": torch.ones(6, 4)}, r"weight should have at least three dimensions, but got .* \[6, 4\]"),
    (
        {"input": X.double()},
        r"input type \(torch.float64\) and weight type \(torch.float32\) should be the sa",
    ),
    ({"input": X.to(torch.complex64)}, r"input type \(torch.complex64\) and weight type \(torch.float32\)"),
    ({"bias": torch.ones(5)}, "expected bias to be 1-dimensional with 6 elements, but got bias of size .5."),
    ({"bias": torch.ones(6, 1)}, r"with 6 elements, but got bias of size \[6, 1\]"),
    ({"bias": 1.0}, "bias should be a Tensor, but got float"),
    ({"groups": 0}, "non-positive groups is not supported: groups=0"),
    ({"groups": -2}, "non-positive groups is not supported: groups=-2"),
    ({"groups": 2.0}, "groups should be an integer, but groups=2.0"),
    ({"groups": None}, "groups should be an integer, but groups=None"),
    ({"stride": 0}, "non-positive stride is not supported: stride=0"),
    ({"stride": (1, -1)}, "non-positive stride is not supported: stride=-1"),
    ({"stride": 1.5}, "stride should be an integer, but stride=1.5"),
    ({"stride": (1, 2, 3)}, r"expected stride to be .* a list of 2 values .* got stride=\[1, 2, 3\]"),
    ({"stride": ()}, r"expected stride to be .* a list of 2 values .* got stride=\[\]"),
    ({"dilation": 0}, "non-positive dilation is not supported: dilation=0"),
    ({"dilation": -1}, "non-positive dilation is not supported: dilation=-1"),
    ({"padding": -1}, "negative padding is not supported: padding=-1"),
    ({"padding": (1, 2, 3)}, r"expected padding to be .* a list of 2 values .* got padding=\[1, 2, 3\]"),
    ({"padding": None}, "padding should be an integer, but padding=None"),
    ({"padding": ((1, 2, 3), 1)}, r"padding=\(1, 2, 3\) along one dimension should be a number, or a pair"),
    ({"input": torch.ones(1, 4, 0, 8)}, "non-positive input_size is not supported: input_size=0"),
]
CONVOLUTION: list[tuple[dict[str, Any], str]] = [
    (
        {"input": torch.ones(4, 8)},
        r"expected 3D \(unbatched\) or 4D \(batched\) input to conv2d, .* \[4, 8\]",
    ),
    (
        {"input": torch.ones(1, 3, 8, 8)},
        r"weight of size \[6, 4, 3, 3\], expected input to have 4 channels, b",
    ),
    ({"input": torch.ones(1, 4, 2, 8)}, "kernel size can't be greater than the padded input: kernel_size=3"),
    ({"groups": 3}, "given groups=3, .* expected input to have 12 channels, but got 4 channels"),
    (
        {"weight": torch.ones(3, 2, 3, 3), "groups": 2},
        "out_channels must be divisible by groups: out_channel",
    ),
    ({"weight": torch.ones(0, 4, 3, 3)}, "expected weight to be at least 1 at dimension 0"),
    ({"weight": torch.ones(6, 4, 0, 3)}, "non-positive kernel_size is not supported: kernel_size=0"),
    ({"padding": "sane"}, "invalid padding string: padding='sane'; it is one of 'valid', 'same'"),
    ({"padding": "same", "stride": 2}, "padding='same' is not supported for strided convolutions: stride=2"),
]
TRANSPOSED: list[tuple[dict[str, Any], str]] = [
    (
        {"input": torch.ones(4, 8)},
        r"expected 3D .* or 4D \(batched\) input to conv_transpose2d, but got .*8\]",
    ),
    (
        {"input": torch.ones(1, 3, 8, 8)},
        r"weight of size \[4, 6, 3, 3\], expected input to have 4 channels, b",
    ),
    ({"groups": 3}, "in_channels must be divisible by groups: in_channels=4, groups=3"),
    (
        {"output_padding": 1},
        "output padding must be smaller than either stride or dilation, .* got output_pa",
    ),
    ({"output_padding": -1, "stride": 2}, "not negative, but got output_padding=-1 with stride=2"),
    ({"output_padding": (1, 1, 1)}, r"expected output_padding to be .* got output_padding=\[1, 1, 1\]"),
    ({"padding": 5}, "output size is too small: input_size=8, kernel_size=3, stride=1, padding=5"),
    ({"padding": "same"}, "padding='same' is not supported for transposed convolutions: give numbers"),
    ({"padding": ("same", 1)}, "is not supported for transposed convolutions: give numbers"),
]


def call(function: Callable[..., Any], weight: Any, wrong: dict[str, Any], dimensions: int = 2) -> Any:
    """A call with something wrong, in more dimensions for tensors with more of size one."""
    options: dict[str, Any] = {"input": X, "weight": weight, "bias": None, **wrong}
    tensors = [options.pop(name) for name in ("input", "weight", "bias")]
    if dimensions > 2:
        tensors = [
            x.reshape(*x.shape[:2], *(1,) * (dimensions - 2), *x.shape[2:]) if is_image(x) else x
            for x in tensors
        ]
    return function(*tensors, **options)


def is_image(x: object) -> bool:
    """Whether it is a batch of images, or a kernel for them."""
    return isinstance(x, torch.Tensor) and x.ndim == 4


@pytest.mark.parametrize(("wrong", "message"), ALIKE + CONVOLUTION)
def test_convolutions_refuse_what_torch_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        call(convNd, WEIGHT, wrong)
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        call(F.conv2d, WEIGHT, wrong)


@pytest.mark.parametrize(("wrong", "message"), ALIKE + TRANSPOSED)
def test_transposed_convolutions_refuse_what_torch_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        call(conv_transposeNd, UP, wrong)
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        call(F.conv_transpose2d, UP, wrong)


@pytest.mark.parametrize("function", [convNd, conv_transposeNd])
@pytest.mark.parametrize(("wrong", "message"), ALIKE[:14])
def test_more_dimensions_refuse_the_same(function: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OperandError, match=message.replace("3, 3", "1, 1, 3, 3")):
        call(function, WEIGHT if function is convNd else UP, wrong, 4)


@pytest.mark.parametrize("transposed", [False, True])
def test_expressions_refuse_what_functionals_refuse(transposed: bool) -> None:
    module: Any = expressions.conv_transposeNd_forward if transposed else expressions.convNd_forward
    for wrong, message in ALIKE + (TRANSPOSED if transposed else CONVOLUTION):
        if "bias" in wrong:
            continue
        options: dict[str, Any] = {"input": X, "weight": UP if transposed else WEIGHT, **wrong}
        tensors = options.pop("input"), options.pop("weight")
        if wrong == {"groups": 3}:
            message = "input channels must be divisible by groups: input channels=4, groups=3"
        with pytest.raises(OperandError, match=message):
            module.einsum_expression(*tensors, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_bias_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    for dimensions in (2, 4):
        for function, weight in ((convNd, WEIGHT), (conv_transposeNd, UP)):
            with pytest.raises(OperandError, match=f"and bias type .{dtype}. should be the same"):
                call(function, weight, {"bias": torch.ones(6, dtype=dtype)}, dimensions)


VJPS: list[tuple[Any, dict[str, Any]]] = [
    (expressions.convNd_input_vjp, {"weight": WEIGHT, "v": torch.ones(1, 6, 6, 6), "input_size": 8}),
    (expressions.convNd_weight_vjp, {"x": X, "v": torch.ones(1, 6, 6, 6), "kernel_size": 3}),
    (expressions.conv_transposeNd_input_vjp, {"weight": UP, "v": torch.ones(1, 6, 10, 10), "input_size": 8}),
    (expressions.conv_transposeNd_weight_vjp, {"x": X, "v": torch.ones(1, 6, 10, 10), "kernel_size": 3}),
]


@pytest.mark.parametrize(("module", "right"), VJPS)
def test_vectors_that_do_not_fit_are_refused(module: Any, right: dict[str, Any]) -> None:
    size = right["v"].shape[-1]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"v": None}, "v should be a Tensor, but got NoneType"),
        ({"v": torch.ones(6, size)}, r"but got v of size \[6, "),
        ({"v": torch.ones(1, 6, size, 3)}, rf"expected v to have the spatial sizes \[{size}, {size}\]"),
        ({"v": right["v"].double()}, r"\(torch.float32\) and v type \(torch.float64\) should be the same"),
        ({"groups": 5}, "must be divisible by groups: .* groups=5"),
        ({"stride": 0}, "non-positive stride"),
    ]
    if "x" in right:
        wrong += [
            (
                {"v": torch.ones(2, 6, size, size)},
                "expected v to have a batch of 1, as input has, but it has a",
            ),
            (
                {"v": torch.ones(6, size, size)},
                "expected v to have a batch of 1, as input has, but it has no b",
            ),
            ({"kernel_size": 0}, "non-positive kernel_size"),
            (
                {"kernel_size": "3"},
                "kernel_size should be an integer, or one for each dimension, but kernel_siz",
            ),
        ]
    else:
        wrong += [
            ({"v": torch.ones(1, 5, size, size)}, "expected v to have 6 channels, but got 5 channels"),
            ({"input_size": -1}, "non-positive input_size is not supported: input_size=-1"),
            ({"input_size": (8, 8, 8)}, r"a list of 2 values .* input_size=\[8, 8, 8\]"),
        ]
    for one, message in wrong:
        with pytest.raises(OperandError, match=message):
            module.einsum_expression(**{**right, **one})


PATCHES: list[tuple[dict[str, Any], str]] = [
    ({"x": None}, "input should be a Tensor, but got NoneType"),
    ({"x": torch.ones(8)}, r"expected input of \(batch, channels, \*sizes\), but got size \[8\]"),
    ({"x": torch.ones(1, 4, 2, 8)}, "kernel size can't be greater than the padded input: kernel_size=3"),
    ({"kernel_size": 0}, "non-positive kernel_size is not supported: kernel_size=0"),
    ({"kernel_size": None}, "kernel_size should be an integer, but kernel_size=None"),
    (
        {"kernel_size": ()},
        r"kernel_size should be an integer, or one for each dimension, but kernel_size=\(\)",
    ),
    (
        {"kernel_size": (3,)},
        r"expected 2D \(unbatched\) or 3D \(batched\) input to conv1d, but got input of ",
    ),
    ({"stride": -1}, "non-positive stride"),
    ({"dilation": 0}, "non-positive dilation"),
    ({"padding": "sane"}, "invalid padding string"),
    ({"padding": "same", "stride": 2}, "not supported for strided convolutions"),
    ({"groups": 3}, "channels must be divisible by groups: .*channels=4, groups=3"),
]


@pytest.mark.parametrize(("wrong", "message"), PATCHES)
def test_patches_and_factors_refuse_what_does_not_fit(wrong: dict[str, Any], message: str) -> None:
    options = {"x": X, "kernel_size": 3, **wrong}
    functions: list[Any] = [unfoldNd, kfcNd, kfac_reduceNd]
    functions += [expressions.convNd_kfc.einsum_expression, expressions.convNd_kfac_reduce.einsum_expression]
    if "groups" not in wrong:
        functions.append(expressions.convNd_unfold.einsum_expression)
    for function in functions:
        with pytest.raises(OperandError, match=message):
            function(**options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"x": [1.0]}, "input should be a Tensor, but got list"),
        ({"x": torch.ones(36)}, r"expected 2D \(unbatched\) or 3D \(batched\) patches, .* \[36\]"),
        (
            {"x": torch.ones(1, 36, 35)},
            r"the calculated number of sliding blocks 6 \* 6 = 36, but .* 36, 35\]",
        ),
        (
            {"x": torch.ones(1, 35, 36)},
            "dimension 1 to be divisible by the product of kernel_size, which has 9",
        ),
        ({"output_size": 0}, "non-positive output_size is not supported: output_size=0"),
        ({"output_size": None}, "output_size should be an integer, but output_size=None"),
        ({"output_size": (8, 8), "kernel_size": (3, 3, 3)}, r"a list of 2 values .* kernel_size=\[3, 3, 3\]"),
    ],
)
def test_folding_refuses_what_does_not_fit(wrong: dict[str, Any], message: str) -> None:
    options = {"x": torch.ones(1, 36, 36), "output_size": 8, "kernel_size": 3, **wrong}
    for function in (foldNd, expressions.convNd_fold.einsum_expression):
        with pytest.raises(OperandError, match=message):
            function(**options)


@pytest.mark.parametrize(
    ("module", "x", "message"),
    [
        (
            ConvNd(2, 4, 6, 3),
            torch.ones(4, 8),
            r"expected 3D .* input to conv2d, but got input of size \[4, 8\]",
        ),
        (
            ConvNd(2, 4, 6, 3, padding=5, padding_mode="reflect"),
            torch.ones(4, 4),
            "expected 3D .unbatched. or 4",
        ),
        (
            ConvNd(2, 4, 6, 3, padding=1, padding_mode="circular"),
            [1.0],
            "input should be a Tensor, but got list",
        ),
        (ConvNd(2, 4, 6, 3), X.double(), r"input type \(torch.float64\) and weight type \(torch.float32\)"),
        (ConvTransposeNd(2, 4, 6, 3), None, "input should be a Tensor, but got NoneType"),
        (UnfoldNd(3), [1.0], "input should be a Tensor, but got list"),
        (FoldNd(8, 3), None, "input should be a Tensor, but got NoneType"),
    ],
)
def test_modules_refuse_what_does_not_fit(module: Any, x: Any, message: str) -> None:
    with pytest.raises(OperandError, match=message):
        module(x)


@pytest.mark.parametrize("size", [100, [17], [1, 2, 3]])
def test_an_output_size_has_a_number_for_each_dimension(size: Any) -> None:
    with pytest.raises(
        OperandError, match="output_size must have 2 or 4 elements for an input of 4 dimensions"
    ):
        ConvTransposeNd(2, 4, 6, 3, stride=2)(X, output_size=size)
    with pytest.raises(OperandError, match=r"output_size should be an integer, but output_size=17\.5"):
        ConvTransposeNd(2, 4, 6, 3, stride=2)(X, output_size=[17, 17.5])


@pytest.mark.parametrize("convolve", [convNd, conv_transposeNd])
def test_tensors_on_different_devices_are_refused(convolve: Callable[..., Any]) -> None:
    # Torch would return whatever memory holds.
    with pytest.raises(OperandError, match=r"input is on cpu, but weight on meta: move them to one device"):
        convolve(torch.ones(1, 2, 5), torch.ones(2, 2, 3, device="meta"))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: convNd(x, torch.ones(2, 2, 3)),
        lambda x: unfoldNd(x, 3),
        lambda x: foldNd(x, 3, 2),
        lambda x: kfcNd(x, 3),
    ],
)
def test_sparse_tensors_are_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(OperandError, match=r"input is not strided \(torch.sparse_coo\): convert it"):
        call(torch.ones(1, 2, 5).to_sparse())


def test_sparse_tensors_beside_index_patterns_are_refused() -> None:
    with pytest.raises(OperandError, match=r"operand 0 is sparse \(torch.sparse_coo\)"):
        einfx.einsum("nci,koi->nco", torch.ones(1, 2, 5).to_sparse(), einfx.IndexPattern(5, 3))
