"""Attackers, and the registry that finds them by name. There are three families, by what they learn:

* `Identifier` (closed set): knows labelled clips of every speaker it will meet, and scores each of them.
* `PoolIdentifier` (closed set): the same, of several clips at once that are known to be of one speaker.
* `Embedder` (open set): maps a clip to a point where clips of one speaker lie together, also of speakers it never met.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.errors import AttackersError, MorettaError
from moretta.shared.core.plugins import Registry
from moretta.shared.core.terms import Modality

if TYPE_CHECKING:
    from moretta.shared.audit.dataset import ClipSet

AttackerKind = Literal["adaptive", "pretrained"]
MAX_UNPROTECTED_EER = 0.35
"""An attacker worse than this on open data says nothing about protected data: its results are invalid."""


class NotConvergedError(MorettaError):
    """An attacker did not learn its own training data: its results are invalid, not "private"."""


class Attacker(ABC):
    """Re-identifies speakers by voice or face. Made without arguments, once for each training.

    Same seed, same clips, same thread count: same scores. An attacker may use randomness from its seed only.
    """

    name: ClassVar[str]
    modality: ClassVar[Modality]
    kind: ClassVar[AttackerKind]
    max_unprotected_eer: ClassVar[float] = MAX_UNPROTECTED_EER
    cost: ClassVar[int] = 1
    """Relative training time: the costly are started first."""
    trainable: ClassVar[bool] = True
    """Whether `fit` learns. An embedder that does never meets speakers it was trained on, in verification."""
    encoder: ClassVar[str] = ""
    """The untrained encoder whose embeddings it compares, or learns from: its own name, or that of another."""
    public: ClipSet | None = None
    """Clips of public people in the form that it is trained on, where the study names any; set before `fit`."""

    @classmethod
    def missing(cls) -> str | None:
        """The reason why this attacker cannot run here, with the command that helps; None if it can run.

        Results of an attacker that cannot run are invalid.
        """
        return None


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
    def scores(self, clips: ClipSet) -> Float32:
        """Log-posteriors, float32 [clips, speakers], up to a constant in each row."""


class PoolIdentifier(Attacker):
    """Closed set: one score for each enrolled speaker of clips known to be of one speaker, two or more.

    Of a single clip it says nothing, and has no result. `fit` must set `speakers`: the order of the columns of scores.
    """

    speakers: tuple[str, ...] = ()

    @abstractmethod
    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn the speakers of labelled clips, as an `Identifier` does."""

    @abstractmethod
    def pool_scores(self, clips: ClipSet, pools: Int64) -> Float32:
        """Log-posteriors, float32 [pools, speakers], up to a constant in each row.

        Args:
            clips: all that are tried.
            pools: int64 [pools, n], positions in `clips`: a row is n clips of one speaker. Its scores may depend on
                these alone, and on none of their speaker's other clips.
        """


class Embedder(Attacker):
    """Open set: clips to vectors, compared by cosine."""

    version: ClassVar[str] = "1"
    """Part of the key under which embeddings of untrained encoders are cached."""

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn to separate the speakers of `clips`. Default: nothing, for encoders used as they are."""

    @abstractmethod
    def embed(self, clips: ClipSet) -> Float32:
        """float32 [clips, dimensions], finite; length does not matter."""


A = TypeVar("A", bound=type[Attacker])
ATTACKERS: Registry[type[Attacker]] = Registry(
    "attacker", group="moretta.attackers", package="moretta.shared.audit.attackers", error=AttackersError
)


def attacker(name: str, *, modality: Modality, kind: AttackerKind = "adaptive") -> Callable[[A], A]:
    """Register a class. An encoder used as it is brings a second attacker with it, NAME+head: see `open_set.HeadOn`."""

    def register(cls: A) -> A:
        cls.name, cls.modality, cls.kind = name, modality, kind
        cls.encoder = vars(cls).get("encoder", "") if cls.trainable else name
        ATTACKERS.add(name, cls)
        if not cls.trainable:
            from moretta.shared.audit.attackers.open_set import register_head

            register_head(name, modality)
        return cls

    return register


def attacker_row(
    name: str, family: type[Attacker], *, modality: Modality, kind: AttackerKind = "adaptive", **settings: Any
) -> None:
    """Register a row of a table of attackers: a class of this family with these settings, of the caller's module."""
    settings.setdefault("__module__", sys._getframe(1).f_globals["__name__"])  # as named tuples do
    attacker(name, modality=modality, kind=kind)(cast(type[Attacker], type(name, (family,), settings)))


def get_attacker(name: str) -> type[Attacker]:
    """Find an attacker by name.

    Raises:
        AttackersError: unknown name; the message lists the known ones.
    """
    return ATTACKERS.get(name)


def get_embedder(name: str) -> type[Embedder]:
    """Find an open-set attacker by name."""
    found = get_attacker(name)
    assert issubclass(found, Embedder)
    return found


def attacker_names(modality: Modality | None = None, kind: AttackerKind | None = None) -> list[str]:
    """Names of the registered attackers, sorted."""
    return [cls.name for cls in ATTACKERS.items() if modality in (None, cls.modality) and kind in (None, cls.kind)]
