"""The errors that einfx raises: one family, a kind for each thing a user can mend."""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "CompatError",
    "EinfxError",
    "EquationError",
    "FileError",
    "MemoryLimitError",
    "OperandError",
    "PassError",
    "PlanError",
    "UsageError",
]


class EinfxError(Exception):
    """Base of every error that einfx raises on purpose.

    Example:
        >>> import torch, einfx
        >>> try:
        ...     einfx.einsum("ij,jk->ik", torch.ones(2, 3), torch.ones(4, 5))
        ... except einfx.EinfxError as error:
        ...     print(type(error).__name__)
        OperandError
    """


class EquationError(EinfxError, ValueError):
    """The text of an equation can't be read: a stray character, a label of the output that no operand has."""


class OperandError(EinfxError, ValueError, RuntimeError):
    """The operands don't fit the equation: their number, a rank, a size, a dtype, a device.

    It is a ``ValueError`` as in opt_einsum and a ``RuntimeError`` as in torch, so that code written
    for either keeps catching it.
    """


class FileError(EinfxError, OSError):
    """An operand in a mapped file that can't be read: the disk fails, or the file became shorter."""


class PlanError(EinfxError, ValueError):
    """A contraction path or a planning option that can't be used for this contraction."""


class MemoryLimitError(EinfxError, MemoryError):
    """No plan fits the memory limit; the message says which limit would be enough.

    Attributes:
        needed_bytes: that limit, where it is known as a number.
    """

    def __init__(self, message: str = "", needed_bytes: int | None = None) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


class CaptureError(EinfxError, RuntimeError):
    """A model that can't be captured as a graph; the message names the line and the alternatives."""


class PassError(EinfxError, RuntimeError):
    """A pass left a graph that breaks an invariant: a bug of the pass, which the message names."""


class CompatError(EinfxError, ImportError):
    """A peer's module can't be replaced, or not any more; the message says what to do instead."""


class UsageError(EinfxError, ValueError):
    """An argument outside what a function or the command line accepts."""
