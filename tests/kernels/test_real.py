"""Real kernels: every contraction of one or two operands, for every size, layout and dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from einfx.equation import Equation
from einfx.kernels import helpers
from einfx.kernels.real import lower

Draw = Callable[[st.SearchStrategy[Any]], Any]

HELPERS = [
    helpers.contiguous,
    helpers.contract,
    helpers.matmul,
    helpers.matvec,
    helpers.mm,
    helpers.multiply_sum,
    helpers.unrolled_multiply_sum,
]


def run(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


@st.composite
def equations(draw: Draw) -> Equation:
    labels = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    inputs = draw(st.lists(labels, min_size=1, max_size=2))
    present = sorted({x for part in inputs for x in part})
    output = draw(st.permutations(present))[: draw(st.integers(0, len(present)))]
    return Equation(tuple(inputs), tuple(output))


def operands(draw: Draw, equation: Equation, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Operands of sizes 0 to 4, some dimensions broadcast, some expanded, some not contiguous."""
    size = {x: draw(st.sampled_from([0, 1, 2, 2, 3, 4])) for x in equation.labels}
    result = []
    for labels in equation.inputs:
        style = draw(st.sampled_from(["dense", "reversed", "sliced", "expanded"]))
        shape = [1 if labels.count(x) == 1 and draw(st.integers(0, 7)) == 0 else size[x] for x in labels]
        if style == "reversed" and shape:
            value = torch.randn(shape[::-1], dtype=dtype).permute(tuple(range(len(shape)))[::-1])
        elif style == "sliced" and shape:
            value = torch.randn([*shape[:-1], 2 * shape[-1]], dtype=dtype)[..., ::2]
        elif style == "expanded" and shape:
            value = torch.randn([1, *shape[1:]], dtype=dtype).expand(shape)
        else:
            value = torch.randn(shape, dtype=dtype)
        result.append(value)
    return result


def lowered(
    equation: Equation, values: Sequence[Tensor], *, guarded: bool = False, contiguous: bool = False
) -> Tensor:
    shapes, strides = [x.shape for x in values], [x.stride() for x in values]
    result = lower(
        run, equation, values, shapes, values[0].dtype, "cpu",
        guarded=guarded, strides=strides, contiguous=contiguous,
    )  # fmt: skip
    assert isinstance(result, Tensor)
    return result


def graph_of(equation: Equation, values: Sequence[Tensor]) -> fx.GraphModule:
    """Guarded code for the sizes of ``values``, as a graph."""
    graph = fx.Graph()
    nodes = [graph.placeholder(f"x{i}") for i in range(len(values))]
    shapes = [x.shape for x in values]
    emit: Callable[..., Any] = lambda function, *args: graph.call_function(function, args)  # noqa: E731
    graph.output(lower(emit, equation, nodes, shapes, values[0].dtype, "cpu", guarded=True))
    return fx.GraphModule(torch.nn.Module(), graph)


class TestValues:
    @settings(max_examples=400)
    @given(equations(), st.booleans(), st.booleans(), st.data())
    def test_results_are_those_of_torch_in_double_precision(
        self, equation: Equation, guarded: bool, contiguous: bool, data: st.DataObject
    ) -> None:
        values = operands(data.draw, equation)
        result = lowered(equation, values, guarded=guarded, contiguous=contiguous)
        torch.testing.assert_close(result, torch.einsum(str(equation), values), rtol=1e-12, atol=1e-12)
        assert result.is_contiguous() or not contiguous

    @settings(max_examples=400)
    @given(equations(), st.data())
    def test_guarded_code_is_right_for_other_sizes_than_the_example(
        self, equation: Equation, data: st.DataObject
    ) -> None:
        code = graph_of(equation, operands(data.draw, equation))
        values = operands(data.draw, equation)
        torch.testing.assert_close(code(*values), torch.einsum(str(equation), values), rtol=1e-12, atol=1e-12)

    @settings(max_examples=25)
    @given(equations(), st.data())
    def test_guarded_code_scripts_and_stays_right(self, equation: Equation, data: st.DataObject) -> None:
        code = torch.jit.script(graph_of(equation, operands(data.draw, equation)))
        values = operands(data.draw, equation)
        torch.testing.assert_close(code(*values), torch.einsum(str(equation), values), rtol=1e-12, atol=1e-12)

    @settings(max_examples=100)
    @given(
        equations(),
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]),
        st.booleans(),
        st.data(),
    )
    def test_every_floating_dtype_keeps_dtype_and_value(
        self, equation: Equation, dtype: torch.dtype, guarded: bool, data: st.DataObject
    ) -> None:
        values = operands(data.draw, equation, dtype)
        result = lowered(equation, values, guarded=guarded)
        wide = torch.complex128 if dtype.is_complex else torch.float64
        expected = torch.einsum(str(equation), [x.to(wide) for x in values])
        assert result.dtype == dtype
        torch.testing.assert_close(
            result.to(wide), expected, rtol=30 * torch.finfo(dtype).eps, atol=30 * torch.finfo(dtype).eps
        )

    @pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
    def test_integers_are_exact(self, dtype: torch.dtype) -> None:
        values = [torch.randint(0, 5, (3, 4), dtype=dtype), torch.randint(0, 5, (4, 2), dtype=dtype)]
        assert torch.equal(lowered(Equation.parse("ij,jk->ki"), values), torch.einsum("ij,jk->ki", values))

    @pytest.mark.parametrize("shape", [(40, 100, 1000), (3000, 1000), (4_000_000, 1)])
    @pytest.mark.parametrize("text", ["z...,z...->z", "z...,z...->...", "z...,z...->"])
    def test_large_products_summed_in_blocks_give_the_same(self, text: str, shape: tuple[int, ...]) -> None:
        a, b = torch.rand(shape), torch.rand(shape)
        equation = Equation.parse(text, [a.dim(), b.dim()])
        dims = [i - len(shape) for i, x in enumerate(equation.inputs[0]) if x not in equation.output]
        expected = (a.double() * b.double()).sum(dims)
        result = helpers.multiply_sum(a, b, dims)
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


class TestHalfPrecision:
    def test_products_are_not_rounded_before_the_sum(self) -> None:
        a = torch.full((1, 4096), 1 + 2**-10).half()
        b = a.clone()
        exact = (a.double() * b.double()).sum(1)
        for text in ("ik,ik->i", "ik,jk->ij"):
            result = lowered(Equation.parse(text), [a, b]).double().flatten()
            torch.testing.assert_close(result, exact, rtol=2**-11, atol=0)

    def test_a_module_that_becomes_half_keeps_that_promise(self) -> None:
        a, b = torch.rand(1000, 2), torch.rand(1000, 2)
        code = graph_of(Equation.parse("nc,nc->n"), [a, b])
        assert any(node.target is helpers.unrolled_multiply_sum for node in code.graph.nodes)
        expected = torch.einsum("nc,nc->n", a.half(), b.half())
        assert torch.equal(code(a.half(), b.half()), expected)

    def test_autocast_gives_the_dtypes_of_torch(self) -> None:
        for text in ("nc,nc->n", "ac,abc->cb"):
            sizes = {"n": 1000, "c": 2 if text[0] == "n" else 64, "a": 64, "b": 64}
            values = [torch.rand([sizes[x] for x in part]) for part in text.split("->")[0].split(",")]
            code = graph_of(Equation.parse(text), values)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(code(*values), torch.einsum(text, values))


class TestGradients:
    @settings(max_examples=25)
    @given(equations(), st.booleans(), st.data())
    def test_first_and_second_derivatives_are_right(
        self, equation: Equation, guarded: bool, data: st.DataObject
    ) -> None:
        values = [
            torch.randn(x.shape, dtype=x.dtype, requires_grad=True) for x in operands(data.draw, equation)
        ]
        function = lambda *args: lowered(equation, args, guarded=guarded)  # noqa: E731
        assert torch.autograd.gradcheck(function, values)
        assert torch.autograd.gradgradcheck(function, values)

    @pytest.mark.parametrize(
        "function",
        [
            lambda a, b: helpers.multiply_sum(a, b, [-1]),
            lambda a, b: helpers.unrolled_multiply_sum(a, b, -1),
            lambda a, b: helpers.contract(a, b.permute(1, 2, 0), 0, 2),
            lambda a, b: helpers.matmul(a, b.transpose(1, 2)),
        ],
    )
    def test_helpers_work_under_vmap_grad_and_jvp(self, function: Callable[..., Tensor]) -> None:
        a, b = torch.rand(2, 3, 4, 2), torch.rand(2, 3, 4, 2)
        mapped = torch.func.vmap(function)(a, b)
        torch.testing.assert_close(mapped[1], function(a[1], b[1]))
        gradient = torch.func.grad(lambda x: function(x, b[0]).sum())(a[0])
        tangent = torch.func.jvp(lambda x: function(x, b[0]), (a[0],), (a[0],))[1]
        torch.testing.assert_close(tangent, function(a[0], b[0]))
        assert gradient.shape == a[0].shape


class TestCode:
    @pytest.mark.parametrize(
        ("text", "shapes", "names"),
        [
            ("ij,jk->ik", [(9, 8), (8, 7)], ["mm"]),
            ("ij,kj->ik", [(9, 8), (7, 8)], ["permute", "mm"]),
            ("ij,j->i", [(9, 8), (8,)], ["mv"]),
            ("bij,bjk->bik", [(99, 9, 8), (99, 8, 7)], ["bmm"]),
            ("ij,ij->ij", [(9, 8), (9, 8)], ["mul"]),
            ("ij->ji", [(9, 8)], ["permute"]),
            ("ij->ij", [(9, 8)], []),
            ("ij->i", [(9, 8)], ["sum"]),
            ("ii->i", [(9, 9)], ["diagonal"]),
        ],
    )
    def test_no_operation_is_wasted(self, text: str, shapes: list[tuple[int, ...]], names: list[str]) -> None:
        called: list[str] = []

        def emit(function: Callable[..., Any], *args: Any) -> Any:
            called.append(function.__name__)
            return function(*args)

        values = [torch.rand(shape) for shape in shapes]
        lower(emit, Equation.parse(text), values, shapes, torch.float32, "cpu", guarded=False)
        assert called == names

    def test_expanded_operands_are_contracted_as_what_they_repeat(self) -> None:
        called: list[str] = []

        def emit(function: Callable[..., Any], *args: Any) -> Any:
            called.append(function.__name__)
            return function(*args)

        values = list(torch.broadcast_tensors(torch.rand(64, 1, 32), torch.rand(1, 48, 32)))
        shapes, strides = [x.shape for x in values], [x.stride() for x in values]
        equation = Equation.parse("ijk,ijk->ij")
        lower(emit, equation, values, shapes, torch.float32, "cpu", guarded=False, strides=strides)
        assert "mm" in called

    @pytest.mark.parametrize(
        ("text", "sizes", "function"),
        [
            ("nchw,kc->nkhw", (8, 32, 32, 32, 32), "bmm"),
            ("kc,nchw->nkhw", (32, 32, 8, 32, 32), "bmm"),
            ("nchw,kc->nkhw", (16, 128, 4, 4, 64), "matmul"),
        ],
    )
    def test_an_operand_is_broadcast_over_a_batch_unless_its_gradients_take_too_much(
        self, text: str, sizes: tuple[int, ...], function: str
    ) -> None:
        called: list[str] = []

        def emit(function: Callable[..., Any], *args: Any) -> Any:
            called.append(function.__name__)
            return function(*args)

        equation = Equation.parse(text)
        shapes = [tuple(sizes[x] for x in labels) for labels in equation.inputs]
        values = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        result = lower(emit, equation, values, shapes, torch.float32, "cpu", guarded=False)
        expected = torch.einsum(text, *values)
        assert function in called
        torch.testing.assert_close(result, expected)
        gradients = (torch.autograd.grad(x.square().sum(), values) for x in (result, expected))
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize("text", ["bij,bjk->bik", "bij,bkj->bik", "bij,bj->bi", "abij,bajk->iabk"])
    @pytest.mark.parametrize("size", [3, 16])
    def test_both_operands_may_be_expanded_along_a_batch(self, text: str, size: int) -> None:
        equation = Equation.parse(text)
        shapes = [(size,) * len(labels) for labels in equation.inputs]
        values = [torch.rand(1, *shape[1:], dtype=torch.float64).expand(shape) for shape in shapes]
        strides = [x.stride() for x in values]
        result = lower(
            run, equation, values, shapes, torch.float64, "cpu", guarded=False, strides=strides
        )  # fmt: skip
        torch.testing.assert_close(result, torch.einsum(text, *values))
        assert 0 not in result.stride()

    def test_no_size_is_baked_into_guarded_code(self) -> None:
        code = graph_of(
            Equation.parse("abij,cijd->acbd"), [torch.rand(11, 13, 17, 19), torch.rand(23, 17, 19, 29)]
        )
        assert not any(str(n) in code.code for n in (11, 13, 17, 19, 23, 29))

    def test_retracing_a_graph_keeps_its_helpers_whole(self) -> None:
        values = [torch.rand(1000, 2), torch.rand(1000, 2)]
        code = graph_of(Equation.parse("nc,nc->n"), values)
        again = fx.symbolic_trace(code)
        assert [node.target for node in again.graph.nodes if node.op == "call_function"] == [
            helpers.unrolled_multiply_sum
        ]

    @pytest.mark.parametrize("helper", HELPERS, ids=lambda x: x.__name__)
    def test_every_helper_scripts(self, helper: Callable[..., Tensor]) -> None:
        torch.jit.script(helper)

    @pytest.mark.parametrize("text", ["ij,jk->ik", "nc,nc->n", "bhij,bhjk->bhik", "ac,abc->cb"])
    def test_one_compilation_serves_every_batch_size(self, text: str) -> None:
        torch._dynamo.reset()
        size = dict(zip("abcijknh", (30, 29, 28, 8, 8, 8, 30, 3), strict=True))
        size["c"] = 2 if text.startswith("nc") else size["c"]
        values = [torch.rand([size[x] for x in part]) for part in text.split("->")[0].split(",")]
        code = graph_of(Equation.parse(text), values)
        frames = 0

        def backend(module: fx.GraphModule, _: Any) -> Any:
            nonlocal frames
            frames += 1
            return module

        compiled = torch.compile(code, backend=backend, dynamic=True, fullgraph=True)
        first = text[0]
        for n in (30, 31, 57):
            size[first] = n
            values = [torch.rand([size[x] for x in part]) for part in text.split("->")[0].split(",")]
            torch.testing.assert_close(compiled(*values), torch.einsum(text, values))
        assert frames == 1


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shapes", [((3, 5, 4), (3, 4, 1)), ((3, 1, 4), (3, 4, 5)), ((3, 1, 4), (3, 4, 1))])
def test_matrices_meet_vectors_however_they_lie(shapes: tuple[tuple[int, ...], ...], turned: bool) -> None:
    a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    if turned:
        a, b = (x.mT.contiguous().mT for x in (a, b))
    torch.testing.assert_close(helpers.matmul(a, b), torch.einsum("bik,bkj->bij", a, b))
