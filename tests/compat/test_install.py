"""Programs that import a peer get einfx's stand-in, from install until uninstall."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import einfx.compat
from einfx.compat import PEERS, install, installed, uninstall
from einfx.compat.metadata import StandInDistributions
from einfx.errors import CompatError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts as a process does that has imported no peer."""
    for name in list(sys.modules):
        if name.partition(".")[0] in PEERS:
            monkeypatch.delitem(sys.modules, name)
    yield
    uninstall()


@pytest.mark.parametrize("name", PEERS)
def test_an_installed_peer_is_einfxs_module_of_that_name(name: str) -> None:
    install(name)
    assert importlib.import_module(name) is importlib.import_module(f"einfx.compat.{name}")
    assert installed() == (name,)


@pytest.mark.parametrize("name", PEERS)
def test_every_name_that_a_stand_in_exports_is_there_and_documented(name: str) -> None:
    module = importlib.import_module(f"einfx.compat.{name}")
    assert isinstance(module.__version__, str)
    for exported in module.__all__:
        assert getattr(module, exported).__doc__


def test_from_imports_and_specifications_find_the_stand_in() -> None:
    install("opt_einsum_fx")
    from opt_einsum_fx import jitable

    assert jitable is einfx.compat.opt_einsum_fx.jitable  # type: ignore[attr-defined]
    assert importlib.util.find_spec("opt_einsum_fx") is not None


def test_installing_again_does_nothing() -> None:
    install("opt_einsum_fx")
    module = sys.modules["opt_einsum_fx"]
    install("opt_einsum_fx", "opt-einsum-fx")
    assert sys.modules["opt_einsum_fx"] is module


def test_uninstalling_lets_the_next_import_find_the_peer_itself() -> None:
    real = pytest.importorskip("opt_einsum_fx")
    for name in list(sys.modules):
        if name.partition(".")[0] == "opt_einsum_fx":
            del sys.modules[name]
    install("opt_einsum_fx")
    uninstall("opt_einsum_fx")
    assert "opt_einsum_fx" not in sys.modules
    assert importlib.import_module("opt_einsum_fx").__file__ == real.__file__
    assert installed() == ()


def test_uninstalling_what_is_not_installed_does_nothing() -> None:
    uninstall("opt_einsum_fx")
    uninstall()
    assert installed() == ()


def test_uninstalling_leaves_a_module_that_somebody_put_there_since() -> None:
    install("opt_einsum_fx")
    other = types.ModuleType("opt_einsum_fx")
    sys.modules["opt_einsum_fx"] = other
    uninstall("opt_einsum_fx")
    assert sys.modules.pop("opt_einsum_fx") is other


def test_a_peer_that_is_imported_already_is_refused_with_the_remedy() -> None:
    sys.modules["opt_einsum_fx"] = types.ModuleType("opt_einsum_fx")
    with pytest.raises(CompatError, match=r"imported already.*install.*before.*--replace opt_einsum_fx"):
        install("opt_einsum_fx")
    assert installed() == ()
    del sys.modules["opt_einsum_fx"]
    install("opt_einsum_fx")


def test_a_submodule_that_is_imported_already_counts_as_the_peer() -> None:
    sys.modules["opt_einsum_fx.fx_utils"] = types.ModuleType("opt_einsum_fx.fx_utils")
    with pytest.raises(CompatError, match=r"opt_einsum_fx\.fx_utils is imported already"):
        install("opt_einsum_fx")
    del sys.modules["opt_einsum_fx.fx_utils"]


def test_nothing_is_installed_when_one_of_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(einfx.compat, "PEERS", ("opt_einsum_fx", "other_peer"))
    monkeypatch.setitem(sys.modules, "other_peer", types.ModuleType("other_peer"))
    with pytest.raises(CompatError, match="other_peer"):
        install("opt_einsum_fx", "other_peer")
    assert installed() == ()
    assert "opt_einsum_fx" not in sys.modules


def test_the_submodules_of_a_stand_in_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_peer"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '1.0'\n")
    (package / "tools.py").write_text("ANSWER = 42\n")
    monkeypatch.setattr(einfx.compat, "__path__", [*einfx.compat.__path__, str(tmp_path)])
    monkeypatch.setattr(einfx.compat, "PEERS", ("some_peer",))
    install("some_peer")
    assert importlib.import_module("some_peer.tools").ANSWER == 42
    assert importlib.import_module("some_peer.tools") is sys.modules["einfx.compat.some_peer.tools"]
    uninstall("some_peer")
    assert "some_peer.tools" not in sys.modules


@pytest.mark.parametrize("function", [install, uninstall])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(function: types.FunctionType) -> None:
    with pytest.raises(UsageError, match=r"can't stand in for 'numpy', only for .*opt_einsum_fx"):
        function("opt_einsum_fx", "numpy")
    assert installed() == ()


def test_installing_without_a_name_is_an_error() -> None:
    with pytest.raises(UsageError, match="name of a package"):
        install()


def test_many_threads_may_install_at_once() -> None:
    failures: list[Exception] = []

    def work() -> None:
        try:
            for _ in range(20):
                install("opt_einsum_fx")
                assert sys.modules["opt_einsum_fx"] is not None
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_version_of_an_absent_peer_is_that_of_its_stand_in() -> None:
    distributions = StandInDistributions()
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("a_peer_that_is_absent")
    distributions.add("a_peer_that_is_absent", "1.2.3")
    assert importlib.metadata.version("a-peer-that-is-absent") == "1.2.3"
    assert importlib.metadata.metadata("a_peer_that_is_absent")["Name"] == "a_peer_that_is_absent"
    assert list(importlib.metadata.files("a_peer_that_is_absent") or ()) == []
    distributions.remove("a_peer_that_is_absent")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("a_peer_that_is_absent")


def test_the_version_of_a_peer_that_is_present_stays_its_own() -> None:
    before = importlib.metadata.version("pytest")
    distributions = StandInDistributions()
    distributions.add("pytest", "0.0.0")
    assert importlib.metadata.version("pytest") == before
    distributions.remove("pytest")


PROGRAM = """
import einfx.compat
assert "opt_einsum_fx" not in sys.modules
einfx.compat.install("opt_einsum_fx")
import opt_einsum_fx, importlib.metadata, torch
assert opt_einsum_fx.__version__ == importlib.metadata.version("opt_einsum_fx") == "0.1.4"
product = lambda a, b: torch.einsum("ij,jk", a, b)
optimized = opt_einsum_fx.optimize_einsums_full(product, (torch.ones(2, 3), torch.ones(3, 4)))
print(torch.jit.script(opt_einsum_fx.jitable(optimized))(torch.ones(1, 3), torch.ones(3, 1)).item())
"""


def test_a_program_that_imports_the_peer_runs_on_einfx_alone(tmp_path: Path) -> None:
    blocked = "import sys; sys.path.insert(0, sys.argv[1])\n"
    command = [sys.executable, "-W", "ignore", "-c", blocked + PROGRAM, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3.0"
