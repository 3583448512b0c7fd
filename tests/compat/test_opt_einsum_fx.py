"""What opt_einsum_fx 0.1.4 promises its users holds on einfx, also where it computes something else itself.

The signatures are compared with those of the package itself, which the extra ``test`` installs.
"""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from einfx.compat import opt_einsum_fx as stand_in
from einfx.compat.opt_einsum_fx import (
    EfficientShapeProp,
    fuse_einsums,
    fuse_scalars,
    jitable,
    optimize_einsums,
    optimize_einsums_full,
)
from einfx.errors import OperandError, UsageError
from tests.program import tensor
from tests.rewriting import assert_same

E = torch.einsum
X, Y = tensor((3, 4), seed=1), tensor((4, 5), seed=2)
SQUARE = tensor((3, 3), seed=3), tensor((3, 3), seed=4)

Program = Callable[..., torch.Tensor]


def matrix_product(x: Any, y: Any) -> Any:
    return E("ij,jk->ik", x, y)


def traces(x: Any, y: Any) -> Any:
    b = E("ii", x[:, : x.shape[0]])
    return E("jj", y[:, : y.shape[0]]) * b


def chain(x: Any, y: Any) -> Any:
    z = E("ij,jk->ik", x, y)
    return E("ik,ij->i", z, x)


def scaled_chain(x: Any, y: Any) -> Any:
    z = E("ij,jk->ik", x, y) / 3.0
    return 4.0 * E("ik,ij->i", z, x)


def read_twice(x: Any, y: Any) -> Any:
    z = E("ij,jk->ik", x, y)
    return E("ik,ij->i", z, x) + z[:, 0]


def scaled_and_read_twice(x: Any, y: Any) -> Any:
    z = 2.7 * E("ij,jk->ik", x, y)
    return E("ik,ij->i", z, x) + 1.1 * z[:, 0]


def no_einsum(x: Any, y: Any) -> Any:
    return 3.0 * 2.7 * x.sum() + (4.6 / y.relu().sum())


PROGRAMS = (matrix_product, traces, chain, scaled_chain, read_twice, scaled_and_read_twice, no_einsum)


def calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op not in ("placeholder", "output")]


def einsums(graph: fx.Graph) -> list[str]:
    return [str(node.args[0]) for node in graph.nodes if node.target is torch.functional.einsum]


def rebuilt(traced: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """The module with another graph, as the package's users put it there."""
    traced.graph = graph
    traced.recompile()
    return traced


# --- the interface


def test_it_has_the_names_of_the_package() -> None:
    package = pytest.importorskip("opt_einsum_fx")
    assert set(stand_in.__all__) == set(package.__all__)
    assert stand_in.__version__ == package.__version__


@pytest.mark.parametrize("name", stand_in.__all__)
def test_every_name_takes_the_arguments_of_the_packages(name: str) -> None:
    package = pytest.importorskip("opt_einsum_fx")
    if name == "EfficientShapeProp":
        assert issubclass(EfficientShapeProp, fx.Interpreter)
        return
    theirs = inspect.signature(getattr(package, name)).parameters
    ours = inspect.signature(getattr(stand_in, name)).parameters
    positional = list(ours) if name != "jitable" else ["obj"]
    assert positional == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


# --- optimize_einsums_full


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_optimised_program_computes_the_same_and_scripts(program: Program) -> None:
    optimized = optimize_einsums_full(program, (X, Y))
    assert isinstance(optimized, fx.GraphModule)
    assert_same(optimized(X, Y), program(X, Y))
    assert_same(torch.jit.script(jitable(optimized))(X, Y), program(X, Y))


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_optimised_graph_module_stays_the_users(program: Program) -> None:
    traced = fx.symbolic_trace(program)
    before = traced.code
    optimized = optimize_einsums_full(model=traced, example_inputs=(X, Y))
    assert optimized is not traced
    assert traced.code == before
    assert_same(optimized(X, Y), program(X, Y))  # type: ignore[operator]


def test_a_graph_gives_a_graph() -> None:
    graph = fx.symbolic_trace(scaled_chain).graph
    optimized = optimize_einsums_full(graph, (X, Y))
    assert isinstance(optimized, fx.Graph)
    assert optimized is not graph
    assert_same(fx.GraphModule({}, optimized)(X, Y), scaled_chain(X, Y))


def test_a_module_keeps_its_parameters_and_trains() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(Y.clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return E("ik,ij->i", E("ij,jk->ik", x, self.weight) / 3.0, x)

    model = Model()
    optimized = optimize_einsums_full(model, (X,))
    assert isinstance(optimized, fx.GraphModule)
    assert optimized.weight is model.weight
    optimized(X).sum().backward()
    gradient = model.weight.grad
    model.weight.grad = None
    model(X).sum().backward()
    assert_same(gradient, model.weight.grad)


def test_a_graph_finds_the_attributes_of_the_module_that_owns_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(Y.clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return E("ij,jk->ik", 2.0 * x, self.weight / 3)

    traced = fx.symbolic_trace(Model())
    optimized = optimize_einsums_full(traced.graph, (X,))
    assert isinstance(optimized, fx.Graph)
    assert_same(fx.GraphModule(traced, optimized)(X), Model()(X))


def test_equations_may_have_spaces_and_keywords_name_the_arguments() -> None:
    def contraction(u: Any, w: Any, x: Any, y: Any) -> Any:
        return E("wik,ekc,bci,be -> bcw", u, w, x, y)

    inputs = tensor((3, 3, 2)), tensor((2, 2, 5)), tensor((4, 5, 3)), tensor((4, 2))
    optimized = optimize_einsums_full(model=fx.symbolic_trace(contraction), example_inputs=inputs)
    assert_same(optimized(*inputs), contraction(*inputs))  # type: ignore[operator]


def test_the_code_of_a_lambda_scripts_without_jitable() -> None:
    optimized = optimize_einsums_full(fx.symbolic_trace(lambda x, y: E("ij,jk->ik", x, y)), (X, Y))
    scripted: Any = torch.jit.script(optimized)
    assert_same(scripted(X, Y), matrix_product(X, Y))


def test_arithmetic_on_sizes_stays_on_integers() -> None:
    def reshaped(x: Any, y: Any) -> Any:
        return E("ij,jk->ik", x, y).reshape(x.shape[0] * 2 * 1 // 2, -1) * 2.0 / 4

    optimized = optimize_einsums_full(reshaped, (X, Y))
    assert isinstance(optimized, fx.GraphModule)
    assert_same(optimized(X, Y), reshaped(X, Y))
    scripted: Any = torch.jit.script(jitable(optimized))
    assert_same(scripted(X, Y), reshaped(X, Y))


def test_other_sizes_than_those_of_the_example_give_right_results() -> None:
    optimized = optimize_einsums_full(scaled_chain, (torch.zeros(1, 4), torch.zeros(4, 1)))
    assert_same(optimized(X, Y), scaled_chain(X, Y))  # type: ignore[operator]


def test_example_inputs_and_state_are_not_touched() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(5).double()

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            x.add_(1)
            return self.norm(E("ij,jk->ik", x, y))

    model, x = Model(), X.clone()
    optimize_einsums_full(model, (x, Y))
    assert_same(x, X)
    assert model.norm.num_batches_tracked == 0


def test_a_scale_goes_to_the_smallest_intermediate_as_a_multiplication() -> None:
    def scaled(x: Any, y: Any, z: Any) -> Any:
        return 0.784 * E("ij,jk,kl->il", x, y, z)

    inputs = tensor((2, 100)), tensor((100, 2)), tensor((2, 100))
    optimized = optimize_einsums_full(fx.symbolic_trace(scaled), inputs)
    assert isinstance(optimized, fx.GraphModule)
    assert list(optimized.graph.nodes)[4].target is operator.mul
    assert_same(optimized(*inputs), scaled(*inputs))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimize": "greedy"},
        {"optimize": "optimal"},
        {"optimize": True},
        {"optimize": False},
        {"optimize": "auto-hq", "use_blas": False},
        {"optimize": [(0, 1), (0, 1)]},
        {"memory_limit": -1},
        {"memory_limit": 30},
        {"memory_limit": "max_input", "optimize": "greedy"},
    ],
)
def test_contract_kwargs_choose_the_path(options: dict[str, Any]) -> None:
    def product(x: Any, y: Any, z: Any) -> Any:
        return E("ij,jk,kl->il", x, y, z)

    inputs = tensor((3, 4)), tensor((4, 5)), tensor((5, 2))
    optimized = optimize_einsums_full(product, inputs, options)
    assert_same(optimized(*inputs), product(*inputs))  # type: ignore[operator]


def test_an_unknown_key_of_contract_kwargs_is_an_error() -> None:
    with pytest.raises(UsageError, match="'optimise' isn't known"):
        optimize_einsums_full(matrix_product, (X, Y), {"optimise": "greedy"})


def test_the_tracer_may_have_leaves_of_its_own() -> None:
    class Shift(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if float(x.sum()) > 0 else x - 1

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = Shift()

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return E("ij,jk->ik", self.shift(2 * x), y)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Shift)

    optimized = optimize_einsums_full(Model(), (X, Y), tracer_class=Tracer)
    assert_same(optimized(X, Y), Model()(X, Y))  # type: ignore[operator]


# --- optimize_einsums


@pytest.mark.parametrize("propagate", [ShapeProp, EfficientShapeProp])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_graph_with_shapes_is_optimised_into_a_new_graph(program: Program, propagate: Any) -> None:
    traced = fx.symbolic_trace(program)
    propagate(traced).run(X, Y)
    before = traced.code
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = optimize_einsums(traced.graph)
    assert graph is not traced.graph
    assert traced.code == before
    assert_same(rebuilt(traced, graph)(X, Y), program(X, Y))


def test_a_long_einsum_is_split_along_the_best_path() -> None:
    def product(x: Any, y: Any, z: Any) -> Any:
        return E("ij,jk,kl->il", x, y, z)

    inputs = tensor((50, 60)), tensor((60, 70)), tensor((70, 5))
    traced = fx.symbolic_trace(product)
    EfficientShapeProp(traced).run(*inputs)
    graph = optimize_einsums(traced.graph)
    first = calls(graph)[0]
    assert [x.name for x in first.all_input_nodes] == ["y", "z"]
    assert all(node.meta["tensor_meta"].shape is not None for node in calls(graph))
    assert_same(rebuilt(traced, graph)(*inputs), product(*inputs))


@pytest.mark.parametrize("program", [matrix_product, chain, scaled_and_read_twice])
def test_without_shapes_it_warns_and_changes_no_byte_of_the_code(program: Program) -> None:
    traced = fx.symbolic_trace(program)
    before = traced.code
    with pytest.warns(RuntimeWarning, match="EfficientShapeProp"):
        graph = optimize_einsums(traced.graph)
    assert rebuilt(traced, graph).code == before


# --- fuse_einsums


def test_einsums_that_feed_one_another_become_one() -> None:
    traced = fx.symbolic_trace(chain)
    graph = fuse_einsums(traced.graph)
    assert len(einsums(traced.graph)) == 2
    assert len(einsums(graph)) == 1
    assert_same(rebuilt(traced, graph)(X, Y), chain(X, Y))


def test_a_chain_of_three_becomes_one() -> None:
    def product(a: Any, b: Any, c: Any, d: Any) -> Any:
        return E("tr,ry->yt", E("ab,bc->ac", E("ij,jk->ik", a, b), c), d)

    inputs = tensor((3, 4)), tensor((4, 5)), tensor((5, 2)), tensor((2, 3))
    traced = fx.symbolic_trace(product)
    graph = fuse_einsums(traced.graph, in_place=True)
    assert graph is traced.graph
    assert len(einsums(graph)) == 1
    assert_same(rebuilt(traced, graph)(*inputs), product(*inputs))


def test_an_einsum_that_something_else_reads_is_not_fused() -> None:
    traced = fx.symbolic_trace(read_twice)
    before = traced.code
    assert rebuilt(traced, fuse_einsums(traced.graph)).code == before


def test_a_wrong_number_of_labels_for_a_result_is_a_runtime_error() -> None:
    def wrong(x: Any, y: Any) -> Any:
        return E("i,ij->i", E("ij,jk->ik", x, y), x)

    with pytest.raises(RuntimeError, match="labels its operand 0 with 1 dimension"):
        fuse_einsums(fx.symbolic_trace(wrong).graph)


def test_a_write_between_two_einsums_keeps_them_apart() -> None:
    def written(a: Any, b: Any) -> Any:
        t = E("ij,jk->ik", a, b)
        a.add_(1)
        return E("ij,jk->ik", t, b)

    check_step(fuse_einsums, written, *SQUARE)


# --- fuse_scalars


def many_scales(x: Any, y: Any) -> Any:
    return 4.0 * E("ij,jk->ik", x / 1.2, 1.7 * 2.0 * y / 3) / 2


def scales_around_a_value_read_twice(x: Any, y: Any) -> Any:
    z = 3 * E("ij,jk->ik", x, y) / 4.0
    return (2.0 * E("ik,ij->i", z, x)) + z[:, 0]


def scales_alone(x: Any, y: Any) -> Any:
    return 3.0 / 3.4 * x / 4.0


def unused_scales(x: Any, y: Any) -> Any:
    _ = 2.3 * x / 4.5
    return 4.6 * E("ij,jk->ik", x, y)


def scales_around_a_write(x: Any, y: Any) -> Any:
    return 3.0 * x.clone().mul_(4.0)


@pytest.mark.parametrize(
    ("program", "nodes"),
    [
        (many_scales, 5),
        (scales_around_a_value_read_twice, 9),
        (scales_alone, 4),
        (unused_scales, 6),
        (scales_around_a_write, 6),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_scales_merge_without_shapes_and_nothing_else_goes(
    program: Program, nodes: int, in_place: bool
) -> None:
    traced = fx.symbolic_trace(program)
    graph = fuse_scalars(traced.graph, in_place=in_place)
    assert (graph is traced.graph) == in_place
    assert len(graph.nodes) == nodes, graph
    assert_same(rebuilt(traced, graph)(X, Y), program(X, Y))


def test_with_shapes_the_scale_goes_to_the_smallest_tensor() -> None:
    def scaled(x: Any, y: Any) -> Any:
        return 3.0 * E("ij,jk->ik", x, y)

    traced = fx.symbolic_trace(scaled)
    ShapeProp(traced).run(tensor((100, 2)), tensor((2, 3)))
    multiplication = next(n for n in fuse_scalars(traced.graph).nodes if n.target is operator.mul)
    assert multiplication.args[0].name == "y"


# --- EfficientShapeProp


def test_shapes_are_known_afterwards_and_nothing_was_computed() -> None:
    def huge(x: Any, y: Any) -> Any:
        return E("ij,kl->ijkl", x, y).sum(0)

    traced = fx.symbolic_trace(huge)
    x = torch.ones(1000, 1000).expand(1000, 1000)
    result = EfficientShapeProp(traced).run(x, torch.ones(1000, 1000))
    shapes = [node.meta["tensor_meta"].shape for node in traced.graph.nodes if node.op != "output"]
    assert shapes == [(1000, 1000), (1000, 1000), (1000, 1000, 1000, 1000), (1000, 1000, 1000)]
    assert traced.graph.find_nodes(op="call_method", target="sum")[0].meta["tensor_meta"].dtype == x.dtype
    assert result.shape == (1000, 1000, 1000)


def test_propagating_again_replaces_the_shapes() -> None:
    traced = fx.symbolic_trace(matrix_product)
    for inputs in ((X, Y), (tensor((7, 2)), tensor((2, 6)))):
        EfficientShapeProp(traced).propagate(*inputs)
        assert calls(traced.graph)[0].meta["tensor_meta"].shape == (inputs[0].shape[0], inputs[1].shape[1])


def test_operands_that_do_not_fit_are_an_error_that_names_the_equation() -> None:
    with pytest.raises(OperandError, match="einsum"):
        EfficientShapeProp(fx.symbolic_trace(matrix_product)).run(X, X)


def test_the_three_steps_alone_keep_weights_that_are_contracted_already() -> None:
    def weighted(x: Any, w: Any, y: Any) -> Any:
        return E("zi,ijk,zj->zk", x, w, y) * 0.5

    inputs = tensor((6, 3)), tensor((3, 4, 5)), tensor((6, 4))
    traced = fx.symbolic_trace(weighted)
    EfficientShapeProp(traced).run(*inputs)
    graph = jitable(optimize_einsums(traced.graph))
    module = fx.GraphModule(traced, graph)
    assert_same(torch.jit.script(module)(*inputs), weighted(*inputs))


# --- programs that the package gets wrong, by each of its steps


def division_by_a_scaled_value(a: Any, b: Any) -> Any:
    return b / (2.0 * a)


def square_of_a_scaled_value(a: Any, b: Any) -> Any:
    t = 2 * a
    return t * t


def contraction_of_a_scaled_value_with_itself(a: Any, b: Any) -> Any:
    t = 2 * a
    return E("ij,ij->i", t, t)


def scale_beside_a_small_denominator(a: Any, b: Any) -> Any:
    return 2.0 * E("ij,jk->ik", a, b) / b[0, 0]


def reciprocal_of_a_scaled_value(a: Any, b: Any) -> Any:
    return E("ij->i", 3 / (2 * a))


def scaled_value_read_twice(a: Any, b: Any) -> Any:
    s, t = 3 * a, 2 * b
    return E("ij,jk->ik", s, t) + t.sum()


def division_that_rounds(a: Any, b: Any) -> Any:
    return (a * 10).div(3, rounding_mode="floor")


def write_after_a_contraction(a: Any, b: Any) -> Any:
    t = E("ij,jk->ik", a, b)
    a.add_(1)
    return E("ij,jk->ik", t, b)


def write_after_a_scale(a: Any, b: Any) -> Any:
    t = 2 * a
    a.add_(1)
    return 3 * E("ij,jk->ik", t, b)


def write_through_a_view(a: Any, b: Any) -> Any:
    v = a.view(-1)
    t = 2 * a
    v.add_(1)
    return 3 * E("ij,jk->ik", t, b)


def keyword_operand(a: Any, b: Any) -> Any:
    return E("ij,jk->ik", a.mul(other=2.0), b) * 3.0


WRONG = (
    division_by_a_scaled_value,
    square_of_a_scaled_value,
    contraction_of_a_scaled_value_with_itself,
    scale_beside_a_small_denominator,
    reciprocal_of_a_scaled_value,
    scaled_value_read_twice,
    division_that_rounds,
    write_after_a_contraction,
    write_after_a_scale,
    write_through_a_view,
    keyword_operand,
)


def check_step(step: Callable[[fx.Graph], fx.Graph], program: Program, *inputs: torch.Tensor) -> None:
    traced = fx.symbolic_trace(program)
    expected = program(*copy.deepcopy(inputs))
    assert_same(rebuilt(traced, step(traced.graph))(*copy.deepcopy(inputs)), expected)


@pytest.mark.parametrize("program", WRONG)
@pytest.mark.parametrize("step", [fuse_scalars, fuse_einsums])
def test_a_step_without_shapes_keeps_every_value(
    step: Callable[[fx.Graph], fx.Graph], program: Program
) -> None:
    check_step(step, program, *SQUARE)


@pytest.mark.parametrize("program", WRONG)
@pytest.mark.parametrize("step", [fuse_scalars, fuse_einsums, optimize_einsums])
def test_a_step_with_shapes_keeps_every_value(step: Callable[[fx.Graph], fx.Graph], program: Program) -> None:
    def with_shapes(graph: fx.Graph) -> fx.Graph:
        EfficientShapeProp(fx.GraphModule({}, graph)).run(*SQUARE)
        return step(graph)

    check_step(with_shapes, program, *SQUARE)


@pytest.mark.parametrize("program", WRONG)
def test_the_whole_keeps_every_value(program: Program) -> None:
    optimized: Any = optimize_einsums_full(program, SQUARE)
    assert_same(optimized(*copy.deepcopy(SQUARE)), program(*copy.deepcopy(SQUARE)))


def scaled_twice(a: Any, b: Any) -> Any:
    return 3 * a * 2


def contracted_and_scaled_twice(a: Any, b: Any) -> Any:
    return 3 * E("ij,jk->ik", a, b) * 2


@pytest.mark.parametrize(
    ("program", "dtype"),
    [
        (scaled_twice, torch.int64),
        (scaled_twice, torch.bool),
        (contracted_and_scaled_twice, torch.int64),
        (contracted_and_scaled_twice, torch.int32),
    ],
)
def test_integers_stay_integers(program: Program, dtype: torch.dtype) -> None:
    inputs = tensor((3, 3), dtype, seed=1), tensor((3, 3), dtype, seed=2)
    check_step(fuse_scalars, program, *inputs)
    optimized: Any = optimize_einsums_full(program, inputs)
    assert_same(optimized(*inputs), program(*inputs))


def test_dtypes_that_mix_keep_the_dtype_of_the_original() -> None:
    mask = tensor((3, 3), torch.int64, seed=4)

    def masked(a: Any, m: Any) -> Any:
        return (2.0 * m) * a * 3.0

    for dtype in (torch.float16, torch.float64):
        inputs = tensor((3, 3), dtype, seed=1), mask
        check_step(fuse_scalars, masked, *inputs)
        optimized: Any = optimize_einsums_full(masked, inputs)
        assert_same(optimized(*inputs), masked(*inputs))


def test_a_submodule_named_mul_is_that_module() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mul = nn.Linear(3, 3).double()

        def forward(self, a: torch.Tensor) -> torch.Tensor:
            return 3.0 * self.mul(2.0 * a)

    model = Model()
    optimized: Any = optimize_einsums_full(model, (SQUARE[0],))
    assert_same(optimized(SQUARE[0]), model(SQUARE[0]))
    traced = fx.symbolic_trace(model)
    assert_same(rebuilt(traced, fuse_scalars(traced.graph))(SQUARE[0]), model(SQUARE[0]))


@pytest.mark.parametrize(
    "program",
    [
        lambda a, b: E("...j,jk->...k", a, b),
        lambda a, b: E(a, [0, 1], b, [1, 2]),
        lambda a, b: E("i j, j k", E("ij,jk->ik", a, b), b),
        lambda a, b: 2 * a / 0.0,
        lambda a, b: E("ij,jk->ik", a, b).mul_(2.0),
        lambda a, b: torch.linalg.norm(E("ij,jk->ik", a, b)),
        lambda a, b: E("ij,jk->ik", a, b[:1]),
        lambda a, b: E("ij,jk->ik", a, b).view(-1),
        lambda a, b: torch.tensordot(a.permute(dims=(1, 0)), b, dims=1),
    ],
)
def test_what_the_package_fails_on_works(program: Program) -> None:
    optimized: Any = optimize_einsums_full(program, SQUARE)
    expected = program(*SQUARE)
    assert_same(optimized(*SQUARE), expected)
    assert_same(torch.jit.script(jitable(optimized))(*SQUARE), expected)
