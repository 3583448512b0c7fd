"""What optimize() takes, keeps and refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import einfx
from einfx.errors import CaptureError, EinfxError, OperandError, UsageError
from einfx.passes import DEFAULT
from einfx.rewrite import readable_code
from tests.equivalence import check_optimised
from tests.measuring import multiplications
from tests.program import tensor
from tests.rewriting import assert_same

E = torch.einsum
A, B, C = tensor((3, 3), seed=1), tensor((3, 3), seed=2), tensor((3, 3), seed=3)


class Bilinear(nn.Module):
    """A small model: a parameter, a scale, a contraction of three."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(C.clone())

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * E("bi,ij,bj->b", x, self.weight, y) / 3


def test_a_function_a_module_and_a_graph_module_are_optimised_alike() -> None:
    model = Bilinear()
    check_optimised(model, A, B, gradients=True)
    check_optimised(lambda x, y: 2 * E("bi,ij,bj->b", x, C, y) / 3, A, B, gradients=True)
    traced = fx.symbolic_trace(model)
    check_optimised(traced, A, B, gradients=True)


def test_a_method_and_an_object_that_is_called_are_functions_too() -> None:
    class Scaled:
        factor = 3.0

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return self.factor * E("ij->ji", x)

        def method(self, x: torch.Tensor) -> torch.Tensor:
            return self(x) / 2

    check_optimised(Scaled().method, A)


def test_the_graph_module_given_is_not_changed() -> None:
    traced = fx.symbolic_trace(Bilinear())
    code, names = traced.code, [node.name for node in traced.graph.nodes]
    metas = [dict(node.meta) for node in traced.graph.nodes]
    einfx.optimize(traced, (A, B))
    assert traced.code == code
    assert [node.name for node in traced.graph.nodes] == names
    assert [dict(node.meta) for node in traced.graph.nodes] == metas


class _Refuses(TorchDispatchMode):
    """Fails as soon as anything is computed from certain tensors."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.memory = {x.untyped_storage()._cdata for x in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in pytree.tree_leaves((args, kwargs)):
            if type(value) in (torch.Tensor, nn.Parameter) and value.untyped_storage()._cdata in self.memory:
                assert "detach" in str(func) or "alias" in str(func), f"{func} ran on an example or on state"
        return func(*args, **(kwargs or {}))


def test_neither_the_example_inputs_nor_the_state_are_computed_with() -> None:
    model = Bilinear()
    examples = (A.clone(), B.clone())
    with _Refuses([*examples, *model.parameters()]):
        einfx.optimize(model, examples)


def test_example_inputs_too_large_to_compute_with_are_as_good_as_any() -> None:
    huge = torch.ones(1, dtype=torch.float64).expand(10**7, 10**7)
    optimised = einfx.optimize(lambda x, y: E("ij,jk,kl->il", x, y, x), (huge, huge))
    assert_same(optimised(A, B), A @ B @ A)


def test_example_inputs_on_the_meta_device_are_enough() -> None:
    model = Bilinear()
    examples = [torch.empty(3, 3, dtype=torch.float64, device="meta") for _ in range(2)]
    optimised = einfx.optimize(copy.deepcopy(model).to("meta"), examples)
    real = copy.deepcopy(optimised).to_empty(device="cpu")
    real.load_state_dict(model.state_dict())
    assert_same(real(A, B), model(A, B))


def test_without_example_inputs_the_result_is_right_for_all_dtypes() -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * E("ij,jk,kl->il", x, 3 * y, x) * 5

    optimised = einfx.optimize(program)
    for dtype in (torch.float64, torch.float32, torch.int64, torch.complex128):
        a, b = A.to(dtype), B.to(dtype)
        assert_same(optimised(a, b), program(a, b))


def test_results_are_right_for_other_dtypes_than_the_examples() -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 2 * E("ij,jk,kl->il", x, 3 * y, x)

    optimised = einfx.optimize(program, (A, B))
    for dtype in (torch.float32, torch.complex128):
        assert_same(optimised(A.to(dtype), B.to(dtype)), program(A.to(dtype), B.to(dtype)))


def keywords(x: torch.Tensor, *, y: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
    return scale * E("ij,jk->ik", x, y) / 4


def test_keyword_arguments_and_defaults_are_kept() -> None:
    optimised = einfx.optimize(keywords, (A,), {"y": B})
    assert_same(optimised(A, y=B), keywords(A, y=B))
    assert_same(optimised(A, y=B, scale=5.0), keywords(A, y=B, scale=5.0))
    assert_same(optimised(x=A, y=B), keywords(A, y=B))


def test_positional_arguments_and_defaults_are_kept() -> None:
    def program(x: torch.Tensor, y: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return scale * E("ij,jk->ik", x, y) / 4

    for examples in [(A, B), (A, B, 2.0)]:
        optimised = einfx.optimize(program, examples)
        assert_same(optimised(A, B), program(A, B))
        assert_same(optimised(A, B, 5.0), program(A, B, 5.0))
        assert_same(optimised(A, B, scale=0.0), program(A, B, scale=0.0))
        assert_same(optimised(A, B, scale=3), program(A, B, scale=3))


def test_variable_arguments_are_kept() -> None:
    def starred(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return E("ij,jk,kl->il", 2 * x, rest[0], rest[1])

    def doubly_starred(x: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
        return E("ij,jk->ik", 2 * x, named["y"])

    optimised = einfx.optimize(starred, (A, B, C))
    assert_same(optimised(A, B, C), starred(A, B, C))
    optimised = einfx.optimize(doubly_starred, (A,), {"y": B})
    assert_same(optimised(A, y=B), doubly_starred(A, y=B))


def test_lists_tuples_and_dictionaries_come_in_and_go_out() -> None:
    def program(pair: Any, named: dict[str, Any]) -> dict[str, Any]:
        t = E("ij,jk->ik", pair[0], named["inner"]["y"])
        return {"t": 2 * t, "all": (t, [pair[1], named["z"]]), "none": None}

    examples = ((A, B), {"inner": {"y": C}, "z": A})
    optimised = einfx.optimize(program, examples)
    assert_same(optimised(*examples), program(*examples))
    listed = [A, B], examples[1]
    assert_same(optimised(*listed), program(*listed))


def test_an_argument_that_may_be_none_is_fixed_and_checked() -> None:
    def program(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        t = E("ij,jk->ik", x, x)
        return t if mask is None else t * mask

    assert_same(einfx.optimize(program, (A,))(A), program(A))
    assert_same(einfx.optimize(program, (A, B))(A, B), program(A, B))


def test_a_model_that_cannot_be_traced_is_refused_with_the_line_and_the_alternatives() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return E("ij->ji", x)
            return x

    with pytest.raises(CaptureError) as caught:
        einfx.optimize(Branching(), (A,))
    message = str(caught.value)
    assert "test_optimize.py" in message
    assert "if x.sum() > 0" in message
    assert "torch.fx.wrap" in message
    assert "tracer" in message


def test_example_inputs_that_do_not_fit_are_refused_with_the_line() -> None:
    with pytest.raises(OperandError) as caught:
        einfx.optimize(Bilinear(), (A, tensor((3, 7))))
    assert "7" in str(caught.value)
    assert "bi,ij,bj->b" in str(caught.value) or "E(" in str(caught.value)
    with pytest.raises(EinfxError):
        einfx.optimize(lambda x, y: E("ij,jk->ik", x, y) @ x.reshape(2, 5), (A, B))


def test_example_inputs_of_a_wrong_number_are_refused() -> None:
    for examples in [(A,), (A, B, C)]:
        with pytest.raises(EinfxError):
            einfx.optimize(Bilinear(), examples)
    with pytest.raises(UsageError):
        einfx.optimize(Bilinear(), A)  # type: ignore[arg-type]


def test_things_that_are_no_model_are_refused() -> None:
    for thing in ("ij,jk->ik", 3, None, A):
        with pytest.raises(EinfxError):
            einfx.optimize(thing)


def test_constants_that_are_no_state_or_that_train_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing_such"):
        einfx.optimize(Bilinear(), (A, B), constants=("nothing_such",))
    with pytest.raises(UsageError, match="weight"):
        einfx.optimize(Bilinear(), (A, B), constants=("weight",))


def test_passes_may_be_chosen() -> None:
    model = Bilinear()
    nothing = einfx.optimize(model, (A, B), passes=())
    assert readable_code(nothing.graph) == readable_code(fx.symbolic_trace(model).graph)
    for count in range(len(DEFAULT) + 1):
        optimised = einfx.optimize(model, (A, B), passes=DEFAULT[:count])
        assert_same(optimised(A, B), model(A, B))


def test_a_path_may_be_given() -> None:
    def program(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return E("ij,jk,kl->il", a, b, x)

    n = 64
    a, b, x = tensor((n, n), seed=1), tensor((n, n), seed=2), tensor((n, 1), seed=3)
    good = einfx.optimize(program, (a, b, x), path="optimal")
    assert multiplications(good, a, b, x) == 2 * n**2
    bad = einfx.optimize(program, (a, b, x), path=[(0, 1), (0, 1)])
    assert multiplications(bad, a, b, x) == n**3 + n**2
    assert_same(bad(a, b, x), program(a, b, x))
    with pytest.raises(EinfxError):
        einfx.optimize(program, (a, b, x), path="no such path")


def test_a_tracer_with_leaf_modules_of_its_own_is_used() -> None:
    class Leaf(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Bilinear) or super().is_leaf_module(m, module_qualified_name)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Bilinear()

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return E("b,bj->j", 3 * self.inner(x, y), y)

    optimised = check_optimised(Model(), A, B, gradients=True, tracer=Leaf)
    assert [node.target for node in optimised.graph.nodes if node.op == "call_module"] == ["inner"]


@pytest.mark.parametrize(
    "context",
    [lambda: torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad, torch.inference_mode],
    ids=["autocast", "no_grad", "inference_mode"],
)
def test_what_surrounds_the_optimisation_does_not_change_it(context: Callable[[], Any]) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        return 2 * E("bii,ij,jk->bk", x, y, y) / 3, E("aib,aib->b", x, x)

    x, y = tensor((4, 3, 3), torch.float32, seed=1), tensor((3, 3), torch.float32, seed=2)
    outside = einfx.optimize(program, (x, y))
    with context():
        inside = einfx.optimize(program, (x, y))
    assert inside.code == outside.code
    x.requires_grad_()
    assert_same(inside(x, y), program(x, y))
    assert inside(x, y)[0].requires_grad


def test_verbose_prints_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    optimised = einfx.optimize(Bilinear(), (A, B), verbose=True)
    assert str(optimised.report).strip() in capsys.readouterr().out


def test_optimising_twice_is_optimising() -> None:
    once = einfx.optimize(Bilinear(), (A, B))
    twice = einfx.optimize(once, (A, B))
    assert_same(twice(A, B), once(A, B))


def test_a_program_that_torch_exported_is_optimised_behind_its_guards() -> None:
    class Scaled(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.einsum("ij,jk->ik", 2 * a, b) * 3

    inputs = (torch.randn(4, 5), torch.randn(5, 6))
    exported = torch.export.export(Scaled(), inputs).module()
    optimized = einfx.optimize(exported, inputs)
    assert "a * 6" in optimized.report.code_after
    torch.testing.assert_close(optimized(*inputs), exported(*inputs))
