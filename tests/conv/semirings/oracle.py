"""Contractions with patterns over semirings by brute force: every term of every sum, in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

from einfx.pattern import IndexPattern

__all__ = ["ZEROS", "by_brute_force"]

ZEROS = {
    "real": 0.0,
    "log": -np.inf,
    "max_plus": -np.inf,
    "min_plus": np.inf,
    "max_times": 0.0,
    "max_min": -np.inf,
    "boolean": False,
}
"""The sum without terms, by the name of the semiring."""

_PRODUCTS = {
    "real": np.multiply,
    "log": np.add,
    "max_plus": np.add,
    "min_plus": np.add,
    "max_times": np.multiply,
    "max_min": np.minimum,
    "boolean": np.logical_and,
}


def by_brute_force(
    equation: str, *operands: Tensor | IndexPattern, semiring: str, linear: tuple[int, ...] = ()
) -> npt.NDArray[np.float64]:
    """A contraction, of which the terms that meet a zero of a pattern are left out.

    Args:
        equation: with letters and an explicit output.
        operands: tensors and patterns; dimensions of size 1 broadcast.
        semiring: its name.
        linear: positions of operands of a log contraction that aren't logarithms.
    """
    inputs, output = equation.split("->")
    letters = sorted(set(inputs) - {","})
    order = [*output, *(letter for letter in letters if letter not in output)]
    present, product = np.ones((), dtype=bool), None
    for position, (labels, operand) in enumerate(zip(inputs.split(","), operands, strict=True)):
        pattern = isinstance(operand, IndexPattern)
        array = (operand.tensor() if isinstance(operand, IndexPattern) else operand.detach()).numpy()
        if array.dtype.kind == "f":
            array = array.astype(np.float64)
        if position in linear and not pattern:
            with np.errstate(divide="ignore"):
                array = np.log(array)
        for letter in set(labels):
            while labels.count(letter) > 1:
                first = labels.index(letter)
                second = labels.index(letter, first + 1)
                array = np.diagonal(array, axis1=first, axis2=second)
                labels = labels[:first] + labels[first + 1 : second] + labels[second + 1 :] + letter
        array = array.transpose([labels.index(letter) for letter in order if letter in labels])
        sizes = iter(array.shape)
        array = array.reshape([next(sizes) if letter in labels else 1 for letter in order])
        if pattern:
            present = present & array
        else:
            with np.errstate(invalid="ignore"):
                product = array if product is None else _PRODUCTS[semiring](product, array)
    assert product is not None
    present, terms = np.broadcast_arrays(present, product)
    kept = (*terms.shape[: len(output)], -1)
    terms, present = terms.reshape(kept), present.reshape(kept)
    terms = np.where(present, terms, ZEROS[semiring])
    if semiring == "real":
        return np.asarray(terms.sum(-1))
    if semiring == "log":
        return np.asarray(np.logaddexp.reduce(terms, -1, initial=-np.inf))
    if semiring == "boolean":
        return np.asarray(terms.any(-1))
    reduce = np.minimum if semiring == "min_plus" else np.maximum
    return np.asarray(reduce.reduce(terms, -1, initial=ZEROS[semiring]))
