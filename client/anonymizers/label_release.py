"""Base of releases of one emotion label a clip, by randomized response, as a number or as a picture.

1. Measurements of a clip become ranks among the speaker's own clips.
2. A model that was not trained on the speaker recognizes the likeliest emotion.
3. A label that is not the clip's own is replaced by another such one at random.
4. The label passes randomized response.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.emotion_labeler import (
    CEILING,
    LABELS,
    EmotionLabeler,
    ceilings,
    leave_one_speaker_out,
    uniform_errors,
)
from moretta.client.anonymizers.planned_losses import OptionsT, PlannedAnonymizer
from moretta.client.anonymizers.speaker_references import ClipDigest, Rows, clip_digest
from moretta.client.anonymizers.voice_baselines import NOTHING
from moretta.shared.core.array_types import Array, Float64
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.speaker_normalization import SpeakerRanks
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import LEDGER_UNITS, UNITS, Losses, Sizes, Speaker
from moretta.shared.study.schema import Study

_AMONG_OWN = (
    "between any two people with as many clips, whatever was recorded: every clip changes what the speaker's others "
    "are normalized by, so any part of it loses as much as its speaker"
)
_NOTE = {
    "public": _AMONG_OWN,
    "federated": f"{_AMONG_OWN}; the training of the labeler is accounted for by itself",
    "site": "between any two people with as many clips, whatever was recorded and whatever emotions it shows: "
    "clips train the labeler of the site's other speakers, so every label of the site may change with them",
}


class LabelRelease(PlannedAnonymizer[OptionsT]):
    """Releases one of six labels for each clip, as a number or drawn as a face.

    A speaker's only clip has no rank among others, so its label says nothing. All that a speaker's clips have in common
    is lost: the emotion of a speaker who was recorded in one emotion only cannot be read.

    The release states each clip's own label beside it. So a released label says one thing alone: whether the clip
    shows its own label. The emotions that a speaker's clips are mistaken for identify the speaker, and are not
    released. With labels from the site, no speaker's are right much more often than others', see `CEILING`.

    Args:
        public: trained on public people, or by all sites.
        labels_from: `site` trains labelers here; any other takes `public`.
    """

    mechanism = "randomized response among emotions"
    delta = 1e-5
    measurements: ClassVar[int]
    """Number of measurements of one clip."""

    def __init__(
        self, options: OptionsT, form: str, public: EmotionLabeler, response: RandomizedResponse, labels_from: str
    ) -> None:
        super().__init__(options, form)
        self._public, self._response, self._labels_from = public, response, labels_from
        self._trains_at_site = labels_from == "site"
        self._known: dict[Speaker, Rows] = {}
        self._labels: dict[tuple[Speaker, ClipDigest], int] = {}
        self._labelers: dict[Speaker, EmotionLabeler] = {}
        self._stays: dict[tuple[Speaker, int], float] = {}
        self._measurements: dict[ClipDigest, Rows] = {}

    @abstractmethod
    def usable(self, clips: Iterable[tuple[Speaker, Array]]) -> Iterator[tuple[Speaker, Array]]:
        """Clips that pass their checks; the others fail again, and are counted, when their turn comes."""

    @abstractmethod
    def measured(self, clip: Array) -> Rows:
        """float32 [1, n] of one clip. Nothing of it may leave, nor how often nothing could be measured."""

    @abstractmethod
    def shown(self, label: npt.NDArray[np.int32]) -> Array:
        """The released array that shows a label, int32 [1]."""

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:  # noqa: ARG002
        """Measure the clips that each speaker's clips are ranked among: these clips, and no others.

        Nothing of them is kept for the next release. Unusable clips are passed over.
        """
        measured: dict[Speaker, dict[ClipDigest, Rows]] = defaultdict(dict)
        for speaker, samples in self.usable(clips):
            measured[speaker][clip_digest(samples)] = self._measured(samples)  # the same samples count once
        self._known = {speaker: np.concatenate(list(clips_of.values())) for speaker, clips_of in measured.items()}

    @property
    def trains_on_emotions(self) -> bool:
        """Always: a released label is right or wrong; and the labels train the model where it comes from the site."""
        return True

    def train_on_emotions(self, clips: Iterable[tuple[Speaker, Array, int]]) -> None:
        """Take each clip's label, and train each speaker's labeler on the site's other speakers. Raises StudyError: too
        few speakers or emotions at this site."""
        found: dict[Speaker, list[tuple[Float64, int]]] = defaultdict(list)
        for speaker, clip, emotion in clips:
            try:
                places = self._places(speaker, clip)
            except ClipError:
                continue  # counted when its turn comes
            found[speaker].append((places, emotion))
            self._labels[speaker, clip_digest(clip)] = emotion
        if self._trains_at_site:
            places_of = {speaker: np.concatenate([places for places, _ in rows]) for speaker, rows in found.items()}
            labels_of = {speaker: np.array([label for _, label in rows]) for speaker, rows in found.items()}
            labelled = {speaker: (places, labels_of[speaker]) for speaker, places in places_of.items()}
            self._labelers = leave_one_speaker_out(labelled, self._public.spread)
            self._stays = ceilings(labelled, self._labelers)

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:
        """The label of a clip, after randomized response.

        Before it: the clip's own label if it shows it and may stay, else one of the others at random.
        """
        predicted = self._labeler_of(speaker)(self._places(speaker, clip))
        label = self._labels.get((speaker, clip_digest(clip)))
        if label is None:
            raise ClipError("not-trained", "a clip whose label is not known", fix="call `train_on_emotions` first")
        stays, which = noise.uniform((2,))
        if stays >= self._stays.get((speaker, label), 1.0):
            predicted = (predicted + 1) % LABELS if predicted[0] == label else predicted
        own = uniform_errors(predicted, np.array([label]), np.array([which]))
        return self.shown(self._response.randomize(own, noise))

    @classmethod
    def is_fitted(cls, study: Study) -> bool:  # noqa: ARG003
        """Always: a clip moves the ranks of the speaker's others."""
        return True

    def parameters(self) -> dict[str, Any]:
        """How labels were made."""
        return {
            "labels_from": self._labels_from,
            "label_epsilon": self._response.token_epsilon,
            "choices": LABELS,
            "mistakes": "uniform",
            "ceiling": CEILING if self._trains_at_site else None,
            "kept": self._response.keep,
            "measurements": self.measurements,
        }

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """Guarantees of the randomized response, one for each unit."""
        note = f"{_NOTE[self._labels_from]}; the labels of released clips are not covered"
        nominal = self._response.token_epsilon
        return tuple(self.stated(sizes, unit, note, nominal if unit == "clip" else None) for unit in UNITS)

    def _measured(self, clip: Array) -> Rows:
        """float32 [1, n] of one clip, measured once: to fit, to train, and to release. Nothing of it may leave."""
        digest = clip_digest(clip)
        if digest not in self._measurements:
            self._measurements[digest] = self.measured(clip)
        return self._measurements[digest]

    def _places(self, speaker: Speaker, clip: Array) -> Float64:
        """Ranks [1, n] among the speaker's clips, all of which count alike: secret weights, as `SpeakerReferences` has
        them, cost emotion, and hide how ranks add up, which no label shows."""
        if speaker not in self._known:
            raise ClipError("unknown-speaker", "a speaker of whom nothing was fitted", fix="call `fit` first")
        known = self._known[speaker]
        return SpeakerRanks.of(known, np.ones(len(known)), self._public.spread)(self._measured(clip))

    def _labeler_of(self, speaker: Speaker) -> EmotionLabeler:
        labeler = self._labelers.get(speaker) if self._trains_at_site else self._public
        if labeler is None:
            raise ClipError("not-trained", "a speaker without a labeler", fix="call `train_on_emotions` first")
        return labeler


def label_losses(response: RandomizedResponse, labels_from: str, sizes: Sizes) -> Losses:
    """One response for each clip whose label may change with one of the speaker's: the speaker's own, or all."""
    counts = [len(clips) for clips in sizes.values()]
    if not any(counts):
        return NOTHING
    labels = sum(counts) if labels_from == "site" else max(counts)
    return {unit: (response.for_group(labels, unit),) for unit in LEDGER_UNITS}


def check_classes(study: Study, name: str, modality: str) -> None:
    """The labeler knows the six emotions, in their order."""
    if study.classes != EMOTIONS:
        raise StudyError(
            f"the {modality} anonymizer {name!r} with the classes {', '.join(study.classes)}",
            expected=f"the classes {', '.join(EMOTIONS)}",
            fix="choose another anonymizer, or leave `classes` out",
        )
