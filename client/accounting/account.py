"""The account of a site's ledger: losses composed for each clip and each speaker, over studies, rounds, anonymizers.

A loss on the ledger names its cohort, the clips and speakers it is about, under the site's own pseudonyms. Every clip
and speaker adds up what it was part of; the figures are those of the one that lost most.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from moretta.client.accounting.ledger import Ledger
from moretta.shared.core.errors import RefusedError, ReleaseError
from moretta.shared.core.terms import PrivacyUnit
from moretta.shared.privacy.accounting import composed_epsilon
from moretta.shared.privacy.mechanism import Mechanism, from_record
from moretta.shared.study.former_names import current_anonymizer

Unit = Literal["clip", "speaker"]
UNITS: tuple[Unit, ...] = ("clip", "speaker")
Audience = Literal["server", "model"]
"""`server` learns all that leaves, which is the releases and what is trained on anything else than a release;
`model`, the trained models alone. Training on a release reveals nothing more to those who have the release."""
AUDIENCES: tuple[Audience, ...] = ("server", "model")
COHORT = "cohort"


@dataclass(frozen=True)
class Cohort:
    """Which clips of which speakers a loss is about: pseudonyms, sorted."""

    speakers: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Cohort:
        """A cohort from pairs of a speaker's and a clip's pseudonym."""
        clips: dict[str, set[str]] = defaultdict(set)
        for speaker, clip in pairs:
            clips[speaker].add(clip)
        return cls(tuple((speaker, tuple(sorted(clips[speaker]))) for speaker in sorted(clips)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its content, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.speakers).encode()).hexdigest()

    @property
    def clips(self) -> int:
        """The number of clips."""
        return sum(self.clips_per_speaker)

    @property
    def clips_per_speaker(self) -> list[int]:
        """Number of clips of each speaker, in order of pseudonyms."""
        return [len(clips) for _, clips in self.speakers]

    @property
    def most_clips(self) -> int:
        """Clips of the speaker who has most."""
        return max(self.clips_per_speaker, default=0)

    def members(self, unit: Unit) -> list[str]:
        """Pseudonyms of all clips, or of all speakers."""
        if unit == "speaker":
            return [speaker for speaker, _ in self.speakers]
        return [clip for _, clips in self.speakers for clip in clips]


@dataclass(frozen=True)
class Loss:
    """One loss, made or planned: its mechanisms, its cohort, and its audience."""

    cohort: Cohort
    audiences: tuple[Audience, ...]
    mechanisms: Mapping[PrivacyUnit, tuple[Mechanism, ...]]
    """Unit -> mechanisms that one unit has together, the one that loses most."""
    released_by: tuple[str, str] | None = None
    """Modality and anonymizer of a release; None of any other loss."""

    def record(self) -> dict[str, Any]:
        """The part of a ledger entry that accounts go by."""
        return {
            "cohort": self.cohort.digest,
            "audiences": list(self.audiences),
            "losses": {unit: [m.record() for m in self.mechanisms[unit]] for unit in UNITS},
        }


class Account:
    """The losses of a ledger, ready to be composed."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        self._losses = tuple(losses)

    @classmethod
    def read(cls, ledger: Ledger) -> Account:
        """All losses of a ledger. Raises RefusedError for an entry that cannot be read: no loss is passed over."""
        cohorts: dict[str, Cohort] = {}
        losses: list[Loss] = []
        for number, entry in enumerate(ledger.all_entries(), start=1):
            try:
                if entry["kind"] == COHORT:
                    cohort = _cohort(entry)
                    cohorts[cohort.digest] = cohort
                elif "losses" in entry:
                    mechanisms: dict[PrivacyUnit, tuple[Mechanism, ...]] = {
                        unit: tuple(map(from_record, entry["losses"][unit])) for unit in UNITS
                    }
                    released_by = None
                    if {"modality", "anonymizer"} <= entry.keys():
                        released_by = (str(entry["modality"]), current_anonymizer(str(entry["anonymizer"])))
                    losses.append(Loss(cohorts[entry["cohort"]], tuple(entry["audiences"]), mechanisms, released_by))
            except (KeyError, TypeError, ValueError, ReleaseError) as error:
                raise RefusedError(
                    f"entry {number} of the privacy ledger cannot be understood ({type(error).__name__})",
                    expected="an entry of this version or an older one",
                    fix="install the version of Moretta that wrote it, or a newer one",
                ) from error
        return cls(losses)

    @property
    def losses(self) -> tuple[Loss, ...]:
        """All losses, in order."""
        return self._losses

    def without(self, anonymizers: Collection[str]) -> Account:
        """The account but for the releases by these anonymizers."""
        return Account([e for e in self._losses if e.released_by is None or e.released_by[1] not in anonymizers])

    def most_releases(self, anonymizers: Collection[str]) -> int:
        """How often the clip that was released most, in one modality, was released by any of these anonymizers."""
        times = Counter[tuple[str, str]]()
        for loss in self._losses:
            if loss.released_by is not None and loss.released_by[1] in anonymizers:
                times.update((loss.released_by[0], clip) for clip in loss.cohort.members("clip"))
        return max(times.values(), default=0)

    def with_planned(self, planned: Iterable[Loss]) -> Account:
        """The account as it would be."""
        return Account((*self._losses, *planned))

    def members(self, unit: Unit) -> int:
        """The number of clips or speakers that have lost anything."""
        return len({member for loss in self._losses for member in loss.cohort.members(unit)})

    def epsilon(self, unit: Unit, audience: Audience, *, delta: float) -> float | None:
        """The loss of the clip or speaker that lost most; 0.0 if none has, None if there is no finite figure."""
        losses = [loss for loss in self._losses if audience in loss.audiences]
        cohorts_of_member: dict[str, list[str]] = defaultdict(list)
        for cohort in {loss.cohort.digest: loss.cohort for loss in losses}.values():
            for member in cohort.members(unit):
                cohorts_of_member[member].append(cohort.digest)
        worst = 0.0
        for pattern in {frozenset(digests) for digests in cohorts_of_member.values()}:  # many members share one
            theirs = (m for loss in losses if loss.cohort.digest in pattern for m in loss.mechanisms[unit])
            if (epsilon := composed_epsilon(theirs, delta=delta)) is None:
                return None
            worst = max(worst, epsilon)
        return worst


def losses_of(record: Mapping[str, Any]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
    """The mechanisms of a ledger entry, by unit."""
    return {unit: tuple(map(from_record, record[unit])) for unit in UNITS}


def cohorts_of(ledger: Ledger) -> dict[str, Cohort]:
    """Every cohort on a ledger, by its digest."""
    return {entry["cohort"]: _cohort(entry) for entry in ledger.entries(COHORT)}


def _cohort(entry: dict[str, Any]) -> Cohort:
    return Cohort(tuple((speaker, tuple(clips)) for speaker, clips in entry["speakers"]))
