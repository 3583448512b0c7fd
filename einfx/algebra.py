"""What a semiring is: two laws, their identities, and how sums over it are taken.

A commutative semiring replaces + and * of an einsum by an addition and a multiplication of one's own.
Ordering a contraction into pairwise steps, cutting it into blocks and sharing its parts need only the laws:
both are associative and commutative, multiplication distributes over addition, ``zero`` is the identity of
addition, ``one`` that of multiplication, and ``zero`` times anything is ``zero``.

A semiring of one's own is a few lines: here the pairs "length of a shortest path, how many there are", packed
into complex numbers.

    >>> import math
    >>> def shorter(x, y):
    ...     tie = torch.complex(x.real, x.imag + y.imag)
    ...     return torch.where(x.real < y.real, x, torch.where(x.real > y.real, y, tie))
    >>> def joined(x, y):
    ...     return torch.complex(x.real + y.real, x.imag * y.imag)
    >>> counting = Semiring("counting", shorter, joined, zero=complex(math.inf, 0), one=complex(0, 1),
    ...                     dtypes=("complex",))
    >>> two_ways = torch.tensor([complex(3, 1), complex(3, 2), complex(4, 1)])
    >>> counting.sum(two_ways, 0)
    tensor(3.+3.j)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import accumulators
from .accumulators import Accumulator
from .domains import kind_of
from .errors import OperandError, UsageError

__all__ = ["Semiring"]

Law = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Semiring:
    """An algebra for contractions.

    Args:
        name: by which it is found, once registered.
        addition: of two tensors that broadcast; associative and commutative.
        multiplication: of two tensors that broadcast; distributes over ``addition``.
        zero: the identity of addition: a number, or a function from a dtype to one.
        one: the identity of multiplication, likewise.
        dtypes: the kinds of dtypes that it makes sense for, of ``"floating"``, ``"complex"``, ``"integer"``,
            ``"unsigned"`` and ``"bool"``.
        domain: raises an error for a tensor with elements outside of the semiring.
        accumulator: how partial sums meet; by default, by ``addition``.
        idempotent: whether x + x is x.
        selective: whether x + y is always x or y, so that a sum has an argmax.
        matmul: ``(a: (B, I, K), b: (B, K, J)) -> (B, I, J)`` where there's a faster way than the generic
            kernel.
        zero_annihilates: whether ``zero`` times anything is ``zero`` even where ``multiplication`` says nan,
            as it does for -inf + inf.

    Example:
        >>> import math
        >>> longest = Semiring("longest", torch.maximum, torch.add, zero=-math.inf, one=0.0, selective=True)
        >>> longest.sum(torch.tensor([[1.0, 2.0], [4.0, 3.0]]), dim=1)
        tensor([2., 4.])
    """

    name: str
    addition: Law
    multiplication: Law
    zero: Any
    one: Any
    dtypes: tuple[str, ...] = ("floating",)
    domain: Callable[[Tensor], None] | None = None
    accumulator: Accumulator | None = None
    idempotent: bool = False
    selective: bool = False
    matmul: Callable[[Tensor, Tensor], Tensor] | None = None
    zero_annihilates: bool = False
    _accumulator: Accumulator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UsageError(f"a semiring has a name, such as 'widest', not {self.name!r}")
        for word, identity in (("zero", self.zero), ("one", self.one)):
            if identity is None or isinstance(identity, str):
                raise UsageError(
                    f"semiring {self.name!r}: its {word} is {identity!r}; it is a number, or a function from "
                    "a dtype to one"
                )
        for word, law in (("addition", self.addition), ("multiplication", self.multiplication)):
            if not callable(law):
                raise UsageError(
                    f"semiring {self.name!r}: its {word} is {law!r}; it is a function of two tensors"
                )
        made = self.accumulator or accumulators.folded(self.addition, self.zero_of)
        object.__setattr__(self, "_accumulator", made)

    def zero_of(self, dtype: torch.dtype) -> Any:
        """The identity of addition in a dtype."""
        return self.zero(dtype) if callable(self.zero) else self.zero

    def one_of(self, dtype: torch.dtype) -> Any:
        """The identity of multiplication in a dtype."""
        return self.one(dtype) if callable(self.one) else self.one

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of two tensors that broadcast."""
        return self.addition(x, y)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of two tensors that broadcast.

        Example:
            >>> import math
            >>> log = Semiring("log", torch.logaddexp, torch.add, zero=-math.inf, one=0)
            >>> x, y = torch.tensor([-math.inf]), torch.tensor([math.inf])
            >>> log.multiply(x, y), log.annihilating().multiply(x, y)
            (tensor([nan]), tensor([-inf]))
        """
        product = self.multiplication(x, y)
        if not self.zero_annihilates:
            return product
        zero = self.zero_of(product.dtype)
        return torch.where((x == zero) | (y == zero), torch.full_like(product, zero), product)

    def sum(self, x: Tensor, dim: int) -> Tensor:
        """The sum along a dimension, which may be empty; the result lacks it."""
        shape = [size for d, size in enumerate(x.shape) if d != dim % x.ndim]
        state = self.partial_sums.init(shape, x.dtype, x.device)
        return self.partial_sums.finish(self.partial_sums.update(state, x, dim) if x.shape[dim] else state)

    @property
    def partial_sums(self) -> Accumulator:
        """The accumulator: the one given, or that of ``addition``."""
        return self._accumulator

    def selection(self) -> Accumulator:
        """The accumulator that finds the argmax too.

        Raises:
            UsageError: the addition doesn't select.
        """
        if not self.selective:
            raise UsageError(
                f"the sums of semiring {self.name!r} aren't one of their terms, so there's no argmax"
            )
        return accumulators.selecting(self.addition, self.zero_of)

    def annihilating(self, enabled: bool = True) -> Semiring:
        """The same semiring with another ``zero_annihilates``."""
        return self if enabled == self.zero_annihilates else replace(self, zero_annihilates=enabled)

    def check(self, *operands: Tensor) -> None:
        """Refuse operands that aren't of this semiring.

        Raises:
            OperandError: a dtype or a number that the semiring has no place for.
        """
        for position, operand in enumerate(operands):
            if (kind := kind_of(operand.dtype)) not in self.dtypes:
                other = ", or contract over semiring='boolean'" if kind == "bool" else ""
                raise OperandError(
                    f"semiring {self.name!r} has no {operand.dtype} numbers, which operand {position} holds "
                    f"({kind}); it takes {', '.join(self.dtypes)} dtypes: convert them by .to(dtype){other}"
                )
            if self.domain is not None:
                self.domain(operand)
