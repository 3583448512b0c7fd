"""What is written for a form: sizes as arithmetic on sizes of inputs, and each value once."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import fx, nn

from einfx.conv.capture.forms import Form, Leaf, SizeOf, Slid, Slide, leaf
from einfx.conv.capture.readings import Window
from einfx.conv.capture.writing import FormWriter, form_seconds, leaf_shape, size_of
from einfx.errors import EinfxError
from einfx.graphs.nodes import value_of
from einfx.graphs.scaling import Scale
from einfx.graphs.shapes import propagate
from tests.rewriting import assert_same


def graph_of(*shapes: tuple[int, ...]) -> tuple[fx.GraphModule, list[fx.Node]]:
    """A graph with inputs of shapes."""
    graph = fx.Graph()
    inputs = [graph.placeholder(f"x{i}") for i in range(len(shapes))]
    graph.output(None)
    module = fx.GraphModule(nn.Module(), graph)
    propagate(module, [torch.ones(shape) for shape in shapes])
    return module, list(module.graph.nodes)[: len(inputs)]


@given(
    size=st.integers(1, 12),
    other=st.integers(1, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    sides=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.integers(1, 3),
    extra=st.sampled_from([None, 0, 1]),
    by_node=st.booleans(),
)
def test_sizes_behind_windows_are_right_for_every_size(
    size: int,
    other: int,
    kernel: int,
    stride: int,
    sides: tuple[int, int],
    dilation: int,
    extra: int | None,
    by_node: bool,
) -> None:
    window = Window(0, kernel, stride, sides, dilation, extra)
    module, (x, w) = graph_of((size,), (kernel,))
    wanted = []
    for number in (size, other):
        try:
            pattern = window.pattern(number)
        except EinfxError:
            assume(False)
        wanted.append(pattern)
    slid = Slid(SizeOf(Leaf(x), 0), window, SizeOf(Leaf(w), 0) if by_node else kernel)
    assert size_of(slid, module) == (wanted[0].output_size if extra is None else wanted[0].input_size)
    output = next(node for node in module.graph.nodes if node.op == "output")
    with module.graph.inserting_before(output):
        writer = FormWriter(module.graph, module)
        numbers = Form((Slide(window, slid.size, slid.kernel),), ((0, 1, 2),), ((0,), (1,), (2,)), {})
        node = writer._pattern(numbers.operands[0])  # type: ignore[arg-type]
        output.args = ((node, writer._size(slid)),)
    module.recompile()
    pattern, made = module(torch.ones(other), torch.ones(kernel))
    assert pattern == wanted[1]
    assert made == (wanted[1].output_size if extra is None else wanted[1].input_size)


def test_merged_dimensions_numbers_and_divisors_are_written_behind() -> None:
    module, (x,) = graph_of((2, 3, 4))
    form = leaf(Leaf(x), 3).scaled(Scale(2, 1)).flattened(1, 2)
    output = next(node for node in module.graph.nodes if node.op == "output")
    with module.graph.inserting_before(output):
        node = FormWriter(module.graph, module).write(form)
        output.args = (node,)
    module.recompile()
    value = value_of(node)
    assert value is not None
    assert value.shape == (2, 12)
    given_ = torch.randn(2, 3, 4)
    assert_same(module(given_), 2 * given_.flatten(1))
    assert form_seconds(form, module, value) > 0


def test_the_shape_of_a_leaf_is_that_behind_its_reshapes() -> None:
    module, (x,) = graph_of((4, 1, 6, 5))
    assert leaf_shape(Leaf(x, merged=True), module) == (4, 6, 5)
    assert leaf_shape(Leaf(x, splits=((2, (None, 3)),)), module) == (4, 1, 2, 3, 5)
    assert leaf_shape(Leaf(x, boundary=((1, 2, 0, 3), "reflect")), module) == (4, 1, 9, 8)
