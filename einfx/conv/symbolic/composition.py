"""Two patterns in a row as one: a convolution of a convolution is a convolution by a longer kernel.

Where ``m == d2 * k2 + s2 * o - l2`` is an output of the first pattern for every ``k2`` and ``o``, the element
that both read is ``i == d1 * k1 + s1 * m - l1``, which is ``k + s1 * s2 * o - (l1 + s1 * l2)`` for
``k == d1 * k1 + s1 * d2 * k2``. That is the position in the longer kernel, and a pattern itself: the one by
which both kernels are brought together.
"""

from __future__ import annotations

from math import gcd

from ...equation import Equation
from ...pattern import IndexPattern, pattern_of_shape
from .network import Network

__all__ = ["composed"]


def composed(network: Network) -> Network | None:
    """The network of the same result in which patterns in a row have become kernels of kernels.

    Args:
        network: any network.

    Returns:
        None where there are no patterns in a row that can be one.

    Example:
        >>> from .network import network
        >>> from .views import View
        >>> pool, conv = IndexPattern(8, 2, stride=2), IndexPattern(8, 3, padding=1)
        >>> made = network(["i", "kmi", "lom", "k"], "o", View(0, (8,)), conv, pool, View(1, (3,)))
        >>> composed(made).patterns
        (IndexPattern(4, 3), IndexPattern(8, 4, stride=2, padding=1))
    """
    found: Network | None = None
    while (longer := _composed_once(found or network)) is not None:
        found = longer
    return found


def _composed_once(network: Network) -> Network | None:
    labels = network.equation.inputs
    for p, first in enumerate(network.operands):
        for q, second in enumerate(network.operands):
            if not isinstance(first, IndexPattern) or not isinstance(second, IndexPattern) or p == q:
                continue
            middle = labels[p][1]
            names = (*labels[p], *labels[q])
            others = (x for r, each in enumerate(labels) if r not in (p, q) for x in each)
            if labels[q][2] != middle or len({*names}) != 5 or not second.unpadded:
                continue
            if middle in network.equation.output or middle in others:
                continue
            return _composed(network, p, q, first, second)
    return None


def _composed(network: Network, p: int, q: int, first: IndexPattern, second: IndexPattern) -> Network:
    labels = list(network.equation.inputs)
    steps = (first.dilation, first.stride * second.dilation)
    common = (
        gcd(*(step for step, one in zip(steps, (first, second), strict=True) if one.kernel_size > 1)) or 1
    )
    reach = [step // common * (one.kernel_size - 1) for step, one in zip(steps, (first, second), strict=True)]
    size = sum(reach) + 1
    together = pattern_of_shape(
        first.kernel_size,
        second.kernel_size,
        size,
        stride=max(steps[1] // common, 1),
        left=0,
        dilation=max(steps[0] // common, 1),
    )
    whole = pattern_of_shape(
        size,
        second.output_size,
        first.input_size,
        stride=first.stride * second.stride,
        left=first.left + first.stride * second.left,
        dilation=common,
    )
    fresh = max(x for each in labels for x in each) + 1
    labels[p], labels[q] = (
        (labels[p][0], labels[q][0], fresh),
        (fresh, labels[q][1], labels[p][2]),
    )
    operands = list(network.operands)
    operands[p], operands[q] = together, whole
    # The label between them is gone, so that labels are numbered anew.
    return Network(Equation(tuple(labels), network.equation.output), tuple(operands))
