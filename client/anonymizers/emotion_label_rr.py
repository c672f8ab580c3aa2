"""One word a clip, which of six emotions it sounds like relative to its speaker, answered at random: the least that
emotion can be learnt from.

Measurements of how a clip was said -> places among the speaker's own clips -> the likeliest emotion, by a model that
was learnt on the site's other people, on public speech, or by all sites together -> an emotion that is not the clip's
label is replaced by another such one at random, and so are some that are, of people who are told more easily than
others -> k-ary randomized response.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import LEDGER_UNITS, Anonymizer, Array, Speaker, anonymizer
from moretta.client.anonymizers.leave_one_speaker_out import CEILING, LeaveOneSpeakerOut
from moretta.client.anonymizers.measured_clips import MeasuredClips
from moretta.client.anonymizers.speaker_references import ClipDigest, Rows, clip_digest
from moretta.shared.core.errors import ClipError
from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit
from moretta.shared.features.emotion_labeler import LABELS, EmotionLabeler, places_among, uniform_errors
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_arrays import Rules
from moretta.shared.privacy.code_budget import code_statements
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.privacy.randomized_response import RandomizedResponse
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study
from moretta.shared.study.voice import VoiceSection

DELTA = 1e-5
_MECHANISM = "randomized response among emotions"
_UNITS: tuple[PrivacyUnit, ...] = ("value", "frame", *LEDGER_UNITS)
_AMONG_OWN = (
    "between any two people with as many clips, whatever they said: every clip changes what the speaker's others are "
    "told relative to, so any part of it loses as much as its speaker"
)
_NOTE = {
    "public": _AMONG_OWN,
    "federated": f"{_AMONG_OWN}; the training of the words is accounted for by itself",
    "site": "between any two people with as many clips, whatever they said and whatever emotions they were said in: "
    "clips teach the words that the site's other speakers are told in, so every word of the site may change with them",
}


@anonymizer("emotion-label-rr", modality="voice", version="2")
class EmotionLabelVoice(Anonymizer):
    """One of six words for each clip.

    A speaker's only clip is in no place among others: its word tells nothing. What all clips of a speaker have in
    common cannot be told, so of somebody who was recorded in one emotion only, that emotion cannot be read.

    The release states each clip's label beside its word. So a word tells one thing alone: whether the clip sounded like
    its label. What a person's clips are mistaken for identifies people, and is not released. Where words come from the
    site, nobody's sound like it much more often than others' do, see
    `moretta.client.anonymizers.leave_one_speaker_out.CEILING`.

    Args:
        section: the study's `[voice]`.
        public: learnt on public speech, or by all sites.
    """

    def __init__(self, section: VoiceSection, public: EmotionLabeler) -> None:
        self._section, self._public = section, public
        self._response = RandomizedResponse(choices=LABELS, token_epsilon=section.label_epsilon, unit="clip")
        self._known: dict[Speaker, Rows] = {}
        self._measured = MeasuredClips()
        self._labels: dict[tuple[Speaker, ClipDigest], int] = {}
        self._models: LeaveOneSpeakerOut | None = None

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The words."""
        del study
        return EmotionLabeler.rules()

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> EmotionLabelVoice:
        """Build from the study and the words that the coordinator has, from public speech or from all sites.

        Raises:
            StudyError: there are none.
        """
        return cls(study.voice, EmotionLabeler.from_arrays(shared))

    @property
    def form(self) -> str:
        """`code-tokens`, or `code`: 1 at the word's place, and else 0."""
        return self._section.form

    @property
    def codebook(self) -> Rows | None:
        """float32 [6, 6], of tokens."""
        return np.eye(LABELS, dtype=np.float32) if self.form == "code-tokens" else None

    def frames(self, released: Array) -> int:
        """One word, in either form."""
        del released
        return 1

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Learn what each speaker's clips are told relative to: these clips, and no others.

        Nothing of them is kept for the next release. Clips that cannot be used are passed over.
        """
        del noise
        measured: dict[Speaker, dict[ClipDigest, Rows]] = defaultdict(dict)
        for speaker, clip in clips:
            try:
                rows = self._measured(clip)
            except ClipError:
                continue  # counted when its turn comes
            measured[speaker][clip_digest(clip)] = rows  # the same samples count once
        self._known = {speaker: np.concatenate(list(clips_of.values())) for speaker, clips_of in measured.items()}

    @property
    def trains_on_emotions(self) -> bool:
        """Always: a word is released as its clip's label or as none; and the labels teach where words come from the
        site."""
        return True

    def train_on_emotions(self, clips: Iterable[tuple[Speaker, Array, int]]) -> None:
        """Take each clip's label; and learn the words that each speaker is told in on the site's other speakers.

        Raises:
            StudyError: too few people, or emotions, at this site to learn from.
        """
        models = LeaveOneSpeakerOut(self._public.spread)
        for speaker, clip, emotion in clips:
            try:
                models.add(speaker, self._places(speaker, clip), emotion)
            except ClipError:
                continue  # counted when its turn comes
            self._labels[speaker, clip_digest(clip)] = emotion
        if self._trains_at_site:
            models.learn()
            self._models = models

    def release(
        self, clips: Sequence[Array], noise: Sequence[NoiseSource], speakers: Sequence[Speaker]
    ) -> list[Array | Exception]:
        """Words of a batch; in the place of a clip that failed, its error."""
        out: list[Array | Exception] = []
        for clip, source, speaker in zip(clips, noise, speakers, strict=True):
            try:
                out.append(self._released(self._response.randomize(self._label(speaker, clip, source), source)))
            except Exception as error:  # fail closed: whatever went wrong, this clip has no release
                out.append(error)
        return out

    def statement(self, sizes: dict[str, list[int]], noise: Literal["system", "seeded"]) -> AnonymizerStatement:
        """Parameters, and what the answers guarantee."""
        section = self._section
        losses = self.losses(sizes)
        return AnonymizerStatement(
            modality="voice",
            name=self.name,
            version=self.version,
            form=self.form,
            parameters={
                "labels_from": section.labels_from,
                "label_epsilon": section.label_epsilon,
                "choices": LABELS,
                "mistakes": "uniform",
                "ceiling": CEILING if self._trains_at_site else None,
                "kept": self._response.keep,
                "measurements": len(MEASUREMENTS),
            },
            privacy=tuple(
                PrivacyStatement(
                    mechanism=_MECHANISM,
                    unit=unit,
                    epsilon=sum(loss.epsilon(DELTA) or 0.0 for loss in losses["speaker"]),
                    delta=DELTA,
                    nominal=section.label_epsilon if unit == "clip" else None,
                    note=f"{_NOTE[section.labels_from]}; the labels of released clips are not covered",
                )
                for unit in _UNITS
            )
            + code_statements(section, sizes),
            noise=noise,
        )

    def losses(self, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """See `planned_losses`: nothing public changes it."""
        return _losses(self._section, sizes)

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """How often a word is true."""
        return {"label_epsilon": study.voice.label_epsilon}

    @classmethod
    def is_fitted(cls, study: Study) -> bool:
        """Always: a clip moves the places of the speaker's others."""
        del study
        return True

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """One answer for each clip whose word may change with one of the speaker's: the speaker's own, or all."""
        return _losses(study.voice, sizes)

    def _places(self, speaker: Speaker, clip: Array) -> npt.NDArray[np.float64]:
        if speaker not in self._known:
            raise ClipError("unknown-speaker", "a speaker of whom nothing was fitted", fix="call `fit` first")
        return places_among(self._known[speaker], self._measured(clip), self._public.spread)

    def _label(self, speaker: Speaker, clip: Array, noise: NoiseSource) -> npt.NDArray[np.int32]:
        """int32 [1]: the clip's label if it sounds like it and may stay, else one of the others at random."""
        sounds_like = self._labeler_of(speaker)(self._places(speaker, clip))
        label = self._labels.get((speaker, clip_digest(clip)))
        if label is None:
            raise ClipError("not-trained", "a clip whose label is not known", fix="call `train_on_emotions` first")
        stays, which = noise.uniform((2,))
        if self._models is not None and stays >= self._models.stays(speaker, label):
            sounds_like = (sounds_like + 1) % LABELS if sounds_like[0] == label else sounds_like
        return uniform_errors(sounds_like, np.array([label]), np.array([which]))

    @property
    def _trains_at_site(self) -> bool:
        return self._section.labels_from == "site"

    def _labeler_of(self, speaker: Speaker) -> EmotionLabeler:
        if not self._trains_at_site:
            return self._public
        if self._models is None:
            raise ClipError("not-trained", "words that nobody taught", fix="call `train_on_emotions` first")
        return self._models.labeler_for(speaker)

    def _released(self, label: npt.NDArray[np.int32]) -> Array:
        if self.form == "code-tokens":
            return label
        code: npt.NDArray[Any] = np.eye(LABELS, dtype=np.float32)[label[0]]
        return code


def _losses(section: VoiceSection, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
    counts = [len(clips) for clips in sizes.values()]
    labels = sum(counts) if section.labels_from == "site" else max(counts, default=0)
    if not labels:
        return dict.fromkeys(LEDGER_UNITS, ())
    response = RandomizedResponse(choices=LABELS, token_epsilon=section.label_epsilon, unit="clip")
    return {unit: (response.for_group(labels, unit),) for unit in LEDGER_UNITS}
