"""Programs of opt_einsum_fx's users, run in a process of their own on it or on einfx.

    python client_programs.py PROGRAMS REPLACE OUT

PROGRAMS is ``e3nn`` or ``mace``; REPLACE is ``yes`` to run on einfx, ``no`` for opt_einsum_fx itself; OUT
receives a dictionary of lists of tensors: outputs and gradients, by the name of the model.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

warnings.filterwarnings("ignore")

Results = dict[str, list[torch.Tensor]]


def outputs_and_gradients(module: Any, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What a module gives, and the gradients of a weighted sum of that."""
    leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    result = module(*leaves)
    outputs = [x for x in (result if isinstance(result, tuple) else (result,)) if x is not None]
    loss = sum((x * torch.linspace(-1, 1, x.numel()).reshape(x.shape)).sum() for x in outputs)
    wanted = [x for x in leaves if x.requires_grad] + [p for p in module.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [x.detach() for x in (*outputs, *gradients) if x is not None]


def in_every_form(
    results: Results,
    name: str,
    make: Callable[[], Any],
    inputs: tuple[torch.Tensor, ...],
    scripts: bool = True,
) -> None:
    """Record a module as it is, scripted, and after saving and loading."""
    from e3nn.util.jit import script

    torch.manual_seed(1)
    module = make()
    results[name] = outputs_and_gradients(module, inputs)
    if scripts:
        scripted = script(module)
        results[f"{name}, scripted"] = outputs_and_gradients(scripted, inputs)
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
        buffer.seek(0)
        results[f"{name}, loaded"] = outputs_and_gradients(torch.jit.load(buffer), inputs)


def e3nn_programs(results: Results) -> None:
    from e3nn import o3

    def random(irreps: str, batch: int = 5) -> torch.Tensor:
        return o3.Irreps(irreps).randn(batch, -1)

    scalars_and_more, spherical = "4x0e+3x1o+2x2e", "0e+1o+2e"
    in_every_form(
        results,
        "FullyConnectedTensorProduct",
        lambda: o3.FullyConnectedTensorProduct(scalars_and_more, spherical, "4x0e+3x1o+2x1e"),
        (random(scalars_and_more), random(spherical)),
    )
    in_every_form(
        results,
        "TensorProduct with weights per edge",
        lambda: o3.TensorProduct(
            "4x0e+4x1o",
            "0e+1o",
            "4x0e+4x0e+4x1o",
            [(0, 0, 0, "uvu", True), (1, 1, 1, "uvu", True), (1, 0, 2, "uvu", True)],
            shared_weights=False,
            internal_weights=False,
        ),
        (random("4x0e+4x1o"), random("0e+1o"), torch.randn(5, 12)),
    )
    in_every_form(
        results,
        "FullTensorProduct",
        lambda: o3.FullTensorProduct("2x0e+1o", "1x1o+0e"),
        (random("2x0e+1o"), random("1o+0e")),
    )
    in_every_form(
        results, "Linear", lambda: o3.Linear(scalars_and_more, "3x0e+2x1o"), (random(scalars_and_more),)
    )
    square = lambda: o3.TensorSquare("2x0e+2x1o")  # noqa: E731
    in_every_form(results, "TensorSquare", square, (random("2x0e+2x1o"),), scripts=False)


def mace_programs(results: Results) -> None:
    from e3nn import o3
    from mace.modules import (
        RealAgnosticInteractionBlock,
        RealAgnosticResidualInteractionBlock,
        SymmetricContraction,
    )

    irreps = o3.Irreps("6x0e+6x1o+6x2e")
    one_hot = torch.eye(3)[torch.tensor([0, 2, 1, 1])]
    in_every_form(
        results,
        "SymmetricContraction",
        lambda: SymmetricContraction(irreps, "6x0e+6x1o", correlation=3, num_elements=3),
        (torch.randn(4, 6, 9), one_hot),
    )
    for block in (RealAgnosticInteractionBlock, RealAgnosticResidualInteractionBlock):
        in_every_form(
            results,
            block.__name__,
            lambda block=block: block(  # type: ignore[misc]
                node_attrs_irreps=o3.Irreps("3x0e"),
                node_feats_irreps=o3.Irreps("6x0e+6x1o"),
                edge_attrs_irreps=o3.Irreps("0e+1o+2e"),
                edge_feats_irreps=o3.Irreps("8x0e"),
                target_irreps=irreps,
                hidden_irreps=o3.Irreps("6x0e+6x1o"),
                avg_num_neighbors=3.0,
            ),
            (
                one_hot,
                torch.randn(4, 24),
                torch.randn(7, 9),
                torch.randn(7, 8),
                torch.tensor([[0, 1, 2, 3, 0, 1, 2], [1, 0, 3, 2, 2, 3, 1]]),
            ),
        )
    mace_model(results)


def mace_model(results: Results) -> None:
    """A whole MACE: energies of atoms, and forces, which differentiate through everything."""
    import numpy as np
    from e3nn import o3
    from e3nn.util import jit
    from mace.modules import MACE, RealAgnosticInteractionBlock, RealAgnosticResidualInteractionBlock

    torch.manual_seed(1)
    model = MACE(
        r_max=5.0,
        num_bessel=4,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=RealAgnosticResidualInteractionBlock,
        interaction_cls_first=RealAgnosticInteractionBlock,
        num_interactions=2,
        num_elements=2,
        hidden_irreps=o3.Irreps("6x0e+6x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.array([1.0, 3.0]),
        avg_num_neighbors=4,
        atomic_numbers=[1, 8],
        correlation=3,
    )
    edges = [(i, j) for i in range(4) for j in range(4) if i != j]
    molecule = {
        "positions": torch.randn(4, 3),
        "node_attrs": torch.eye(2)[torch.tensor([0, 1, 0, 0])],
        "edge_index": torch.tensor(edges).T,
        "shifts": torch.zeros(len(edges), 3),
        "unit_shifts": torch.zeros(len(edges), 3),
        "cell": torch.zeros(3, 3),
        "batch": torch.zeros(4, dtype=torch.int64),
        "ptr": torch.tensor([0, 4]),
        "head": torch.zeros(1, dtype=torch.int64),
    }
    for name, form in (("MACE", model), ("MACE, scripted", jit.compile(model, in_place=False))):
        output = form(dict(molecule), training=True)
        loss = output["forces"].square().sum() + output["energy"].sum()
        gradients = torch.autograd.grad(loss, list(form.parameters()), allow_unused=True)
        kept: Iterator[Any] = iter((output["node_energy"], output["forces"], *gradients))
        results[name] = [x.detach() for x in kept if x is not None]


def main(programs: str, replace: str, out: str) -> None:
    if replace == "yes":
        import einfx.compat

        einfx.compat.install("opt_einsum_fx")
    import opt_einsum_fx

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    results: Results = {}
    {"e3nn": e3nn_programs, "mace": mace_programs}[programs](results)
    assert opt_einsum_fx.__name__.startswith("einfx.") == (replace == "yes")
    torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
