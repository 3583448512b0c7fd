"""What lies elsewhere is loaded and stored in blocks, and the result is the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from einfx.equation import Equation
from einfx.options import REAL, Options
from einfx.slicing.running.memory import Demand, arena, demand
from einfx.slicing.running.run import run
from einfx.slicing.schedules.adjoint import adjoint
from einfx.slicing.schedules.loads import Remote, depths, place
from einfx.slicing.schedules.schedule import Schedule
from einfx.slicing.schedules.tree import ContractionTree, Cut, schedule
from tests.slicing.networks import network

SEMIRINGS = ("real", "log", "max_plus")
OURS: Any = run.__globals__["Transfers"]
"""What copies, by whatever name it was imported."""
MOVING: Any = run.__globals__["Moving"].__init__.__globals__


def _anywhere(pick: random.Random, made: Schedule) -> Schedule:
    """The schedule with some of its operands and outputs elsewhere, loaded and stored at some depth."""
    remote = Remote(
        tuple(pick.random() < 0.6 for _ in range(made.count)),
        tuple(pick.random() < 0.5 for _ in made.outputs),
        pick.random() < 0.5,
    )
    chosen = {value: pick.choice(others) for value, others in depths(made, remote).items()}
    return place(made, remote, chosen)


def _ran(
    made: Schedule, operands: Sequence[Tensor], options: Options = REAL
) -> tuple[tuple[Tensor, ...], Demand]:
    found = demand(made, operands[0].dtype, "cpu", options, [x.stride() for x in operands])
    return run(made, operands, found, options), found


@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize("seed", range(50))
def test_loads_and_stores_change_no_number(seed: int, name: str) -> None:
    _, tree, cuts, operands = network(seed)
    pick, options = random.Random(seed), Options.read(name)
    whole = schedule(tree, cuts)
    (expected,), _ = _ran(whole, operands, options)
    made = _anywhere(pick, whole)
    assert Schedule.from_text(made.to_text()) == made
    (result,), _ = _ran(made, operands, options)
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize("seed", range(50))
def test_gradients_are_loaded_and_stored_too(seed: int, name: str) -> None:
    _, tree, cuts, operands = network(seed)
    pick, options = random.Random(seed), Options.read(name)
    forward = schedule(tree, cuts)
    (result,), _ = _ran(forward, operands, options)
    gradient = torch.randn_like(result)
    real = name == "real"
    consumed = options.semiring.selective
    back = adjoint(forward, [True] * len(operands), needs_results=not real, consumed=consumed)
    given = [*operands, gradient.clone(), *([] if real else [result])]
    expected, _ = _ran(back, given, options)
    made = _anywhere(pick, back)
    given[len(operands)] = gradient
    found, _ = _ran(made, given, options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(0, 48, 4))
def test_buffers_take_what_was_predicted(seed: int) -> None:
    _, tree, cuts, operands = network(seed)
    made = _anywhere(random.Random(seed), schedule(tree, cuts))
    _, found = _ran(made, operands)
    most = max(moment.bytes for moment in found.moments)
    assert found.peak_bytes == most
    assert arena(found.intervals).bytes <= 2 * most + 64 * len(found.intervals)


class _Moody:
    """Copies some blocks at once, and others only when somebody waits for them or for a later one."""

    def __init__(self, device: torch.device) -> None:
        self.pick = random.Random(0)
        self.late: list[tuple[Tensor, Tensor, Any]] = []

    def __enter__(self) -> _Moody:
        return self

    def __exit__(self, *exception: object) -> None:
        assert not self.late or exception[0] is not None

    def mark(self) -> None:
        return None

    def copy(self, target: Tensor, source: Tensor, *, after: Any = None, add: Any = None) -> int:
        self.late.append((target, source, add))
        if self.pick.random() < 0.5:
            self.wait(0)
        return 0

    def stays(self, target: Tensor, source: Tensor) -> bool:
        return False

    def wait(self, transfer: int) -> None:
        for target, source, add in self.late:
            target.copy_(source if add is None else add(target, source))
        self.late.clear()


@pytest.mark.parametrize("seed", range(50))
def test_no_buffer_is_written_while_it_is_in_use(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tree, cuts, operands = network(seed)
    forward = schedule(tree, cuts)
    (expected,), _ = _ran(forward, operands)
    gradient = torch.randn_like(expected)
    back = adjoint(forward, [True] * len(operands))
    gradients, _ = _ran(back, [*operands, gradient])
    monkeypatch.setitem(run.__globals__, "Transfers", _Moody)
    pick = random.Random(seed)
    for _ in range(2):
        (result,), _ = _ran(_anywhere(pick, forward), operands)
        torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)
        found, _ = _ran(_anywhere(pick, back), [*operands, gradient])
        torch.testing.assert_close(found, gradients, rtol=1e-10, atol=1e-10)


def _counted(patch: pytest.MonkeyPatch) -> list[int]:
    """Whenever somebody waits for a block, how many have been begun and not been waited for."""
    seen: list[int] = []
    begun: list[Any] = []
    begin, wait = OURS._begun, OURS.wait

    def noted(self: Any, transfer: Any) -> Any:
        begun.append(transfer)
        return begin(self, transfer)

    def waited(self: Any, transfer: Any) -> None:
        seen.append(len(begun) - len(seen))
        wait(self, transfer)

    patch.setattr(OURS, "_begun", noted)
    patch.setattr(OURS, "wait", waited)
    return seen


def test_blocks_are_read_ahead_no_further_than_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they lie, no buffers end it."""
    tree = ContractionTree(Equation.parse("ij,jk->ik"), (400, 3, 2), ((0, 1),))
    made = place(schedule(tree, [Cut(tree.root, 0, 4)]), Remote((True, False)))
    operands = torch.randn(400, 3), torch.randn(3, 2)
    for most_bytes, most in ((1 << 20, 16), (200, 5), (0, 2)):
        monkeypatch.setitem(MOVING, "AHEAD_BYTES", most_bytes)
        with monkeypatch.context() as patch:
            seen = _counted(patch)
            (result,), _ = _ran(made, operands)
        torch.testing.assert_close(result, operands[0] @ operands[1])
        assert len(seen) == 100
        assert max(seen) == most


@pytest.mark.parametrize("name", SEMIRINGS)
@pytest.mark.parametrize(
    "text", ["ij,ik->jk", "ij,ij->i", "ij,ij->j", "ij,ik,jk->i", "ij,ik,il->jkl", "ij,ji->"]
)
def test_a_block_of_an_operand_that_is_given_twice_is_loaded_once(
    text: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (24, 6))
    equation = Equation.parse(text)
    operands = [y if labels == (1, 2) or text == "ij,ji->" else x for labels in equation.inputs]
    sizes = equation.sizes([tuple(operand.shape) for operand in operands])
    steps = [(0, 1)] if len(operands) == 2 else [(0, 1), (3, 2)]
    tree = ContractionTree(equation, tuple(sizes[label] for label in equation.labels), tuple(steps))
    options = Options.read(name)
    loaded: list[tuple[Any, ...]] = []
    begun = OURS._begun

    def noted(self: Any, transfer: Any) -> Any:
        source = transfer.source
        if transfer.add is None and source.untyped_storage().data_ptr() in mine:
            loaded.append((source.data_ptr(), source.shape, source.stride()))
        return begun(self, transfer)

    mine = {x.untyped_storage().data_ptr() for x in operands}
    monkeypatch.setattr(OURS, "_begun", noted)
    for cuts in ([Cut(tree.root, 0, 5)], [Cut(tree.root, 0, 5), Cut(tree.root, 1, 4)]):
        whole = schedule(tree, cuts)
        (expected,), _ = _ran(whole, operands, options)
        made = place(whole, Remote((True,) * len(operands)))
        loaded.clear()
        (result,), _ = _ran(made, operands, options)
        torch.testing.assert_close(result, expected)
        if len(cuts) == 1 and text != "ij,ji->":
            assert len(set(loaded)) == len(loaded)
        real = name == "real"
        back = adjoint(
            whole, [True] * len(operands), needs_results=not real, consumed=options.semiring.selective
        )
        gradient = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        rest = [] if real else [expected]
        gradients, _ = _ran(back, [*operands, gradient.clone(), *rest], options)
        remote = Remote((True,) * back.count, (True,) * len(operands))
        found, _ = _ran(place(back, remote), [*operands, gradient, *rest], options)
        torch.testing.assert_close(found, gradients)


@pytest.mark.parametrize("seed", range(6, 16))
def test_complex_gradients_that_are_loaded_are_conjugated(seed: int) -> None:
    _, tree, cuts, operands = network(seed)
    numbers = [torch.complex(x, x.flip(0)) for x in operands]
    forward = schedule(tree, cuts)
    (result,), _ = _ran(forward, numbers)
    back = adjoint(forward, [True] * len(operands))
    given = [*numbers, torch.randn_like(result)]
    expected, _ = _ran(back, given)
    everything = Remote((True,) * back.count, (True,) * len(back.outputs))
    found, _ = _ran(place(back, everything), given)
    torch.testing.assert_close(found, expected)
