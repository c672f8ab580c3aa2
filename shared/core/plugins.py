"""Plug-ins by name: one registry for anonymizers, attackers, metrics, utility evaluators and corpora.

A plug-in is one file: importing it registers its class or function. A registry imports the files of its own package,
and the modules that other installed packages announce by an entry point of its group.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from moretta.shared.core.errors import MorettaError

T = TypeVar("T")
PLUGIN_NAME = r"^[a-z0-9][a-z0-9+._-]{0,63}$"
"""Pattern of plug-in names, which stand in study files, in rows of tables, on command lines and in names of files."""


class Registry(Generic[T]):
    """Items of one kind by name, and by scope where a name may occur in several (the modality of an anonymizer).

    Args:
        kind: what an item is called in errors: `attacker`.
        group: entry point group by which other packages add items.
        package: dotted name of the package whose modules register the items of Moretta itself.
        error: what an unknown name raises.
    """

    def __init__(self, kind: str, *, group: str, package: str, error: type[MorettaError]) -> None:
        self.kind, self.group = kind, group
        self._package, self._error = package, error
        self._items: dict[tuple[str, str], T] = {}
        self._loaded = False

    def add(self, name: str, item: T, *, scope: str = "") -> None:
        """Register an item. Raises ValueError, a defect of the code: another item has this name, or it can be none."""
        if not re.fullmatch(PLUGIN_NAME, name):
            raise ValueError(
                f"the {self.kind} is called {name[:100]!r}; expected 1 to 64 lower-case letters, digits, dots, dashes, "
                "underscores and plus signs, the first a letter or a digit"
            )
        if (scope, name) in self._items:
            kind, first = f"{scope} {self.kind}".strip(), self._items[scope, name]
            raise ValueError(f"two {kind}s are called {name!r}: {first!r} and {item!r}")
        self._items[scope, name] = item

    def get(self, name: str, *, scope: str = "") -> T:
        """Find an item; an unknown name raises the registry's error, which lists the known names."""
        self.load()
        if (scope, name) not in self._items:
            kind, known = f"{scope} {self.kind}".strip(), ", ".join(self.names(scope)) or "none is installed"
            raise self._error(f"the {kind} {name!r}", expected=f"one of: {known}", fix="correct the name")
        return self._items[scope, name]

    def __contains__(self, name: str) -> bool:
        self.load()
        return ("", name) in self._items

    def names(self, scope: str = "") -> list[str]:
        """All names of a scope, sorted."""
        self.load()
        return sorted(name for of, name in self._items if of == scope)

    def items(self) -> list[T]:
        """All items, sorted by scope and name."""
        self.load()
        return [self._items[key] for key in sorted(self._items)]

    def load(self) -> None:
        """Import every module that registers items, once in a process; one that fails is the registry's error."""
        if self._loaded:
            return
        self._loaded = True  # first: a module that is imported here may look up names itself
        try:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            self._load_outside()
        except BaseException:
            self._loaded = False
            raise

    def _load_outside(self) -> None:
        for entry in entry_points(group=self.group):
            try:
                entry.load()
            except Exception as error:
                package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
                raise self._error(
                    f"the plug-in {entry.name!r} of {package} cannot be imported ({type(error).__name__}: {error})",
                    expected=f"an importable module behind each entry point of {self.group}",
                    fix="repair or uninstall that package",
                ) from error
