"""einsum and its relatives: all that torch.einsum and opt_einsum.contract accept, wherever torch runs."""

from __future__ import annotations

import gc
import re
import time
import weakref
from collections.abc import Callable
from typing import Any, cast

import cotengra
import opt_einsum
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

import einfx
from einfx import contract_expression, contract_path, dispatch, einsum, tensordot
from einfx.errors import EinfxError, EquationError, OperandError, PlanError, UsageError

CHAIN = "ij,jk,kl->il"


def chain(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(shape, dtype=dtype) for shape in ((4, 5), (5, 6), (6, 7))]


@st.composite
def calls(draw: Callable[[st.SearchStrategy[Any]], Any]) -> tuple[str, list[Tensor]]:
    """The text of an einsum with operands that fit it."""
    letters = "abcde"
    size = {x: draw(st.sampled_from([0, 1, 2, 3])) for x in letters}
    inputs = draw(st.lists(st.text(letters, max_size=3), min_size=1, max_size=5))
    present = sorted(set("".join(inputs)))
    output = "".join(draw(st.permutations(present))[: draw(st.integers(0, len(present)))])
    operands = []
    for labels in inputs:
        shape = [1 if labels.count(x) == 1 and draw(st.integers(0, 7)) == 0 else size[x] for x in labels]
        value = torch.randn([2 * n for n in shape[:1]] + shape[1:], dtype=torch.float64)
        operands.append(value[::2] if shape else value)
    return f"{','.join(inputs)}->{output}", operands


class TestValues:
    @settings(max_examples=300)
    @given(calls())
    def test_it_is_torch_einsum_in_double_precision(self, call: tuple[str, list[Tensor]]) -> None:
        text, operands = call
        expected = torch.einsum(text, operands)
        for _ in range(3):  # run, compile, run compiled
            torch.testing.assert_close(einsum(text, *operands), expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize(
        ("text", "shapes"),
        [
            ("ij,jk", [(2, 3), (3, 4)]),
            (" i j , j k -> k i ", [(2, 3), (3, 4)]),
            ("...ij,...jk->...ik", [(5, 2, 3), (3, 4)]),
            ("i...,i...->...", [(5, 2, 3), (5, 3)]),
            ("...,...", [(2, 3), (3,)]),
            ("ii->i", [(3, 3)]),
            ("iij,jk->k", [(3, 3, 4), (4, 2)]),
            ("ba", [(2, 3)]),
            (",", [(), ()]),
            ("ij,ij,ij->i", [(2, 3)] * 3),
            ("ij,jk,kl,lm->im", [(2, 1), (3, 4), (1, 5), (5, 2)]),
        ],
    )
    def test_every_way_to_write_it_is_read_as_torch_reads_it(
        self, text: str, shapes: list[tuple[int, ...]]
    ) -> None:
        operands = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        expected = torch.einsum(text, operands)
        torch.testing.assert_close(einsum(text, *operands), expected)
        torch.testing.assert_close(einsum(text, operands), expected)
        torch.testing.assert_close(einsum(text, tuple(operands)), expected)

    def test_the_interleaved_form_takes_any_labels(self) -> None:
        a, b = torch.randn(2, 3), torch.randn(3, 4)
        torch.testing.assert_close(einsum(a, [0, 1], b, [1, 2], [0, 2]), a @ b)
        torch.testing.assert_close(einsum(a, [0, 1], b, [1, 2]), a @ b)
        torch.testing.assert_close(einsum(a, ["x", "k"], b, ["k", 3], [3, "x"]), (a @ b).T)
        torch.testing.assert_close(einsum(a, [..., 1], b, [1, 2], [..., 2]), a @ b)

    def test_ten_operands_and_sixty_labels_work(self) -> None:
        operands = [torch.rand(2, 2, 2, dtype=torch.float64) for _ in range(60)]
        arguments: list[Any] = []
        for i, operand in enumerate(operands):
            arguments += [operand, [i, i + 1, 100 + i]]
        result = einsum(*arguments, [0, 60])
        expected = operands[0].sum(2)
        for operand in operands[1:]:
            expected = expected @ operand.sum(2)
        torch.testing.assert_close(result, expected)

    @pytest.mark.parametrize(
        "dtype", [torch.int64, torch.uint8, torch.float16, torch.bfloat16, torch.complex64]
    )
    def test_every_dtype_is_that_of_torch(self, dtype: torch.dtype) -> None:
        operands = [torch.randint(0, 3, shape).to(dtype) for shape in ((2, 3), (3, 4), (4, 2))]
        result = einsum(CHAIN, *operands)
        assert result.dtype == dtype
        torch.testing.assert_close(result, torch.einsum(CHAIN, operands))

    def test_ever_new_sizes_stay_right(self) -> None:
        for n in [*range(30), 1, 0]:
            operands = [torch.randn(n, 3, dtype=torch.float64), torch.randn(3, n), torch.randn(n, 2)]
            operands = [x.double() for x in operands]
            torch.testing.assert_close(einsum(CHAIN, *operands), torch.einsum(CHAIN, operands))

    @settings(max_examples=20)
    @given(calls())
    def test_first_and_second_derivatives_are_right(self, call: tuple[str, list[Tensor]]) -> None:
        text, operands = call
        values = [x.clone().requires_grad_() for x in operands]
        assert torch.autograd.gradcheck(lambda *args: einsum(text, *args), values)
        assert torch.autograd.gradgradcheck(lambda *args: einsum(text, *args), values)


class TestOrder:
    @pytest.mark.parametrize(
        "optimize",
        ["auto", "greedy", "optimal", [(0, 1), (0, 1)], ((0, 1), (0, 1)), opt_einsum.DynamicProgramming()],
    )
    def test_every_order_gives_the_same(self, optimize: Any) -> None:
        operands = chain()
        torch.testing.assert_close(einsum(CHAIN, *operands, optimize=optimize), torch.einsum(CHAIN, operands))

    def test_a_cotengra_tree_gives_the_order(self) -> None:
        operands = chain()
        tree = cotengra.einsum_tree(CHAIN, *[tuple(x.shape) for x in operands])
        torch.testing.assert_close(einsum(CHAIN, *operands, optimize=tree), torch.einsum(CHAIN, operands))

    def test_contract_path_takes_shapes_or_tensors(self) -> None:
        operands = chain()
        shapes = [tuple(x.shape) for x in operands]
        assert contract_path(CHAIN, *operands) == contract_path(CHAIN, *shapes, dtype=torch.float64)
        assert contract_path("...ij,...jk", (7, 2, 3), (3, 4)).steps[0].operands == (0, 1)


class TestErrors:
    @pytest.mark.parametrize(
        "options", [{}, {"memory_limit": 100}, {"semiring": "log"}, {"strip_exponent": True}]
    )
    def test_a_path_of_numbers_is_told_from_one_of_steps(self, options: dict[str, Any]) -> None:
        with pytest.raises(PlanError, match=r"step 0 of path \[0, 1\] is 0"):
            einfx.einsum("ij,jk,kl->il", *[torch.ones(2, 2)] * 3, optimize=[0, 1], **options)

    @pytest.mark.parametrize(
        ("arguments", "kind", "words"),
        [
            (("ij,jk->ik", (2, 3), (4, 5)), OperandError, "label 'b' has size 4 in operand 1, but 3"),
            (("ij,jk", (2, 3)), OperandError, "takes 2 operand"),
            (("ij,jk", (2, 3), (3,)), OperandError, "operand 1 has 1 dimension"),
            (("i?->i", (2,)), EquationError, "character"),
            (("ij->k", (2, 3)), EquationError, "output label 'k'"),
            (("ii", (2, 3)), OperandError, "diagonal"),
        ],
    )
    def test_they_name_equation_operand_label_and_sizes(
        self, arguments: tuple[Any, ...], kind: type[EinfxError], words: str
    ) -> None:
        text, *shapes = arguments
        with pytest.raises(kind, match=re.escape(words)):
            einsum(text, *[torch.ones(shape) for shape in shapes])

    def test_they_stay_the_errors_that_callers_of_torch_catch(self) -> None:
        with pytest.raises(RuntimeError):
            einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(4, 5))
        with pytest.raises(ValueError, match="label"):
            einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(4, 5))

    def test_sizes_are_checked_after_many_shapes_too(self) -> None:
        for n in range(2, 20):
            einsum("xy,yz->zx", torch.ones(n, 3), torch.ones(3, n))
        with pytest.raises(OperandError):
            einsum("xy,yz->zx", torch.ones(21, 3), torch.ones(4, 21))

    def test_an_operand_that_is_no_tensor_is_named(self) -> None:
        with pytest.raises(OperandError, match="operand 1 is a list"):
            einsum("i,i->", torch.ones(2), [1.0, 1.0])
        with pytest.raises(OperandError, match="in the place of the labels of operand 0 there is a Tensor"):
            einsum(torch.ones(2), torch.ones(2))

    @pytest.mark.parametrize("keyword", ["use_blas", "backend", "out", "dtype", "order", "casting"])
    def test_keywords_that_mean_something_else_are_refused_with_a_hint(self, keyword: str) -> None:
        with pytest.raises(UsageError, match=rf"no keyword '{keyword}': .+"):
            einsum("i->", torch.ones(2), **cast(Any, {keyword: 1}))

    def test_a_bad_order_is_refused(self) -> None:
        with pytest.raises(PlanError):
            einsum(CHAIN, *chain(), optimize="quickest")
        with pytest.raises(PlanError):
            einsum(CHAIN, *chain(), optimize=[(0, 1)])

    def test_mixed_dtypes_fail_or_promote_as_in_torch(self) -> None:
        a, b = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float64)
        assert einsum("ij,ij->ij", a, b).dtype == torch.einsum("ij,ij->ij", a, b).dtype
        with pytest.raises(RuntimeError):
            einsum("ij,kj->ik", a, b)


class TestWhereTorchRuns:
    def test_a_proxy_records_one_node(self) -> None:
        graph = fx.symbolic_trace(lambda a, b, c: einsum(CHAIN, a, b, c)).graph
        (node,) = [node for node in graph.nodes if node.op == "call_function"]
        assert node.target is einfx.einsum
        assert node.args[0] == CHAIN
        assert node.kwargs == {}

    def test_the_interleaved_form_is_one_node_too(self) -> None:
        graph = fx.symbolic_trace(lambda a, b: einsum(a, [0, 1], b, [1, 2], [0, 2])).graph
        assert [node.target for node in graph.nodes if node.op == "call_function"] == [einfx.einsum]

    def test_tensor_subclasses_see_the_call_and_keep_their_class(self) -> None:
        seen = []

        class Logged(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                seen.append(func)
                return super().__torch_function__(func, types, args, kwargs or {})

        a = torch.ones(2, 3).as_subclass(Logged)
        assert isinstance(einsum("ij,kj->ik", a, torch.ones(4, 3)), Logged)
        assert seen[0] is einfx.einsum

    def test_func_transforms_agree_with_torch(self) -> None:
        a, b, c = chain()
        batch = torch.randn(3, 4, 5, dtype=torch.float64)
        expected = torch.einsum("zij,jk,kl->zil", batch, b, c)
        mapped = torch.func.vmap(lambda x: einsum(CHAIN, x, b, c))(batch)
        torch.testing.assert_close(mapped, expected)
        tangent = torch.func.jvp(lambda x: einsum(CHAIN, x, b, c), (a,), (a,))[1]
        torch.testing.assert_close(tangent, torch.einsum(CHAIN, a, b, c))
        hessian = torch.func.hessian(lambda x: einsum("ij,ij->", x, x))(a)
        torch.testing.assert_close(hessian.reshape(20, 20), 2 * torch.eye(20, dtype=torch.float64))

    @pytest.mark.parametrize("text", ["ij,kj->i", "ij,ij->i", "ij,ij->ij", CHAIN])
    def test_autocast_gives_what_torch_gives(self, text: str) -> None:
        operands = [torch.rand(8, 8) for _ in range(text.count(",") + 1)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result, expected = einsum(text, *operands), torch.einsum(text, operands)
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result, expected, rtol=0.05, atol=0.05)

    def test_traces_hold_for_other_sizes(self) -> None:
        a, b, c = chain()
        traced = torch.jit.trace(lambda a, b, c: einsum(CHAIN, a, b, c), (a, b, c))
        other = torch.randn(9, 5, dtype=torch.float64)
        torch.testing.assert_close(traced(other, b, c), torch.einsum(CHAIN, other, b, c))

    def test_it_compiles_whole_and_once_for_all_sizes(self) -> None:
        torch._dynamo.reset()
        _, b, c = chain()
        frames = 0

        def backend(module: fx.GraphModule, _: Any) -> Any:
            nonlocal frames
            frames += 1
            return module

        compiled = torch.compile(
            lambda a, b, c: einsum(CHAIN, a, b, c), backend=backend, fullgraph=True, dynamic=True
        )
        for n in (4, 11, 12):
            a = torch.randn(n, 5, dtype=torch.float64, requires_grad=True)
            result = compiled(a, b, c)
            torch.testing.assert_close(result, torch.einsum(CHAIN, a, b, c))
            result.sum().backward()
            assert a.grad is not None
        assert frames == 1

    @pytest.mark.parametrize(
        "function",
        [
            lambda a, b: einsum(a, [0, 1], b, [1, 2], [2, 0]),
            lambda a, b: einsum(a, [..., 1], b, [1, 2], [..., 2]),
            lambda a, b: einsum("ij,jk", [a, b]),
            lambda a, b: einsum("ij,jk->ik", a, b, optimize=[(0, 1)]),
            lambda a, b: torch.func.vmap(lambda x: einsum("j,jk->k", x, b))(a),
            lambda a, b: torch.func.grad(lambda x: einsum("ij,jk->", x, b))(a),
        ],
    )
    def test_every_call_style_compiles(self, function: Callable[..., Tensor]) -> None:
        torch._dynamo.reset()
        a, b, _ = chain()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(a, b), function(a, b))

    def test_it_exports_with_a_dynamic_batch(self) -> None:
        class Model(torch.nn.Module):
            def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
                return einsum(CHAIN, a, b, c)

        a, b, c = chain()
        exported = torch.export.export(
            Model(), (a, b, c), dynamic_shapes=({0: torch.export.Dim("n")}, None, None)
        )
        other = torch.randn(9, 5, dtype=torch.float64)
        torch.testing.assert_close(exported.module()(other, b, c), torch.einsum(CHAIN, other, b, c))
        targets = {str(node.target) for node in exported.run_decompositions().graph.nodes}
        assert "aten.mm.default" in targets


class TestExpressions:
    def test_it_is_planned_once_and_takes_other_sizes(self) -> None:
        expression = contract_expression(CHAIN, (4, 5), (5, 6), (6, 7))
        for n in (4, 1, 9):
            a, b, c = torch.randn(n, 5), torch.randn(5, 6), torch.randn(6, 7)
            torch.testing.assert_close(expression(a, b, c), torch.einsum(CHAIN, a, b, c))

    @pytest.mark.parametrize("style", ["mapping", "mapping of all shapes", "positions", "negative positions"])
    def test_constants_are_given_in_either_convention(self, style: str) -> None:
        a, b, c = chain()
        if style == "mapping":
            expression = contract_expression(CHAIN, (4, 5), constants={1: b, 2: c})
        elif style == "mapping of all shapes":
            expression = contract_expression(CHAIN, (4, 5), (5, 6), (6, 7), constants={1: b, 2: c})
        else:
            positions = [1, 2] if style == "positions" else [-2, -1]
            expression = contract_expression(CHAIN, (4, 5), b, c, constants=positions)
        for _ in range(3):
            torch.testing.assert_close(expression(a), torch.einsum(CHAIN, a, b, c))

    @settings(max_examples=60)
    @given(calls(), st.data())
    def test_any_of_the_operands_may_be_constant(
        self, call: tuple[str, list[Tensor]], data: st.DataObject
    ) -> None:
        text, operands = call
        constant = [i for i in range(len(operands)) if data.draw(st.booleans())]
        expression = contract_expression(text, *operands, constants=constant)
        varying = [x for i, x in enumerate(operands) if i not in constant]
        torch.testing.assert_close(expression(*varying), torch.einsum(text, operands))

    def test_what_is_constant_is_contracted_once_without_a_graph(self) -> None:
        a = torch.randn(2, 300)
        b = torch.randn(300, 200, requires_grad=True)
        c = torch.randn(200, 2, requires_grad=True)
        expression = contract_expression(CHAIN, a, b, c, constants=[1, 2])
        result = expression(a.requires_grad_())
        result.sum().backward()
        assert a.grad is not None
        assert b.grad is None
        with torch.profiler.profile() as profiler:
            expression(a)
        assert [event.name for event in profiler.events() if event.name in ("aten::mm", "aten::bmm")] == [
            "aten::mm"
        ]

    def test_constants_follow_the_dtype_of_the_operands(self) -> None:
        a, b, c = chain()
        expression = contract_expression(CHAIN, a, b, c, constants=[1, 2])
        assert expression(a.float()).dtype == torch.float32

    def test_bad_constants_and_calls_are_refused(self) -> None:
        with pytest.raises(UsageError, match="give its tensor"):
            contract_expression("ij,jk", (2, 3), (3, 4), constants=[0])
        with pytest.raises(UsageError, match="constants names operand 5"):
            contract_expression("ij,jk", (2, 3), (3, 4), constants=[5])
        with pytest.raises(OperandError, match=r"takes 2 operand\(s\), but 1"):
            contract_expression("ij,jk", (2, 3), (3, 4))(torch.ones(2, 3))


class TestTensordot:
    @pytest.mark.parametrize(
        "dims", [0, 1, 2, ([1, 2], [0, 1]), ([2], [1]), ([-1], [-2]), torch.tensor([[2], [1]]), (2, 1)]
    )
    def test_it_is_torch_tensordot(self, dims: Any) -> None:
        a, b = torch.randn(2, 3, 3), torch.randn(3, 3, 4)
        expected = torch.tensordot(
            a, b, dims if not isinstance(dims, tuple) or dims != (2, 1) else ([2], [1])
        )
        torch.testing.assert_close(tensordot(a, b, dims), expected)

    def test_it_takes_more_dimensions_than_there_are_letters(self) -> None:
        a, b = torch.randn(2, *[1] * 30, 3), torch.randn(3, *[1] * 30, 4)
        torch.testing.assert_close(tensordot(a, b, 1), torch.tensordot(a, b, 1))

    @pytest.mark.parametrize("dims", [-1, 4, ([0], [0, 1]), ([0, 0], [0, 1]), ([5], [0])])
    def test_bad_dims_are_refused(self, dims: Any) -> None:
        with pytest.raises(OperandError, match="tensordot"):
            tensordot(torch.ones(2, 3, 3), torch.ones(3, 3, 4), dims)


class TestSpeed:
    def test_a_repeated_call_costs_little_more_than_calls_by_hand(self) -> None:
        a, b, c = (x.float() for x in chain())

        def clock(function: Callable[[], Any]) -> float:
            times = []
            for _ in range(60):
                start = time.perf_counter()
                for _ in range(20):
                    function()
                times.append((time.perf_counter() - start) / 20)
            return sorted(times)[10]

        for _ in range(2):
            einsum(CHAIN, a, b, c)
        by_hand = clock(lambda: torch.einsum("ij,jl->il", a, torch.einsum("jk,kl->jl", b, c)))
        assert clock(lambda: einsum(CHAIN, a, b, c)) <= by_hand + 10e-6

    def test_remembered_calls_are_bounded_and_hold_no_tensors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dispatch, "MAX_PROGRAMS", 16)
        for n in range(40):
            einsum(f"{'abcdefgh'[n % 8]}y,yz->{'abcdefgh'[n % 8]}z", torch.ones(n, 3), torch.ones(3, 2))
        assert len(dispatch._programs) <= 16
        big = torch.ones(5, 5)
        alive = weakref.ref(big)
        for _ in range(3):
            einsum("ij,jk->ik", big, big)
        del big
        gc.collect()
        assert alive() is None
