"""What ``importlib.metadata`` says of a peer that einfx stands in for and that isn't installed itself."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["StandInDistributions"]


class StandInDistributions(importlib.metadata.DistributionFinder):
    """A finder of distributions that exist only in memory; real ones come before them.

    Example:
        >>> distributions = StandInDistributions()
        >>> distributions.add("a_peer", "1.2.3")
        >>> importlib.metadata.version("a-peer")
        '1.2.3'
        >>> distributions.remove("a_peer")
    """

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}

    def add(self, name: str, version: str) -> None:
        """Report ``version`` for the distribution ``name``."""
        self._versions[_normalised(name)] = version
        if self not in sys.meta_path:
            sys.meta_path.append(self)

    def remove(self, name: str) -> None:
        """No longer report the distribution ``name``."""
        self._versions.pop(_normalised(name), None)
        if not self._versions and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Find no module: this finder knows distributions only."""

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[importlib.metadata.Distribution]:
        """The distribution that ``context`` names, if it was added; a search without a name finds none."""
        name = getattr(context, "name", None)
        if name is not None and _normalised(name) in self._versions:
            yield _InMemory(name, self._versions[_normalised(name)])


class _InMemory(importlib.metadata.Distribution):
    def __init__(self, name: str, version: str) -> None:
        self._metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        return self._metadata if filename == "METADATA" else None

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        raise FileNotFoundError(f"{path}: this distribution has no files")


def _normalised(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")
