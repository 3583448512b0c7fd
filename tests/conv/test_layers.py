"""The files and packages of ``einfx/conv`` are a stack too: lower ones never import upper ones."""

from __future__ import annotations

import pytest

from tests.test_layers import MODULES, ROOT, imports

# From the bottom up. A package stands for everything in it; parts of one line may import one another.
STACK: tuple[tuple[str, ...], ...] = (
    ("checks", "gradients", "guards", "scriptable"),
    ("parameters",),
    ("operators",),
    ("symbolic", "windows"),
    ("native",),
    ("expressions", "functional", "semirings", "steps"),
    ("planning",),
    ("contraction", "limited", "symbolic_sizes"),
    ("planned",),
    ("capture", "modules"),
    ("convert",),
)
HEIGHT = {name: height for height, names in enumerate(STACK) for name in names}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("einfx.conv.")])
def test_lower_parts_of_conv_never_import_upper_ones(module: str) -> None:
    part = module.split(".")[2]
    assert part in HEIGHT, f"{module} has no place in STACK: add it, where it belongs"
    for line, imported in imports(module, MODULES[module].read_text()):
        where = f"{MODULES[module].relative_to(ROOT)}:{line}"
        assert imported != "einfx.conv", f"{where} imports the whole of einfx.conv, of which it is a part"
        if imported.startswith("einfx.conv."):
            assert HEIGHT[imported.split(".")[2]] <= HEIGHT[part], f"{where} imports {imported}, above it"


def test_every_part_of_conv_is_named_once() -> None:
    names = [name for names in STACK for name in names]
    assert len(names) == len(set(names))
