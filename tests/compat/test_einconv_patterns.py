"""Patterns averaged over outputs sum windows where they meet an input, and are tensors elsewhere."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from einfx.compat.einconv import index_pattern
from einfx.compat.einconv.pattern_tensor import PatternTensor

PRODUCTS = (torch.ops.aten.bmm.default, torch.ops.aten.mm.default)


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in PRODUCTS
        return func(*args, **(kwargs or {}))


def products(equation: str, *operands: Tensor) -> tuple[Tensor, int]:
    with Products() as counted:
        result = torch.einsum(equation, *operands)
    return result, counted.count


def plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def weights(size: int, kernel: int, *, reduce: str = "mean", **options: Any) -> Tensor:
    pattern = index_pattern(size, kernel, dtype=torch.float64, **options)
    return pattern.mean(1) if reduce == "mean" else pattern.sum(1)


def close(actual: Tensor, expected: Tensor) -> None:
    assert type(actual) is Tensor
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize(
    "equation",
    [
        "ncij,ki,pj->nckp",
        "ncij,ki,pj->pnkc",
        "ki,pj,nijc->nckp",
        "cij,pj,ki->ckp",
        "ij,ki,pj->pk",
        "nicj,ki,pj->nckp",
    ],
)
def test_contractions_with_averages_sum_windows_without_a_product(equation: str, reduce: str) -> None:
    tested = 0
    every: list[dict[str, Any]] = [
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same"},
        {"dilation": 2, "padding": 4},
    ]
    for i, k, j, p in [(8, 3, 9, 2), (6, 1, 7, 3), (9, 4, 4, 4), (5, 5, 8, 1)]:
        for options in every:
            a, b = (weights(*numbers, reduce=reduce, **options) for numbers in ((i, k), (j, p)))
            terms = equation.split("->")[0].split(",")
            sizes = {"n": 2, "c": 3, "i": i, "j": j}
            term = next(term for term in terms if term not in ("ki", "pj"))
            x = torch.randn([sizes[label] for label in term], dtype=torch.float64)
            operands = [{"ki": a, "pj": b}.get(term, x) for term in terms]
            result, count = products(equation, *operands)
            close(result, torch.einsum(equation, *map(plain, operands)))
            assert count == 0
            tested += 1
    assert tested == 16


@pytest.mark.parametrize(
    "equation",
    [
        "ncij,ki->nckij",  # i is kept
        "ncij,ki->nkj",  # c is summed too
        "nciz,ki,li->nckl",  # i is met twice
        "ncij,ik->nckj",  # input and kernel in each other's place
        "ncki,ki->nck",  # the kernel is met too
        "...ij,ki->...kj",
    ],
)
def test_other_contractions_are_those_of_tensors(equation: str) -> None:
    a = weights(3, 3, padding=1)
    sizes = {"n": 2, "c": 2, "i": 3, "j": 4, "z": 1, "k": 3}
    term = equation.split(",")[0]
    x = torch.randn([sizes.get(label, 2) for label in term.replace("...", "n")], dtype=torch.float64)
    operands = [x, *[a] * equation.count(",")]
    close(torch.einsum(equation, *operands), torch.einsum(equation, *map(plain, operands)))
    close(torch.einsum(equation, operands), torch.einsum(equation, *map(plain, operands)))


def test_transposes_of_patterns_and_of_averages_are_followed() -> None:
    pattern = index_pattern(7, 3, padding=1, dtype=torch.float64)
    x = torch.randn(2, 7, dtype=torch.float64)
    for made in (
        pattern.permute(0, 2, 1).mean(2),
        pattern.permute([2, 0, 1]).mean(dim=-1).transpose(0, 1),
        torch.movedim(pattern, 1, 2).sum(dim=(2,)) / 7,
    ):
        result, count = products("ni,ki->nk", x, made)
        torch.testing.assert_close(result, torch.einsum("ni,ki->nk", x, plain(pattern).mean(1)))
        assert count == (0 if type(made) is PatternTensor else 1)
    # A kernel of as many elements as outputs: sums over either have one shape.
    square = index_pattern(5, 3, dtype=torch.float64)
    assert type(square.sum(0)) is Tensor
    assert type(square.sum(2)) is Tensor
    assert type(square.sum()) is Tensor
    assert type(square.mean(1, keepdim=True)) is Tensor
    assert type(square.sum(1, dtype=torch.float32)) is Tensor
    assert type(square + 1) is Tensor
    assert type(index_pattern(5, 3).sum(1)) is Tensor


def test_averages_that_were_written_to_count_as_they_are() -> None:
    x = torch.randn(2, 7, dtype=torch.float64)
    average = weights(7, 3)
    average *= 2
    close(torch.einsum("ni,ki->nk", x, average), torch.einsum("ni,ki->nk", x, plain(average)))
    pattern = index_pattern(7, 3, dtype=torch.float64)
    pattern[0, 0, 0] = 5.0
    average = pattern.mean(1)
    close(torch.einsum("ni,ki->nk", x, average), torch.einsum("ni,ki->nk", x, plain(average)))
    changed = weights(7, 3).clone()
    assert type(changed) is Tensor


def test_gradients_of_inputs_and_of_averages_are_those_of_tensors() -> None:
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    average = weights(7, 3, padding=1)
    assert torch.autograd.gradcheck(lambda x: torch.einsum("nci,ki->nck", x, average), x)
    learnt = weights(7, 3, padding=1).requires_grad_()
    torch.einsum("nci,ki->nck", x, learnt).sum().backward()
    assert learnt.grad is not None
    close(plain(learnt.grad), x.detach().sum((0, 1)).expand(3, 7))


def test_other_dtypes_of_inputs_are_refused_as_by_tensors() -> None:
    average = weights(7, 3)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        torch.einsum("ni,ki->nk", torch.randn(2, 7), average)


def test_inputs_without_elements_and_mapped_ones_work() -> None:
    average = weights(7, 3)
    assert torch.einsum("nci,ki->nck", torch.ones(0, 2, 7, dtype=torch.float64), average).shape == (0, 2, 3)
    x = torch.randn(4, 2, 7, dtype=torch.float64)
    mapped = torch.func.vmap(lambda x: torch.einsum("ci,ki->ck", x, average))(x)
    close(mapped, torch.einsum("nci,ki->nck", x, plain(average)))


def test_pattern_tensors_show_copy_and_pickle_as_tensors() -> None:
    pattern = index_pattern(4, 2)
    assert repr(pattern) == repr(plain(pattern))
    others: list[Any] = [copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))]
    for other in others:
        assert torch.equal(other, pattern)
        assert other._pattern_hyperparams == vars(pattern)["_pattern_hyperparams"]
    buffer = io.BytesIO()
    torch.save(pattern, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert type(loaded) is Tensor
    assert torch.equal(loaded, plain(pattern))
    average = copy.deepcopy(index_pattern(7, 3, dtype=torch.float64).mean(1))
    x = torch.randn(2, 7, dtype=torch.float64)
    close(torch.einsum("ni,ki->nk", x, average), torch.einsum("ni,ki->nk", x, plain(average)))


def test_compiled_programs_may_make_patterns() -> None:
    def program(x: Tensor) -> Tensor:
        pattern = index_pattern(7, 3, dtype=torch.float64).mean(1)
        return torch.einsum("ni,ki->nk", x, pattern)

    x = torch.randn(2, 7, dtype=torch.float64)
    torch.testing.assert_close(torch.compile(program, backend="eager")(x), program(x))


CLIENT = """
import sys
replace = sys.argv[1] == "yes"
if replace:
    import einfx.compat
    einfx.compat.install("einconv")
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
{imports}
torch.manual_seed(0)
results = []
for shape, kernel, stride, padding, dilation, groups in [
    ((4, 6, 9, 8), 3, 1, 1, 1, 1),
    ((2, 8, 12, 12), (3, 2), 2, (1, 0), 1, 2),
    ((2, 4, 9, 9), 3, 1, "same", 2, 1),
    ((2, 4, 8, 8), 2, 2, 0, 1, 4),
    ((2, 4, 7, 8), 1, 1, "valid", 1, 1),
]:
    x = torch.randn(shape, dtype=torch.float64)
    results.append(extract_averaged_patches(x, kernel, stride, padding, dilation, groups))
    results.append(extract_patches(x, kernel, stride, padding, dilation, groups))

class Written(TorchDispatchMode):
    # The elements of the largest new tensor, which isn't a view of an operand.
    most = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {{}}))
        if isinstance(result, torch.Tensor) and not func._schema.returns[0].alias_info:
            self.most = max(self.most, result.numel())
        return result

costs = []
for shape, kernel, stride, padding in [
    ((8, 64, 32, 32), 3, 1, 1),
    ((8, 32, 32, 32), 3, 2, 1),
    ((4, 8, 56, 56), 7, 2, 3),
    ((8, 16, 28, 28), 5, 1, "same"),
]:
    x = torch.randn(shape)
    with FlopCounterMode(display=False) as flops, Written() as written:
        extract_averaged_patches(x, kernel, stride, padding, 1, 1)
    costs.append((flops.get_total_flops(), written.most, x.numel()))
torch.save((results, costs), sys.argv[2])
"""
CLIENTS = {
    "singd": "from singd.optim.utils import _extract_averaged_patches as extract_averaged_patches\n"
    "from singd.optim.utils import _extract_patches as extract_patches",
    "curvlinops": "from curvlinops.kfac_utils import extract_averaged_patches, extract_patches",
}


@pytest.mark.parametrize("name", CLIENTS)
def test_patches_of_optimizers_are_the_same_on_einfx_and_cost_less(name: str, tmp_path: Any) -> None:
    pytest.importorskip("einconv")
    # Curvlinops isn't among the requirements of the tests: it needs torchvision, by way of BackPACK.
    pytest.importorskip(name)
    results = []
    for replace in ("no", "yes"):
        out = tmp_path / replace
        command = [sys.executable, "-c", CLIENT.format(imports=CLIENTS[name]), replace, str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        results.append(torch.load(out))
    (values, costs), (mine, own) = results
    for got, expected in zip(mine, values, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for (flops, written, elements), (own_flops, own_written, _) in zip(costs, own, strict=True):
        # Matrix products with averaged patterns there; here windows are summed, and none of them is written.
        assert flops > 4 * elements
        assert own_flops == 0
        assert own_written <= written <= elements


def averaged_patches(x: Tensor, kernel: int, einsum: Any, reduce: Any) -> Tensor:
    """As singd and curvlinops average patches: through einops, whose transposes come in between."""
    averages = [
        reduce(index_pattern(size, kernel, padding=1, dtype=x.dtype), "k o i -> k i", "mean")
        for size in x.shape[-2:]
    ]
    return einsum(x, *averages, "b c i1 i2, k1 i1, k2 i2 -> b c k1 k2")


def test_averages_that_einops_takes_multiply_no_matrices() -> None:
    einops = pytest.importorskip("einops")
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    with Products() as counted:
        result = averaged_patches(x, 3, einops.einsum, einops.reduce)
    assert counted.count == 0
    expected = torch.nn.functional.unfold(x, 3, padding=1).mean(-1).view(2, 3, 3, 3)
    close(result, expected)


def test_convolutions_with_patterns_are_native_ones() -> None:
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    patterns = [index_pattern(size, 3, padding=1, dtype=torch.float64) for size in (8, 9)]
    for operands in (
        [x, *patterns, weight],
        [x, patterns[0].transpose(0, 2).permute(2, 1, 0), patterns[1], weight],
    ):
        with Seen():
            result = torch.einsum("ncij,koi,lpj,dckl->ndop", *operands)
        close(result, torch.nn.functional.conv2d(x, weight, padding=1))
    assert torch.ops.aten.convolution in seen
    assert torch.ops.aten.bmm not in seen
    (gradient,) = torch.autograd.grad(result.sin().sum(), x)
    (expected,) = torch.autograd.grad(torch.nn.functional.conv2d(x, weight, padding=1).sin().sum(), x)
    close(gradient, expected)
    turned = torch.einsum("ncij,iko,lpj,dckl->ndop", x, patterns[0].permute(2, 0, 1), patterns[1], weight)
    close(turned, result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128, torch.int64])
def test_contractions_keep_their_dtype_and_refuse_others(dtype: torch.dtype) -> None:
    x = torch.randint(0, 2, (3, 8)).to(dtype)
    pattern = index_pattern(8, 3, dtype=dtype)
    expected = torch.einsum("ni,koi->nko", x, plain(pattern))
    result = torch.einsum("ni,koi->nko", x, pattern)
    assert result.dtype == dtype
    assert torch.equal(result, expected)
    # Patterns alone.
    assert torch.equal(torch.einsum("koi->ko", pattern), torch.einsum("koi->ko", plain(pattern)))


def test_patterns_made_in_inference_mode_are_tensors() -> None:
    with torch.inference_mode():
        pattern = index_pattern(8, 3, dtype=torch.float64)
        x = torch.randn(2, 8, dtype=torch.float64)
        assert torch.equal(torch.einsum("ni,koi->nko", x, pattern), x.unfold(1, 3, 1).transpose(1, 2))


def test_equations_that_do_not_fit_are_refused_as_by_tensors() -> None:
    pattern = index_pattern(8, 3, dtype=torch.float64)
    x = torch.randn(2, 7, dtype=torch.float64)
    for equation, operands in (
        ("ni,koi->nko", [x, pattern]),
        ("ni,ki->nk", [x, pattern]),
        ("ni->n", [x, pattern]),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            torch.einsum(equation, *operands)
