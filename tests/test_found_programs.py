"""Programs that generation once found to go wrong, each for a reason of its own."""

from __future__ import annotations

import torch

from tests.equivalence import check_optimised
from tests.program import tensor

E = torch.einsum
A = tensor((5, 5), seed=1)
X = tensor((5,), seed=2)


def test_a_diagonal_of_a_broadcast_product_is_taken_after_broadcasting() -> None:
    check_optimised(lambda x, w: E("i,jj->ij", x, (w.unsqueeze(-1) * w).sum(-2)), X, A, gradients=True)


def test_a_tensor_transposed_in_place_is_read_in_its_new_shape() -> None:
    def transposed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        v = 2 / x
        v.t_()
        return E("i,ji", w, v)

    def unsqueezed(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        v = 2 * x
        v.unsqueeze_(0)
        return E("ijk,j->ik", v, w)

    check_optimised(transposed, tensor((3, 2), seed=1), tensor((3,), seed=2), gradients=True)
    check_optimised(unsqueezed, tensor((3, 2), seed=1), tensor((3,), seed=2), gradients=True)


def test_a_sum_of_integers_keeps_the_dtype_that_the_whole_contraction_has() -> None:
    for dtype in (torch.int32, torch.int16, torch.uint8):
        x = tensor((3, 3, 3), dtype, seed=1)
        check_optimised(lambda x: E("aaa, aaa, bcb -> a", x, x, x), x)


def test_a_size_of_1_that_broadcasts_within_one_contraction_keeps_the_strides() -> None:
    v = tensor((3, 1), seed=1, layout="transposed")
    check_optimised(lambda v: E(v, [0, 1], v, [1, 2], [2, 1, 0]), v, gradients=True)


def test_gradients_exist_although_a_contracted_value_is_written_through_a_view() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = (2 * a).T
        u = E("ij,jk->ik", t / 3, b)
        a[0].mul_(5)
        return u * 3

    check_optimised(program, A, A.T, gradients=True)


def test_a_contraction_of_a_view_is_read_before_its_base_is_overwritten() -> None:
    def program(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        t = E("ij,jk->ik", a[:, :3], b[:3])
        a.copy_(b)
        return E("ij,jk->ik", t, a[:, :3].mT.contiguous().mT @ b[:3])

    check_optimised(program, A, A.T.clone())


def test_a_contraction_of_a_result_that_was_itself_split_into_pairs_is_split_too() -> None:
    def program(x: torch.Tensor) -> torch.Tensor:
        t = E("abb,abb,acb->ac", x, x, x)
        return E("ab,ac,ab->", t, t, t)

    check_optimised(program, tensor((5, 3, 3), seed=1), gradients=True)


def test_one_input_returned_for_several_outputs_is_no_broken_graph() -> None:
    def program(c: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        v = c + w
        return torch.t(v), E("...", w), E("...->...", w), E("->", w), E("ij,ii->j", v, c)

    check_optimised(program, A, tensor((), seed=3), gradients=True)


def test_a_factor_after_an_outer_product_keeps_the_strides() -> None:
    check_optimised(lambda v, w: -0.25 - E("b,AcB", v, w) / 1, X, tensor((3, 4, 1), seed=3))
