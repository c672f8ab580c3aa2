"""What an attacker is, and the registry that finds it by name.

Two families, told apart by what they learn:

* `Identifier` (closed set): knows labelled clips of every speaker it will meet, answers with a score for each of them.
* `Embedder` (open set): maps a clip to a point where clips of one person lie together, also of people it never met.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import AttackersError, MorettaError
from moretta.shared.core.terms import Modality

if TYPE_CHECKING:
    from moretta.shared.audit.clipset import ClipSet

Kind = Literal["adaptive", "pretrained"]
Floats = npt.NDArray[np.float32]

MAX_UNPROTECTED_EER = 0.35
"""An attacker worse than this on open data says nothing about protected data: its rows are invalid."""
PLUGIN_GROUP = "moretta.attackers"
"""Entry point group by which other packages add attackers: each entry names a module to import."""


class NotConvergedError(MorettaError):
    """An attacker did not learn its own training data: its rows are invalid, not "private"."""


class Attacker(ABC):
    """Tries to recover who speaks, or whose face it is. Made without arguments, once for each training.

    Same seed, same clips, same thread count: same scores. An attacker may use randomness from its seed only.
    """

    name: ClassVar[str]
    modality: ClassVar[Modality]
    kind: ClassVar[Kind]
    max_unprotected_eer: ClassVar[float] = MAX_UNPROTECTED_EER
    cost: ClassVar[int] = 1
    """Relative training time: the costly are started first."""

    @classmethod
    def missing(cls) -> str | None:
        """Why this attacker cannot run here and the command that would help, or None. Rows become invalid with it."""
        return None


def needs_sound(cls: type[Attacker]) -> bool:
    """Whether this attacker listens to voices: encoders used as they are, and whatever stands on one."""
    if cls.modality != "voice" or not issubclass(cls, Embedder):
        return False
    return not cls.trainable or hasattr(cls, "encoder")


class Identifier(Attacker):
    """Closed set: one score for each enrolled speaker.

    `fit` must set `speakers`: the order of the columns of `scores`.
    """

    speakers: tuple[str, ...] = ()

    @abstractmethod
    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn the speakers of labelled clips.

        Hyper-parameters are chosen on these clips only. Raise `NotConvergedError` rather than score at random.
        """

    @abstractmethod
    def scores(self, clips: ClipSet) -> Floats:
        """Log-posteriors, float32 [clips, speakers], up to a constant in each row."""


class Embedder(Attacker):
    """Open set: clips to vectors, compared by cosine."""

    trainable: ClassVar[bool] = True
    """Whether `fit` learns. One that does is never asked about speakers it was trained on, in verification."""
    version: ClassVar[str] = "1"
    """Part of the key under which embeddings of untrained encoders are cached."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn to tell the speakers of `clips` apart. Default: nothing, for encoders used as they are."""

    @abstractmethod
    def embed(self, clips: ClipSet) -> Floats:
        """float32 [clips, dimensions], finite; length does not matter."""


A = TypeVar("A", bound=type[Attacker])
_REGISTRY: dict[str, type[Attacker]] = {}
_PACKAGES = ("moretta.shared.audit.attackers", "moretta.shared.audit.pretrained")


def attacker(name: str, *, modality: Modality, kind: Kind = "adaptive") -> Callable[[A], A]:
    """Register a class. A second one of the same name is a defect and raises ValueError."""

    def register(cls: A) -> A:
        if name in _REGISTRY:
            raise ValueError(f"two attackers are called {name!r}: {_REGISTRY[name].__module__} and {cls.__module__}")
        cls.name, cls.modality, cls.kind = name, modality, kind
        _REGISTRY[name] = cls
        return cls

    return register


def get_attacker(name: str) -> type[Attacker]:
    """Find an attacker by name.

    Raises:
        AttackersError: unknown name; the message lists the known ones.
    """
    load_attackers()
    if name not in _REGISTRY:
        raise AttackersError(
            f"the attacker {name!r}", expected=f"one of: {', '.join(sorted(_REGISTRY))}", fix="correct the name"
        )
    return _REGISTRY[name]


def attacker_names(modality: Modality | None = None, kind: Kind | None = None) -> list[str]:
    """Names of the registered attackers, sorted."""
    load_attackers()
    return sorted(
        name
        for name, cls in _REGISTRY.items()
        if (modality is None or cls.modality == modality) and (kind is None or cls.kind == kind)
    )


def load_attackers() -> None:
    """Import every module that may register an attacker: ours, and those that other packages announce."""
    for name in _PACKAGES:
        try:
            package = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{name}.{module.name}")
    for entry in entry_points(group=PLUGIN_GROUP):
        entry.load()
    from moretta.shared.audit.learn.heads import register_heads

    register_heads()


def registered() -> tuple[type[Attacker], ...]:
    """What is registered so far, without looking for more."""
    return tuple(_REGISTRY.values())
