"""The peers' own interfaces over einfx, and their installation under the peers' names.

    >>> import einfx.compat
    >>> einfx.compat.PEERS
    ('einconv', 'genbmm', 'opt_einsum_fx', 'opt_einsum_torch', 'torch_semiring_einsum')

A module here has the name, the functions and the signatures of the package that it stands in for. Import it
as ``einfx.compat.<peer>``, or :func:`install` it, so that programs which import the peer run on einfx
unchanged.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from types import ModuleType

from ..errors import CompatError, UsageError
from .metadata import StandInDistributions

__all__ = ["PEERS", "install", "installed", "uninstall"]

PEERS: tuple[str, ...] = (
    "einconv",
    "genbmm",
    "opt_einsum_fx",
    "opt_einsum_torch",
    "torch_semiring_einsum",
)  # fmt: skip
"""The packages that einfx can stand in for; each is a module or package of that name in ``einfx.compat``."""

_lock = threading.RLock()
_installed: dict[str, dict[str, ModuleType]] = {}
_distributions = StandInDistributions()


def install(*names: str) -> None:
    """Make ``import <peer>`` give einfx's module of that interface, in this process from now on.

    Call it before anything imports the peer. Submodules of the peer that programs import, and its version
    as ``importlib.metadata`` reports it where the peer isn't installed, come along. Installing again does
    nothing.

    Args:
        *names: packages out of :data:`PEERS`, as they are imported (``opt_einsum_fx``).

    Raises:
        UsageError: no name, or a name that isn't in :data:`PEERS`.
        CompatError: the peer itself is imported already; then nothing is installed, for none of the names.

    Example:
        >>> program = '''
        ... import einfx.compat
        ... einfx.compat.install("opt_einsum_fx")
        ... import opt_einsum_fx  # or anything that imports it
        ... print(opt_einsum_fx.__name__)
        ... '''
        >>> import subprocess, sys
        >>> print(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout)
        einfx.compat.opt_einsum_fx
    """
    if not names:
        raise UsageError(f"install needs the name of a package: {', '.join(PEERS)}")
    with _lock:
        wanted = [name for name in _known(names) if name not in _installed]
        for name in wanted:
            _refuse_if_imported(name)
        for name in wanted:
            modules = _modules(name)
            _refuse_if_imported(name)
            sys.modules.update(modules)
            _installed[name] = modules
            _distributions.add(name, str(getattr(modules[name], "__version__", "")))


def uninstall(*names: str) -> None:
    """Undo :func:`install`: the next ``import <peer>`` finds the peer itself again.

    Modules that imported einfx's stand-in while it was installed keep it.

    Args:
        *names: packages out of :data:`PEERS`; without any, all that are installed. One that isn't
            installed is left alone.

    Raises:
        UsageError: a name that isn't in :data:`PEERS`.

    Example:
        >>> uninstall()
        >>> installed()
        ()
    """
    with _lock:
        for name in _known(names) if names else tuple(_installed):
            for alias, module in _installed.pop(name, {}).items():
                if sys.modules.get(alias) is module:
                    del sys.modules[alias]
            _distributions.remove(name)


def installed() -> tuple[str, ...]:
    """The packages that einfx stands in for at the moment.

    Example:
        >>> installed()
        ()
    """
    with _lock:
        return tuple(_installed)


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    spelled = tuple(name.replace("-", "_") if isinstance(name, str) else name for name in names)
    for name in spelled:
        if name not in PEERS:
            raise UsageError(f"einfx can't stand in for {name!r}, only for {', '.join(PEERS)}")
    return spelled


def _modules(name: str) -> dict[str, ModuleType]:
    """The modules to import under the peer's name: its stand-in, and what that contains as a package."""
    module = importlib.import_module(f"{__name__}.{name}")
    found = {name: module}
    for entry in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        found[entry.name.removeprefix(f"{__name__}.")] = importlib.import_module(entry.name)
    return found


def _refuse_if_imported(name: str) -> None:
    for alias, module in list(sys.modules.items()):
        if module is not None and (alias == name or alias.startswith(f"{name}.")):
            where = getattr(module, "__file__", None) or "memory"
            raise CompatError(
                f"{alias} is imported already, from {where}, and what imported it would go on using it. "
                f"Call einfx.compat.install({name!r}) before anything imports {name}, at the top of the "
                f"program, or start the program with: python -m einfx run --replace {name} -m MODULE"
            )
