"""Lower rooms never import upper ones.

einfx is a stack of rooms, from the equation up to the command line. A module imports from its own room and
from those below it; then any file can be read knowing only what lies under it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up. A package stands for everything in it; modules of one line may import one another.
ROOMS: tuple[tuple[str, ...], ...] = (
    ("errors", "free_memory", "layout", "mapped_memory", "modes", "operands", "progress", "sources"),
    ("machine",),
    ("accumulators", "domains", "exponents"),
    ("algebra",),
    ("equation", "kernel_slices", "padding", "pattern", "pattern_functions", "recognition", "semiring"),
    ("options",),
    ("costs", "paths"),
    ("plans",),
    ("arranging", "planning", "semiring_planning"),
    ("kernels",),
    ("program", "semiring_program", "streaming"),
    ("slicing",),
    (
        "compiled",
        "compiled_patterns",
        "contract",
        "contract_path",
        "dispatch",
        "elsewhere",
        "expression",
        "given_plans",
        "semiring_dispatch",
        "shifted_log",
        "stripped",
        "tensordot",
    ),
    (
        "algorithms",
        "conv",
        "graph_memory",
        "graphs",
        "legality",
        "model_state",
        "rewrite",
        "torchscript",
    ),
    ("report", "sized_programs", "tracing"),
    ("optimized",),
    ("passes",),
    ("capture", "limiting", "optimize"),
    ("explain",),
    ("draw",),
    ("compat",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {name: height for height, names in enumerate(ROOMS) for name in names}

# The packages of a package whose order matters too, from the bottom up.
FLOORS = {"slicing": ("schedules", "running", "search", "plans", "autograd")}


def _modules() -> dict[str, Path]:
    """Every module of einfx by its full name, passes under the name they are installed with."""
    found: dict[str, Path] = {}
    for folder, prefix in ((ROOT / "einfx", ("einfx",)), (ROOT / "passes", ("einfx", "passes"))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = _modules()


def imports(module: str, source: str) -> Iterator[tuple[int, str]]:
    """The modules of einfx that a module imports, at its top or inside a function, each with its line.

    Args:
        module: the full name of the module, from which relative imports start.
        source: its text.
    """
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "einfx":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*parents, *filter(None, [node.module])))
            if base.split(".")[0] == "einfx":
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield node.lineno, inner if inner in MODULES else base


def room(module: str) -> str:
    """The room of a module: the name below ``einfx``."""
    return module.split(".")[1]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "einfx"])
def test_lower_rooms_never_import_upper_ones(module: str) -> None:
    assert room(module) in HEIGHT, f"{module} is in no room: add it to ROOMS, where it belongs in the stack"
    height = HEIGHT[room(module)]
    for line, imported in imports(module, MODULES[module].read_text()):
        where = f"{MODULES[module].relative_to(ROOT)}:{line}"
        if imported == "einfx":
            assert height >= HEIGHT["compat"], f"{where} imports the public API, which is above everything"
        else:
            assert HEIGHT[room(imported)] <= height, f"{where} imports {imported}, which is above it"


def test_every_room_is_named_once() -> None:
    names = [name for names in ROOMS for name in names]
    assert len(names) == len(set(names))


def test_relative_imports_resolve_from_modules_and_from_packages() -> None:
    source = (
        "from . import program\ndef late():\n    from .equation import Equation\n    import einfx.planning\n"
    )
    assert list(imports("einfx.contract", source)) == [
        (1, "einfx.program"),
        (3, "einfx.equation"),
        (4, "einfx.planning"),
    ]
    assert list(imports("einfx.passes", "from ..rewrite import Pass")) == [(1, "einfx.rewrite")]


@pytest.mark.parametrize("module", [name for name in MODULES if name.count(".") > 1 and room(name) in FLOORS])
def test_lower_floors_of_a_room_never_import_upper_ones(module: str) -> None:
    _, own, floor, *_ = module.split(".")
    for line, imported in imports(module, MODULES[module].read_text()):
        _, other, *rest = imported.split(".")
        if other == own:
            where = f"{MODULES[module].relative_to(ROOT)}:{line}"
            order = FLOORS[own]
            assert rest, f"{where} imports the package that it is in"
            assert order.index(rest[0]) <= order.index(floor), f"{where} imports {imported}"
