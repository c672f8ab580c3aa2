"""The registry of anonymizers, and what each must be able to do."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from moretta.shared.core.errors import StudyError
from moretta.shared.core.terms import Modality, PrivacyStatement, PrivacyUnit
from moretta.shared.features.public_arrays import Rules
from moretta.shared.privacy.mechanism import Mechanism, Pure, Unbounded
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study

Array = npt.NDArray[Any]
Speaker = str
"""A key that tells one person's clips from another's. It is known at the site, and nothing of it may be released."""


class Anonymizer(ABC):
    """Turns clips of one modality into their released form.

    A voice anonymizer takes float32 [samples] at 16 kHz in [-1, 1]; a face anonymizer takes uint8 [frames, height,
    width, 3] RGB, whole pictures at the study's frame rate. What it is given was decoded and checked (`check_samples`,
    `check_frames`): clips that were not are dropped and counted before, by who knows nothing of public arrays.

    With a finite guarantee it gives an array for every clip: to leave one out for what is in it would tell of it
    beside the guarantee. Without any it may raise `ClipError`, and the caller drops and counts the clip (fail closed).
    """

    modality: ClassVar[Modality]
    name: ClassVar[str]
    version: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Anonymizer:
        """Build from the study and from what the coordinator made in public (codebook, autoencoder), by array name."""

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The arrays that `from_study` takes of `shared`, and what each may be. Default: none.

        A request with any other, or with values beyond these, is refused before a clip is read.
        """
        del study
        return {}

    @property
    @abstractmethod
    def form(self) -> str:
        """The released form, one of those in `moretta.shared.release.release_format`."""

    @property
    def codebook(self) -> npt.NDArray[np.float32] | None:
        """float32 [k, coefficients] if released tokens need one to be read."""
        return None

    def frames(self, released: Array) -> int:
        """Frames in one released array: the size that privacy is composed over. Default: its first axis."""
        return len(released)

    def keep_in(self, folder: Path) -> None:  # noqa: B027 - most keep nothing
        """Told before `fit` where at the site to keep what must be known at the next release. Default: nothing is kept.

        Nothing there ever leaves the site; files in it must be readable by their owner only.
        """

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:  # noqa: B027 - most fit nothing
        """Fit what is fitted on the site's own clips, each with whose it is. Default: nothing, which costs nothing."""

    @property
    def trains_on_emotions(self) -> bool:
        """Whether `train_on_emotions` must be called between `fit` and `release`. Default: no."""
        return False

    def train_on_emotions(self, clips: Iterable[tuple[Speaker, Array, int]]) -> None:
        """Learn from the site's clips, each with whose it is and the class index of its emotion label.

        Raises:
            StudyError: they are too few to learn from.
        """
        del clips
        raise NotImplementedError(f"{self.name} learns no emotions")

    @abstractmethod
    def release(
        self, clips: Sequence[Array], noise: Sequence[NoiseSource], speakers: Sequence[Speaker]
    ) -> list[Array | Exception]:
        """Released arrays of a batch; in the place of a clip that failed, its error.

        Args:
            clips: the batch.
            noise: one source a clip.
            speakers: whose each clip is, by the keys that `fit` was told.
        """

    @classmethod
    def is_fitted(cls, study: Study) -> bool:
        """Whether `fit` looks at the site's clips, so that a clip moves what is released of others. Default: no."""
        del study
        return False

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """The numbers that decide how much the study has this anonymizer hide, by name. Default: none.

        A site's policy bounds them (`max_NAME` or `min_NAME` in `[mechanisms]`): with noise of size zero the strongest
        mechanism is none.
        """
        del study
        return {}

    @abstractmethod
    def statement(self, sizes: dict[str, list[int]], noise: Literal["system", "seeded"]) -> AnonymizerStatement:
        """Parameters, privacy at every unit, counts.

        Args:
            sizes: for each released speaker (any key), the number of released frames of each of its clips.
            noise: where the noise came from.
        """

    def losses(self, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """What the clip and the speaker that lose most lose, as mechanisms that a ledger can compose.

        Default: what the statement guarantees. An epsilon that has a delta cannot be composed by itself and counts as
        no guarantee: an anonymizer that states one overrides this.

        Args:
            sizes: as in `statement`.
        """
        stated = self.statement(sizes, "system").privacy
        return {unit: _stated([p for p in stated if p.unit == unit], unit) for unit in LEDGER_UNITS}

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """What `losses` would say, before anything public or private is there. Default: that nothing is guaranteed."""
        del study, sizes
        return {unit: (Unbounded(unit=unit, why="the anonymizer guarantees nothing"),) for unit in LEDGER_UNITS}


LEDGER_UNITS: tuple[PrivacyUnit, ...] = ("clip", "speaker")


def _stated(statements: list[PrivacyStatement], unit: PrivacyUnit) -> tuple[Mechanism, ...]:
    if not statements or any(p.epsilon is None or p.delta for p in statements):
        return (Unbounded(unit=unit, why="the anonymizer states no pure guarantee"),)
    return tuple(Pure(unit=unit, total=p.epsilon) for p in statements if p.epsilon)


_REGISTRY: dict[tuple[Modality, str], type[Anonymizer]] = {}
A = TypeVar("A", bound=type[Anonymizer])


def anonymizer(name: str, *, modality: Modality, version: str) -> Callable[[A], A]:
    """Register a class under a name. A second one of the same name is a defect and raises ValueError."""

    def register(cls: A) -> A:
        if (modality, name) in _REGISTRY:
            raise ValueError(f"two {modality} anonymizers are called {name!r}")
        cls.name, cls.modality, cls.version = name, modality, version
        _REGISTRY[modality, name] = cls
        return cls

    return register


def get_anonymizer(modality: Modality, name: str) -> type[Anonymizer]:
    """Find an anonymizer by name.

    Raises:
        StudyError: unknown name; the message lists the known ones.
    """
    _load_all()
    known = _REGISTRY.get((modality, name))
    if known is None:
        names = ", ".join(sorted(n for m, n in _REGISTRY if m == modality))
        raise StudyError(f"the {modality} anonymizer {name!r}", expected=f"one of: {names}", fix="correct the study")
    return known


def anonymizer_names(modality: Modality) -> list[str]:
    """Names of all anonymizers of one modality, sorted."""
    _load_all()
    return sorted(n for m, n in _REGISTRY if m == modality)


def _load_all() -> None:
    package = importlib.import_module("moretta.client.anonymizers")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"moretta.client.anonymizers.{module.name}")
