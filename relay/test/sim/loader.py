"""Plants one bug: a module of production is compiled from a changed source. The file stays as it is.

This has to happen before the module is imported, so nothing here imports any of them.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from relay.test.sim.plants import PLANTS, Plant


class _PlantedLoader(SourceFileLoader):
    """Compiles the changed source; no compiled file is read or written."""

    def __init__(self, plant: Plant, path: str) -> None:
        super().__init__(plant.module, path)
        self._plant = plant

    def get_code(self, fullname: str) -> CodeType:
        """The code of the module with the bug in it."""
        path = self.get_filename(fullname)
        source = self.get_data(path).decode("utf-8")
        return compile(self._plant.apply(source), path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    """Finds the one module."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib."""
        if fullname != self._plant.module:
            return None
        found: Any = PathFinder.find_spec(fullname, path, target)
        return importlib.machinery.ModuleSpec(fullname, _PlantedLoader(self._plant, found.origin), origin=found.origin)


def plant(name: str) -> None:
    """Plant the bug of that name in this process. Raises KeyError when there is none."""
    chosen = PLANTS[name]
    assert chosen.module not in sys.modules, f"{chosen.module} is imported already"
    sys.meta_path.insert(0, _Finder(chosen))
