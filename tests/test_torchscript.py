"""Optimised programs in TorchScript: jitable() and what comes out of it."""

from __future__ import annotations

import copy
import io
import pickle
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
from tests.program import tensor
from tests.rewriting import assert_same
from tests.semiring_judge import OWN

E = torch.einsum
A, B = tensor((3, 3), seed=1), tensor((3, 3), seed=2)

PROGRAMS: dict[str, Callable[..., Any]] = {
    "einsum": lambda a, b: E("ij,jk->ik", a, b),
    "implicit": lambda a, b: E("ij,jk", a, b),
    "ellipsis": lambda a, b: E("...j,jk->...k", a, b),
    "sublist": lambda a, b: E(a, [0, 1], b, [1, 2], [0, 2]),
    "chain": lambda a, b: 2 * E("ij,jk,kl,lm->im", a, b, a / 3, b),
    "scalars": lambda a, b: -(3 * E("ij,jk->ik", a / 2, b)).div(5).mul(other=7),
    "permute by keyword": lambda a, b: a.permute(dims=(1, 0)) @ b,
    "permute": lambda a, b: E("ij,jk->ik", a.permute(1, 0), torch.permute(b, (1, 0))),
    "tensordot by a number": lambda a, b: torch.tensordot(a, b, dims=1),
    "tensordot by lists": lambda a, b: torch.tensordot(a, b, ([1], [0])) * 2,
    "linear": lambda a, b: F.linear(F.linear(a, b), b),
    "diagonal": lambda a, b: E("ii,ij->ij", a, b),
    "sums": lambda a, b: E("ij,kl->", a, b) + E("ij,ij->i", a, b).sum(),
    "outer": lambda a, b: E("ij,kl->ijkl", a, b),
    "multiply and sum": lambda a, b: (a[:, :, None] * b).sum(1),
    "several outputs": lambda a, b: (E("ij,jk->ik", a, b), a @ b, a),
    "sizes": lambda a, b: E("ij,jk->ik", a, b).reshape(a.shape[0] * 1, -1) / a.shape[0],
    "in place": lambda a, b: E("ij,jk->ik", a, b).mul_(2).add_(a),
    "batched": lambda a, b: E("bi,bj->bij", a, b) * E("bi,bi->b", a, b)[:, None, None],
    "without operands to sum": lambda a, b: E("ij->ji", a) * 2,
}


def scripted(module: fx.GraphModule) -> Any:
    return torch.jit.script(einfx.jitable(copy.deepcopy(module)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_optimised_program_scripts_and_gives_the_same(name: str) -> None:
    program = PROGRAMS[name]
    script = scripted(einfx.optimize(program, (A, B)))
    for n in (3, 1, 4):
        a, b = tensor((n, n), seed=1), tensor((n, n), seed=2)
        assert_same(script(a.clone(), b), program(a.clone(), b))
    a, b = A.clone().requires_grad_(), A.clone().requires_grad_()
    for out in (script(a, B), program(b, B)):
        total: Any = sum(x.sum() for x in (out if isinstance(out, tuple) else (out,)))
        total.backward()
    assert_same(a.grad, b.grad)


@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - {"ellipsis", "sublist"}))
def test_a_traced_program_that_was_not_optimised_scripts_too(name: str) -> None:
    program = PROGRAMS[name]
    script = torch.jit.script(einfx.jitable(fx.symbolic_trace(program)))
    assert_same(script(A.clone(), B), program(A.clone(), B))


def test_jitable_works_in_place_returns_its_argument_and_does_nothing_a_second_time() -> None:
    optimised = einfx.optimize(PROGRAMS["chain"], (A, B))
    assert einfx.jitable(optimised) is optimised
    code = optimised.code
    assert einfx.jitable(optimised).code == code
    assert_same(optimised(A, B), PROGRAMS["chain"](A, B))


class Model(nn.Module):
    """Parameters, buffers, a leaf module and an argument that has a type."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor((3, 3), seed=3))
        self.register_buffer("mask", tensor((3, 3), seed=4))
        self.head = nn.Linear(3, 2, dtype=torch.float64)

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return self.head(scale * E("bi,ij,jk->bk", x, self.weight, self.mask) / 3)


def test_a_module_scripts_with_its_state_and_its_defaults() -> None:
    model = Model()
    script = scripted(einfx.optimize(model, (A,)))
    assert_same(script(A), model(A))
    assert_same(script(A, 5.0), model(A, 5.0))
    assert list(script.state_dict()) == list(einfx.optimize(model, (A,)).state_dict())
    expected = model.state_dict()
    assert_same({name: script.state_dict()[name] for name in expected}, dict(expected))


def test_a_module_that_was_pickled_scripts_with_the_types_of_its_arguments() -> None:
    model = Model()
    optimised = pickle.loads(pickle.dumps(einfx.optimize(model, (A,))))
    assert_same(scripted(optimised)(A, 5.0), model(A, 5.0))


def test_a_scripted_module_freezes_and_saves() -> None:
    model = Model().eval()
    script = scripted(einfx.optimize(model, (A,)))
    assert_same(torch.jit.freeze(script)(A), model(A))
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    assert_same(torch.jit.load(file)(A), model(A))


def test_constants_that_were_folded_script_with_their_values() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("p", tensor((3, 3), seed=3))
            self.register_buffer("q", tensor((3, 3), seed=4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return E("bi,ij,jk->bk", x, self.p, self.q)

    script = scripted(einfx.optimize(Constant(), (A,), constants=("p", "q")))
    assert_same(script(A), Constant()(A))


def test_a_saved_script_runs_in_a_process_that_has_only_torch(tmp_path: Path) -> None:
    model = Model().eval()
    script = scripted(einfx.optimize(model, (A,)))
    torch.jit.save(script, tmp_path / "model.pt")
    torch.save((A, model(A).detach()), tmp_path / "expected.pt")
    program = f"""
import sys
sys.modules["einfx"] = None
import torch
x, expected = torch.load({str(tmp_path / "expected.pt")!r})
got = torch.jit.load({str(tmp_path / "model.pt")!r})(x)
assert torch.allclose(got, expected, rtol=1e-12, atol=1e-12), (got, expected)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def over(semiring: str, equation: str, *operands: torch.Tensor, **options: Any) -> torch.Tensor:
    result: torch.Tensor = einfx.einsum(equation, *operands, semiring=semiring, **options)
    return result


SEMIRING_PROGRAMS: dict[str, Callable[..., Any]] = {
    "log chain": lambda a, b: over("log", "ij,jk,kl->il", a + 2.5, b, a) - 1,
    "fused": lambda a, b: over("log", "ij,jk->ik", over("log", "ij,jk->ki", a, b).t(), a),
    "linear": lambda a, b: over("log", "bi,bj,oij->bo", a, b, torch.sigmoid(a)[None], linear_operands=(2,)),
    "viterbi": lambda a, b: over("viterbi", "i,ij,jk->k", a[0], a, b),
    "shortest paths": lambda a, b: over("min_plus", "ij,jk->ik", over("min_plus", "ij,jk->ik", a, b), b),
    "max_times": lambda a, b: over("max_times", "ij,jk->ik", 2 * a.abs(), b.abs() / 3),
    "bottleneck": lambda a, b: over("max_min", "ij,jk,kl->il", a, b, a),
    "boolean": lambda a, b: over("boolean", "ij,jk,kl->il", a > 0, b > 0, a > 0.5),
    "several": lambda a, b: (over("log", "ij->i", a), over("max_plus", "ij,ij->", a, b), E("ij,jk", a, b)),
    "diagonal": lambda a, b: over("log", "ii,ij->j", a, b) + over("max_plus", "ii->", a),
    "fused reduction": lambda a, b: over("log", "ak,ak,ak->a", a, b, a),
    "annihilating": lambda a, b: over("log", "ij,jk->ik", a, b, zero_annihilates=True),
}


@pytest.mark.parametrize("name", SEMIRING_PROGRAMS)
def test_a_program_over_semirings_scripts_and_gives_the_same(name: str) -> None:
    program = SEMIRING_PROGRAMS[name]
    optimised = einfx.optimize(program, (A, B))
    script = scripted(optimised)
    for n in (3, 1, 4):
        a, b = tensor((n, n), seed=1), tensor((n, n), seed=2)
        expected = program(a, b)
        assert_same(optimised(a, b), expected)
        assert_same(script(a, b), expected)
    if name == "boolean":
        return
    a, b = A.clone().requires_grad_(), A.clone().requires_grad_()
    for out in (script(a, B), program(b, B)):
        total: Any = sum(x.sum() for x in (out if isinstance(out, tuple) else (out,)))
        total.backward()
    assert_same(a.grad, b.grad)


@pytest.mark.parametrize("name", SEMIRING_PROGRAMS)
def test_a_traced_program_over_semirings_that_was_not_optimised_scripts_too(name: str) -> None:
    program = SEMIRING_PROGRAMS[name]
    script = torch.jit.script(einfx.jitable(fx.symbolic_trace(program)))
    assert_same(script(A, B), program(A, B))


@pytest.mark.parametrize("name", SEMIRING_PROGRAMS)
def test_torch_jit_trace_records_what_a_program_over_semirings_computes(name: str) -> None:
    program = SEMIRING_PROGRAMS[name]
    for model in (program, einfx.optimize(program, (A, B)), fx.symbolic_trace(program)):
        traced: Any = torch.jit.trace(model, (A, B), check_trace=False)
        a, b = tensor((3, 3), seed=5), tensor((3, 3), seed=6)
        assert_same(traced(a, b), program(a, b))


REFUSED: list[tuple[Callable[..., Any], str]] = [
    (lambda a, b: over("base_two", "ij,jk->ik", a, b), "none for 'base_two'"),
    (lambda a, b: over("log", "ij,jk->ik", a, b, memory_limit="1MiB"), "memory_limit"),
    (lambda a, b: over("log", "ij,jk->ik", a, b, block_size=2), "block_size"),
    (lambda a, b: over("log", "ij,jk->ik", a, b, grad_of_neg_inf=-1.0), "grad_of_neg_inf"),
    (lambda a, b: over("max_plus", "ij,jk->ik", a, b, return_argmax=True)[0], "argmax"),
    (lambda a, b: over("log", "...j,jk->...k", a, b), "ellipsis"),
]


@pytest.mark.parametrize(("program", "reason"), REFUSED)
def test_what_torchscript_has_no_function_for_is_refused_with_the_reason(
    program: Callable[..., Any], reason: str
) -> None:
    assert OWN[0].name == "base_two"
    with pytest.raises(einfx.EinfxError, match=reason):
        einfx.jitable(fx.symbolic_trace(program))


class HiddenMarkovModel(nn.Module):
    """The forward algorithm, its most likely path's score, and a readout, over three semirings."""

    def __init__(self) -> None:
        super().__init__()
        self.transitions = nn.Parameter(tensor((3, 3), seed=3))
        self.weights = nn.Parameter(tensor((2, 3), seed=4).abs())

    def forward(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        t = self.transitions - 1.0
        alpha = over("log", "bi,ij,bj,jk->bk", scores[0], t, scores[1], t) + scores[2]
        best = over("max_plus", "bi,ij,bj,jk,bk->b", scores[0], t, scores[1], t, scores[2])
        out = over("log", "bk,ok->bo", alpha, self.weights, linear_operands=(1,))
        return alpha, best, out


def test_a_saved_script_over_semirings_runs_in_a_process_that_has_only_torch(tmp_path: Path) -> None:
    model = HiddenMarkovModel()
    scores = tensor((3, 5, 3), seed=7) * 30
    script = scripted(einfx.optimize(model, (scores,)))
    torch.jit.save(script, tmp_path / "model.pt")
    t, weights = (model.transitions - 1).detach(), model.weights.detach()
    paths = (scores[0][:, :, None] + t)[..., None] + scores[1][:, None, :, None] + t[None, None]
    alpha = torch.logsumexp(paths, (1, 2)) + scores[2]
    best = (paths + scores[2][:, None, None]).amax((1, 2, 3))
    out = torch.logsumexp(alpha[:, None] + weights.log(), 2)
    torch.save((scores, (alpha, best, out)), tmp_path / "expected.pt")
    program = f"""
import sys
sys.modules["einfx"] = None
import torch
x, expected = torch.load({str(tmp_path / "expected.pt")!r})
model = torch.jit.load({str(tmp_path / "model.pt")!r})
for got, wanted in zip(model(x), expected):
    assert torch.allclose(got, wanted, rtol=1e-12, atol=1e-12), (got, wanted)
sum(y.sum() for y in model(x)).backward()
assert all(p.grad.isfinite().all() for p in model.parameters())
assert not any(name.split(".")[0] == "einfx" and module for name, module in sys.modules.items())
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_a_chain_over_log_is_split_along_its_path_for_torchscript_alone() -> None:
    def program(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = einfx.einsum("ij,jk,kl->il", a, b, c, semiring="log")
        return result

    operands = torch.randn(200, 100), torch.randn(100, 100), torch.randn(100, 2)
    optimised = einfx.optimize(program, operands)
    assert optimised.code.count("einsum(") == 1
    scriptable = einfx.jitable(copy.deepcopy(optimised))
    assert scriptable.code.count("'ab,bc->ac'") == 2
    wanted = program(*[x.double() for x in operands])
    torch.testing.assert_close(torch.jit.script(scriptable)(*operands).double(), wanted, rtol=1e-5, atol=1e-5)
