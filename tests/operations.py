"""The operations that generated programs are made of: each draws one expression over a builder's names."""

from __future__ import annotations

import torch

from tests.builder import Builder

__all__ = ["ALPHABETS", "ARRANGE", "CONTRACT", "MUTATE", "SCALE", "SMOOTH", "cast", "constant", "einsum"]
__all__ += ["label_for"]

ALPHABETS = ("ijklmnopq", "abcdefghi", "zyxwvutsr", "bAcBaDdCe")


def einsum(b: Builder) -> str | None:
    """An einsum of one to four operands in any style of call."""
    operands = [b.name(lambda t: t.ndim <= 4) for _ in range(b.pick((2, 2, 2, 1, 3, 3, 4)))]
    names = [name for name in operands if name is not None]
    if not names:
        return None
    with_ellipsis = b.chance(15)
    leading = b.chance(70)
    sizes: list[int] = []
    labels: list[list[int]] = []
    for name in names:
        shape = list(b.values[name].shape)
        if with_ellipsis:
            named = min(len(shape), b.between(0, 2))
            shape = shape[len(shape) - named :] if leading else shape[:named]
        labels.append([label_for(b, sizes, size) for size in shape])
    used = sorted({label for operand in labels for label in operand})
    output: list[int] | None = None
    if not b.chance(30):
        order = b.shuffled(len(used))
        output = [used[i] for i in order][: b.between(0, min(4, len(used)))] if used else []
    return _call(b, names, labels, output, with_ellipsis, leading)


def label_for(b: Builder, sizes: list[int], size: int) -> int:
    """A label for a dimension of this size: one that is there already, or a new one, noted in ``sizes``."""
    fitting = [i for i, known in enumerate(sizes) if known == size or 1 in (known, size)]
    exact = [i for i in fitting if sizes[i] == size]
    if exact and b.chance(70):
        return b.pick(exact)
    if fitting and b.chance(15):
        chosen = b.pick(fitting)
        sizes[chosen] = max(sizes[chosen], size)
        return chosen
    sizes.append(size)
    return len(sizes) - 1


def _call(
    b: Builder,
    names: list[str],
    labels: list[list[int]],
    output: list[int] | None,
    with_ellipsis: bool,
    leading: bool,
) -> str | None:
    function = b.pick(("torch.einsum",) * 3 + ("torch.functional.einsum", "einfx.einsum"))
    if len(names) > 1 and b.chance(15):
        texts = [", ".join(map(str, part)) for part in [*labels, output or []]]
        if with_ellipsis:
            texts = [", ".join(filter(None, ("...", t) if leading else (t, "..."))) for t in texts]
        parts = [f"{name}, [{text}]" for name, text in zip(names, texts, strict=False)]
        if output is not None:
            parts.append(f"[{texts[-1]}]")
        return f"{function}({', '.join(parts)})"
    alphabet = b.pick(ALPHABETS)
    if max((label for part in labels for label in part), default=0) >= len(alphabet):
        return None
    words = ["".join(alphabet[label] for label in part) for part in [*labels, output or []]]
    if with_ellipsis:
        words = [f"...{word}" if leading else f"{word}..." for word in words]
        if output is not None and b.chance(20):
            words[-1] = words[-1].replace("...", "")
    comma, arrow = b.pick(((",", "->"),) * 4 + ((", ", " -> "), (" ,", "->"), (",", " ->")))
    equation = comma.join(words[:-1]) + (arrow + words[-1] if output is not None else "")
    if b.chance(5):
        equation = " ".join(equation.replace("->", ">").replace("...", "&"))
        equation = equation.replace(">", "->").replace("&", "...")
    operands = ", ".join(names)
    if b.chance(10):
        operands = f"[{operands}]"
    return f'{function}("{equation}", {operands})'


def _pair(b: Builder, templates: tuple[tuple[str, int, int, bool], ...]) -> str | None:
    """A spelling ``(text, rank of a, rank of b, whether they meet as a @ b does)`` over names that fit."""
    text, left, right, meet = b.pick(templates)
    first = b.name(lambda t: t.ndim == left)
    if first is None:
        return None
    shape = b.values[first].shape

    def fits(t: torch.Tensor) -> bool:
        if t.ndim != right or t.dtype is not b.values[first].dtype:
            return False
        return not meet or (t.shape[max(0, right - 2)] == shape[-1] and (left < 3 or t.shape[0] == shape[0]))

    second = b.name(fits)
    if second is None and meet and left == right == 2:
        return text.format(first, f"{first}.{b.pick(('T', 'mT', 't()'))}")
    if second is None and meet and left == right == 3:
        return text.format(first, f"{first}.{b.pick(('mT', 'transpose(1, 2)', 'transpose(-1, -2)'))}")
    return None if second is None else text.format(first, second)


MATMULS = (
    *((f"{call}", r, s, True) for call in ("{0} @ {1}", "torch.matmul({0}, {1})", "{0}.matmul({1})",
                                         "operator.matmul({0}, {1})", "torch.matmul({0}, other={1})")
      for r, s in ((2, 2), (3, 3), (2, 1), (3, 2), (1, 2))),
    ("torch.mm({0}, {1})", 2, 2, True),
    ("{0}.mm({1})", 2, 2, True),
    ("torch.mm({0}, mat2={1})", 2, 2, True),
    ("torch.bmm({0}, {1})", 3, 3, True),
    ("{0}.bmm({1})", 3, 3, True),
    ("torch.mv({0}, {1})", 2, 1, True),
    ("{0}.mv({1})", 2, 1, True),
    ("torch.dot({0}, {1})", 1, 1, True),
    ("{0}.dot({1})", 1, 1, True),
    ("torch.inner({0}, {1})", 1, 1, True),
    ("torch.outer({0}, {1})", 1, 1, False),
    ("{0}.outer({1})", 1, 1, False),
    ("torch.tensordot({0}, {1}, 1)", 2, 2, True),
    ("torch.tensordot({0}, {1}, dims=1)", 3, 2, True),
    ("torch.tensordot({0}, {1}, ([1], [0]))", 2, 2, True),
    ("torch.tensordot({0}, {1}, dims=([-1], [-2]))", 3, 2, True),
    ("torch.tensordot({0}, {1}, 0)", 2, 1, False),
    ("torch.tensordot({0}, {1}, dims=([0, 1], [0, 1]))", 3, 3, True),
    ("({0}.unsqueeze(-1) * {1}).sum(-2)", 2, 2, True),
    ("({0}[:, :, None] * {1}).sum(dim=1)", 2, 2, True),
    ("({0}.unsqueeze(2) * {1}.unsqueeze(0)).sum(1)", 2, 2, True),
    ("torch.sum({0}[..., None] * {1}, dim=-2)", 3, 2, True),
    ("({0} * {1}).sum(-1, keepdim=True)", 2, 1, False),
    ("torch.addmm({0}[:, :1], {0}, {1})", 2, 2, True),
    ("F.linear({0}, {1}.T)", 2, 2, True),
    ("F.linear({0}, {1}.mT)", 3, 2, True),
    ("F.linear({0}, {1}.T, {1}[0])", 2, 2, True),
    ("F.linear({0}, weight={1}.T, bias={1}[0])", 2, 2, True),
    ("F.bilinear({0}, {0}, {1}.T[:, :, None] * {1}.T[:, None], None)", 2, 2, True),
)  # fmt: skip


def matmul(b: Builder) -> str | None:
    return _pair(b, MATMULS)


def product(b: Builder) -> str | None:
    """Two values multiplied, added or subtracted elementwise, or summed after it."""
    first = b.name()
    if first is None:
        return None
    shape = b.values[first].shape
    second = b.name(lambda t: t.shape == shape or t.ndim == 0) or first
    text = b.pick(("{0} * {1}", "({0} * {1}).sum()", "({0} * {1}).sum(-1)", "torch.mul({0}, {1})",
                   "{0} + {1}", "{0} - {1}", "{0}.add({1}, alpha=2)", "torch.sub({0}, {1}, alpha=0.5)",
                   "torch.add({0}, {1})", "torch.stack([{0}, {1}])", "torch.cat([{0}, {1}], 0)"))  # fmt: skip
    return text.format(first, second)


def constant(b: Builder) -> str:
    """A factor: a number, a size, or a tensor of no dimensions."""
    texts = ["2", "0.5", "-1", "3.0", "-0.25", "1", "1.0", "0.1", "7", "math.sqrt(2.0)", "0", "True"]
    tiny = b.name(lambda t: t.ndim == 0)
    if tiny is not None:
        texts += [tiny] * 3
    sized = b.name(lambda t: t.ndim > 0 and min(t.shape) > 0)
    if sized is not None:
        texts += [f"{sized}.shape[-1]", f"{sized}.size(0)"]
    return b.pick(texts)


FACTORS = (
    "{c} * {a}", "{a} * {c}", "{a} / {c}", "{a}.mul({c})", "{a}.mul(other={c})", "torch.mul({a}, {c})",
    "torch.div({a}, {c})", "{a}.div({c})", "torch.div({a}, other={c})", "-{a}", "torch.neg({a})", "{a}.neg()",
    "{c} * {a} / 4", "2.0 * 3 * {a}", "3 * ({a} * {c})", "torch.multiply({a}, {c})", "torch.divide({a}, {c})",
    "{a}.true_divide({c})", "operator.mul({a}, {c})", "operator.truediv({a}, {c})",
    "torch.mul(input={a}, other={c})",
    "{a} / {a}.shape[-1] ** 0.5", "{a}.multiply({c}).negative()", "torch.neg(-{a})", "{a} * -({c})",
)  # fmt: skip
NOT_FACTORS = (
    "{c} - {a}", "{a} - {c}", "{a} + {c}", "torch.rsub({a}, {c})", "{a}.rsub({c})", "torch.sub({a}, {c})",
    "{a}.add({c})", "{a} ** 2", "{c} * {a} + {c}", "torch.add({a}, {a}, alpha={c})", "{a}.square()",
)  # fmt: skip


def scale(b: Builder) -> str | None:
    """A value times a constant, in any spelling."""
    name = b.name()
    return None if name is None else b.pick(FACTORS).format(a=name, c=constant(b))


def shift(b: Builder) -> str | None:
    """A value and a constant under something that isn't a factor."""
    name = b.name()
    return None if name is None else b.pick(NOT_FACTORS).format(a=name, c=constant(b))


def divide(b: Builder) -> str | None:
    """A division by something that is far from zero, or one that rounds."""
    divisor = b.exact_name()
    other = b.name(lambda t: t.ndim <= 1)
    if divisor is None or other is None:
        return None
    text = b.pick(("{a} / {d}", "{c} / {d}", "{d}.reciprocal()", "1 / (2.0 * {d})", "{a} / (3 * {d})",
                   "2.0 * {a} / {d}", "torch.div({a}, {d})", "{d}.div(0.3, rounding_mode='floor')",
                   "({d} * 10).div(3, rounding_mode='trunc')", "{d} // 0.3", "torch.reciprocal({d})",
                   "{a}.mul(3) / ({d} / 2)"))  # fmt: skip
    return text.format(a=other, d=divisor, c=constant(b))


def transpose(b: Builder) -> str | None:
    """The same numbers in another order of dimensions."""
    name = b.name(lambda t: t.ndim >= 2)
    if name is None:
        return None
    rank = b.values[name].ndim
    i, j = b.between(-rank, rank - 1), b.between(0, rank - 1)
    order = b.shuffled(rank)
    listed = ", ".join(map(str, order))
    texts = [f"{name}.permute({listed})", f"{name}.permute(({listed}))", f"{name}.permute(dims=({listed}))",
             f"torch.permute({name}, ({listed}))", f"{name}.transpose({i}, {j})", f"{name}.mT",
             f"torch.transpose({name}, {i}, {j})", f"{name}.swapaxes({i}, {j})", f"{name}.movedim({i}, {j})",
             f"torch.movedim({name}, {i}, {j})", f"{name}.transpose(dim0={i}, dim1={j})",
             f"{name}.transpose({i}, {j}).contiguous()"]  # fmt: skip
    if rank == 2:
        texts += [f"{name}.T", f"{name}.t()", f"torch.t({name})"]
    return b.pick(texts)


def view(b: Builder) -> str | None:
    """The same numbers, or some of them, in another shape."""
    name = b.name(lambda t: t.ndim >= 1)
    if name is None:
        return None
    shape = b.values[name].shape
    i = b.between(0, len(shape) - 1)
    texts = [f"{name}.reshape(-1)", f"{name}.view(-1)", f"{name}.flatten()", f"{name}.unsqueeze({i})",
             f"{name}.squeeze()", f"{name}.squeeze({i})", f"{name}[0]", f"{name}[..., None]", f"{name}[1:]",
             f"{name}[..., 0]", f"{name}.select({i}, 0)", f"{name}.narrow({i}, 0, 1)", f"{name}[None]",
             f"torch.unsqueeze({name}, {i - 1})", f"{name}.expand(2, {', '.join(['-1'] * len(shape))})",
             f"{name}.clone()", f"{name}.contiguous()", f"{name}.unbind(0)[0]", f"{name}.chunk(2, {i})[0]",
             f"{name}.reshape({name}.shape[0], -1)", f"{name}.view({name}.size(0), -1)", f"{name}.detach()",
             f"{name}.reshape({name}.shape[0] * 1, -1)", f"{name}.view({name}.shape)", f"{name}.flip({i})",
             f"{name}.view(1, {', '.join(b.size(n) for n in shape)})", f"{name}.view_as({name})"]  # fmt: skip
    if len(shape) >= 2:
        texts += [f"{name}.flatten(0, 1)", f"{name}[:, :2]", f"{name}[:, 0]", f"{name}[:, None]",
                  f"{name}.diagonal()", f"{name}.reshape(-1, {b.size(shape[-1])})",
                  f"{name}.view(-1, {b.size(shape[-1])})", f"torch.flatten({name}, 0, 1)"]  # fmt: skip
    return b.pick(texts)


def total(b: Builder) -> str | None:
    """A sum or a mean."""
    name = b.name(lambda t: t.ndim >= 1)
    if name is None:
        return None
    i = b.between(-1, b.values[name].ndim - 1)
    return b.pick((f"{name}.sum({i})", f"{name}.sum()", f"torch.sum({name}, {i})", f"{name}.sum(dim={i})",
                   f"{name}.sum({i}, keepdim=True)", f"{name}.sum(dim=({i},))", f"{name}.mean({i})",
                   f"torch.sum({name}, dim=[{i}])", f"torch.mean({name})"))  # fmt: skip


def smooth(b: Builder) -> str | None:
    """A function that no pass knows."""
    name = b.name()
    return None if name is None else b.pick(
        (f"torch.tanh({name})", f"{name}.sigmoid()", f"torch.sin({name})", f"F.softplus({name})",
         f"F.dropout({name}, 0.5, training=False)", f"torch.softmax({name}, 0)", f"{name}.abs()")
    )  # fmt: skip


def cast(b: Builder) -> str | None:
    """A value in another dtype."""
    name = b.name()
    return None if name is None else b.pick(
        (f"{name}.to(torch.float32)", f"{name}.double()", f"{name}.half()", f"{name}.to(torch.bfloat16)",
         f"{name}.type_as(x0)", f"{name}.float()", f"{name}.to(x0)")
    )  # fmt: skip


def change(b: Builder) -> str | None:
    """A statement that writes into a value, or into a view of one."""
    name = b.name(lambda t: not t.requires_grad or t.grad_fn is not None)
    if name is None:
        return None
    value = b.values[name]
    other = b.name(lambda t: t.shape == value.shape or t.ndim == 0) or name
    c = constant(b)
    texts = [f"{name}.add_({c})", f"{name}.mul_({c})", f"{name}.mul_({other})", f"{name}.add_({other})",
             f"{name}.neg_()", f"{name}.div_(4)", f"{name}.copy_({other})", f"operator.imul({name}, {c})",
             f"operator.iadd({name}, {other})", f"{name}.sub_({other})",
             f"{name}.zero_()", f"{name}.fill_({c})", f"{name}.tanh_()"]  # fmt: skip
    if b.values[other].shape == value.shape:
        texts += [f"torch.mul({other}, {other}, out={name})", f"torch.neg({other}, out={name})"]
    if "." not in name:
        texts += [f"{name} += {other}", f"{name} *= {c}", f"{name} -= {c}", f"{name} /= 4"]
    if value.ndim >= 1:
        texts += [f"{name}[0] = {c}", f"{name}[..., 0] *= {c}", f"{name}[0] += {c}"]
        texts += [f"{name}[0].mul_({c})", f"{name}[..., 0].add_({c})", f"operator.setitem({name}, 0, {c})",
                  f"{name}.view(-1).mul_({c})", f"operator.setitem({name}, (Ellipsis, slice(0, 1)), {c})",
                  f"{name}.unsqueeze(0).add_({other})"]  # fmt: skip
    if value.ndim == 2:
        texts += [f"{name}.T.mul_({c})", f"{name}.t().add_({c})", f"{name}.diagonal().add_({c})",
                  f"{name}.addmm_({name}, {name}.mT)",
                  f"torch.mm({name}, {name}.clone(), out={name})"]  # fmt: skip
    if value.ndim == 2 and b.chance(10):
        texts = [f"{name}.t_()", f"{name}.unsqueeze_(0)", f"{name}.transpose_(0, 1)"]
    return b.pick(texts)


CONTRACT = (einsum, einsum, einsum, matmul)
ARRANGE = (transpose, view)
SCALE = (scale, scale, divide)
SMOOTH = (product, shift, total, smooth)
MUTATE = (change,)
