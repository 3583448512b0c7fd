"""Elementwise operations take the place of an operand where nobody sees that operand any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional

import einfx
from einfx.errors import MemoryLimitError
from einfx.graph_memory.liveness import liveness
from einfx.graph_memory.overwriting import Overwriting, overwriting
from tests.measuring import allocated_bytes
from tests.program import tensor

E = torch.einsum
X, Y, ROW = tensor((30, 40)), tensor((30, 40), seed=1), tensor((40,), seed=2)
WHOLE = X.numel() * X.element_size()

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": lambda x: x.exp(),
    "torch.exp": torch.exp,
    "relu": functional.relu,
    "x.relu": lambda x: x.relu(),
    "negated": lambda x: -x,
    "sum": lambda x: x + Y,
    "sum, second": lambda x: Y + x,
    "sum with a row": lambda x: x + ROW,
    "difference": lambda x: torch.sub(Y, x, alpha=2),
    "number minus": lambda x: 1 - x,
    "number over": lambda x: 2 / x,
    "over number": lambda x: x / 3,
    "over row": lambda x: ROW.div(x),
    "twice": lambda x: x * x,
    "power": lambda x: x**2,
    "power of a number": lambda x: 2**x,
    "clamped": lambda x: x.clamp(-1, max=1),
    "clamped from above": lambda x: torch.clamp(x, max=0.5),
    "addcmul": lambda x: torch.addcmul(x, Y, ROW, value=2),
    "where": lambda x: torch.where(X > 0, x, Y),
    "masked": lambda x: x.masked_fill(X > 0, -1.0),
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "leaky relu": lambda x: functional.leaky_relu(x, 0.1),
    "softmax": lambda x: functional.softmax(x, dim=-1),
    "x.softmax": lambda x: x.softmax(0),
    "log softmax": lambda x: torch.log_softmax(x, 1),
    "layer norm": lambda x: functional.layer_norm(x, (40,), ROW, bias=ROW, eps=1e-3),
    "module": nn.GELU(),
    "softmax module": nn.Softmax(1),
    "product": lambda x: E("ij,ij->ij", x, Y),
    "product with a row": lambda x: E("j,ij->ij", ROW, x),
    "sigmoid module": nn.Sigmoid(),
    "layer norm module": nn.LayerNorm(40, dtype=torch.float64),
}


def _made(program: Any, *inputs: Tensor, limit: int = 0) -> tuple[fx.GraphModule, Overwriting]:
    traced = program if isinstance(program, fx.GraphModule) else fx.symbolic_trace(program)
    made = overwriting(traced, liveness(traced, inputs), limit)
    return fx.GraphModule(traced, made.graph), made


def _declined(program: Any, *inputs: Tensor) -> str:
    module, made = _made(program, *inputs)
    assert not made.written
    with torch.no_grad():
        torch.testing.assert_close(module(*inputs), program(*inputs))
    return "; ".join(made.declined.values())


class _After(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x.sin())


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_the_place_of_its_operand_and_gives_the_same_numbers(name: str) -> None:
    model = _After(OPERATIONS[name])
    module, made = _made(model, X)
    assert [operand for _, operand in made.written] == ["sin"]
    kept = X.clone()
    with torch.no_grad():
        expected = model(X)
        torch.testing.assert_close(module(X), expected, rtol=1e-15, atol=2e-16)
        assert module(X).stride() == expected.stride()
        # The operand and its result are one tensor; parts and masks are much smaller.
        assert allocated_bytes(module, X) <= WHOLE * 1.2 + 1000
    torch.testing.assert_close(X, kept, rtol=0, atol=0)


def test_what_takes_little_stays_as_it_is() -> None:
    assert not _made(lambda x: x.sin().exp(), X, limit=2 * WHOLE)[1].written


def test_an_operand_of_the_caller_stays() -> None:
    assert "may be the caller's" in _declined(lambda x: x.exp(), X)
    assert "may be the caller's" in _declined(lambda x: x.view(-1).exp(), X)
    assert "may be the caller's" in _declined(lambda x: E("ij->ji", x).exp(), X)


def test_a_parameter_stays() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(30, 40))
            self.register_buffer("table", torch.ones(30, 40))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.weight.exp() + x[0, 0], self.get_buffer("table").relu()

    model = Model()
    module, made = _made(model, X)
    assert [name for name, _ in made.written] == ["add"]
    module(X)
    assert model.weight.unique().tolist() == [1]
    assert model.get_buffer("table").unique().tolist() == [1]


def _with_row(x: Tensor) -> Tensor:
    row = x.view(-1)[:10]
    return x.exp() + row.sum()


@pytest.mark.parametrize(
    "program",
    [
        lambda x: (lambda y: y.exp() * y.sum())(x.sin()),
        lambda x: (lambda y: (y.exp(), y))(x.sin()),
        lambda x: (lambda y: (y[0], y.exp()))(x.sin()),
        lambda x: (lambda y: (y.t(), y.exp()))(x.sin()),
        lambda x: _with_row(x.sin()),
    ],
)
def test_an_operand_that_is_seen_afterwards_through_a_view_too_stays(program: Any) -> None:
    module, made = _made(program, X)
    assert "sin" not in [operand for _, operand in made.written]
    assert "is read afterwards" in "; ".join(made.declined.values())
    torch.testing.assert_close(module(X), program(X), rtol=0, atol=0)


def test_a_result_of_another_shape_dtype_or_layout_stays() -> None:
    other = "has another shape, layout or dtype"
    assert other in _declined(lambda x: x.sum(0) + x, X)
    assert other in _declined(lambda x: x.float() + x, X)
    assert other in _declined(lambda x: x + x.t().contiguous().t(), X)
    assert "larger" in _declined(lambda x: x.repeat(2, 1)[:30].exp(), X)
    assert other in _declined(lambda x: x.sum(0, keepdim=True).expand(30, 40).exp(), X)
    assert "whole numbers" in _declined(lambda x: x.round().int() * 2, X)


def test_an_operand_that_overlaps_another_one_stays() -> None:
    assert "may share memory" in _declined(lambda x: (lambda y: y + y.t())(x.sin()), tensor((40, 40)))
    assert "may share memory" in _declined(lambda x: (lambda y: y * y[:1])(x.sin()), X)


def test_an_operand_that_something_unknown_has_seen_stays() -> None:
    kept: list[Tensor] = []

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, Seen) or super().is_leaf_module(m, module_qualified_name)

    class Seen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(x, torch._subclasses.FakeTensor):
                kept.append(x)
            return x.sum()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen = Seen()

        def forward(self, x: Tensor) -> Tensor:
            y = x.sin()
            total = self.seen(y)
            return y.exp() * 0 + total * 0

    model = Model()
    traced = fx.GraphModule(model, Tracer().trace(model))
    _, made = _made(traced, X)
    assert ("exp", "sin") not in made.written
    assert "may be kept by seen" in made.declined["exp"]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.data())
def test_random_programs_compute_the_same_written_over_their_operands(data: st.DataObject) -> None:
    unary: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.sin(),
        lambda x: x.t(),
        lambda x: x.reshape(-1).view(5, 5),
        lambda x: x.relu(),
        lambda x: x.softmax(0),
        lambda x: x[:1],
        lambda x: x.contiguous(),
        lambda x: E("ij->ji", x),
        lambda x: E("ij,jk->ik", x, Y[:5, :5]),
    ]
    binary: list[Any] = [torch.add, torch.sub, torch.mul, lambda a, b: E("ij,ij->ij", a, b), torch.maximum]
    steps = [
        (data.draw(st.integers(0, 13)), data.draw(st.integers(0, i)), data.draw(st.integers(0, i)))
        for i in range(data.draw(st.integers(2, 9)))
    ]
    shown = data.draw(st.sets(st.integers(0, len(steps)), min_size=1))

    def program(x: Tensor) -> list[Tensor]:
        values = [x]
        for kind, first, second in steps:
            made = unary[kind](values[first]) if kind < 9 else binary[kind - 9](values[first], values[second])
            values.append(made.expand(5, 5))
        return [values[i] for i in shown]

    x = tensor((5, 5))
    kept = x.clone()
    traced = fx.symbolic_trace(program)
    module, _ = _made(traced, x)
    torch.testing.assert_close(module(x), traced(x), rtol=0, atol=0)
    torch.testing.assert_close(x, kept, rtol=0, atol=0)


def _chain(x: Tensor) -> Tensor:
    return functional.gelu(E("ij,kj->ik", x, x) / 2).exp()


def _limited(size: int = 60, model: Any = _chain) -> tuple[Any, Tensor, int]:
    x = tensor((size, size))
    limit = int(x.numel() * x.element_size() * 1.3)
    return einfx.optimize(model, (x,), memory_limit=limit), x, limit


def test_a_model_stays_within_a_limit_that_leaves_no_room_for_operand_and_result() -> None:
    limited, x, limit = _limited()
    torch.testing.assert_close(limited(x), _chain(x), rtol=1e-12, atol=1e-12)
    assert allocated_bytes(limited, x) <= limit
    assert ("exp", "gelu") in limited.report.memory.written_over
    assert "written in place: " in str(limited.report)


def test_the_graph_itself_never_writes_and_trains() -> None:
    def program(x: Tensor) -> Tensor:
        return torch.softmax(x.sin().exp() / 2, -1).relu()

    limited, x, limit = _limited(model=program)
    assert allocated_bytes(limited, x) <= limit
    assert len(limited.report.memory.written_over) == 4
    assert "in_place" not in limited.code
    wanted = x.clone().requires_grad_()
    program(wanted).square().sum().backward()
    for call in (limited, limited.forward):
        found = x.clone().requires_grad_()
        call(found).square().sum().backward()
        torch.testing.assert_close(found.grad, wanted.grad)
    torch.testing.assert_close(torch.func.jacrev(limited)(x[:2]), torch.func.jacrev(program)(x[:2]))


def test_hooks_see_nothing_overwritten() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(60, 60, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).exp()

    limited, x, _ = _limited(model=Model())
    with torch.no_grad():
        limited(x)
        seen: list[Tensor] = []
        handle = limited.inner.register_forward_hook(lambda module, inputs, result: seen.append(result))
        limited(x)
        torch.testing.assert_close(seen[0], functional.linear(x, *limited.inner.parameters()))
        handle.remove()
        torch.testing.assert_close(limited(x), limited.forward(x))


def test_transforms_run_the_graph_itself() -> None:
    limited, x, _ = _limited()
    for rows in (x, x[:50]):
        batch = torch.stack([rows, rows + 1])
        torch.testing.assert_close(torch.vmap(limited)(batch), torch.vmap(_chain)(batch))
        torch.testing.assert_close(
            torch.func.jvp(limited, (rows,), (rows,)), torch.func.jvp(_chain, (rows,), (rows,))
        )


def test_subclasses_of_tensors_see_nothing_overwritten() -> None:
    class Noted(Tensor):
        names: list[str] = []  # noqa: RUF012

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            cls.names.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, types, args, kwargs)

    limited, x, _ = _limited(model=lambda x: x.sin().exp())
    with pytest.raises(MemoryLimitError, match="needs 57600 bytes"):
        limited(x.as_subclass(Noted))
    small = x[:20]
    torch.testing.assert_close(limited(small.as_subclass(Noted)).as_subclass(Tensor), small.sin().exp())


def test_smaller_inputs_that_broadcast_get_a_program_of_their_own() -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        return x.exp() + y

    x, y = tensor((50, 40)), tensor((50, 40), seed=1)
    limited = einfx.optimize(program, (x, y), memory_limit=20_000)
    for rows in (50, 20, 1):
        torch.testing.assert_close(limited(x[:rows], y), program(x[:rows], y)) if rows in (50, 1) else None
        torch.testing.assert_close(limited(x[:rows], y[:rows]), program(x[:rows], y[:rows]))
