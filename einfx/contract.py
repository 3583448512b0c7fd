"""Contractions of tensors: ``einsum``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.overrides import handle_torch_function, has_torch_function

from . import compiled, compiled_patterns, stripped
from .algebra import Semiring
from .dispatch import contract
from .elsewhere import contract_anywhere, converted, is_elsewhere, needs_conversion
from .errors import EquationError, OperandError, UsageError
from .given_plans import Words, given_plan
from .operands import is_array
from .options import KEYWORDS, REAL, Options, means_nothing_else, read_keywords
from .paths.choices import hashable
from .pattern import IndexPattern
from .pattern_functions import taker_of
from .progress import Choice
from .semiring_dispatch import contract_over

__all__ = ["contract_patterns", "einsum", "read_call"]


def einsum(
    equation: Any,
    *operands: Any,
    optimize: Any = "auto",
    semiring: str | Semiring = "real",
    linear_operands: Sequence[int] = (),
    zero_annihilates: bool | None = None,
    grad_of_neg_inf: float | str = math.nan,
    block_size: int | None = None,
    memory_limit: int | str | None = None,
    return_argmax: bool = False,
    strip_exponent: bool = False,
    device: str | torch.device | None = None,
    progress: Choice = None,
    **unknown: Any,
) -> Any:
    """Contract tensors as an equation says, over real numbers or any other commutative semiring.

    Args:
        equation: text such as ``"ij,jk->ik"``, with all that torch.einsum and opt_einsum accept: an implicit
            output, spaces, an ellipsis, repeated labels. Or the first operand of the interleaved form
            ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.
        operands: tensors of any dtype, or NumPy arrays, whose memory is used as it is, or one list of them,
            each with as many dimensions as the equation gives it labels. Dimensions with one label have one
            size; a dimension of size 1 broadcasts. Among them :class:`einfx.IndexPattern`, of three
            dimensions: kernel, output, input.
        optimize: the order of pairwise steps: a strategy's name, a path, an opt_einsum PathOptimizer or a
            cotengra tree, whose slices are kept; see :func:`einfx.planning.plan`. Or a plan of
            :func:`einfx.contract_path`, or its text, for just these equation, shapes and dtype: its path, and
            its slices where it has some, within its limit if no other is given.
        semiring: what takes the place of + and *: a name out of :func:`einfx.semirings`, or a
            :class:`einfx.Semiring` of one's own. -inf times +inf is nan, as in floating point.
        linear_operands: positions of operands that a contraction over ``"log"`` takes as they are, weights of
            at least 0, instead of as logarithms.
        zero_annihilates: whether the semiring's zero times anything is its zero, infinities and nan
            included; by default as the semiring says, which the built-in ones don't.
        grad_of_neg_inf: over ``"log"``, the derivative of a sum that is -inf with respect to each of its
            terms: a number, nan as that of torch.logsumexp, or ``"uniform"`` for equal shares.
        block_size: the longest range of a summed label of which all products are made at once.
        memory_limit: the most bytes beyond the operands, the result included, and in the backward pass the
            gradients, as a number or as text such as ``"512MiB"``. Second and forward-mode derivatives keep
            to it too, with what they return (a value and its tangent), over real numbers, ``"log"`` and
            semirings that select; others are refused. What autograd keeps of a caller's own operations isn't
            counted. Steps may then be taken in another order, so that of equal terms another one is selected
            for the gradient. By default temporaries over a semiring may take 1 GiB.
        return_argmax: for semirings whose sums are one of their terms, such as ``"max_plus"``: whether to
            return the indices of these too.
        strip_exponent: over real numbers: whether to return a mantissa and an exponent to base 10, the result
            being mantissa * 10**exponent. Every step is scaled, so that neither the result nor what leads to
            it has to be in the range of the dtype.
        device: where is computed, by default where the operands are. Operands in host memory that are to be
            computed with on a GPU are copied there in blocks, within ``memory_limit``, by default 80% of what
            is free there. So are, to a CPU, operands in mapped files of 1 MiB and more, if a limit is given
            and they aren't in memory already.
        progress: whether to show how far it is, by tqdm; by default on a terminal, after some seconds. Or a
            function that is called with slices done, slices, bytes copied and bytes to copy. For contractions
            under a limit.
        unknown: keywords of opt_einsum that mean something else here are refused with a hint.

    Returns:
        The contraction: its shape is the sizes of the output's labels. Over real numbers its dtype and device
        are those that torch.einsum gives; elsewhere dtypes promote as torch's do, and half and bfloat16 are
        summed in float32. Differentiable; over semirings that select, the gradient goes to the selected
        terms, of equal ones in each pairwise step to the first.
        Where all operands are in host memory so is the result, wherever it is computed, and gradients are
        where their operands are.
        With ``return_argmax`` also int64 indices of shape (*output, S), for the S summed labels in the order
        of their first appearance.
        With ``strip_exponent`` the mantissa, whose largest magnitude is 1, and the exponent, 0-dimensional in
        float64; both are 0 where the result is. Both are differentiable.

    Raises:
        EquationError: the equation can't be read.
        OperandError: the operands don't fit it, or aren't of the semiring.
        PlanError: ``optimize`` can't be used.
        MemoryLimitError: no plan stays within the limit; the message says which limit would be enough.
        FileError: an operand in a mapped file can't be read any more.
        UsageError: an unknown keyword or semiring, or an option that the semiring has no use for.

    Example:
        A letter is a dimension. Letters on both sides stay, all others are multiplied and summed: a product
        of matrices, and the same with its result transposed.

        >>> import einfx
        >>> a, b, c = torch.ones(2, 3), torch.ones(3, 4), torch.ones(4, 5)
        >>> einsum("ij,jk->ik", a, b).shape
        torch.Size([2, 4])
        >>> einsum("ij,jk->ki", a, b).shape
        torch.Size([4, 2])

        One operand: a sum, sums of rows, a transpose, a diagonal, a trace.

        >>> m = torch.tensor([[1, 2], [3, 4]])
        >>> einsum("ij->", m), einsum("ij->i", m)
        (tensor(10), tensor([3, 7]))
        >>> einsum("ij->ji", m)[0], einsum("ii->i", m), einsum("ii->", m)
        (tensor([1, 3]), tensor([1, 4]), tensor(5))

        Two that share no letter, and two that share all of them: an outer product, products of elements, a
        dot product.

        >>> x, y = torch.tensor([1, 2]), torch.tensor([3, 4])
        >>> einsum("i,j->ij", x, y)
        tensor([[3, 4],
                [6, 8]])
        >>> einsum("i,i->i", x, y), einsum("i,i->", x, y)
        (tensor([3, 8]), tensor(11))

        Batches: a letter that both have and the result keeps, or an ellipsis for any number of dimensions.
        Without ``->`` the result has the ellipsis, then the letters that appear once, in alphabetical order.

        >>> batch = torch.ones(7, 2, 3)
        >>> einsum("bij,bjk->bik", batch, torch.ones(7, 3, 4)).shape
        torch.Size([7, 2, 4])
        >>> einsum("...ij,jk", batch, b).shape
        torch.Size([7, 2, 4])

        Attention over several heads, h, from queries at t to keys at s:

        >>> queries, keys = torch.ones(7, 5, 2, 3), torch.ones(7, 6, 2, 3)  # batch, time, heads, features
        >>> einsum("bthf,bshf->bhts", queries, keys).shape
        torch.Size([7, 2, 5, 6])

        Three or more are contracted in pairs, in the order that is predicted to be the fastest, or in one
        that is given: here the last two first.

        >>> einsum("ij,jk,kl->il", a, b, c)[0, 0].item()
        12.0
        >>> einsum("ij,jk,kl->il", a, b, c, optimize=[(1, 2), (0, 1)])[0, 0].item()
        12.0

        Or in one that was planned ahead and kept as text:

        >>> text = einfx.contract_path("ij,jk,kl->il", a, b, c, memory_limit="1 KiB").to_text()
        >>> einsum("ij,jk,kl->il", a, b, c, optimize=text)[0, 0].item()
        12.0

        Labels that aren't letters, and gradients:

        >>> einsum(a, ["row", "x"], b, ["x", "column"], ["column", "row"]).shape
        torch.Size([4, 2])
        >>> w = torch.ones(3, requires_grad=True)
        >>> einsum("ij,j->", a, w).backward()
        >>> w.grad
        tensor([2., 2., 2.])

        Over other semirings, the same equations. Three steps of a hidden Markov model: the logarithm of the
        probability of everything seen, and the score of the best sequence of states, whose gradient is that
        sequence.

        >>> start = torch.tensor([0.6, 0.4]).log()
        >>> step = torch.tensor([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.1, 0.9]]]).log().requires_grad_()
        >>> round(einsum("i,ij,jk->", start, *step, semiring="log").exp().item(), 6)  # all add up to 1
        1.0
        >>> best = einsum("i,ij,jk->", start, *step, semiring="max_plus")
        >>> torch.autograd.grad(best, step)[0].int().tolist()
        [[[0, 0], [0, 1]], [[0, 0], [0, 1]]]
        >>> einsum("i,ij,jk->", start, *step, semiring="max_plus", return_argmax=True)[1]
        tensor([1, 1, 1])

        Numbers beyond any float, such as partition functions: mantissa and exponent apart.

        >>> huge = torch.full((2, 2), 1e30)
        >>> mantissa, exponent = einsum("ij,jk,kl->il", huge, huge, huge, strip_exponent=True)
        >>> mantissa[0], round(exponent.item(), 4)  # 4e90
        (tensor([1., 1.]), 90.6021)

        Arrays of NumPy, and files larger than memory: mapped, they are read in blocks while the block before
        is computed with. On a GPU, ``device="cuda"`` does the same with all that is in host memory.

        >>> import numpy as np, tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     np.ones((2000, 1000), dtype=np.float32).tofile(file)
        ...     mapped = np.memmap(file.name, np.float32, "r", shape=(2000, 1000))  # 8 MB
        ...     einsum("ij,ik->jk", mapped, mapped, memory_limit="6 MB")[0, :3]
        tensor([2000., 2000., 2000.])
    """
    if unknown:
        _refuse(unknown)
    if (return_argmax or strip_exponent) and not (return_argmax in _FLAGS and strip_exponent in _FLAGS):
        raise UsageError(
            f"return_argmax={return_argmax!r}, strip_exponent={strip_exponent!r}: each is True or False"
        )
    token, tensors = read_call(equation, operands)
    words: Words = semiring, linear_operands, zero_annihilates, grad_of_neg_inf, block_size, memory_limit
    if needs_conversion(tensors, device, strip_exponent):
        rest = dict(zip(KEYWORDS, words, strict=True), optimize=optimize, return_argmax=return_argmax)
        rest |= {"strip_exponent": strip_exponent, "device": device, "progress": progress}
        return converted(einsum, equation, operands, rest)
    if not isinstance(optimize, str) or optimize[:1] == "{":
        optimize, words = given_plan(token, tensors, optimize, words)
    if strip_exponent and not has_torch_function([x for x in tensors if type(x) is not IndexPattern]):
        return stripped.einsum(token, tensors, optimize, words, return_argmax)
    if torch.compiler.is_dynamo_compiling() and any(type(x) is IndexPattern for x in tensors):
        return compiled_patterns.contract(token, tensors, optimize, return_argmax, *words)
    if torch.compiler.is_compiling() and not has_torch_function(tensors):
        if means_nothing_else(*words) and not return_argmax:
            return compiled.contract(token, tensors, optimize)
        return compiled.contract_semiring(token, tensors, optimize, *words, return_argmax)
    options = REAL if means_nothing_else(*words) else read_keywords(*words)
    if has_torch_function(tensors):
        optimize = hashable(optimize)
        if not has_torch_function([x for x in tensors if type(x) is not IndexPattern]):
            return taker_of(contract_patterns)(token, tensors, optimize, options, return_argmax)
        keywords = {} if isinstance(optimize, str) and optimize == "auto" else {"optimize": optimize}
        keywords |= options.keywords()
        if return_argmax:
            keywords["return_argmax"] = True
        if strip_exponent:
            keywords["strip_exponent"] = True
        if device is not None:
            keywords["device"] = str(device)
        return handle_torch_function(einsum, tensors, equation, *operands, **keywords)
    if isinstance(optimize, list):
        optimize = hashable(optimize)
    if options.is_plain and not return_argmax and device is None and not progress:
        return contract(token, tensors, optimize)
    if device is not None or progress or is_elsewhere(tensors, options):
        return contract_anywhere(token, tensors, optimize, options, return_argmax, device, progress)
    return contract_over(token, tensors, optimize, options, return_argmax)


def contract_patterns(
    token: Any, operands: Sequence[Any], optimize: Any, options: Options, return_argmax: bool
) -> Any:
    """Contract tensors and index patterns, which :mod:`einfx.conv` does.

    Args:
        token: what :func:`.dispatch.read_equation` reads.
        operands: tensors, and at least one pattern.
        optimize: as in :func:`einsum`.
        options: what the contraction means beside its equation.
        return_argmax: as in :func:`einsum`.
    """
    return taker_of(contract_patterns)(token, operands, optimize, options, return_argmax)


def read_call(equation: Any, operands: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """The token (see :func:`.dispatch.read_equation`) and the operands of a call in any style."""
    if not isinstance(equation, str):
        return _interleaved(equation, operands)
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        return equation, tuple(operands[0])
    return equation, operands


def _interleaved(first: Any, rest: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
    """Token and operands of the form ``a, [0, 1], b, [1, 2], [0, 2]``."""
    everything = (first, *rest)
    paired = len(everything) - len(everything) % 2
    tensors, lists = everything[:paired:2], everything[1:paired:2] + everything[paired:]
    if not tensors or not all(isinstance(labels, (list, tuple)) for labels in lists):
        wrong = next(((i, x) for i, x in enumerate(lists) if not isinstance(x, (list, tuple))), (0, None))
        is_operand = is_array(first) or isinstance(first, (torch.Tensor, IndexPattern))
        what = f"its first argument is a {type(first).__name__}"
        if tensors and is_operand:
            place = f"of operand {wrong[0]}" if wrong[0] < len(tensors) else "of the output"
            what = f"in the place of the labels {place} there is a {type(wrong[1]).__name__}"
        raise OperandError(
            "einsum takes text and tensors, einsum('ij,jk->ik', a, b), or tensors with lists of labels, "
            f"einsum(a, [0, 1], b, [1, 2], [0, 2]); {what}"
        )
    token = tuple([tuple(x) for x in lists[: len(tensors)]])
    output = tuple(lists[-1]) if paired < len(everything) else None
    try:
        hash((token, output))
    except TypeError:
        raise EquationError(
            f"einsum with labels {[list(x) for x in lists]}: a label is a number, text or another constant "
            "that can be hashed"
        ) from None
    return (token, output), tensors


_FLAGS = (True, False)

_HINTS = {
    "use_blas": "the kernel of each step is chosen by its predicted time; leave it out",
    "backend": "operands are tensors, wherever they are; leave it out",
    "out": "copy the result instead: out.copy_(einsum(...))",
    "dtype": "convert the operands instead: tensor.to(dtype)",
    "order": "make the result contiguous instead: einsum(...).contiguous()",
    "casting": "convert the operands instead: tensor.to(dtype)",
    "split": "leave it out",
    "shapes": "einfx.contract_path and einfx.contract_expression take shapes",
    "path": "it is called optimize here",
}


def _refuse(options: dict[str, Any]) -> None:
    name = next(iter(options))
    hint = _HINTS.get(name, "help(einfx.einsum) lists those that it has")
    raise UsageError(f"einsum has no keyword {name!r}: {hint}")
