"""The rules of simplification: each looks for one place in a draft where it applies, and rewrites it there.

All of them follow from ``P[k, o, i] = 1`` exactly where ``i == dilation * k + stride * o - padding``. A rule
keeps the result up to a reshape and never adds work. What is summed against zeros of a pattern is left out,
as in a native convolution, also where it isn't finite.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from ...pattern import IndexPattern
from .draft import Draft
from .network import Constant
from .views import Flip, Merge, Slice, Split, Squeeze, Step, View, Window

__all__ = ["ALL", "DEFAULT", "Rule"]

Rule = Callable[[Draft], bool]
"""Rewrites one place of a draft and returns True, or returns False where there is none."""


def unbroadcast(draft: Draft) -> bool:
    """A dimension of size 1 whose label is larger goes: einsum would broadcast it."""
    for position, operand in enumerate(draft.operands):
        for dim, label in enumerate(draft.inputs[position]):
            if operand.shape[dim] == 1 < draft.sizes[label]:
                if isinstance(operand, View):
                    draft.operands[position] = operand.then(Squeeze(dim))
                    del draft.inputs[position][dim]
                elif isinstance(operand, IndexPattern):
                    draft.inputs[position][dim] = draft.fresh(1)
                else:
                    draft.operands[position] = Constant(operand.value, operand.ndim - 1)
                    del draft.inputs[position][dim]
                return True
    return False


def squeeze(draft: Draft) -> bool:
    """Labels of size 1 go from everything but patterns: the result is reshaped anyway."""
    for position, operand in enumerate(draft.operands):
        for dim, label in enumerate(draft.inputs[position]):
            if draft.sizes[label] == 1 and not isinstance(operand, IndexPattern):
                if isinstance(operand, View):
                    draft.operands[position] = operand.then(Squeeze(dim))
                else:
                    draft.operands[position] = Constant(operand.value, operand.ndim - 1)
                del draft.inputs[position][dim]
                return True
    kept = [label for label in draft.output if draft.sizes[label] != 1]
    changed = len(kept) < len(draft.output)
    draft.output = kept
    return changed


def drop_duplicate(draft: Draft) -> bool:
    """``P[k,o,i] P[k,o,i]`` is ``P[k,o,i]``: zeros and ones are their own squares."""
    seen = set()
    for position, pattern, labels in draft.patterns():
        key = (pattern.canonical, labels)
        if key in seen:
            draft.remove(position)
            return True
        seen.add(key)
    return False


def drop_dead_positions(draft: Draft) -> bool:
    """Kernel positions and outputs that only ever meet padding go, where they are summed."""
    for _position, pattern, labels in draft.patterns():
        for axis, label in (("kernel", labels[0]), ("output", labels[1])):
            start, length = pattern.live("kernel" if axis == "kernel" else "output")
            if label not in draft.output and 0 < length < draft.sizes[label]:
                draft.narrow(label, start, length)
                return True
    return False


def sum_unread_input(draft: Draft) -> bool:
    """``sum_i P[k,o,i]`` is 1 for every k and o, where no padding is met and nothing else has i."""
    for position, pattern, (kernel, output, inputs) in draft.patterns():
        if inputs in draft.output or draft.carried(inputs, position) or not pattern.unpadded:
            continue
        alone = [label for label in (kernel, output) if not draft.carried(label, position)]
        if any(label in draft.output for label in alone):
            continue
        draft.remove(position)
        for label in alone:
            draft.scale(draft.sizes[label])
        return True
    return False


def prune_identity(draft: Draft) -> bool:
    """``x[i] delta[o,i]`` is ``x[o]``; where the output has both labels, delta stays and x is renamed."""
    for position, pattern, (kernel, output, inputs) in draft.patterns():
        if pattern.identity:
            dummy, kept = kernel, output
        elif pattern.swapped().identity:
            dummy, kept = output, kernel
        else:
            continue
        gone = inputs
        if gone in draft.output and kept not in draft.output:
            kept, gone = gone, kept
        if gone in draft.output:
            if draft.rename(gone, kept, position):
                return True
            continue
        if draft.carried(dummy, position) or dummy in draft.output:
            continue
        carried = draft.carried(gone, position) or draft.carried(kept, position)
        if kept in draft.output and not carried:
            continue
        draft.rename(gone, kept, position)
        draft.remove(position)
        if not carried:
            draft.scale(draft.sizes[kept])
        return True
    return False


def skip_unread_inputs(draft: Draft) -> bool:
    """Only every n-th input is read, where n divides stride and dilation: the others go."""
    for position, pattern, (_kernel, _output, inputs) in draft.patterns():
        start, step, smaller = pattern.subsampled()
        if step > 1 and inputs not in draft.output and draft.only_views(inputs, position):
            draft.narrow(inputs, start, smaller.input_size, step, besides=position)
            draft.operands[position] = smaller
            return True
    return False


def see_windows(draft: Draft) -> bool:
    """Windows that share no input: ``x[i] P[k,o,i]`` is a view ``x[o,k]``, dense or not, ragged or not."""
    for position, pattern, (kernel, output, inputs) in draft.patterns():
        if inputs in draft.output or not (pattern.unpadded and pattern.injective):
            continue
        steps, labels = _windows(pattern, kernel, output)
        if draft.only_views(inputs, position):
            draft.replace(inputs, position, steps, labels)
            draft.remove(position)
            return True
    return False


def _windows(pattern: IndexPattern, kernel: int, output: int) -> tuple[list[Step], list[int]]:
    """The view of an input through windows, for dimension 0, and its labels."""
    k, o, i = pattern.shape
    start, stride, dilation = -pattern.left, pattern.stride, pattern.dilation
    if k == 1 or o == 1:
        count, step, label = (o, stride, output) if k == 1 else (k, dilation, kernel)
        whole = (start, count, step) == (0, i, 1)
        return ([] if whole else [Slice(0, start, count, step)]), [label]
    by_output, by_kernel = (dilation == 1 and stride == k), (stride == 1 and dilation == o)
    length = k * o if by_output or by_kernel else i - start
    steps: list[Step] = [] if length == i else [Slice(0, start, length)]
    if by_output:
        return [*steps, Split(0, (o, k))], [output, kernel]
    if by_kernel:
        return [*steps, Split(0, (k, o))], [kernel, output]
    return [*steps, Window(0, o, stride, k, dilation)], [output, kernel]


def split_dense_output(draft: Draft) -> bool:
    """Where every input is read exactly once, an output i is the pair of o and k."""
    for position, pattern, (kernel, output, inputs) in draft.patterns():
        k, o, i = pattern.shape
        dense = pattern.unpadded and pattern.injective and k * o == i and k > 1 and o > 1
        if not dense or inputs not in draft.output:
            continue
        if draft.carried(inputs, position) and not draft.only_views(inputs, position):
            continue
        steps, labels = _windows(pattern, kernel, output)
        if not isinstance(steps[-1], Split):
            continue
        draft.remove(position)
        for place, label in enumerate(labels):
            # A label that the output has already, or that nothing else carries, is tied by a delta.
            if label in draft.output or not draft.carried(label, -1):
                size = draft.sizes[label]
                labels[place] = draft.fresh(size)
                draft.add(IndexPattern(size, 1), [draft.fresh(1), label, labels[place]])
        draft.replace(inputs, -1, steps, labels)
        at = draft.output.index(inputs)
        draft.output[at : at + 1] = labels
        return True
    return False


def compose_shift(draft: Draft) -> bool:
    """Two patterns in a row, one of them with a kernel of one element, are one pattern."""
    for position, pattern, (kernel, output, inputs) in draft.patterns():
        if pattern.kernel_size > 1 or not pattern.unpadded or inputs in draft.output:
            continue
        others = draft.carriers(inputs, position)
        if not others or draft.carried(kernel, position) or kernel in draft.output:
            continue
        strided = pattern.stride > 1 and pattern.output_size > 1
        met = [draft.inputs[p] for p in others if isinstance(draft.operands[p], IndexPattern)]
        # The inputs of another pattern can't be left out between those that are kept.
        if any(isinstance(draft.operands[p], Constant) for p in others):
            continue
        if any(len(set(labels)) < 3 or (strided and labels[2] == inputs) for labels in met):
            continue
        draft.narrow(inputs, -pattern.left, pattern.output_size, pattern.canonical.stride, besides=position)
        draft.rename(inputs, output, position)
        draft.remove(position)
        return True
    return False


def swap_kernel_and_output(draft: Draft) -> bool:
    """A kernel that is kept and outputs that are summed change places: a weight gradient is a convolution."""
    for position, pattern, (kernel, output, inputs) in draft.patterns():
        if kernel in draft.output and output not in draft.output:
            draft.operands[position] = pattern.swapped()
            draft.inputs[position] = [output, kernel, inputs]
            return True
    return False


def reverse_kernel(draft: Draft) -> bool:
    """A transposed convolution of stride 1 is a convolution with its kernel read backwards."""
    for position, pattern, (kernel, output, inputs) in draft.patterns():
        other = pattern.reversed()
        summed = kernel not in draft.output and output not in draft.output
        if (
            other is None
            or not summed
            or inputs not in draft.output
            or not draft.only_views(kernel, position)
        ):
            continue
        if pattern.kernel_size > 1:
            draft.replace(kernel, position, [Flip(0)], [kernel])
        draft.operands[position] = other
        draft.inputs[position] = [kernel, inputs, output]
        return True
    return False


def split_dilation(draft: Draft) -> bool:
    """A dilated convolution is a convolution of each phase of the input, with a kernel that isn't dilated."""
    for position, pattern, (_kernel, output, inputs) in draft.patterns():
        plain = pattern.canonical
        phases = plain.dilation
        k, o, i = plain.shape
        fits = (
            phases > 1
            and plain.stride == 1
            and o > 1
            and not (i % phases or o % phases or pattern.left % phases)
        )
        both = output in draft.output and inputs in draft.output
        views = all(
            isinstance(draft.operands[p], View)
            for label in (output, inputs)
            for p in draft.carriers(label, position)
        )
        # The phase has to be carried by something besides the pattern, which loses it.
        carried = draft.carried(output, position) or draft.carried(inputs, position)
        if not fits or both or not views or not carried:
            continue
        left = pattern.left // phases
        right = o // phases + k - 1 - i // phases - left
        draft.operands[position] = IndexPattern(i // phases, k, 1, (left, right))
        phase = draft.fresh(phases)
        for label, size in ((output, o), (inputs, i)):
            draft.replace(label, position, [Split(0, (size // phases, phases))], [label, phase])
            draft.sizes[label] = size // phases
            if label in draft.output:
                at = draft.output.index(label)
                draft.output[at : at + 1] = [label, phase]
        return True
    return False


def merge_labels(draft: Draft) -> bool:
    """Two labels that always stand together, and lie in memory as one, are one."""
    for labels in draft.inputs:
        for outer, inner in pairwise(labels):
            if outer != inner and _mergeable(draft, outer, inner):
                for position, operand in enumerate(draft.operands):
                    if isinstance(operand, View) and outer in draft.inputs[position]:
                        dim = draft.inputs[position].index(outer)
                        draft.operands[position] = operand.then(Merge(dim))
                        del draft.inputs[position][dim + 1]
                if inner in draft.output:
                    draft.output.remove(inner)
                draft.sizes[outer] *= draft.sizes[inner]
                return True
    return False


def _mergeable(draft: Draft, outer: int, inner: int) -> bool:
    for labels, operand in [*zip(draft.inputs, draft.operands, strict=True), (draft.output, None)]:
        if outer not in labels and inner not in labels:
            continue
        if labels.count(outer) != 1 or labels.count(inner) != 1:
            return False
        dim = labels.index(outer)
        if labels.index(inner) != dim + 1 or isinstance(operand, (IndexPattern, Constant)):
            return False
        if isinstance(operand, View) and not Merge(dim).is_view(operand.shape, operand.strides):
            return False
    return True


DEFAULT: tuple[Rule, ...] = (
    unbroadcast,  # every label has one size from here on
    squeeze,  # and a kernel of one element has no label that others share
    drop_duplicate,  # patterns that are the same look like two
    drop_dead_positions,  # less padding: more patterns are windows
    sum_unread_input,
    prune_identity,
    skip_unread_inputs,  # a common step of stride and dilation: plainer patterns
    see_windows,
    compose_shift,
    split_dense_output,
    merge_labels,  # last: patterns keep their labels to themselves
)
"""What :func:`.simplify.simplify` applies, in order, until nothing changes: no rule adds work."""

ALL: tuple[Rule, ...] = (
    *DEFAULT[:-1],
    split_dilation,  # before labels change places: it wants the outputs where they are
    swap_kernel_and_output,
    reverse_kernel,
    merge_labels,
)
"""Also the rewrites that give an expression another form, for whom that form is easier to compute."""
