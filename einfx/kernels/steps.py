"""One step over a semiring: any number of operands, by the kernel of :mod:`einfx.costs.semiring_cost`.

What depends on shapes alone is decided once (:func:`prepare`); running a step then makes views of its
operands and calls the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..costs.semiring_cost import SELECTING, SemiringKernel, choose_step
from ..equation import Equation
from ..layout import hint
from ..options import Options
from . import blocked, boolean, log, tropical
from .batching import tracked
from .selected_product import selected_product

__all__ = ["PreparedStep", "contract_step", "prepare"]

Labels = tuple[int, ...]


def contract_step(
    equation: Equation,
    operands: Sequence[Tensor],
    options: Options,
    *,
    budget_bytes: int = blocked.BUDGET_BYTES,
    return_argmax: bool = False,
) -> Any:
    """Contract operands at once.

    Args:
        equation: the step.
        operands: of one dtype that the semiring takes, on one device.
        options: over which semiring, and how; ``linear_operands`` are positions in ``operands``.
        budget_bytes: what temporaries may take.
        return_argmax: as for :meth:`PreparedStep.run`.

    Returns:
        As :meth:`PreparedStep.run`.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
        >>> contract_step(Equation.parse("ij,jk->ik"), (x, x), Options.read("max_plus"))
        tensor([[3., 4.],
                [5., 6.]])
    """
    shapes = tuple([tuple([hint(n) for n in x.shape]) for x in operands])
    step = prepare(equation, shapes, operands[0].dtype, operands[0].device.type, options)
    return step.run(operands, budget_bytes, return_argmax)


@dataclass(frozen=True)
class _View:
    """One dimension for each label: diagonals, no dimensions that broadcast, and an order.

    Attributes:
        diagonals: pairs of dimensions to take the diagonal of, one after the other.
        unit: dimensions of size 1 that broadcast, last first.
        order: the permutation of what remains; None where it stays.
        labels: of the result.
    """

    diagonals: tuple[tuple[int, int], ...]
    unit: tuple[int, ...]
    order: Labels | None
    labels: Labels

    @classmethod
    def of(cls, labels: Labels, shape: Sequence[int], sizes: dict[int, int], wanted: Sequence[int]) -> _View:
        """The view of an operand whose labels come in the order of ``wanted``, as far as it has them."""
        names, lengths, diagonals = list(labels), list(shape), []
        for label in [x for x in dict.fromkeys(labels) if labels.count(x) > 1]:
            while names.count(label) > 1:
                first = names.index(label)
                second = names.index(label, first + 1)
                diagonals.append((first, second))
                for dim in (second, first):
                    del names[dim], lengths[dim]
                names.append(label)
                lengths.append(sizes[label])
        unit = tuple(i for i in reversed(range(len(names))) if lengths[i] == 1 != sizes[names[i]])
        for dim in unit:
            del names[dim]
        present = [x for x in wanted if x in names]
        order = tuple([names.index(x) for x in present])
        return cls(
            tuple(diagonals), unit, None if order == tuple(range(len(order))) else order, tuple(present)
        )

    def __call__(self, x: Tensor) -> Tensor:
        for first, second in self.diagonals:
            x = x.diagonal(0, first, second)
        for dim in self.unit:
            x = x.squeeze(dim)
        return x if self.order is None else x.permute(self.order)


@dataclass(frozen=True)
class PreparedStep:
    """A step with everything that shapes decide.

    Attributes:
        equation: of the step.
        options: over which semiring, and how.
        kernel: what computes it.
        views: of the operands, in the order of labels that the kernel takes; unused by ``"blocked"``.
        order: from the labels that a matrix product writes to those of the output; None where they agree.
    """

    equation: Equation
    options: Options
    kernel: SemiringKernel
    views: tuple[_View, ...]
    order: Labels | None

    def run(self, operands: Sequence[Tensor], budget_bytes: int, return_argmax: bool = False) -> Any:
        """Contract operands of the shapes prepared for, or of others with the same dimensions of size 1.

        Args:
            operands: of one dtype that the semiring takes, on one device.
            budget_bytes: what temporaries may take.
            return_argmax: for a semiring whose addition selects: also return where.

        Returns:
            The result, with any strides. With ``return_argmax`` also int64 indices (*output, S) of the summed
            labels in the order of their numbers.
        """
        if self.kernel.name == "multiply":
            product = self._multiply(operands)
            if not return_argmax:
                return product
            return product, product.new_empty((*product.shape, 0), dtype=torch.int64)
        own_argmax = self.options.semiring.name in SELECTING and not any(self.kernel.presummed)
        if self.kernel.name == "matmul" and (own_argmax or not return_argmax):
            return self._matmul(operands, budget_bytes, return_argmax)
        return self._blocked(operands, budget_bytes, return_argmax)

    def _blocked(self, operands: Sequence[Tensor], budget_bytes: int, return_argmax: bool) -> Any:
        return _blocked(self.equation, operands, self.options, budget_bytes, return_argmax)

    def _multiply(self, operands: Sequence[Tensor]) -> Tensor:
        """The product of operands whose labels the result has, all of them."""
        product: Tensor | None = None
        for position, (operand, form) in enumerate(zip(operands, self.views, strict=True)):
            view = form(operand)
            for dim, label in enumerate(self.equation.output):
                if label not in form.labels:
                    view = view.unsqueeze(dim)
            if position in self.options.linear_operands:
                view = view.log()
            product = view if product is None else selected_product(self.options.semiring, product, view)
        assert product is not None
        return product

    def _matmul(self, operands: Sequence[Tensor], budget_bytes: int, return_argmax: bool) -> Any:
        kernel, options = self.kernel, self.options
        a, b = (view(x) for view, x in zip(self.views, operands, strict=True))
        if any(kernel.presummed):
            a, b = (
                self._presummed(x, position, budget_bytes) if kernel.presummed[position] else x
                for position, x in enumerate((a, b))
            )
        if not kernel.summed:
            return self._after_sums(a, b)
        first = len(kernel.batch)
        second = first + len(kernel.rows)
        shape, depth = (*a.shape[:second], *b.shape[first + len(kernel.summed) :]), a.shape[second:]
        n_batch, n_summed = math.prod(a.shape[:first]), math.prod(depth)
        matrices = (
            (a, (n_batch, math.prod(a.shape[first:second]), n_summed)),
            (b, (n_batch, n_summed, math.prod(shape[second:]))),
        )
        if options.memory_limit is not None:
            rest = budget_bytes - sum(_copied_bytes(x, form) for x, form in matrices)
            if rest < self._least_bytes(matrices[0][1], matrices[1][1], return_argmax or tracked(a, b), a):
                return self._blocked(operands, budget_bytes, return_argmax)
            budget_bytes = rest
        left, right = (x.reshape(form) for x, form in matrices)
        product = _product(left, right, options, budget_bytes, return_argmax)
        if not return_argmax:
            return self._ordered(product.reshape(shape))
        values, place = product
        places = _unravelled(self._ordered(place.reshape(shape)), depth)
        by_number = sorted(range(len(depth)), key=lambda i: kernel.summed[i])
        return self._ordered(values.reshape(shape)), torch.stack([places[i] for i in by_number], -1)

    def _after_sums(self, a: Tensor, b: Tensor) -> Tensor:
        """The product of operands that share no label but those of the result: (B, I) by (B, J)."""
        a, b = (
            x.log() if position in self.options.linear_operands else x for position, x in enumerate((a, b))
        )
        first = len(self.kernel.batch)
        for _ in self.kernel.columns:
            a = a.unsqueeze(-1)
        for _ in self.kernel.rows:
            b = b.unsqueeze(first)
        return self._ordered(selected_product(self.options.semiring, a, b))

    def _least_bytes(
        self, first: tuple[int, int, int], second: tuple[int, int, int], argmax: bool, like: Tensor
    ) -> int:
        """What the kernel for matrices of these shapes takes at least."""
        if self.options.semiring.name not in SELECTING:
            return 0
        batch, rows, depth, columns = *first, second[2]
        workspace = tropical.workspace_bytes(
            batch, rows, depth, columns, like.dtype, argmax=argmax, device=like.device.type
        )
        return workspace + 8 * batch * rows * columns * argmax

    def _ordered(self, x: Tensor) -> Tensor:
        return x if self.order is None else x.permute(self.order)

    def _presummed(self, view: Tensor, position: int, budget_bytes: int) -> Tensor:
        """An operand, its own labels last, without these."""
        count = len(self.kernel.presummed[position])
        if position in self.options.linear_operands:
            return view.sum(tuple(range(view.dim() - count, view.dim())))
        labels = tuple(range(view.dim()))
        reduction = Equation((labels,), labels[: view.dim() - count])
        result: Tensor = _blocked(reduction, [view], self.options.linear(), budget_bytes)
        return result


@lru_cache(maxsize=4096)
def prepare(
    equation: Equation,
    shapes: tuple[tuple[int, ...], ...],
    dtype: torch.dtype,
    device: str,
    options: Options,
) -> PreparedStep:
    """Choose the kernel for a step, and say how its operands are laid before it.

    Args:
        equation: the step.
        shapes: of the operands.
        dtype: of the operands.
        device: where it runs.
        options: over which semiring, and how.

    Example:
        >>> shapes, log = ((2, 3), (4, 3)), Options.read("log")
        >>> step = prepare(Equation.parse("ij,kj->ik"), shapes, torch.float32, "cpu", log)
        >>> step.run((torch.zeros(2, 3), torch.zeros(4, 3)), 1 << 20).exp().round()[0]
        tensor([3., 3., 3., 3.])
    """
    kernel = choose_step(equation, shapes, dtype, device, options)
    sizes = equation.sizes(shapes)
    if kernel.name == "matmul":
        batch, rows, columns, summed = kernel.batch, kernel.rows, kernel.columns, kernel.summed
        wanted = [
            (*batch, *rows, *summed, *kernel.presummed[0]),
            (*batch, *summed, *columns, *kernel.presummed[1]),
        ]
        written = (*batch, *rows, *columns)
    else:
        wanted, written = [equation.output] * len(shapes), equation.output
    views = tuple(
        _View.of(labels, shape, sizes, order)
        for labels, shape, order in zip(equation.inputs, shapes, wanted, strict=True)
    )
    order = tuple(written.index(x) for x in equation.output)
    return PreparedStep(
        equation, options, kernel, views, None if order == tuple(range(len(order))) else order
    )


def _blocked(
    equation: Equation,
    operands: Sequence[Tensor],
    options: Options,
    budget_bytes: int,
    return_argmax: bool = False,
) -> Any:
    return blocked.contract(
        equation,
        operands,
        options.semiring,
        block_size=options.block_size,
        budget_bytes=budget_bytes,
        return_argmax=return_argmax,
        **_special(options),
    )


def _special(options: Options) -> dict[str, Any]:
    """What the kernels of the log semiring take beside their operands."""
    words: dict[str, Any] = {}
    if options.linear_operands:
        words["linear_operands"] = options.linear_operands
    if options.grad_of_neg_inf != "nan":
        text = options.grad_of_neg_inf
        words["grad_of_neg_inf"] = text if text == "uniform" else float(text)
    return words


def _copied_bytes(x: Tensor, shape: Sequence[int]) -> int:
    """What a reshape allocates: nothing where a view will do."""
    try:
        x.view(tuple(shape))
    except RuntimeError:
        return x.numel() * x.itemsize
    return 0


def _unravelled(place: Tensor, depth: Sequence[int]) -> list[Tensor]:
    """An index into each of the dimensions that were flattened to one."""
    indices = []
    for size in reversed(depth):
        indices.append(place % size)
        place = place // size
    return indices[::-1]


def _product(a: Tensor, b: Tensor, options: Options, budget_bytes: int, return_argmax: bool) -> Any:
    """A batch of matrix products (B, I, K) by (B, K, J)."""
    semiring = options.semiring
    if semiring.matmul is not None:
        return semiring.matmul(a, b)
    if semiring.name == "log":
        return log.matmul(
            a,
            b,
            zero_annihilates=semiring.zero_annihilates,
            budget_bytes=budget_bytes,
            **_special(options),
        )
    if semiring.name in SELECTING:
        return tropical.matmul(
            a, b, semiring.name, return_argmax=return_argmax, zero_annihilates=semiring.zero_annihilates
        )
    if semiring.name == "boolean":
        return boolean.matmul(a, b)
    return torch.bmm(a, b)
