"""The optional C code for walks over contraction trees: whether it is there, and how it is called.

It draws the same numbers and adds up in the same order as the walks in Python, and so comes to the same
trees, several times as fast. ``setup.py`` builds it beside this file where there's a C compiler; it is a
plain shared library, loaded with ctypes.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["BLOCK", "Rules", "Walked", "describe", "walk"]

BLOCK = 64
"""So many rotations are tried at one temperature."""


class Rules(NamedTuple):
    """What a walk goes by.

    Attributes:
        sums: for each eight labels the logarithms to base 2 of the products of any of their sizes.
        unit: the logarithm of what sizes are multiples of.
        written: how many multiplications the writing of an element counts for.
        exponents: for each temperature the negative temperature.
        limit: of the elements of a step, result and intermediates together.
        excess: what a step counts for that takes twice the limit; 0 where that counts nothing.
    """

    sums: Sequence[Sequence[float]]
    unit: float
    written: float
    exponents: Sequence[float]
    limit: float = 1.0
    excess: float = 0.0


class Walked(NamedTuple):
    """A tree: of every node the labels as bits, the parent, and the sum of the numbers of the children."""

    masks: list[int]
    parents: list[int]
    children: list[int]


class _Rules(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int64) for name in ("nodes", "words", "bytes", "blocks")],
        *[(name, ctypes.c_double) for name in ("unit", "written", "limit", "excess")],
        *[(name, ctypes.POINTER(ctypes.c_double)) for name in ("sums", "exponents")],
    )


@cache
def _library() -> ctypes.CDLL | None:
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        file = Path(__file__).parent / f"_walks{suffix}"
        if file.is_file():
            try:
                library = ctypes.CDLL(str(file))
                library.einfx_walk.argtypes = [ctypes.POINTER(_Rules), *[ctypes.c_void_p] * 9]
                library.einfx_walk.restype = None
            except (OSError, AttributeError):
                return None
            return library
    return None


def describe() -> str:
    """One line for people: whether the C code is there.

    Example:
        >>> describe() in {"C", "not built"}
        True
    """
    return "not built" if _library() is None else "C"


def walk(tree: Walked, costs: Sequence[float], rules: Rules, generator: random.Random) -> Walked | None:
    """The best tree that a walk by rotations comes by.

    Args:
        tree: where it begins; stays as it is.
        costs: of each node, leaves included.
        rules: what costs and temperatures are.
        generator: of random numbers; goes on as far as they are drawn.

    Returns:
        None where there is no C code.
    """
    library = _library()
    if library is None:
        return None
    nodes, groups = len(tree.masks), max(len(rules.sums), 1)
    words = (groups + 7) // 8
    packed = b"".join([mask.to_bytes(8 * words, "little") for mask in tree.masks])
    masks = (ctypes.c_uint64 * (nodes * words)).from_buffer_copy(packed)
    parents = (ctypes.c_int32 * nodes)(*tree.parents)
    children = (ctypes.c_int32 * nodes)(*tree.children)
    taken = (ctypes.c_double * nodes)(*costs)
    sums = (ctypes.c_double * (256 * groups))()
    for group, part in enumerate(rules.sums):
        sums[256 * group : 256 * group + len(part)] = list(part)
    exponents = (ctypes.c_double * len(rules.exponents))(*rules.exponents)
    version, words_drawn, gauss = generator.getstate()
    state = (ctypes.c_uint32 * len(words_drawn))(*words_drawn)
    best_masks = (ctypes.c_uint64 * ((nodes + 3) * words))()
    best_parents, best_children = (ctypes.c_int32 * nodes)(), (ctypes.c_int32 * nodes)()
    counts = nodes, words, len(rules.sums), len(rules.exponents)
    given = _Rules(*counts, rules.unit, rules.written, rules.limit, rules.excess, sums, exponents)
    room = (ctypes.c_double * nodes)()
    rest = state, best_masks, best_parents, best_children
    library.einfx_walk(given, masks, parents, children, room, taken, *rest)
    generator.setstate((version, tuple(state), gauss))
    found = bytes(best_masks)
    step = 8 * words
    return Walked(
        [int.from_bytes(found[x : x + step], "little") for x in range(0, step * nodes, step)],
        list(best_parents),
        list(best_children),
    )
