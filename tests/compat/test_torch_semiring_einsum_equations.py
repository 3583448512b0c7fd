"""The stand-in for torch_semiring_einsum: its equations, its block sizes, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from einfx.compat import torch_semiring_einsum as ours
from einfx.compat.torch_semiring_einsum import AutomaticBlockSize, Equation, block_size, compile_equation
from einfx.errors import EinfxError, EquationError, OperandError, UsageError

FUNCTIONS = (
    ours.einsum,
    ours.real_einsum_forward,
    ours.log_einsum,
    ours.log_einsum_forward,
    ours.log_viterbi_einsum_forward,
    ours.min_tropical_einsum_forward,
    ours.max_tropical_einsum_forward,
)

TEXTS = st.lists(st.text("abcd", max_size=3), min_size=1, max_size=3).flatmap(
    lambda parts: st.permutations(sorted(set("".join(parts)))).flatmap(
        lambda labels: st.integers(0, len(labels)).map(
            lambda kept: f"{','.join(parts)}->{''.join(labels[:kept])}"
        )
    )
)


def ones(equation: Equation, size: int = 2) -> list[Tensor]:
    return [torch.ones([size] * len(variables)) for variables in equation.input_variables]


def test_an_equation_has_what_programs_read_of_it() -> None:
    equation = compile_equation("bik,bkj->bij")
    assert equation.source == "bik,bkj->bij"
    assert equation.input_variables == [[0, 1, 2], [0, 2, 3]]
    assert equation.output_variables == [0, 1, 3]
    assert equation.num_variables == 4
    assert equation.variable_locations == [[(0, 0), (1, 0)], [(0, 1)], [(0, 2), (1, 1)], [(1, 2)]]
    assert list(equation.all_variables()) == [0, 1, 2, 3]
    assert equation.reduce_input_to_output.output_variables == [0, 1, 3]
    assert equation.reduce_input_to_output.reduced_variables == [2]
    assert equation.reduce_input_to_output.reduced_dims == (3,)
    assert equation.get_sizes((torch.ones(2, 3, 4), torch.ones(2, 4, 5)), [3, 0]) == [5, 2]
    assert repr(equation) == "Equation('bik,bkj->bij')"


@given(text=TEXTS)
def test_an_equation_reads_as_the_peer_reads_it(text: str) -> None:
    peer = pytest.importorskip("torch_semiring_einsum")
    expected, equation = peer.compile_equation(text), compile_equation(text)
    for name in ("source", "variable_locations", "input_variables", "output_variables", "num_variables"):
        assert getattr(equation, name) == getattr(expected, name)
    expected.prepare_for_forward()
    for name in ("output_variables", "reduced_variables", "reduced_dims"):
        read = getattr(equation.reduce_input_to_output, name)
        assert read == getattr(expected.reduce_input_to_output, name)


def test_preparations_of_an_equation_are_there_and_change_nothing() -> None:
    equation = compile_equation("ik,kj->ij")
    before = copy.deepcopy(vars(equation))
    equation.prepare_for_forward()
    equation.prepare_for_backward()
    equation.prepare_for_log_backward()
    assert vars(equation) == before


def test_an_equation_can_be_made_by_its_constructor() -> None:
    made = Equation("mine", [[(0, 0)], [(0, 1), (1, 0)]], [[0, 1], [1]], [0], 2)
    a, b = torch.rand(2, 3), torch.rand(3)
    torch.testing.assert_close(ours.einsum(made, a, b, block_size=1), a @ b)
    assert made.reduce_input_to_output.reduced_variables == [1]


def test_variables_may_be_numbered_in_any_order() -> None:
    made = Equation("", [[(1, 0)], [(0, 1), (1, 1)], [(0, 0)]], [[2, 1], [0, 1]], [0, 2], 3)
    a, b = torch.rand(2, 3), torch.rand(4, 3)
    torch.testing.assert_close(ours.einsum(made, a, b), b @ a.T)
    _, places = ours.log_viterbi_einsum_forward(made, a, b)
    assert torch.equal(places[..., 0], (b[:, None] + a).argmax(-1))


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_equations_and_block_sizes_survive_copies(copied: Any) -> None:
    equation = copied(compile_equation("ik,kj->ij"))
    a = torch.rand(3, 3)
    torch.testing.assert_close(ours.einsum(equation, a, a, block_size=2), a @ a)
    size = copied(AutomaticBlockSize(max_cpu_bytes=5, repr_string="mine"))
    assert (size.max_cpu_bytes, repr(size)) == (5, "mine")


def test_spaces_are_no_variables() -> None:
    assert compile_equation(" ik, kj -> ij ").input_variables == [[0, 1], [1, 2]]


def test_any_other_character_is_a_variable() -> None:
    letters = [chr(ord("a") + i) for i in range(80)]  # as fggs makes them, past z and past ASCII
    text = f"{''.join(letters[:50])},{''.join(letters[30:])}->{''.join(letters[::7])}"
    a, b = torch.rand([2 if i % 12 == 0 else 1 for i in range(50)]), torch.rand([1] * 50)
    b = torch.rand([2 if i % 12 == 0 else 1 for i in range(30, 80)])
    result = ours.einsum(compile_equation(text), a, b)
    assert result.shape == tuple(2 if i % 12 == 0 else 1 for i in range(0, 80, 7))
    rows, shared = a.reshape(2**3, 2**2), b.reshape(2**2, 2**2)  # 0, 12, 24 | 36, 48 | 60, 72
    torch.testing.assert_close(result.sum(), (rows @ shared).sum())


def test_variables_may_be_any_objects() -> None:
    equation = compile_equation(inputs=[["row", 3], [3, (1, 2)]], output=[(1, 2), "row"])
    a, b = torch.rand(2, 4), torch.rand(4, 5)
    torch.testing.assert_close(ours.einsum(equation, a, b), (a @ b).T)
    assert equation.source == "[row 3],[3 (1, 2)]->[(1, 2) row]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ij,jk", "needs one '->'"),
        ("ij->jk->ik", "needs one '->'"),
        ("ij,jk->il", "output variable 'l' is in no operand"),
        ("ij->ii", "more than once in the output"),
        ("ij,jk->i,k", "more than one output"),
        ("...i->i", "has an ellipsis"),
    ],
)
def test_a_text_that_is_no_equation_is_refused(text: str, message: str) -> None:
    with pytest.raises(EquationError, match=message) as caught:
        compile_equation(text)
    assert isinstance(caught.value, ValueError)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match="an equation is text"):
        compile_equation(["ij", "j"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="both inputs and output"):
        compile_equation(inputs=[["i"]])
    with pytest.raises(UsageError, match="not both"):
        compile_equation("i->i", inputs=[["i"]], output=["i"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_equation_must_be_compiled(function: Any) -> None:
    with pytest.raises(UsageError, match=r"the equation is a builtins.str; make it with compile_equation"):
        function("ij,jk->ik", torch.ones(2, 2), torch.ones(2, 2), block_size=1)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3)], r"takes 2 operand\(s\), but 1 were given"),
        ([(2, 3), (3, 4), (5,)], r"takes 2 operand\(s\), but 3 were given"),
        ([(2, 3), (4, 5)], r"dimension 0 of operand 1, of shape \(4, 5\).*dimension 1 of operand 0"),
        ([(2, 3), (1, 5)], r"sizes of 1 don't broadcast here"),
        ([(2, 1), (3, 5)], r"sizes of 1 don't broadcast here"),
        ([(2,), (3, 5)], r"operand 0 has shape \(2,\), 1 dimension\(s\)"),
        ([(2, 3), (3, 5, 7)], r"operand 1 has shape \(3, 5, 7\), 3 dimension\(s\)"),
    ],
)
def test_operands_that_do_not_fit_are_refused(function: Any, shapes: Any, message: str) -> None:
    with pytest.raises(OperandError, match=message) as caught:
        function(compile_equation("ij,jk->ik"), *map(torch.ones, shapes), block_size=1)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("size", [0, -1, 2.0, None, "auto", math.inf])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_block_size_is_refused(function: Any, size: Any) -> None:
    equation = compile_equation("ij,jk->ik")
    with pytest.raises(ValueError, match=r"unrecognized block_size: ") as caught:
        function(equation, *ones(equation), block_size=size)
    assert isinstance(caught.value, EinfxError)


def test_an_automatic_block_size_has_what_it_was_given() -> None:
    size = AutomaticBlockSize(1, 2, False, 0.5, "text")
    assert (size.max_cpu_bytes, size.max_cuda_bytes) == (1, 2)
    assert (size.cache_available_cuda_memory, size.cuda_memory_proportion) == (False, 0.5)
    assert repr(size) == size.repr_string == "text"
    assert size.available_cuda_memory == {}
    plain = AutomaticBlockSize()
    assert (plain.max_cpu_bytes, plain.max_cuda_bytes) == (1 << 30, None)
    assert (plain.cache_available_cuda_memory, plain.cuda_memory_proportion) == (True, 0.8)
    assert repr(plain) == "AutomaticBlockSize()"
    assert repr(ours.AUTOMATIC_BLOCK_SIZE) == "AUTOMATIC_BLOCK_SIZE"


@pytest.mark.parametrize("cache", [True, False])
def test_the_free_memory_of_a_gpu_is_asked_for_as_often_as_wanted(
    cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def free(device: torch.device) -> int:
        asked.append(device)
        return 1000 + len(asked)

    monkeypatch.setattr(block_size, "_free_cuda_bytes", free)
    size = AutomaticBlockSize(cache_available_cuda_memory=cache, cuda_memory_proportion=0.5)
    device = torch.device("cuda", 1)
    got = [size.available_bytes(device) for _ in range(3)]
    assert got == ([500, 500, 500] if cache else [1001, 1002, 1003])
    assert size.available_cuda_memory == ({1: 500} if cache else {})
    assert AutomaticBlockSize(max_cuda_bytes=77).available_bytes(device) == 77
    assert len(asked) == (1 if cache else 3)


@given(
    available=st.integers(0, 5000),
    output=st.lists(st.integers(1, 5), max_size=2),
    summed=st.lists(st.integers(0, 9), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bool, torch.float16]),
)
def test_blocks_fit_the_memory_where_single_terms_do(
    available: int, output: list[int], summed: list[int], dtype: torch.dtype
) -> None:
    operand = torch.zeros((), dtype=dtype)
    size = AutomaticBlockSize(max_cpu_bytes=available)
    ranges = block_size.term_ranges(size, output, summed, operand, (None, torch.int64))
    outputs = math.prod(output)
    fixed = 2 * outputs * (dtype.itemsize + 8)
    assert all(1 <= length <= max(1, total) for length, total in zip(ranges, summed, strict=True))
    if fixed + outputs * dtype.itemsize > available:
        assert set(ranges) <= {1}
    else:
        assert fixed + outputs * dtype.itemsize * math.prod(ranges) <= available
    more = block_size.term_ranges(
        AutomaticBlockSize(max_cpu_bytes=1 << 40), output, summed, operand, (None, torch.int64)
    )
    assert more == [max(1, total) for total in summed]


def test_an_integer_caps_the_range_of_each_summed_variable() -> None:
    for size, total in itertools.product((1, 2, 5, 9), (0, 1, 4, 9)):
        ranges = block_size.term_ranges(size, [3], [total, 7], torch.ones(()))
        assert ranges == [max(1, min(size, total)), min(size, 7)]
