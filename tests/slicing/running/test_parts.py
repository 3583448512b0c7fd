"""Views of parts of tensors are what narrowing them gives, wherever loops are."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from einfx.slicing.running import parts
from einfx.slicing.running.matrix_views import Place
from einfx.slicing.running.parts import Part, Rounds, Source, Views


def _lying(draw: st.DrawFn, shape: list[int]) -> Tensor:
    """A tensor that is a part of a larger one, transposed, or the same along a dimension."""
    order = draw(st.permutations(range(len(shape))))
    wide = [shape[dim] + draw(st.integers(0, 2)) for dim in order]
    made = torch.arange(torch.Size(wide).numel()).view(wide)
    for dim, own in enumerate(order):
        made = made.narrow(dim, wide[dim] - shape[own], shape[own])
    made = made.permute([list(order).index(dim) for dim in range(len(shape))])
    if draw(st.booleans()):
        made = made[:1].expand(shape)
    return made


@given(st.data())
def test_views_are_the_blocks_of_the_current_rounds(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    tensor = data.draw(st.composite(_lying)(shape))
    looped = data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(1, len(shape)))]
    idle = Rounds(99, range(data.draw(st.integers(1, 3))), 1)
    views, part, outer, loops = Views(), Part.of(tensor), idle, []
    for dim in looped:
        block = data.draw(st.integers(1, shape[dim]))
        outer = Rounds(dim, range(0, shape[dim] - shape[dim] % block, block), block, outer)
        part = part.block(dim, outer)
        loops.append(outer)
    slot = views.slot(part)
    for _ in idle.starts:
        idle.go(idle.start, views.now)
        for starts in product(*[rounds.starts for rounds in loops]):
            # As nested loops do, each begins anew in every round of those around it.
            for rounds, start in zip(loops, starts, strict=True):
                rounds.enter()
                rounds.go(start, views.now)
            expected = tensor
            for rounds, start in zip(loops, starts, strict=True):
                expected = expected.narrow(rounds.label, start, rounds.length)
            assert torch.equal(views.now[slot], expected)
            assert views.now[slot].stride() == expected.stride()


def test_views_that_come_again_are_kept_and_others_are_not() -> None:
    tensor = torch.zeros(4, 6)
    outer = Rounds(0, range(4), 1)
    inner = Rounds(1, range(0, 6, 2), 2, outer)
    views = Views()
    again, once = Part.of(tensor).block(1, inner), Part.of(tensor).block(0, outer).block(1, inner)
    slots = views.slots([again, once])
    seen: list[dict[int, Tensor]] = []
    for row in outer.starts:
        outer.go(row, views.now)
        inner.enter()
        for start in inner.starts:
            inner.go(start, views.now)
            seen.append({slot: views.now[slot] for slot in slots})
    kept, made = ([x[slot] for x in seen] for slot in slots)
    assert len({id(x) for x in kept}) == 3
    assert len({id(x) for x in made}) == 12


def test_no_more_views_are_kept_than_may_be() -> None:
    tensor = torch.zeros(parts.MOST_KEPT + 1)
    outer = Rounds(1, range(2), 1)
    inner = Rounds(0, range(len(tensor)), 1, outer)
    views = Views()
    slot = views.slot(Part.of(tensor).block(0, inner))
    found = []
    for _ in range(2):
        inner.enter()
        inner.go(0, views.now)
        found.append(views.now[slot])
    assert found[0] is not found[1]


def test_views_of_what_is_loaded_are_where_it_was_loaded_last() -> None:
    source, views = Source(), Views()
    rounds = Rounds(0, range(0, 4, 2), 2)
    whole = Part(source, (4,), (1,))
    slots = views.slots([whole, whole.seen(Place((2, 2), (2, 1)))])
    source.move(torch.arange(10)[3:7], views.now)
    block = views.slot(whole.block(0, rounds))
    for first in (3, 5):
        source.move(torch.arange(10)[first : first + 4], views.now)
        assert views.now[slots[1]].tolist() == [[first, first + 1], [first + 2, first + 3]]
        rounds.enter()
        for start in rounds.starts:
            rounds.go(start, views.now)
            assert views.now[block].tolist() == [first + start, first + start + 1]
