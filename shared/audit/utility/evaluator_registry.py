"""What a judge of emotion is, and the registry that finds it by name."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.core.errors import AttackersError
from moretta.shared.core.terms import Modality

Kind = Literal["trained", "pretrained"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class UtilityEvaluator(ABC):
    """Reads emotion off clips. Made without arguments, once for each set of people it is trained on.

    A `trained` judge learns from labelled clips of some people and is asked about others; a `pretrained` one is used as
    it is, and its `fit` does nothing. Same seed, same clips: same scores.
    """

    name: ClassVar[str]
    modality: ClassVar[Modality]
    kind: ClassVar[Kind]

    @classmethod
    def missing(cls) -> str | None:
        """Why this judge cannot be had here and the command that would help, or None."""
        return None

    @abstractmethod
    def vectors(self, clips: ClipSet) -> Floats:
        """float32 [clips, d]: what the judge looks at. Computed once for a set."""

    @abstractmethod
    def fit(self, vectors: Floats, emotions: Ints, *, seed: int) -> None:
        """Learn from int [clips] class indices in the order of `EMOTIONS`."""

    @abstractmethod
    def scores(self, vectors: Floats) -> Floats:
        """float32 [clips, 6]: higher is likelier, columns in the order of `EMOTIONS`."""


J = TypeVar("J", bound=type[UtilityEvaluator])
_REGISTRY: dict[str, type[UtilityEvaluator]] = {}


def utility_evaluator(name: str, *, modality: Modality, kind: Kind = "trained") -> Callable[[J], J]:
    """Register a class. A second one of the same name is a defect and raises ValueError."""

    def register(cls: J) -> J:
        if name in _REGISTRY:
            raise ValueError(f"two judges are called {name!r}: {_REGISTRY[name].__module__} and {cls.__module__}")
        cls.name, cls.modality, cls.kind = name, modality, kind
        _REGISTRY[name] = cls
        return cls

    return register


def get_evaluator(name: str) -> type[UtilityEvaluator]:
    """Find a judge by name.

    Raises:
        AttackersError: unknown name; the message lists the known ones.
    """
    known = evaluator_names()
    if name not in known:
        raise AttackersError(f"the judge {name!r}", expected=f"one of: {', '.join(known)}", fix="correct the name")
    return _REGISTRY[name]


def evaluator_names(modality: Modality | None = None) -> list[str]:
    """Names of all judges, sorted."""
    package = importlib.import_module("moretta.shared.audit.utility")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(name for name, cls in _REGISTRY.items() if modality in (None, cls.modality))
