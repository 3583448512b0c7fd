"""``einfx.einsum`` over semirings: everything that torch.einsum accepts, by brute force."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import einfx
from einfx.errors import MemoryLimitError, OperandError, UsageError
from einfx.semiring import Semiring
from tests.semiring_oracle import LAWS, brute_force, brute_force_argmax

EVERY = sorted(LAWS)
SELECTING = ("max_plus", "min_plus", "max_times", "max_min")
EQUATIONS = (
    "ij,jk->ik",
    "ij,jk",
    "bij,bjk->bki",
    "...ij,...jk->...ik",
    "ii->i",
    "ii,ij->j",
    "iij,jk->k",
    "ij->",
    "ij->ji",
    "i,j->ij",
    "i,i->",
    "ij,ij->i",
    "ak,ak,ak->a",
    "ab,bc,cd,de->ae",
    "ij,jk,ki->",
    "ijk,jl,kl->il",
    "ij,kl->i",
    "zabc,znwb,znwc->zna",
    ",ij->j",
    "ij,j,i,->",
)


def numbers(semiring: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random elements of a semiring, with equal ones among them."""
    generator = torch.Generator().manual_seed(seed)
    if semiring == "boolean":
        return torch.rand(shape, generator=generator) < 0.3
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64).mul(4).round().div(4)
    return (drawn.abs() if semiring == "max_times" else drawn).to(dtype)


def operands_for(text: str, semiring: str, sizes: dict[str, int], seed: int = 0) -> list[Tensor]:
    """An operand for each part of an equation's left side; an ellipsis is two dimensions."""
    parts = text.partition("->")[0].replace("...", "YZ").split(",")
    return [numbers(semiring, tuple(sizes.get(x, 3) for x in part), seed + i) for i, part in enumerate(parts)]


def agree(got: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.to(wanted.dtype), wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


class TestValues:
    @pytest.mark.parametrize("semiring", EVERY)
    @pytest.mark.parametrize("text", EQUATIONS)
    def test_every_equation_over_every_semiring(self, text: str, semiring: str) -> None:
        operands = operands_for(text, semiring, {"j": 4, "k": 5, "b": 2})
        got = einfx.einsum(text, *operands, semiring=semiring)
        agree(got, brute_force(text, operands, semiring))
        assert got.is_contiguous() or semiring == "real"

    @pytest.mark.parametrize("semiring", EVERY)
    def test_matrices_large_enough_for_every_kernel(self, semiring: str) -> None:
        for text in ("ij,jk->ik", "bij,bkj->bik", "ij,jk,kl->il"):
            operands = operands_for(text, semiring, {"i": 40, "j": 50, "k": 45, "l": 3})
            agree(einfx.einsum(text, *operands, semiring=semiring), brute_force(text, operands, semiring))

    @pytest.mark.parametrize("semiring", EVERY)
    @pytest.mark.parametrize(
        "shapes", [((1, 4), (4, 5)), ((3, 1), (4, 5)), ((3, 4), (1, 5)), ((1, 1), (4, 5))]
    )
    def test_dimensions_of_size_one_broadcast(self, semiring: str, shapes: Any) -> None:
        operands = [numbers(semiring, shape, i) for i, shape in enumerate(shapes)]
        agree(
            einfx.einsum("ij,jk->ik", *operands, semiring=semiring),
            brute_force("ij,jk->ik", operands, semiring),
        )

    @pytest.mark.parametrize("semiring", EVERY)
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,jk,kl->il", "ij->i", "ij,ij->j"])
    def test_a_sum_of_nothing_is_the_identity_of_addition(self, semiring: str, text: str) -> None:
        operands = operands_for(text, semiring, {"j": 0})
        agree(einfx.einsum(text, *operands, semiring=semiring), brute_force(text, operands, semiring))
        operands = operands_for(text, semiring, {"i": 0})
        agree(einfx.einsum(text, *operands, semiring=semiring), brute_force(text, operands, semiring))

    @pytest.mark.parametrize("semiring", EVERY)
    def test_views_of_any_strides_and_expanded_operands(self, semiring: str) -> None:
        a = numbers(semiring, (6, 5), 0).t()[::2]
        b = numbers(semiring, (6, 1), 1).expand(6, 7)
        agree(einfx.einsum("ij,jk->ik", a, b, semiring=semiring), brute_force("ij,jk->ik", [a, b], semiring))

    def test_the_interleaved_form_and_a_list_of_operands(self) -> None:
        a, b = operands_for("ij,jk", "log", {})
        wanted = brute_force("ij,jk->ki", [a, b], "log")
        agree(einfx.einsum(a, [0, 1], b, [1, 2], [2, 0], semiring="log"), wanted)
        agree(einfx.einsum("ij,jk->ki", [a, b], semiring="log"), wanted)

    @pytest.mark.parametrize(
        "optimize", ["auto", "greedy", "optimal", [(0, 1), (0, 1)], [(0, 2), (0, 1)], [(0, 1, 2)]]
    )
    def test_every_order_gives_the_same(self, optimize: Any) -> None:
        operands = operands_for("ij,jk,kl->il", "log", {"j": 7})
        agree(
            einfx.einsum("ij,jk,kl->il", *operands, semiring="log", optimize=optimize),
            brute_force("ij,jk,kl->il", operands, "log"),
        )

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_random_equations(self, data: st.DataObject) -> None:
        semiring = data.draw(st.sampled_from(EVERY))
        count = data.draw(st.integers(1, 4))
        parts = [data.draw(st.text("abcd", max_size=3)) for _ in range(count)]
        present = sorted(set("".join(parts)))
        output = "".join(data.draw(st.permutations([x for x in present if data.draw(st.booleans())])))
        text = ",".join(parts) + "->" + output
        sizes = {x: data.draw(st.integers(0, 4)) for x in present}
        operands = []
        for i, part in enumerate(parts):
            narrow = {x: data.draw(st.booleans()) and part.count(x) == 1 and sizes[x] > 0 for x in set(part)}
            shape = tuple(1 if narrow[x] else sizes[x] for x in part)
            operands.append(numbers(semiring, shape, i))
        agree(einfx.einsum(text, *operands, semiring=semiring), brute_force(text, operands, semiring))


class TestDtypes:
    @pytest.mark.parametrize("semiring", ["real", "log", *SELECTING])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_floating_dtypes_keep_theirs_and_halves_sum_in_float32(
        self, semiring: str, dtype: torch.dtype
    ) -> None:
        operands = [numbers(semiring, (9, 33), 0, dtype), numbers(semiring, (33, 8), 1, dtype)]
        got = einfx.einsum("ij,jk->ik", *operands, semiring=semiring)
        assert got.dtype == dtype
        agree(got.double(), brute_force("ij,jk->ik", operands, semiring), 4 * torch.finfo(dtype).eps)

    @pytest.mark.parametrize("semiring", SELECTING)
    def test_integers_where_they_make_sense(self, semiring: str) -> None:
        operands = [numbers(semiring, (4, 5), 0).mul(4).long(), numbers(semiring, (5, 6), 1).mul(4).long()]
        got = einfx.einsum("ij,jk->ik", *operands, semiring=semiring)
        assert got.dtype == torch.int64
        assert torch.equal(got.double(), brute_force("ij,jk->ik", operands, semiring))

    @pytest.mark.parametrize("semiring", ["log", "max_plus", "real"])
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,jk,kl->il", "ij,ij->i"])
    def test_autocast_leaves_them_their_precision(self, semiring: str, text: str) -> None:
        operands = operands_for(text, semiring, {"i": 60, "j": 70, "k": 80})
        operands = [x.float().requires_grad_() for x in operands]
        words: dict[str, Any] = {"semiring": semiring, "memory_limit": "1GiB" if semiring == "real" else None}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = einfx.einsum(text, *operands, **words)
        assert got.dtype == torch.float32
        wanted = einfx.einsum(text, *operands, **words)
        agree(got.detach(), wanted.detach(), 1e-5)
        for one, other in zip(
            torch.autograd.grad(got.sum(), operands), torch.autograd.grad(wanted.sum(), operands), strict=True
        ):
            agree(one, other, 1e-4)

    def test_mixed_dtypes_promote_as_torch_promotes(self) -> None:
        a, b = torch.randn(3, 4), torch.randn(4, 5, dtype=torch.float64)
        assert einfx.einsum("ij,jk->ik", a, b, semiring="log").dtype == torch.float64
        scalar = torch.tensor(2.0, dtype=torch.float64)
        assert einfx.einsum("ij,->i", a, scalar, semiring="log").dtype == (a + scalar).dtype == torch.float32


class TestInfinities:
    @pytest.mark.parametrize("semiring", ["log", "max_plus", "min_plus"])
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,ij->i", "i,j->ij"])
    def test_minus_and_plus_infinity_make_nan_as_in_floating_point(self, semiring: str, text: str) -> None:
        generator = torch.Generator().manual_seed(0)
        special = torch.tensor([0.0, 1.0, math.inf, -math.inf, math.nan, -700.0, 3000.0], dtype=torch.float64)
        operands = [
            special[torch.randint(0, 7, (4,) * len(part), generator=generator)]
            for part in text.partition("->")[0].split(",")
        ]
        agree(einfx.einsum(text, *operands, semiring=semiring), brute_force(text, operands, semiring))

    @pytest.mark.parametrize("semiring", ["real", "log", "max_plus", "min_plus", "max_times"])
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,ij->i", "i,j->ij", "ij,jk,kl->il"])
    def test_zero_annihilates_where_asked(self, semiring: str, text: str) -> None:
        zero = float(LAWS[semiring][2])
        special = torch.tensor([0.5, 1.0, zero, zero, math.inf if zero == 0 else -zero, math.nan]).double()
        generator = torch.Generator().manual_seed(1)
        operands = [
            special[torch.randint(0, 6, (4,) * len(part), generator=generator)]
            for part in text.partition("->")[0].split(",")
        ]
        # What is zero takes part in no sum, so it may be left out of it.
        equation = einfx.Equation.parse(text)
        got = einfx.einsum(text, *operands, semiring=semiring, zero_annihilates=True)
        finite = [torch.where(x == zero, torch.zeros_like(x), torch.ones_like(x)) for x in operands]
        possible = torch.einsum(str(equation), *finite) > 0
        assert bool((got[~possible] == zero).all())


class TestMagnitudes:
    @pytest.mark.parametrize(
        "text", ["ij->", "ij,ij->i", "ij,jk->ik", "ij,jk,kl->il", "i,ij->", "ak,ak,ak->a"]
    )
    @pytest.mark.parametrize("offset", [-3e4, -800.0, 90.0, 3e4])
    @pytest.mark.parametrize("spread", [1.0, 100.0, 1e4])
    @pytest.mark.parametrize("size", [3, 40])
    def test_log_is_exact_far_from_zero(self, text: str, offset: float, spread: float, size: int) -> None:
        operands = operands_for(text, "log", dict.fromkeys("ijlak", size))
        operands = [x * spread + offset for x in operands]
        wanted = brute_force(text, operands, "log")
        agree(einfx.einsum(text, *operands, semiring="log"), wanted)
        limited = einfx.einsum(text, *operands, semiring="log", memory_limit="1MiB", block_size=7)
        agree(limited, wanted)
        single = [x.float() for x in operands]
        wanted = brute_force(text, single, "log")
        got = einfx.einsum(text, *single, semiring="log").double()
        scale = sum(float(x.abs().max()) for x in single)
        assert float((got - wanted).abs().max()) <= 8 * torch.finfo(torch.float32).eps * scale


class TestArgmax:
    @pytest.mark.parametrize("semiring", SELECTING)
    @pytest.mark.parametrize("text", [x for x in EQUATIONS if x not in ("ii->i", "ij->ji", "i,j->ij")])
    def test_it_is_where_the_value_comes_from(self, semiring: str, text: str) -> None:
        operands = operands_for(text, semiring, {"j": 4, "k": 5})
        values, indices = einfx.einsum(text, *operands, semiring=semiring, return_argmax=True)
        agree(values, brute_force(text, operands, semiring))
        summed = einfx.Equation.parse(text, [x.dim() for x in operands]).summed
        assert indices.shape == (*values.shape, len(summed))
        assert indices.dtype == torch.int64
        agree(brute_force_argmax(text, operands, indices, semiring), values)

    def test_indices_stand_in_the_order_of_first_appearance(self) -> None:
        a = torch.zeros(2, 3, 4)
        a[1, 2, 3] = 5.0
        assert einfx.einsum("bca->", a, semiring="max_plus", return_argmax=True)[1].tolist() == [1, 2, 3]

    def test_without_a_sum_there_are_no_indices(self) -> None:
        a = torch.ones(3)
        _, indices = einfx.einsum("i,j->ij", a, a, semiring="max_plus", return_argmax=True)
        assert indices.shape == (3, 3, 0)

    def test_large_chains_are_followed_step_by_step(self) -> None:
        operands = operands_for("ab,bc,cd,de->ae", "max_plus", dict.fromkeys("abcde", 20))
        values, indices = einfx.einsum("ab,bc,cd,de->ae", *operands, semiring="max_plus", return_argmax=True)
        a, e = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
        b, c, d = indices.unbind(-1)
        score = operands[0][a, b] + operands[1][b, c] + operands[2][c, d] + operands[3][d, e]
        agree(score, values)


TWICE = ["ij,jk->ik", "ij,ij->i", "ij->j", "ij,jk,kl->il", "ak,ak,ak->a", "ii,ij->j", "i,j->ij"]


class TestDerivatives:
    @pytest.mark.parametrize("semiring", ["real", "log"])
    @pytest.mark.parametrize(
        "text", ["ij,jk->ik", "ij,ij->i", "ij->j", "ij,jk,kl->il", "ak,ak,ak->a", "ii,ij->j"]
    )
    def test_first_and_second(self, semiring: str, text: str) -> None:
        operands = [x.requires_grad_() for x in operands_for(text, semiring, {})]

        def function(*tensors: Tensor) -> Tensor:
            return einfx.einsum(text, *tensors, semiring=semiring)

        assert torch.autograd.gradcheck(function, operands)
        assert torch.autograd.gradgradcheck(function, operands)

    @pytest.mark.parametrize("semiring", SELECTING)
    @pytest.mark.parametrize(
        "text", ["ij,jk->ik", "ij,ij->i", "ij->j", "ij,jk,kl->il", "ak,ak,ak->a", "i,j->ij"]
    )
    def test_selecting_semirings_route_the_gradient_to_one_term(self, semiring: str, text: str) -> None:
        operands = [x.requires_grad_() for x in operands_for(text, semiring, {})]
        values = einfx.einsum(text, *operands, semiring=semiring)
        grads = torch.autograd.grad(values.sum(), operands)
        if semiring in ("max_plus", "min_plus"):
            for grad in grads:  # each sum gives 1 to one element of each operand, ties or not
                assert float(grad.sum()) == values.numel()
                assert torch.equal(grad, grad.round())
        assert all(bool(grad.isfinite().all()) for grad in grads)

    def test_the_gradient_of_a_max_plus_chain_is_the_best_path(self) -> None:
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(5, generator=generator, dtype=torch.float64)
        steps = torch.randn(7, 5, 5, generator=generator, dtype=torch.float64).requires_grad_()
        best = einfx.einsum("a,ab,bc,cd,de,ef,fg,gh->", start, *steps, semiring="max_plus")
        (grad,) = torch.autograd.grad(best, steps)
        assert best.item() == pytest.approx(((grad * steps).sum() + start[grad[0].sum(1).argmax()]).item())
        assert bool((grad.sum((1, 2)) == 1).all())
        assert torch.equal(grad[:-1].sum(1), grad[1:].sum(2))

    @pytest.mark.parametrize("semiring", ["real", "log", "max_plus"])
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,ij->i", "ij,jk,kl->il"])
    def test_func_transforms(self, semiring: str, text: str) -> None:
        operands = operands_for(text, semiring, {})

        def total(*tensors: Tensor) -> Tensor:
            return einfx.einsum(text, *tensors, semiring=semiring).square().sum()

        leaves = [x.clone().requires_grad_() for x in operands]
        wanted = torch.autograd.grad(total(*leaves), leaves)
        everyone = tuple(range(len(operands)))
        for got, want in zip(torch.func.grad(total, everyone)(*operands), wanted, strict=True):
            agree(got, want)
        tangents = [torch.ones_like(x) for x in operands]
        directional = torch.func.jvp(total, tuple(operands), tuple(tangents))[1]
        agree(directional, torch.stack([x.sum() for x in wanted]).sum(), 1e-10)
        batch = torch.stack([operands[0], operands[0] + 1])
        mapped = torch.func.vmap(lambda x: einfx.einsum(text, x, *operands[1:], semiring=semiring))(batch)
        for x, got in zip(batch, mapped, strict=True):
            agree(got, einfx.einsum(text, x, *operands[1:], semiring=semiring))
        per_sample = torch.func.vmap(torch.func.grad(lambda x: total(x, *operands[1:])))(batch)
        agree(per_sample[0], wanted[0], 1e-10)

    @pytest.mark.parametrize("semiring", ["log", "max_plus"])
    def test_forward_derivatives_that_compiled_code_would_lose_are_refused(self, semiring: str) -> None:
        operands = operands_for("ij,jk->ik", semiring, {"i": 6})

        def derivative(x: Tensor, y: Tensor) -> Tensor:
            function = lambda first: einfx.einsum("ij,jk->ik", first, y, semiring=semiring)  # noqa: E731
            result: Tensor = torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]
            return result

        assert (derivative(*operands) != 0).all()
        torch.compiler.reset()
        with pytest.raises(Exception, match=r"forward-mode derivatives over .* can't be compiled"):
            torch.compile(derivative, fullgraph=True, backend="aot_eager")(*operands)

    @pytest.mark.parametrize("semiring", ["real", "log", "max_plus", "max_times", "min_plus", "max_min"])
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,jk,kl->il", "ij,ij->i"])
    def test_it_compiles_whole_with_and_without_gradients(self, semiring: str, text: str) -> None:
        operands = operands_for(text, semiring, {"i": 6, "j": 7})

        def function(*tensors: Tensor) -> Tensor:
            return einfx.einsum(text, *tensors, semiring=semiring).mul(2)

        torch.compiler.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        agree(compiled(*operands), function(*operands))
        leaves = [x.clone().requires_grad_() for x in operands]
        got = torch.autograd.grad(compiled(*leaves).sum(), leaves)
        wanted = torch.autograd.grad(function(*leaves).sum(), leaves)
        for one, other in zip(got, wanted, strict=True):
            agree(one, other)

    @pytest.mark.parametrize("semiring", ["log", "max_plus", "max_times", "boolean"])
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,jk,kl->il", "ij,ij->i"])
    def test_make_fx_records_what_holds_for_other_numbers(self, semiring: str, text: str) -> None:
        operands = operands_for(text, semiring, {"i": 6, "j": 7})

        def function(*tensors: Tensor) -> Tensor:
            return einfx.einsum(text, *tensors, semiring=semiring)

        others = operands_for(text, semiring, {"i": 6, "j": 7}, seed=5)
        for mode in ("real", "fake", "symbolic"):
            recorded = make_fx(function, tracing_mode=mode)(*operands)
            agree(recorded(*others), function(*others))

    @pytest.mark.parametrize("size", [4, 12, 40])
    @pytest.mark.parametrize("optimize", [[(0, 1), (0, 1)], [(1, 2), (0, 1)], [(0, 1, 2)], "auto"])
    def test_absent_entries_have_no_part_in_gradients_along_any_path(self, size: int, optimize: Any) -> None:
        generator = torch.Generator().manual_seed(size)
        absent = torch.rand(3, size, size, generator=generator) < 0.6
        scores = torch.randn(3, size, size, generator=generator, dtype=torch.float64)
        operands = scores.masked_fill(absent, -math.inf).requires_grad_()
        out = einfx.einsum("ij,jk,kl->il", *operands, semiring="log", optimize=optimize)
        weights = scores.masked_fill(absent, 0).exp().masked_fill(absent, 0).requires_grad_()
        wanted = torch.einsum("ij,jk,kl->il", *weights)
        present = wanted > 0
        (grad,) = torch.autograd.grad(out[present].sum(), operands)
        (slope,) = torch.autograd.grad(wanted[present].log().sum(), weights)
        agree(grad, slope * weights.detach(), 1e-10)

    def test_the_gradient_of_minus_infinity_is_what_the_caller_says(self) -> None:
        x = torch.full((2, 3), -math.inf, dtype=torch.float64, requires_grad=True)
        y = torch.zeros(3, 4, dtype=torch.float64)
        for text, others in (("ij->i", ()), ("ij,jk->ik", (y,)), ("ij,ij->i", (torch.zeros_like(x),))):
            for value, share in ((0.0, 0.0), ("uniform", 1 / 3), (2.0, 2.0)):
                out = einfx.einsum(text, x, *others, semiring="log", grad_of_neg_inf=value)
                (grad,) = torch.autograd.grad(out.sum(), x)
                agree(grad, torch.full_like(grad, share * out.numel() / 2))
            out = einfx.einsum(text, x, *others, semiring="log")
            assert bool(torch.autograd.grad(out.sum(), x)[0].isnan().all())


class TestLinearOperands:
    @pytest.mark.parametrize("text", ["fbi,fbj,foij->fbo", "bi,ij->bj", "bi,i->b", "ij,ij->i"])
    def test_they_are_weights_instead_of_logarithms(self, text: str) -> None:
        *logs, weights = operands_for(text, "log", {})
        weights = weights.abs()
        last = len(logs)
        got = einfx.einsum(text, *logs, weights, semiring="log", linear_operands=(last,))
        agree(got, brute_force(text, [*logs, weights], "log", (last,)))

    def test_the_gradient_of_a_weight_of_zero_is_finite_and_right(self) -> None:
        scores = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        weights = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.5, 0.0]], dtype=torch.float64, requires_grad=True)
        out = einfx.einsum("bi,ij->bj", scores, weights, semiring="log", linear_operands=(1,))
        (grad,) = torch.autograd.grad(out.sum(), weights)
        agree(grad, (scores[:, :, None] - out.detach()[:, None]).exp().sum(0))


class TestLimits:
    @pytest.mark.parametrize("semiring", EVERY)
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,jk,kl->il", "ij,ij->i", "ij->"])
    @pytest.mark.parametrize(
        "limits", [{"block_size": 3}, {"memory_limit": "2MiB"}, {"memory_limit": 400_000}]
    )
    def test_they_change_no_number(self, semiring: str, text: str, limits: dict[str, Any]) -> None:
        operands = operands_for(text, semiring, {"i": 30, "j": 40, "k": 50, "l": 5})
        agree(
            einfx.einsum(text, *operands, semiring=semiring, **limits), brute_force(text, operands, semiring)
        )

    def test_gradients_are_those_without_a_limit(self) -> None:
        text = "ij,jk,kl->il"
        for semiring in ("real", "log", "max_plus"):
            operands = [x.requires_grad_() for x in operands_for(text, semiring, {"j": 40, "k": 50})]
            wanted = torch.autograd.grad(einfx.einsum(text, *operands, semiring=semiring).sum(), operands)
            limited = einfx.einsum(text, *operands, semiring=semiring, memory_limit="1MiB", block_size=7)
            for got, want in zip(torch.autograd.grad(limited.sum(), operands), wanted, strict=True):
                agree(got, want)

    @pytest.mark.parametrize("semiring", ["real", "log", "max_plus"])
    @pytest.mark.parametrize("text", ["ij,jk->ik", "ij,jk,kl->il", "ij,ij->i"])
    @pytest.mark.parametrize("limits", [{"block_size": 2}, {"memory_limit": "1MiB"}])
    def test_nothing_but_operands_and_result_is_saved(
        self, semiring: str, text: str, limits: dict[str, Any]
    ) -> None:
        operands = operands_for(text, semiring, dict.fromkeys("ijkl", 40))
        operands = [x.requires_grad_() for x in operands]
        saved: list[Tensor] = []

        def pack(x: Tensor) -> Tensor:
            saved.append(x)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = einfx.einsum(text, *operands, semiring=semiring, **limits)
        own = {x.untyped_storage().data_ptr() for x in (*operands, out)}
        beyond = [x for x in saved if x.untyped_storage().data_ptr() not in own]
        # Where an operand was selected from is a number for each element of the result.
        places = len(operands) * out.numel() if semiring == "max_plus" else 0
        assert sum(x.numel() for x in beyond) <= places
        assert all(bool(x.isfinite().all()) for x in torch.autograd.grad(out.sum(), operands))

    def test_limits_allow_second_derivatives(self) -> None:
        operands = [x.requires_grad_() for x in operands_for("ij,jk,kl->il", "log", {})]

        def function(*tensors: Tensor) -> Tensor:
            result: Tensor = einfx.einsum("ij,jk,kl->il", *tensors, semiring="log", block_size=2)
            return result

        assert torch.autograd.gradcheck(function, operands)
        assert torch.autograd.gradgradcheck(function, operands)

    def test_a_limit_below_the_result_is_refused_with_the_bytes_it_needs(self) -> None:
        a = torch.ones(1000, 1000)
        with pytest.raises(MemoryLimitError, match=r"memory_limit=1000000 .* it needs 4\d{6} bytes"):
            einfx.einsum("ij,jk->ik", a, a, semiring="log", memory_limit=10**6)


class TestOwnSemirings:
    def test_an_unregistered_one_is_served_by_the_generic_kernel(self) -> None:
        bottleneck = Semiring(
            "nobody else's", torch.maximum, torch.minimum, zero=-math.inf, one=math.inf, selective=True
        )
        for text in EQUATIONS:
            operands = operands_for(text, "max_min", {})
            got = einfx.einsum(text, *operands, semiring=bottleneck)
            agree(got, brute_force(text, operands, "max_min"))

    def test_its_matmul_is_used(self) -> None:
        calls = []

        def matmul(a: Tensor, b: Tensor) -> Tensor:
            calls.append(a.shape)
            return a @ b

        own = Semiring("own product", torch.add, torch.mul, zero=0, one=1, matmul=matmul)
        operands = operands_for("bij,bjk->bki", "real", {"i": 60, "j": 70, "k": 80})
        agree(einfx.einsum("bij,bjk->bki", *operands, semiring=own), torch.einsum("bij,bjk->bki", *operands))
        assert calls == [torch.Size([3, 60, 70])]

    def test_one_that_takes_the_name_of_another_is_refused(self) -> None:
        other = Semiring("log", torch.add, torch.mul, zero=0, one=1)
        with pytest.raises(UsageError, match="another semiring 'log' already"):
            einfx.einsum("i->", torch.ones(2), semiring=other)


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda a, b: ("ij,jk->ik", a), r"takes 2 operand\(s\), but 1"),
            (lambda a, b: ("ij,jk->ik", a, b, b), r"takes 2 operand\(s\), but 3"),
            (lambda a, b: ("ij,jk->ik", a, a), "label 'b' has size 2 in operand 1, but 3 before it"),
            (lambda a, b: ("ij,jk->il", a, b), "output label 'l' is in no operand"),
            (lambda a, b: ("ijk,jk->i", a, b), r"operand 0 has 2 dimension\(s\)"),
            (lambda a, b: ("ij,jk->ik", a, 3.0), "operand 1 is a float, not a torch.Tensor"),
        ],
    )
    def test_they_name_what_is_wrong(self, call: Callable[..., Any], message: str) -> None:
        a, b = torch.ones(2, 3), torch.ones(3, 4)
        with pytest.raises(einfx.EinfxError, match=message):
            einfx.einsum(*call(a, b), semiring="log")

    def test_options_that_the_semiring_has_no_use_for(self) -> None:
        a = torch.ones(3)
        with pytest.raises(UsageError, match="there's no semiring 'lgo'; registered are real, log"):
            einfx.einsum("i->", a, semiring="lgo")
        with pytest.raises(UsageError, match=r"linear_operands=\(0,\).*'max_plus'"):
            einfx.einsum("i->", a, semiring="max_plus", linear_operands=(0,))
        with pytest.raises(UsageError, match="sums over 'log' aren't one of their terms"):
            einfx.einsum("i->", a, semiring="log", return_argmax=True)
        with pytest.raises(UsageError, match="grad_of_neg_inf=0\\.0 is for the log semiring"):
            einfx.einsum("i->", a, semiring="real", grad_of_neg_inf=0.0)
        with pytest.raises(UsageError, match="block_size=0"):
            einfx.einsum("i->", a, semiring="log", block_size=0)
        with pytest.raises(UsageError, match="memory_limit='much'"):
            einfx.einsum("i->", a, semiring="log", memory_limit="much")
        with pytest.raises(OperandError, match="einsum 'i->': linear_operands names operand 4"):
            einfx.einsum("i->", a, semiring="log", linear_operands=(4,))
        with pytest.raises(UsageError, match="linear_operands=1: it is a sequence of positions"):
            einfx.einsum("i->", a, semiring="log", linear_operands=cast(Any, 1))
        with pytest.raises(UsageError, match="zero_annihilates='yes': it is True, False or None"):
            einfx.einsum("i->", a, semiring="log", zero_annihilates=cast(Any, "yes"))
        with pytest.raises(UsageError, match="did you mean 'max_plus'"):
            einfx.einsum("i->", a, semiring="max-plus")
        with pytest.raises(UsageError, match="its addition is 1; it is a function of two tensors"):
            einfx.Semiring("number", cast(Any, 1), torch.mul, zero=0, one=1)

    def test_operands_outside_of_the_semiring(self) -> None:
        with pytest.raises(
            OperandError, match="einsum 'i,i->': semiring 'log' has no torch\\.int64 numbers, which operand 1"
        ):
            einfx.einsum("i,i->", torch.ones(3), torch.ones(3, dtype=torch.int64), semiring="log")
        with pytest.raises(OperandError, match="non-negative"):
            einfx.einsum("i,i->", torch.ones(3), -torch.ones(3), semiring="max_times")
        with pytest.raises(OperandError, match="operand 0 is on cpu, but operand 1 on meta"):
            einfx.einsum("i,i->", torch.ones(3), torch.ones(3, device="meta"), semiring="log")


class TestTracing:
    def test_a_proxy_records_one_node_with_the_keywords_that_differ(self) -> None:
        def program(a: Tensor, b: Tensor) -> Tensor:
            return einfx.einsum("ij,jk->ik", a, b, semiring="viterbi", block_size=None)

        (node,) = [x for x in torch.fx.symbolic_trace(program).graph.nodes if x.op == "call_function"]
        assert node.target is einfx.einsum
        assert node.kwargs == {"semiring": "max_plus"}

    def test_an_unregistered_semiring_has_no_name_to_record(self) -> None:
        own = Semiring("nameless", torch.add, torch.mul, zero=0, one=1)
        with pytest.raises(UsageError, match="register it first"):
            torch.fx.symbolic_trace(lambda a: einfx.einsum("ij->i", a, semiring=own))


class TestExpressions:
    @pytest.mark.parametrize("semiring", EVERY)
    def test_constants_are_contracted_once(self, semiring: str) -> None:
        a, b, c = operands_for("ij,jk,kl->il", semiring, {"j": 7, "k": 5})
        expression = einfx.contract_expression(
            "ij,jk,kl->il", a, b, c.shape, constants=[0, 1], semiring=semiring
        )
        agree(expression(c), brute_force("ij,jk,kl->il", [a, b, c], semiring))

    def test_linear_operands_keep_their_place(self) -> None:
        a, b, w = operands_for("ij,jk,kl->il", "log", {})
        expression = einfx.contract_expression(
            "ij,jk,kl->il", a.shape, b, w.abs(), constants=[1, 2], semiring="log", linear_operands=(2,)
        )
        agree(expression(a), brute_force("ij,jk,kl->il", [a, b, w.abs()], "log", (2,)))

    def test_tensordot_takes_a_semiring(self) -> None:
        a, b = operands_for("ijk,jkl", "max_plus", {})
        agree(einfx.tensordot(a, b, semiring="max_plus"), brute_force("ijk,jkl->il", [a, b], "max_plus"))

    def test_contract_path_shows_the_kernels(self) -> None:
        text = str(einfx.contract_path("ij,jk,kl->il", (64, 64), (64, 64), (64, 64), semiring="log"))
        assert "over log" in text
        assert "matmul" in text
        text = str(einfx.contract_path("ak,ak,ak->a", *[(8, 10**6)] * 3, semiring="log"))
        assert "0, 1, 2" in text
        assert "blocked" in text


@pytest.mark.parametrize("semiring", ["real", "log", *SELECTING])
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ab->a", [(3, 0)]),
        ("a,a->", [(0,), (0,)]),
        ("ab,bc->ac", [(2, 0), (0, 3)]),
        ("ab,bc,cd->ad", [(2, 0), (0, 3), (3, 2)]),
    ],
)
def test_a_backward_pass_may_start_from_sums_without_terms(
    semiring: str, equation: str, shapes: list[tuple[int, ...]]
) -> None:
    operands = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    result = einfx.einsum(equation, *operands, semiring=semiring)
    assert torch.equal(result, brute_force(equation, operands, semiring))
    result.sum().backward()
    for operand in operands:
        assert torch.equal(cast(Tensor, operand.grad), torch.zeros_like(operand))


def test_the_error_of_a_limit_says_as_a_number_what_an_argmax_needs() -> None:
    x = torch.arange(12.0).view(3, 4)
    with pytest.raises(MemoryLimitError) as caught:
        einfx.einsum("ij->j", x, semiring="max_plus", memory_limit=0, return_argmax=True)
    enough = caught.value.needed_bytes
    assert enough is not None
    best, _ = einfx.einsum("ij->j", x, semiring="max_plus", memory_limit=enough, return_argmax=True)
    assert torch.equal(best, x.amax(0))
