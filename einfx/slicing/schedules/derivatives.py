"""Which derivative of a contraction is computed, and its schedule.

==========  ==========================================  =====================================
wanted      moving                                      the schedule computes
==========  ==========================================  =====================================
none        none                                        the contraction
some        none                                        gradients of operands
none        some                                        the derivative in a direction
some        some                                        gradients of that derivative
==========  ==========================================  =====================================
"""

from __future__ import annotations

from collections.abc import Sequence

from ...layout import contiguous_strides
from ...options import Options
from .adjoint import adjoint
from .schedule import Schedule
from .tangent import tangent

__all__ = ["derivative", "has_directions", "is_linear"]

Strides = Sequence[int]


def is_linear(options: Options) -> bool:
    """Whether gradients are contractions, which nothing has to be computed again for but their operands."""
    return options.semiring.name == "real" and not options.semiring.zero_annihilates


def has_directions(options: Options) -> bool:
    """Whether derivatives in a direction, and gradients of these, are known within a limit.

    Example:
        >>> [has_directions(Options.read(name)) for name in ("real", "log", "max_plus")]
        [True, True, True]
    """
    return is_linear(options) or options.semiring.selective or options.semiring.name == "log"


def derivative(
    forward: Schedule,
    options: Options,
    wanted: Sequence[bool] = (),
    moving: Sequence[bool] = (),
    strides: Sequence[Strides] | None = None,
) -> tuple[Schedule, list[Strides] | None]:
    """The schedule of a derivative, and the strides of its operands.

    Args:
        forward: the schedule of the contraction.
        options: over which semiring; where there's a direction, over real numbers.
        wanted: for each operand whether its gradient is computed; empty for none.
        moving: for each operand whether it has a part in the direction; empty for none. Over logarithms
            gradients of the given tangents come too, after all others, where those of operands do.
        strides: of the operands of the contraction, in elements, then of the tangents of those that are
            moving, then of the gradient of what is differentiated; those at the end that are missing are
            contiguous, all of them where None.

    Example:
        >>> from einfx.slicing.schedules.schedule import Allocate, Contract
        >>> lines = Allocate(2), Contract(2, (0, 1))
        >>> forward = Schedule(((0, 1), (1, 2), (0, 2)), (4, 600, 5), 2, (2,), lines)
        >>> made, strides = derivative(forward, Options.read(), (True, False), (), [(600, 1), (5, 1), (0, 0)])
        >>> print(made, strides)
        0 [ab], 1 [bc], 2 [] -> 3 [ab]; a 4, b 600, c 5
        allocate 3 [ab] of zeros
        gradient 3 from 2 through 0 of 0 * 1 [(600, 1), (5, 1), ()]
    """
    made = tangent(forward, moving) if any(moving) else forward
    given = [contiguous_strides(made.shape(value)) for value in range(made.count)]
    given[: len(strides or ())] = [tuple(x) for x in (strides or ())[: made.count]]
    if not any(wanted):
        return made, None if strides is None else list(given)
    (root,) = made.outputs
    shape, linear = made.shape(root), is_linear(options)
    dense = contiguous_strides(shape)
    incoming = dense if strides is None or len(strides) <= made.count else tuple(strides[made.count])
    # Over real numbers a gradient that was expanded is contracted as what it was expanded from.
    expanded = [linear and step == 0 and size > 1 for step, size in zip(incoming, shape, strict=True)]
    # Over logarithms what is given for a tangent holds the operand itself, as no weight is.
    also = [not linear and wanted[i] and i not in options.linear_operands for i, x in enumerate(moving) if x]
    back = adjoint(
        made,
        [*wanted, *also],
        not linear,
        constant=[label for label, same in zip(made.labels[root], expanded, strict=True) if same],
        consumed=options.semiring.selective,
    )
    given.append(tuple(step for step, same in zip(incoming, expanded, strict=True) if not same))
    if not linear:
        given.append(dense)
    return back, None if strides is None else list(given)
