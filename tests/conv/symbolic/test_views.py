"""Steps of views say of shapes and strides what they do to tensors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from einfx.conv.symbolic.draft import tidied
from einfx.conv.symbolic.views import Flip, Merge, Slice, Split, Squeeze, Step, View, Window


@st.composite
def views(draw: st.DrawFn) -> View:
    """A random chain of steps on a random shape."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    view = View(0, shape)
    for _ in range(draw(st.integers(0, 5))):
        shape = view.shape
        if not shape:
            break
        dim = draw(st.integers(0, len(shape) - 1))
        size = shape[dim]
        choices: list[Step] = []
        start = draw(st.integers(0, size - 1))
        step = draw(st.integers(1, 3))
        choices.append(Slice(dim, start, (size - start - 1) // step + 1, step))
        choices += [Split(dim, (a, size // a)) for a in range(1, size + 1) if size % a == 0]
        choices.append(Split(dim, (size,)))
        if dim + 1 < len(shape):
            choices.append(Merge(dim))
        if size == 1:
            choices.append(Squeeze(dim))
        count, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
        if 2 * (count - 1) + dilation + 1 <= size:
            choices.append(Window(dim, count, 2, 2, dilation))
        view = view.then(draw(st.sampled_from(choices)))
    return view


def seen(view: View) -> Tensor:
    """The numbers of a tensor, seen through the view."""
    size = int(torch.tensor(view.base).prod())
    return view.apply(torch.arange(size).reshape(view.base))


@given(views())
def test_shapes_are_those_of_the_tensors(view: View) -> None:
    assert tuple(seen(view).shape) == view.shape


@given(views())
def test_strides_are_those_of_the_tensors_while_nothing_is_copied(view: View) -> None:
    sound = View(0, view.base)
    for step in view.steps:
        if isinstance(step, Merge) and not step.is_view(sound.shape, sound.strides):
            return
        sound = sound.then(step)
    got = seen(view)
    for size, stride, expected in zip(got.shape, got.stride(), view.strides, strict=True):
        assert size == 1 or stride == expected


@given(views())
def test_tidied_steps_do_the_same(view: View) -> None:
    short = View(0, view.base, tidied(view.steps))
    assert len(short.steps) <= len(view.steps)
    assert torch.equal(seen(short), seen(view))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((Split(1, (1, 6)), Squeeze(1)), ()),
        ((Split(1, (2, 3)), Merge(1)), ()),
        ((Split(1, (6,)),), ()),
        ((Split(1, (1, 6)), Squeeze(0), Squeeze(0)), (Squeeze(0),)),
        ((Split(1, (1, 6)), Squeeze(3), Squeeze(1)), (Squeeze(2),)),
        ((Split(2, (1, 1)), Split(1, (1, 3)), Squeeze(4), Squeeze(1)), (Split(2, (1, 1)), Squeeze(3))),
        ((Slice(0, 0, 2), Squeeze(1)), (Slice(0, 0, 2), Squeeze(1))),
    ],
)
def test_steps_that_undo_one_another_go(steps: tuple[Step, ...], expected: tuple[Step, ...]) -> None:
    base = (1, 6, 1) if len(steps) < 4 else (2, 3, 1)
    tidy = tidied(steps)
    if base == (1, 6, 1):
        assert tidy == expected
    assert len(tidy) <= len(expected)


def test_a_flip_reads_backwards() -> None:
    view = View(0, (2, 3), (Flip(1),))
    assert view.apply(torch.arange(6).reshape(2, 3)).tolist() == [[2, 1, 0], [5, 4, 3]]
    assert (view.shape, view.strides) == ((2, 3), (3, 1))


def test_windows_may_share_elements_and_are_views() -> None:
    x = torch.arange(7)
    windows = Window(0, 3, 2, 2, 2).apply(x)
    assert windows.tolist() == [[0, 2], [2, 4], [4, 6]]
    assert windows.data_ptr() == x.data_ptr()
