"""Contractions over semirings as TorchScript compiles them: torch functions alone, which run without einfx.

The numbers are those of :func:`einfx.einsum`, and so are gradients; the speed isn't, and there are no second
derivatives of what is selected. Pairs are contracted from left to right; a path is chosen before.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .scriptable_choice import any_product, choice_product, choice_sum
from .scriptable_log import log_product, log_sum

__all__ = ["SCRIPTABLE", "contract_semiring"]

SCRIPTABLE = ("log", "max_plus", "min_plus", "max_times", "max_min", "boolean")
"""Semirings that have TorchScript code."""


def contract_semiring(
    equation: str,
    operands: list[Tensor],
    semiring: str,
    linear_operands: list[int],
    zero_annihilates: bool,
    grad_of_neg_inf: str,
) -> Tensor:
    """Contract tensors over log, max_plus, min_plus, max_times, max_min or boolean.

    Args:
        equation: with an explicit output and without ellipses.
        operands: one for each part of the equation; dtypes promote as torch's do.
        semiring: its name.
        linear_operands: positions of operands of a log contraction that aren't logarithms.
        zero_annihilates: whether the semiring's zero wins over what would make nan of it.
        grad_of_neg_inf: for log, the derivative of a sum that is -inf with respect to each of its terms, as
            text: "nan" (also where the gradient that comes in is 0), a number from 0 up, or "uniform".

    Returns:
        The contraction, contiguous.

    Raises:
        ValueError: sizes of one label that differ, or operands that the semiring has no place for.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        >>> contract_semiring("ij,jk->ik", [x, x], "max_plus", [], False, "nan")
        tensor([[3., 4.],
                [5., 6.]])
    """
    if not torch.jit.is_scripting() and has_torch_function(operands):  # type: ignore[attr-defined]
        arguments = equation, operands, semiring, linear_operands, zero_annihilates, grad_of_neg_inf
        result: Tensor = handle_torch_function(contract_semiring, operands, *arguments)
        return result
    sides = equation.replace(" ", "").split("->")
    parts, output = sides[0].split(","), sides[1]
    if len(parts) != len(operands):
        raise ValueError("einsum " + equation + " was given another number of operands")
    dtype = _check(operands, semiring)
    computed = torch.float32 if dtype == torch.float16 or dtype == torch.bfloat16 else dtype
    value = operands[0].to(computed)
    labels = parts[0]
    linear = 0 in linear_operands
    value, labels = _diagonal(value, labels)
    for i in range(1, len(operands)):
        needed = output + "".join(parts[i + 1 :])
        other, other_labels = _diagonal(operands[i].to(computed), parts[i])
        value, labels = _pair(
            value,
            labels,
            other,
            other_labels,
            needed,
            semiring,
            linear,
            i in linear_operands,
            zero_annihilates,
            grad_of_neg_inf,
        )
        linear = False
    value, labels = _sum_of_one(value, labels, output, semiring, linear, grad_of_neg_inf)
    if linear:
        value = torch.log(value)
    order = [labels.find(x) for x in output]
    return value.permute(order).to(dtype).contiguous()


def _check(operands: list[Tensor], semiring: str) -> torch.dtype:
    """The common dtype of operands that are of the semiring; tensors without dimensions count less."""
    with_dims: list[torch.dtype] = []
    without: list[torch.dtype] = []
    for operand in operands:
        known = with_dims if operand.dim() > 0 else without
        known.append(operand.dtype if len(known) == 0 else torch.promote_types(known[-1], operand.dtype))
        if semiring == "boolean" and operand.dtype != torch.bool:
            raise ValueError("semiring boolean takes bool alone")
        if semiring == "log" and not operand.is_floating_point():
            raise ValueError("semiring log takes floating dtypes alone")
        if operand.is_complex():
            raise ValueError("semiring " + semiring + " has no complex numbers")
        if semiring == "max_times" and operand.is_signed() and bool((operand < 0).any()):
            raise ValueError("max_times is a semiring on non-negative numbers only")
        if (semiring == "max_plus" or semiring == "min_plus") and operand.dtype == torch.bool:
            raise ValueError("semiring " + semiring + " has no bool numbers")
    if len(with_dims) == 0 or len(without) == 0:
        return (with_dims + without)[-1]
    return torch.result_type(torch.empty([1], dtype=with_dims[-1]), torch.empty([], dtype=without[-1]))


def _diagonal(x: Tensor, labels: str) -> tuple[Tensor, str]:
    """An operand with each label once."""
    i = 0
    while i < len(labels):
        j = labels.find(labels[i], i + 1)
        if j < 0:
            i += 1
        else:
            if x.shape[i] != x.shape[j]:
                raise ValueError("a diagonal needs equal sizes of label " + labels[i])
            x = torch.diagonal(x, 0, i, j)
            labels = labels[:i] + labels[i + 1 : j] + labels[j + 1 :] + labels[i]
            i = 0
    return x, labels


def _without_units(x: Tensor, labels: str, other: Tensor, other_labels: str) -> tuple[Tensor, str]:
    """An operand without dimensions of size 1 that broadcast against another operand."""
    kept = ""
    for label in labels:
        position = other_labels.find(label)
        if position >= 0 and other.shape[position] != x.shape[len(kept)]:
            if x.shape[len(kept)] == 1:
                x = x.squeeze(len(kept))
                continue
            if other.shape[position] != 1:
                raise ValueError("label " + label + " has sizes that differ")
        kept = kept + label
    return x, kept


def _sum_of_one(
    x: Tensor, labels: str, needed: str, semiring: str, linear: bool, grad_of_neg_inf: str
) -> tuple[Tensor, str]:
    """Sum the labels that nothing needs; a linear operand stays one."""
    kept = ""
    gone = ""
    order: list[int] = []
    last: list[int] = []
    shape: list[int] = []
    for i in range(len(labels)):
        if needed.find(labels[i]) >= 0:
            kept = kept + labels[i]
            order.append(i)
            shape.append(x.shape[i])
        else:
            gone = gone + labels[i]
            last.append(i)
    if len(gone) == 0:
        return x, labels
    rows = 1
    for size in shape:
        rows = rows * size
    terms = 1
    for i in last:
        terms = terms * x.shape[i]
    matrix = x.permute(order + last).reshape([rows, terms])
    if linear:
        total = matrix.sum(1)
    elif semiring == "log":
        total = log_sum(matrix, grad_of_neg_inf)
    elif semiring == "boolean":
        total = matrix.any(1)
    else:
        total = choice_sum(matrix, semiring)
    return total.reshape(shape), kept


def _pair(
    a: Tensor,
    a_labels: str,
    b: Tensor,
    b_labels: str,
    needed: str,
    semiring: str,
    a_linear: bool,
    b_linear: bool,
    zero_annihilates: bool,
    grad_of_neg_inf: str,
) -> tuple[Tensor, str]:
    """The product of two operands, summed over what nothing needs, and its labels."""
    a, a_labels = _without_units(a, a_labels, b, b_labels)
    b, b_labels = _without_units(b, b_labels, a, a_labels)
    a, a_labels = _sum_of_one(a, a_labels, needed + b_labels, semiring, a_linear, grad_of_neg_inf)
    b, b_labels = _sum_of_one(b, b_labels, needed + a_labels, semiring, b_linear, grad_of_neg_inf)
    batch, rows, summed, columns = "", "", "", ""
    for label in a_labels:
        if b_labels.find(label) < 0:
            rows = rows + label
        elif needed.find(label) >= 0:
            batch = batch + label
        else:
            summed = summed + label
    for label in b_labels:
        if a_labels.find(label) < 0:
            columns = columns + label
    a = a.permute([a_labels.find(x) for x in batch + rows + summed])
    b = b.permute([b_labels.find(x) for x in batch + summed + columns])
    first, second = len(batch), len(batch) + len(rows)
    shape = a.shape[:second] + b.shape[first + len(summed) :]
    n = _count(list(a.shape[:first]))
    depth = _count(list(a.shape[second:]))
    left = a.reshape([n, _count(list(a.shape[first:second])), depth])
    right = b.reshape([n, depth, _count(list(b.shape[first + len(summed) :]))])
    if semiring == "log":
        product = log_product(left, right, a_linear, b_linear, zero_annihilates, grad_of_neg_inf)
    elif semiring == "boolean":
        product = any_product(left, right)
    else:
        product = choice_product(left, right, semiring, zero_annihilates)
    return product.reshape(shape), batch + rows + columns


def _count(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total = total * size
    return total
