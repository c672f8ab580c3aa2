"""Which of a site's clips a steward lets out for a study: all that are not excluded, one by one or by a rule."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from moretta.client.clips.approved_clips import list_folder
from moretta.client.clips.originals import original_and_released
from moretta.client.clips.provenance import Provenance
from moretta.client.clips.site_clips import labelled_corpus
from moretta.client.offers import Decision, Offer, Offers
from moretta.client.settings import SiteSettings
from moretta.deploy.site.review import Review
from moretta.shared.audit.clip_risk import ClipRisks, clip_risks
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.core.errors import CorpusError, StudyError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.core.workers import Progress
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.data.recordings import picture_seconds, sound_seconds

_RULE = re.compile(r"(risk|person-risk|age|seconds)\s*([<>])\s*(.+)|(speaker|emotion|sex|sentence)\s*(=)\s*(.+)")
RULES = "risk>0.5, person-risk>0.5, age<18, age>60, seconds<1, seconds>5, emotion=ANG, sex=female, speaker=1004"
"""Examples of every kind of rule."""


@dataclass(frozen=True, slots=True)
class SiteClip:
    """One clip of the site as a steward decides about it. It never leaves."""

    clip: Clip
    sex: str | None
    age: int | None
    seconds: float
    pseudonym: str = ""
    """Pseudonym in the release that was made for the review; empty if the clip is not in it."""
    risk: float | None = None
    """Risks of the clip and of all clips of its speaker, see `ClipRisks`; None where no attack was possible."""
    person_risk: float | None = None

    def as_json(self, *, excluded: bool) -> dict[str, Any]:
        """The clip as JSON values, for a script of the steward's."""
        facts = {"clip": self.clip.name, "speaker": self.clip.speaker, "emotion": self.clip.label, "sex": self.sex}
        figures = {"age": self.age, "seconds": self.seconds, "risk": self.risk, "person_risk": self.person_risk}
        return {**facts, **figures, "excluded": excluded}


@dataclass
class Choice:
    """The clips of a site for a study, and which are excluded."""

    settings: SiteSettings
    study_clips: Provenance
    """Every clip, as it was before it was looked at: a file that is changed later is not approved."""
    rows: tuple[SiteClip, ...]
    """All clips, in order of speakers and names."""
    risks: ClipRisks | None = None
    excluded: set[str] = field(default_factory=set)
    """Names of clips."""

    @classmethod
    def of(cls, settings: SiteSettings, offer: Offer) -> Choice:
        """All clips of the site; what an approval of the offer left out before is excluded."""
        study = offer.study
        corpus, clips = labelled_corpus(settings, study.labels, study.classes)
        place = {speaker: number for number, speaker in enumerate(in_order({clip.speaker for clip in clips}))}
        ordered = sorted(clips, key=lambda clip: (place[clip.speaker], clip.name))
        made = cls(
            settings,
            Provenance.take(settings, study, corpus, clips, study.modalities),
            tuple(_row(corpus, clip) for clip in ordered),
        )
        before = Offers(settings.home).decision(offer.digest)
        listed = Provenance.load(list_folder(settings.home, offer.digest))
        if before is not None and before.clips is not None and listed is not None:
            made.excluded = {clip.name for clip in clips if clip.name not in listed.clips}
        return made

    def attack(self, review: Review, *, progress: Progress | None = None) -> None:
        """Add the risk of each clip and person, by attackers that run here on what would be released."""
        pseudonyms = {clip.name: pseudonym for pseudonym, clip in review.originals.items()}
        self.risks = risks = clip_risks(sets_of(review), progress=progress)
        person_risk: dict[str, float | None] = {}
        rows = []
        for row in self.rows:
            pseudonym = pseudonyms.get(row.clip.name, "")
            speaker = risks.speaker_of.get(pseudonym, "")
            if speaker not in person_risk:
                person_risk[speaker] = risks.of_speaker(speaker)
            risk = risks.of_clip(pseudonym)
            rows.append(replace(row, pseudonym=pseudonym, risk=risk, person_risk=person_risk[speaker]))
        self.rows = tuple(rows)

    @property
    def included(self) -> list[SiteClip]:
        """Clips that an approval would include."""
        return [row for row in self.rows if row.clip.name not in self.excluded]

    def exclude(self, names: Iterable[str]) -> None:
        """Exclude clips by name; one that the site does not have is a CorpusError, and nothing is excluded then."""
        wanted = set(names)
        if unknown := sorted(wanted - {row.clip.name for row in self.rows}):
            found = f"{len(unknown)} names that no clip of this site has, such as {unknown[0][:80]!r}"
            raise CorpusError(found, expected="names as `moretta site review DIGEST --list` prints them")
        self.excluded |= wanted

    def matching(self, rule: str) -> set[str]:
        """Names of the clips that a rule is about, such as `risk>0.5`.

        An unknown value counts as beyond any number, since it may be.

        Raises:
            StudyError: no such rule, a value that no clip has, or a risk where no attacker works.
        """
        matches = self._rule(rule)
        return {row.clip.name for row in self.rows if matches(row)}

    def approve(self, offer: Offer) -> Decision:
        """Approve the offer with what is included. Errors: as `check`."""
        self.check(offer)
        listed = self.study_clips.without(self.excluded)
        excluded = len(self.study_clips.clips) - len(listed.clips)
        return Offers(self.settings.home).decide(offer, "approved", "steward", clips=listed, excluded=excluded)

    def check(self, offer: Offer) -> None:
        """Refuse what the site's policy would refuse later. Raises PolicyError."""
        policy, clips = self.settings.policy, self.included
        assert policy is not None
        policy.check_study(offer.study)
        policy.check_public(offer.study, offer.arrays())
        policy.check_clips(len(clips), len({row.clip.speaker for row in clips}))
        policy.check_codebook(offer.study, len(clips))

    def _rule(self, text: str) -> Callable[[SiteClip], bool]:
        found = _RULE.fullmatch(text.strip())
        if found is None:
            raise StudyError(f"the rule {text[:80]!r}", expected=f"such as {RULES}")
        if (key := found[4]) is not None:
            if not any(_text(row, key) == found[6] for row in self.rows):
                known = ", ".join(sorted({_text(row, key) for row in self.rows})[:20])
                raise StudyError(f"the rule {text[:80]!r}, which no clip matches", expected=f"{key} one of {known}")
            return lambda row: _text(row, key) == found[6]
        number, key, above = _number(found[3], text), found[1], found[2] == ">"
        if key in ("risk", "person-risk") and (self.risks is None or not self.risks.valid):
            expected = "attackers that work: they need two clips or more of each of several speakers"
            raise StudyError("a rule about risk, of which there is no figure", expected=expected)

        def beyond(row: SiteClip) -> bool:
            value = {"risk": row.risk, "person-risk": row.person_risk, "age": row.age, "seconds": row.seconds}[key]
            return value is None or (value > number if above else value < number)

        return beyond


def sets_of(review: Review) -> list[tuple[ClipSet, ClipSet]]:
    """Originals and what would be released, of each modality of which there is anything."""
    clips = tuple(review.originals.values())
    return list(original_and_released(review.settings, review.study, review.release, review.corpus, clips))


def people_of(rows: Sequence[SiteClip]) -> dict[SpeakerId, list[SiteClip]]:
    """The clips of each person, in order."""
    found: dict[SpeakerId, list[SiteClip]] = {}
    for row in rows:
        found.setdefault(row.clip.speaker, []).append(row)
    return found


def _row(corpus: Corpus, clip: Clip) -> SiteClip:
    person = corpus.speakers.get(clip.speaker)
    seconds = round(max(sound_seconds(clip), picture_seconds(clip)), 2)
    return SiteClip(clip, person.sex if person else None, person.age if person else None, seconds)


def _text(row: SiteClip, key: str) -> str:
    found = {"speaker": row.clip.speaker, "emotion": row.clip.label, "sex": row.sex, "sentence": row.clip.sentence}
    return str(found[key] or "unknown")


def _number(text: str, rule: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise StudyError(f"the rule {rule[:80]!r}", expected="a number behind < or >")
    return number
