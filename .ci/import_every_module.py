"""Import every module of a checkout from the installed distribution: ``import_every_module.py CHECKOUT``."""

import importlib
import sys
from pathlib import Path


def modules(checkout: Path) -> list[str]:
    """The names of all modules under ``einfx/`` and ``passes/``, which installs as ``einfx.passes``."""
    files = {p for folder in ("einfx", "passes") for p in (checkout / folder).rglob("*.py")}
    names = set()
    for file in files:
        parts = file.relative_to(checkout).with_suffix("").parts
        if parts[0] == "passes":
            parts = ("einfx", *parts)
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names)


def main() -> None:
    """Import them all, and make sure that none came from the checkout."""
    checkout = Path(sys.argv[1]).resolve()
    names = modules(checkout)
    assert "einfx.passes" in names, f"{checkout} is not a checkout of einfx"
    for name in names:
        module = importlib.import_module(name)
        file = Path(module.__file__ or "").resolve()
        assert checkout not in file.parents, f"{name} was imported from the checkout: {file}"
    typed = Path(sys.modules["einfx"].__file__ or "").with_name("py.typed")
    assert typed.exists(), f"{typed} is missing from the wheel"
    print(f"imported {len(names)} modules from {typed.parent}")


if __name__ == "__main__":
    main()
