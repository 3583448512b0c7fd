"""Index patterns against their definition, torch's convolution, and themselves."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from einfx.errors import OperandError
from einfx.pattern import Axis, IndexPattern

DTYPES = [
    torch.bool,
    torch.int8,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]
AXES: list[Axis] = ["kernel", "output", "input"]


@st.composite
def patterns(draw: st.DrawFn, crop: bool = True) -> IndexPattern:
    """Any small pattern, asymmetric and cropping padding included."""
    least = -2 if crop else 0
    pair = (draw(st.integers(least, 4)), draw(st.integers(least, 4)))
    sizes = {
        "input_size": draw(st.integers(1, 9)),
        "kernel_size": draw(st.integers(1, 4)),
        "stride": draw(st.integers(1, 5)),
        "dilation": draw(st.integers(1, 4)),
    }
    span = sizes["dilation"] * (sizes["kernel_size"] - 1) + 1
    assume(sizes["input_size"] + sum(pair) >= span)
    return IndexPattern(padding=pair, **sizes)


def by_definition(pattern: IndexPattern) -> Tensor:
    """The tensor by the formula that defines it."""
    out = torch.zeros(pattern.shape, dtype=torch.bool)
    for k in range(pattern.shape[0]):
        for o in range(pattern.shape[1]):
            i = pattern.dilation * k + pattern.stride * o - pattern.left
            if 0 <= i < pattern.input_size:
                out[k, o, i] = True
    return out


@given(patterns())
def test_the_tensor_is_one_where_the_definition_says_so(pattern: IndexPattern) -> None:
    assert torch.equal(pattern.tensor(), by_definition(pattern))
    assert pattern.ones == int(by_definition(pattern).sum())


@given(patterns(crop=False))
def test_contracting_a_pattern_is_torchs_convolution(pattern: IndexPattern) -> None:
    x = torch.randn(1, 1, pattern.input_size, dtype=torch.float64)
    weight = torch.randn(1, 1, pattern.kernel_size, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (pattern.left, pattern.right))
    expected = torch.nn.functional.conv1d(padded, weight, stride=pattern.stride, dilation=pattern.dilation)
    dense = pattern.tensor(torch.float64)
    assert expected.shape[-1] == pattern.output_size
    torch.testing.assert_close(torch.einsum("k,koi,i->o", weight[0, 0], dense, x[0, 0]), expected[0, 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tensor_has_the_dtype_that_was_asked_for(dtype: torch.dtype) -> None:
    tensor = IndexPattern(7, 3, 2, 1).tensor(dtype)
    assert tensor.dtype == dtype
    assert torch.equal(tensor != 0, IndexPattern(7, 3, 2, 1).tensor())


def test_a_tensor_that_is_written_to_leaves_the_pattern_alone() -> None:
    pattern = IndexPattern(7, 3)
    pattern.tensor().fill_(True)
    assert torch.equal(pattern.tensor(), by_definition(pattern))


@given(patterns())
def test_slices_give_every_one_of_the_tensor(pattern: IndexPattern) -> None:
    out = torch.zeros(pattern.shape, dtype=torch.bool)
    for part in pattern.slices():
        inputs = range(pattern.input_size)[part.inputs]
        outputs = range(pattern.output_size)[part.outputs]
        assert len(inputs) == len(outputs) == part.length
        for o, i in zip(outputs, inputs, strict=True):
            out[part.kernel, o, i] = True
    assert torch.equal(out, by_definition(pattern))


@given(patterns())
def test_facts_say_what_the_tensor_shows(pattern: IndexPattern) -> None:
    dense = by_definition(pattern)
    assert pattern.unpadded == bool(dense.any(2).all())
    met = [
        pattern.dilation * k + pattern.stride * o
        for k in range(pattern.kernel_size)
        for o in range(pattern.output_size)
    ]
    assert pattern.injective == (len(met) == len(set(met)))
    eye = dense.shape[1] == dense.shape[2] and torch.equal(
        dense, torch.eye(dense.shape[1], dtype=torch.bool)[None].expand_as(dense)
    )
    assert pattern.identity == (pattern.kernel_size == 1 and eye)
    for axis, name in enumerate(AXES):
        live = dense.movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
        expected = (live[0], live[-1] - live[0] + 1) if live else (0, 0)
        assert pattern.live(name) == expected


@given(patterns())
def test_swapping_kernel_and_output_is_a_transposition(pattern: IndexPattern) -> None:
    assert torch.equal(pattern.swapped().tensor(), by_definition(pattern).transpose(0, 1))


@given(patterns())
def test_reversing_is_a_transposition_with_the_kernel_read_backwards(pattern: IndexPattern) -> None:
    other = pattern.reversed()
    if other is None:
        assert pattern.stride > 1
    else:
        assert torch.equal(other.tensor(), by_definition(pattern).transpose(1, 2).flip(0))


@given(patterns(), st.data())
def test_a_range_of_an_axis_is_a_pattern(pattern: IndexPattern, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, 2))
    length = data.draw(st.integers(1, pattern.shape[axis]))
    start = data.draw(st.integers(0, pattern.shape[axis] - length))
    narrowed = pattern.narrow(AXES[axis], start, length)
    assert torch.equal(narrowed.tensor(), by_definition(pattern).narrow(axis, start, length))
    step = data.draw(st.integers(1, 3))
    kept = range(start, start + length, step)
    if axis < 2:
        narrowed = pattern.narrow(AXES[axis], start, len(kept), step)
        assert torch.equal(narrowed.tensor(), by_definition(pattern).index_select(axis, torch.tensor(kept)))


def test_a_range_beyond_the_axis_is_refused() -> None:
    with pytest.raises(OperandError, match="no range of 3 from 1 in steps of 1 among 3 of kernel"):
        IndexPattern(7, 3).narrow("kernel", 1, 3)
    with pytest.raises(OperandError, match="leave out inputs"):
        IndexPattern(7, 3).narrow("input", 0, 2, 2)


@given(patterns())
def test_inputs_between_those_that_are_read_are_skipped(pattern: IndexPattern) -> None:
    start, step, smaller = pattern.subsampled()
    dense = by_definition(pattern)
    assert torch.equal(dense[:, :, start::step], smaller.tensor())
    assert int(smaller.tensor().sum()) == int(dense.sum())


@given(patterns())
def test_the_canonical_pattern_has_the_same_tensor(pattern: IndexPattern) -> None:
    plain = pattern.canonical
    assert torch.equal(plain.tensor(), by_definition(pattern))
    assert plain.canonical == plain


@pytest.mark.parametrize("kernel", range(1, 6))
@pytest.mark.parametrize("dilation", range(1, 4))
def test_same_padding_is_torchs(kernel: int, dilation: int) -> None:
    pattern = IndexPattern(9, kernel, padding="same", dilation=dilation)
    x, weight = torch.randn(1, 1, 9, dtype=torch.float64), torch.randn(1, 1, kernel, dtype=torch.float64)
    expected = torch.nn.functional.conv1d(x, weight, padding="same", dilation=dilation)[0, 0]
    got = torch.einsum("k,koi,i->o", weight[0, 0], pattern.tensor(torch.float64), x[0, 0])
    torch.testing.assert_close(got, expected)


def test_equal_patterns_are_equal_and_hash_alike() -> None:
    assert (
        len({IndexPattern(5, 3, 1, 1), IndexPattern(5, 3, padding="same"), IndexPattern(5, 3, 1, (1, 1))})
        == 1
    )
    assert IndexPattern(5, 3) != IndexPattern(5, 3, stride=2)


def test_patterns_survive_copying_and_pickling() -> None:
    pattern = IndexPattern(9, 3, 2, (0, 1), 2)
    assert pattern.slices()
    assert copy.deepcopy(pattern) == pattern == pickle.loads(pickle.dumps(pattern))
    assert eval(repr(pattern)) == pattern


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_size": 2, "kernel_size": 5, "padding": 1}, "kernel_size=5 with dilation=1 spans 5 elements"),
        ({"input_size": 2, "kernel_size": 5, "padding": 1}, "input_size=2 with padding=1 has 4"),
        ({"input_size": 4, "kernel_size": 3, "dilation": 2}, "dilation=2 spans 5 elements"),
        ({"input_size": 4, "kernel_size": 3, "padding": -1}, "negative padding is not supported: padding=-1"),
        ({"input_size": 4, "kernel_size": 3, "padding": "sam"}, "invalid padding string: padding='sam'"),
        (
            {"input_size": 4, "kernel_size": 3, "padding": "same", "stride": 2},
            "strided convolutions: stride=2",
        ),
        ({"input_size": 4, "kernel_size": 3, "padding": (1, 1, 1)}, r"padding=\(1, 1, 1\)"),
        ({"input_size": 4, "kernel_size": 3, "stride": 0}, "non-positive stride is not supported: stride=0"),
        ({"input_size": 4, "kernel_size": 3, "dilation": 0}, "non-positive dilation"),
        ({"input_size": 4, "kernel_size": 0}, "non-positive kernel_size"),
        ({"input_size": 0, "kernel_size": 1}, "non-positive input_size"),
        ({"input_size": 4, "kernel_size": 1.5}, "kernel_size should be an integer, but kernel_size=1.5"),
    ],
)
def test_errors_name_the_argument_and_the_sizes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(OperandError, match=message):
        IndexPattern(**arguments)
