"""The rows of the benchmark are programs that every contestant can be given."""

import pytest
import torch
from torch import fx

from benchmarks.contestants import in_double, largest_error
from benchmarks.row import Row
from benchmarks.rows import PATHOLOGICAL, PROGRAMS
from benchmarks.rows.equivariant import quartic_coefficients

ROWS = [row for row in (*PROGRAMS, *PATHOLOGICAL) if row.name != "mace"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_trace_with_the_default_tracer_and_run_in_double(row: Row) -> None:
    model, inputs = in_double(*row.build())
    traced = fx.symbolic_trace(model)
    with torch.no_grad():
        assert largest_error(traced(*inputs), model(*inputs)) == 0.0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_are_the_same_on_every_construction(row: Row) -> None:
    (model, inputs), (again, inputs_again) = row.build(), row.build()
    assert all(torch.equal(a, b) for a, b in zip(inputs, inputs_again, strict=True))
    parameters = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in parameters)


def test_row_names_are_unique() -> None:
    names = [row.name for row in (*PROGRAMS, *PATHOLOGICAL)]
    assert len(set(names)) == len(names)


def test_quaternions_become_rotations_of_degree_2() -> None:
    q, p = torch.nn.functional.normalize(torch.randn(2, 4, dtype=torch.float64), dim=1)
    coefficients = quartic_coefficients()

    def matrix(q: torch.Tensor) -> torch.Tensor:
        return torch.einsum("a,b,c,d,ijabcd->ij", q, q, q, q, coefficients)

    product = torch.cat(
        [
            (q[0] * p[0] - q[1:] @ p[1:]).reshape(1),
            q[0] * p[1:] + p[0] * q[1:] + torch.linalg.cross(q[1:], p[1:]),
        ]
    )
    torch.testing.assert_close(matrix(q) @ matrix(q).T, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(matrix(product), matrix(q) @ matrix(p))
