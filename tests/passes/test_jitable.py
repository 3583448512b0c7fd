"""What torch.jit.script refuses becomes what it accepts, and no number changes."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import einfx
from einfx.errors import UsageError
from einfx.passes.jitable import Jitable, jitable, number_of_elements
from einfx.rewrite import readable_code
from tests.rewriting import assert_same, check_rewrite

pytestmark = [
    pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level"),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
]

REFUSED = """
torch.einsum(a, (0, 1, 2), b, (0, 1, 3))
torch.einsum(a, [..., 0], b, [..., 0], [...])
torch.einsum(a, (30, 1, 2), b, (30, 1, 3))
torch.tensordot(a, b, [(0,), [0]])
a.sum(axis=0)
a.sum(axis=(0, -1), keepdims=True)
torch.sum(a, axis=1)
a.mean(axis=0, keepdims=True)
a.amax(axis=0)
a.max(axis=0)[0]
torch.max(a, 0, keepdims=True)[0]
a.cumsum(axis=0)
torch.cat((a, b), axis=-1)
torch.stack([a, b], axis=0)
torch.exp(x=a)
torch.add(x1=a, x2=b)
a.norm(dim=-1)
a.norm(dim=(0, 1), keepdim=True)
a.nelement() * a
abs(a)
+a
torch.meshgrid(a[0, 0], b[0, 0])[0]
a.masked_fill(b > 1, float("nan"))
torch.where(b > 1, a, float("nan"))
a.sum().item() * b
a * a.shape.numel()
a.reshape(a.shape[:2].numel(), -1)
a * (a.shape[:2] + b.shape).numel()
torch.ops.aten.mul.Tensor(a, b)
torch.ops.aten.permute.default(a, [2, 0, 1])
torch.ops.aten.sum.dim_IntList(a, [1])
torch.ops.aten.einsum.default("ijk,ijl->kl", [a, b])
""".strip().splitlines()
"""Programs that run eagerly and that torch.jit.script refuses as they are traced."""

ACCEPTED = """
torch.einsum("ijk,ijl->kl", a, b)
torch.einsum(" i j k , i j l -> k l ", [a, b])
torch.einsum("...k,...k", a, b)
torch.functional.einsum("ijk->i", a)
torch.tensordot(a, b.permute(2, 1, 0), 1)
torch.tensordot(a, b.permute(2, 1, 0), dims=1)
torch.tensordot(a, b.permute(1, 2, 0))
torch.tensordot(a, b, 0)
torch.tensordot(a, b, dims=([0, 1], [0, 1]))
torch.tensordot(a, b, dims=((0,), (0,)))
torch.tensordot(a, b, ((0, 1), (0, 1)))
torch.tensordot(a, b, dims=[[0, 1], [0, 1]])
torch.tensordot(a, b, dims=((), ()))
torch.tensordot(a=a, b=b, dims=0)
a.permute(2, 0, 1)
a.permute((2, 0, 1))
a.permute(dims=(2, 0, 1))
torch.permute(input=a, dims=[2, 0, 1])
a.sum().permute(())
a.transpose(dim0=0, dim1=1)
torch.transpose(input=a, dim0=0, dim1=1)
torch.swapaxes(a, 0, 1)
a.movedim((0, 1), (1, 2))
a[0].T @ b[0]
a.mT
a.reshape(6, 4)
a.reshape(shape=(6, 4))
torch.reshape(input=a, shape=(6, -1))
a.reshape(a.shape[0] * 2 * 2, -1)
a.reshape(a.shape[:-1] + (2, 2))
a.reshape((1,) + a.shape)
a.view(size=(6, 4))
a.view(b.shape)
a.sum().reshape(())
a.unflatten(dim=2, sizes=(2, 2))
a.expand(size=(5, 2, 3, 4))
a.new_zeros(a.shape[:-1] + (5,))
torch.broadcast_to(a, torch.broadcast_tensors(a, b)[0].shape)
a.repeat((1, 1, 2))
a / (a.shape[0] ** 0.5)
a * (-a.shape[0] // 2)
a.mul(other=2.0)
torch.div(a, b, rounding_mode="floor")
1 - a
2.0 ** a
a.clone().mul_(2.0)
a.matmul(b.mT)
torch.bmm(input=a, mat2=b.mT)
F.linear(input=a, weight=b[0])
F.bilinear(a, b, torch.ones(5, 4, 4, dtype=torch.float64))
F.softmax(a, dim=-1)
a[..., None, : a.shape[-1] // 2]
a.max(dim=0).values
a * float("inf")
""".strip().splitlines()
"""Programs that need no rewriting, or hardly any, on this version of torch: they must stay right."""


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 4, dtype=torch.float64, generator=generator) + 0.5
    return a, torch.rand(2, 3, 4, dtype=torch.float64, generator=generator) + 0.5


def program(text: str) -> Callable[..., torch.Tensor]:
    namespace: dict[str, Any] = {"torch": torch, "F": F}
    exec(f"def program(a, b):\n    return {text}", namespace)
    function: Callable[..., torch.Tensor] = namespace["program"]
    return function


def traced_function(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.sum(axis=0) + b  # type: ignore[call-overload]


def saved(module: torch.jit.ScriptModule) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("text", REFUSED + ACCEPTED)
def test_a_scripted_program_gives_the_same_numbers_after_saving_and_loading(text: str) -> None:
    expected = program(text)(*tensors())
    scripted = torch.jit.script(jitable(fx.symbolic_trace(program(text))))
    loaded = torch.jit.load(io.BytesIO(saved(scripted)))
    result = loaded(*tensors())
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("text", REFUSED + ACCEPTED)
def test_the_rewritten_graph_still_runs_eagerly_with_the_same_numbers(text: str) -> None:
    rewritten = jitable(fx.symbolic_trace(program(text)))
    torch.testing.assert_close(
        rewritten(*tensors()), program(text)(*tensors()), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("text", REFUSED)
def test_a_program_that_torchscript_refuses_is_rewritten_once(text: str) -> None:
    traced = fx.symbolic_trace(program(text))
    before = readable_code(traced.graph)
    assert Jitable().apply(traced) > 0
    after = readable_code(traced.graph)
    assert after != before
    assert Jitable().apply(traced) == 0
    assert readable_code(traced.graph) == after


def test_sublists_become_an_equation_with_the_letters_that_order_torchs_implicit_output() -> None:
    check_rewrite(
        Jitable(),
        program("torch.einsum(a, (30, 1), b, (30, ...))"),
        """
        einsum = torch.functional.einsum('eB,e...', a, b)
        return einsum
        """,
        (torch.rand(2, 3), torch.rand(2, 4)),
        rewrites=1,
    )


def test_numpy_spellings_become_torchs() -> None:
    check_rewrite(
        Jitable(),
        program("abs(torch.mean(a, axis=0, keepdims=True)).norm(dim=1) + b"),
        """
        mean = torch.mean(a, dim = 0, keepdim = True)
        abs_1 = torch.abs(mean)
        norm = torch.functional.norm(abs_1, dim = 1)
        add = norm + b
        return add
        """,
        (torch.rand(2, 3), torch.rand(1)),
        rewrites=3,
    )


def test_tensordot_gets_its_dimensions_as_lists() -> None:
    check_rewrite(
        Jitable(),
        program("torch.tensordot(a, b, dims=((1,), (0,)))"),
        """
        tensordot = torch.functional.tensordot(a, b, dims = ([1], [0]), out = None)
        return tensordot
        """,
        (torch.rand(2, 3), torch.rand(3, 4)),
        rewrites=1,
    )


def test_a_graph_that_scripts_already_is_left_as_it_is() -> None:
    traced = fx.symbolic_trace(program('torch.einsum("ij,jk->ik", a, b) * 2.0'))
    before = traced.code
    assert Jitable().apply(traced) == 0
    assert traced.code == before


def test_the_code_of_a_lambda_scripts() -> None:
    traced = fx.symbolic_trace(lambda a, b: a * b)
    with pytest.raises(OSError, match="source"):
        torch.jit.script(traced)
    a, b = tensors()
    assert torch.equal(torch.jit.script(jitable(traced))(a, b), a * b)


def test_a_module_is_rewritten_in_place_and_returned() -> None:
    traced = fx.symbolic_trace(traced_function)
    assert jitable(traced) is traced
    assert "dim = 0" in traced.code


def test_a_graph_is_rewritten_in_place_and_returned() -> None:
    graph = fx.symbolic_trace(traced_function).graph
    assert jitable(graph) is graph
    assert "dim = 0" in readable_code(graph)


def test_graph_modules_inside_are_rewritten_too() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = fx.symbolic_trace(traced_function)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.inner(a, b)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    model = Outer()
    outer = fx.GraphModule(model, Tracer().trace(model))
    assert Jitable().apply(outer) > 0
    assert torch.equal(torch.jit.script(outer)(*tensors()), traced_function(*tensors()))


def test_annotations_that_are_text_become_types_and_unusable_ones_go() -> None:
    def scaled(
        a: torch.Tensor,
        b: Tensor,  # type: ignore[name-defined] # noqa: F821
        factor: float,
        count: NoSuchType,  # type: ignore[name-defined] # noqa: F821
        other: Any,
    ) -> Optional[Tensor]:  # type: ignore[name-defined] # noqa: F821
        return a + b * factor * count * other

    graph = jitable(fx.symbolic_trace(scaled).graph)
    types = [node.type for node in graph.nodes if node.op in ("placeholder", "output")]
    assert types == [torch.Tensor, torch.Tensor, float, None, None, torch.Tensor | None]


def test_a_function_of_a_file_with_postponed_annotations_scripts() -> None:
    traced = jitable(fx.symbolic_trace(traced_function))
    assert torch.equal(torch.jit.script(traced)(*tensors()), traced_function(*tensors()))


def test_arguments_with_defaults_script_with_the_type_of_their_default() -> None:
    namespace: dict[str, Any] = {}
    exec("def scaled(a, b, power=2, factor=0.5):\n    return (a * b * factor) ** power", namespace)
    scripted: Any = torch.jit.script(jitable(fx.symbolic_trace(namespace["scaled"])))
    a, b = tensors()
    assert torch.equal(scripted(a, b), (a * b * 0.5) ** 2)
    assert torch.equal(scripted(a, b, 3, factor=2.0), (a * b * 2.0) ** 3)


def test_arguments_that_the_trace_fixed_are_checked_in_the_script_too() -> None:
    namespace: dict[str, Any] = {}
    exec("def scaled(a, b, bias=None, flag=True, mode='sum'):\n    return a * b if flag else a", namespace)
    fixed = {"bias": None, "flag": True, "mode": "sum"}
    traced = fx.symbolic_trace(namespace["scaled"], concrete_args=fixed)
    a, b = tensors()
    assert torch.equal(jitable(traced)(a, b), a * b)
    scripted: Any = torch.jit.script(traced)
    assert torch.equal(scripted(a, b), a * b)
    for wrong in ({"bias": a}, {"flag": False}, {"mode": "mean"}):
        with pytest.raises(AssertionError):
            traced(a, b, **{f"{name}_1": value for name, value in wrong.items()})
        with pytest.raises(torch.jit.Error, match="specialized"):
            scripted(a, b, **{f"{name}_1": value for name, value in wrong.items()})


def test_a_parameter_trains_through_the_scripted_graph_as_through_the_original() -> None:
    a, b = (x.requires_grad_() for x in tensors())
    scripted = torch.jit.script(jitable(fx.symbolic_trace(program("abs(a).sum(axis=0) * b"))))
    (abs(a).sum(0) * b).sum().backward()
    expected = a.grad
    a.grad = None
    scripted(a, b).sum().backward()
    assert expected is not None
    torch.testing.assert_close(a.grad, expected, rtol=0, atol=0)


def test_reads_of_sizes_stay_integers() -> None:
    traced = fx.symbolic_trace(program("a.reshape(abs(-a.shape[0]), -1)"))
    before = readable_code(traced.graph)
    jitable(traced)
    assert readable_code(traced.graph) == before
    assert number_of_elements([]) == 1


IN_A_PROCESS_WITH_TORCH_ALONE = """
import sys
for name in ("einfx", "opt_einsum", "opt_einsum_fx"):
    sys.modules[name] = None
import torch
inputs, expected = torch.load(sys.argv[1])
for i, result in enumerate(expected):
    got = torch.jit.load(f"{sys.argv[2]}/{i}.pt")(*inputs)
    torch.testing.assert_close(got, result, rtol=0, atol=0, equal_nan=True)
print(len(expected))
"""


def run_with_torch_alone(
    folder: Path, modules: list[Any], inputs: tuple[Any, ...], expected: list[Any]
) -> str:
    for i, module in enumerate(modules):
        (folder / f"{i}.pt").write_bytes(saved(module))
    torch.save((inputs, expected), folder / "data.pt")
    arguments = [
        sys.executable,
        "-I",
        "-c",
        IN_A_PROCESS_WITH_TORCH_ALONE,
        str(folder / "data.pt"),
        str(folder),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_saved_programs_run_in_a_process_that_has_only_torch(tmp_path: Path) -> None:
    scripted = [torch.jit.script(jitable(fx.symbolic_trace(program(text)))) for text in REFUSED]
    expected = [program(text)(*tensors()) for text in REFUSED]
    assert run_with_torch_alone(tmp_path, scripted, tensors(), expected) == str(len(REFUSED))


def row_sums(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ijk,ijk->i", a, b)


def batched_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ijk,ilk->ijl", 2.0 * a, b) / 3


def chain_of_four(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ijk,ilk,imk,ijm->jl", a, b, a, torch.einsum("ijk,ilk->ijl", a, b))


def outer_products_with_a_diagonal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("iij,kkl->jkil", a[:, :2], b[:, :2]) * torch.matmul(a[0], b[0].T).sum()


LOWERED = (row_sums, batched_products, chain_of_four, outer_products_with_a_diagonal)


def test_optimised_programs_take_the_functions_that_they_call_along(tmp_path: Path) -> None:
    optimized = [jitable(einfx.optimize(function, tensors())) for function in LOWERED]
    assert any("einfx" in module.code for module in optimized)
    scripted = [torch.jit.script(module) for module in optimized]
    expected = [module(*tensors()) for module in optimized]
    for function, value in zip(LOWERED, expected, strict=True):
        assert_same(value, function(*tensors()))
    assert run_with_torch_alone(tmp_path, scripted, tensors(), expected) == str(len(LOWERED))


def test_an_optimised_program_scripts_for_sizes_other_than_those_of_the_example() -> None:
    scripted: Any = torch.jit.script(jitable(einfx.optimize(batched_products, tensors())))
    for batch in (0, 1, 5):
        a, b = torch.rand(batch, 2, 6, dtype=torch.float64), torch.rand(batch, 3, 6, dtype=torch.float64)
        assert_same(scripted(a, b), batched_products(a, b))


def test_contractions_over_semirings_become_functions_that_torchscript_compiles() -> None:
    check_rewrite(
        Jitable(),
        lambda a, b: einfx.einsum("ij,jk", a, b, semiring="log") + einfx.einsum("ij,jk", a, b),
        """
        einsum = einfx_kernels_scriptable_contract_semiring('ab,bc->ac', [a, b], 'log', [], False, 'nan')
        einsum_1 = torch.functional.einsum('ab,bc->ac', a, b)
        add = einsum + einsum_1
        return add
        """,
        (torch.rand(3, 3), torch.rand(3, 3)),
    )


@pytest.mark.parametrize("something", [None, nn.Linear(2, 2), torch.relu])
def test_what_is_no_graph_is_refused(something: Any) -> None:
    with pytest.raises(UsageError, match=r"a GraphModule or a Graph, not a \w+: call einfx.optimize first"):
        jitable(something)
