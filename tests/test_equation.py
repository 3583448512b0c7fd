"""Equation: one canonical form for every way to write a contraction."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from einfx.equation import LETTERS, Equation, label_text
from einfx.errors import EquationError, OperandError


@st.composite
def equations(draw: Callable[[st.SearchStrategy[Any]], Any], operands: int = 4) -> Equation:
    labels = st.integers(0, 5)
    inputs = draw(st.lists(st.lists(labels, max_size=4).map(tuple), min_size=1, max_size=operands))
    present = sorted({x for part in inputs for x in part})
    output = draw(st.permutations(present))[: draw(st.integers(0, len(present)))]
    return Equation(tuple(inputs), tuple(output))


class TestReading:
    @pytest.mark.parametrize(
        ("text", "ranks", "canonical"),
        [
            ("ij,jk->ik", None, "ab,bc->ac"),
            (" z y , y x -> z x ", None, "ab,bc->ac"),
            ("ij,jk", None, "ab,bc->ac"),
            ("ba", None, "ab->ba"),
            ("ii", None, "aa->"),
            ("ii->i", None, "aa->a"),
            ("", (0,), "->"),
            (",ab", (0, 2), ",ab->ab"),
            ("...ij,...jk->...ik", (3, 3), "abc,acd->abd"),
            ("...ij,...jk->...ik", (4, 3), "abcd,bde->abce"),
            ("...i,i...", (2, 2), "ab,ba->a"),
            ("i...->i", (3,), "abc->a"),
            ("...", (2,), "ab->ab"),
            ("aB,Bc->ac", None, "ab,bc->ac"),
        ],
    )
    def test_text_has_one_canonical_form(
        self, text: str, ranks: tuple[int, ...] | None, canonical: str
    ) -> None:
        assert str(Equation.parse(text, ranks)) == canonical

    def test_equal_contractions_are_equal_whatever_their_letters(self) -> None:
        first, second = (
            Equation.parse("qz,zr->qr"),
            Equation.from_sublists([["row", "x"], ["x", 3]], ["row", 3]),
        )
        assert first == second
        assert hash(first) == hash(second)

    @given(equations())
    def test_printing_and_parsing_give_it_back(self, equation: Equation) -> None:
        assert Equation.parse(str(equation)) == equation

    @pytest.mark.parametrize("text", ["ba,ac", "zx,xy", "...b,b...a", "dcba", "Ab,bc"])
    def test_an_implicit_output_is_that_of_torch(self, text: str) -> None:
        operands = [torch.rand([2] * len(part.replace("...", "x"))) for part in text.split(",")]
        equation = Equation.parse(text, [x.dim() for x in operands])
        torch.testing.assert_close(torch.einsum(str(equation), operands), torch.einsum(text, operands))

    @pytest.mark.parametrize("text", ["i$", "ij->ik", "ij->ii", "......", "1", "i-j", "...i......"])
    def test_text_that_is_no_equation_is_refused(self, text: str) -> None:
        with pytest.raises(EquationError):
            Equation.parse(text, (2,))

    def test_a_wrong_number_of_operands_or_dimensions_is_refused(self) -> None:
        with pytest.raises(OperandError, match="takes 2 operand"):
            Equation.parse("ij,jk", (2,))
        with pytest.raises(OperandError, match="operand 1 has 3 dimension"):
            Equation.parse("ij,jk", (2, 3))
        with pytest.raises(OperandError, match="at least 2 label"):
            Equation.parse("ij...", (1,))

    def test_an_ellipsis_needs_ranks(self) -> None:
        with pytest.raises(EquationError, match="ranks are known"):
            Equation.parse("...i")

    def test_labels_past_the_alphabet_print_as_other_letters(self) -> None:
        equation = Equation((tuple(range(60)),), (59,))
        assert not equation.printable_by_torch
        assert len(set(label_text(equation.labels))) == 60
        assert set(LETTERS) < set(label_text(equation.labels))


class TestSizes:
    @given(equations(), st.data())
    def test_sizes_broadcast_as_in_torch(self, equation: Equation, data: st.DataObject) -> None:
        size = {x: data.draw(st.integers(0, 3)) for x in equation.labels}
        shapes = [
            [1 if labels.count(x) == 1 and data.draw(st.booleans()) else size[x] for x in labels]
            for labels in equation.inputs
        ]
        expected = torch.einsum(str(equation), [torch.ones(shape) for shape in shapes]).shape
        assert equation.output_shape(shapes) == tuple(expected)

    def test_sizes_that_differ_are_refused_with_label_operand_and_shapes(self) -> None:
        with pytest.raises(
            OperandError, match=r"label 'b' has size 4 in operand 1, but 3 .*\(2, 3\), \(4, 5\)"
        ):
            Equation.parse("ij,jk->ik").sizes([(2, 3), (4, 5)])

    def test_a_diagonal_needs_equal_sizes(self) -> None:
        with pytest.raises(OperandError, match="repeated in operand 0"):
            Equation.parse("ii->i").sizes([(1, 3)])
        with pytest.raises(RuntimeError, match="repeated"):
            torch.einsum("ii->i", torch.ones(1, 3))


class TestComposition:
    @given(st.data())
    def test_substitution_computes_the_producer_in_place(self, data: st.DataObject) -> None:
        producer = data.draw(equations(2))
        rank = len(producer.output)
        labels = data.draw(st.lists(st.integers(0, 3), min_size=rank, max_size=rank))
        other = data.draw(st.lists(st.integers(0, 3), max_size=2))
        present = sorted({*labels, *other})
        output = data.draw(st.permutations(present))[: data.draw(st.integers(0, len(present)))]
        consumer = Equation((tuple(labels), tuple(other)), tuple(output))
        generator = np.random.default_rng(0)
        inner = [generator.standard_normal([2] * len(part)) for part in producer.inputs]
        outer = generator.standard_normal([2] * len(other))
        fused = consumer.substitute(0, producer)
        expected = np.einsum(str(consumer), np.einsum(str(producer), *inner), outer)
        np.testing.assert_allclose(np.einsum(str(fused), *inner, outer), expected, atol=1e-12)

    @given(equations(4), st.data())
    def test_contracting_a_pair_first_changes_nothing(self, equation: Equation, data: st.DataObject) -> None:
        positions = st.integers(0, len(equation.inputs) - 1)
        left, right = data.draw(positions), data.draw(positions)
        pair, rest = equation.pair(left, right)
        generator = np.random.default_rng(0)
        operands = [generator.standard_normal([2] * len(part)) for part in equation.inputs]
        first = np.einsum(str(pair), *[operands[i] for i in sorted({left, right})])
        others = [x for i, x in enumerate(operands) if i not in (left, right)]
        expected = np.einsum(str(equation), *operands)
        np.testing.assert_allclose(np.einsum(str(rest), *others, first), expected, atol=1e-12)


def test_every_symbol_of_opt_einsum_is_a_label() -> None:
    symbols = [opt_einsum.get_symbol(i) for i in range(200)]
    chain = ",".join(a + b for a, b in pairwise(symbols)) + f"->{symbols[0]}{symbols[-1]}"
    assert len(Equation.parse(chain).labels) == 200
