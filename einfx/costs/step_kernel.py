"""How one pairwise step is computed, as data: a kernel by its name, the roles and the order of the labels.

==============  =============================================================================
kernel          computes
==============  =============================================================================
view            one operand: diagonals and a permutation
sum             one operand: a sum over labels
multiply        a product without a sum, broadcasting
multiply_sum    a broadcast product, then a sum: no matrix operand has to be made
unrolled        a sum of few products, one after the other
dot, mv         a product of vectors; of a matrix and a vector
mm, bmm         a product of matrices; of batches of matrices
einsum          torch's own einsum: integers, booleans
==============  =============================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Kernel", "Labels", "StepCost"]

Labels = tuple[int, ...]


class StepCost(NamedTuple):
    """What one step costs.

    Attributes:
        flops: multiplications and additions.
        bytes: read and written, copies included.
        seconds: predicted time.
        workspace_bytes: allocated beside the operands and the result.
    """

    flops: int
    bytes: int
    seconds: float
    workspace_bytes: int

    def __add__(self, other: object) -> StepCost:
        if not isinstance(other, StepCost):
            return NotImplemented
        return StepCost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
            max(self.workspace_bytes, other.workspace_bytes),
        )


@dataclass(frozen=True)
class Kernel:
    """How one step is computed.

    Attributes:
        name: one of the kernels of this module's table.
        presummed: for each operand the labels of its own that are summed first.
        batch, rows, columns, summed: labels of both operands and the output, of the first operand alone,
            of the second alone, of both but not the output; in the order in which they are laid out.
        swapped: whether the columns come before the rows in what a GEMM writes.
        order: for elementwise kernels all labels, in the order in which operands are aligned.
        strides: of the output, in elements, as far as they can be told beforehand.
        cost: what it costs.
        narrowed: for each operand the labels of expanded dimensions (their stride is 0), which are narrowed
            to one element, so that they broadcast.
        turned: for each operand of a GEMM whether its copy is the transpose of what is multiplied, which a
            GEMM reads as well: torch copies long rows faster than short ones.
        loose: for each operand of a GEMM whether it has the shape of matrices, but elements in rows and
            columns that lie apart: a GEMM would copy it slowly.
    """

    name: str
    presummed: tuple[Labels, ...]
    batch: Labels
    rows: Labels
    columns: Labels
    summed: Labels
    swapped: bool
    order: Labels
    strides: tuple[int, ...]
    cost: StepCost
    narrowed: tuple[Labels, ...] = ((), ())
    turned: tuple[bool, ...] = (False, False)
    loose: tuple[bool, ...] = (False, False)
