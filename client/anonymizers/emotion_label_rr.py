"""One emotion label a clip, by randomized response: the least that emotion can be learned from.

Measurements of how a clip was said -> ranks among the speaker's own clips -> the likeliest emotion, by a model trained
on the site's other speakers, on public speech, or by all sites together -> a label that is not the clip's own is
replaced by another such one at random, and so are some right labels of speakers whose emotions are recognized more
often than others' -> k-ary randomized response.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.emotion_labeler import (
    ARRAYS,
    CEILING,
    LABELS,
    EmotionLabeler,
    ceilings,
    leave_one_speaker_out,
    uniform_errors,
)
from moretta.client.anonymizers.speaker_references import ClipDigest, Rows, clip_digest
from moretta.client.anonymizers.voice_baselines import NOTHING, VoiceAnonymizer, usable
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.emotion_encoder import BIAS, CODE, HEAD, EmotionTraining, EncoderOptions
from moretta.shared.features.federated_encoder import SiteTraining
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import SpeakerCode, measured_clip, measured_public_speech, train_speaker_code
from moretta.shared.features.speaker_normalization import SpeakerRanks
from moretta.shared.privacy.accounting import training_statements
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import (
    LEDGER_UNITS,
    UNITS,
    Array,
    Arrays,
    Losses,
    Notify,
    Sizes,
    Speaker,
    anonymizer,
)
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Epsilon

_AMONG_OWN = (
    "between any two people with as many clips, whatever they said: every clip changes what the speaker's others are "
    "normalized by, so any part of it loses as much as its speaker"
)
_NOTE = {
    "public": _AMONG_OWN,
    "federated": f"{_AMONG_OWN}; the training of the labeler is accounted for by itself",
    "site": "between any two people with as many clips, whatever they said and whatever emotions they were said in: "
    "clips train the labeler of the site's other speakers, so every label of the site may change with them",
}


class LabelOptions(EncoderOptions):
    """What a study chooses."""

    labels_from: Literal["site", "public", "federated"] = "site"
    """The training clips of the labeler: the site's other speakers, public speech, or all sites together."""
    label_epsilon: Epsilon = 3.5
    """Of one label."""
    federated_by = "labels_from"

    def response(self) -> RandomizedResponse:
        """The randomized response of one label."""
        return RandomizedResponse(choices=LABELS, token_epsilon=self.label_epsilon, unit="clip")


class LabelerTraining(EmotionTraining):
    """Trains a labeler through a code that is thrown away."""

    trained = frozenset(ARRAYS[1:])

    def public_code(self, public: Mapping[str, Array]) -> SpeakerCode:  # noqa: ARG002
        """A code of public speech."""
        return train_speaker_code(self.public_rows(), size=self.size, codebook_size=2, seed=self.study.seed)

    def public_after(self, public: Mapping[str, Array], weights: Arrays | None) -> Arrays:  # noqa: ARG002
        """Both trained layers as one, from ranks to labels."""
        if weights is None:
            return {}
        linear = np.ascontiguousarray((weights[HEAD] @ weights[CODE]).T)
        return EmotionLabeler(self.public_rows().spread(), linear, weights[BIAS]).to_arrays()


@anonymizer("emotion-label-rr", modality="voice", version="2")
class EmotionLabelVoice(VoiceAnonymizer[LabelOptions]):
    """One of six labels for each clip.

    A speaker's only clip has no rank among others: its label says nothing. What all clips of a speaker have in common
    is lost, so the emotion of a speaker who was recorded in one emotion only cannot be read.

    The release states each clip's own label beside it. So a released label says one thing alone: whether the clip
    sounds like its own label. The emotions that a speaker's clips are mistaken for identify the speaker, and are not
    released. With labels from the site, no speaker's are right much more often than others', see `CEILING`.

    Args:
        form: `code-tokens`, or `code`: 1 at the label's place, and else 0.
        public: trained on public speech, or by all sites.
    """

    Options = LabelOptions
    forms = ("code", "code-tokens")
    public_options = frozenset({"public_speech"})
    mechanism = "randomized response among emotions"
    delta = 1e-5

    def __init__(self, options: LabelOptions, form: str, public: EmotionLabeler) -> None:
        super().__init__(options, form)
        self._public, self._response = public, options.response()
        self._trains_at_site = options.labels_from == "site"
        self._known: dict[Speaker, Rows] = {}
        self._labels: dict[tuple[Speaker, ClipDigest], int] = {}
        self._labelers: dict[Speaker, EmotionLabeler] = {}
        self._stays: dict[tuple[Speaker, int], float] = {}
        self._measurements: dict[ClipDigest, Rows] = {}

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """A labeler of public speech."""
        _check_classes(study)
        notify("measuring public speech")
        rows = measured_public_speech(cls.options_of(study).public_speech, in_windows=False)
        return EmotionLabeler.of_public(rows).to_arrays()

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """The labeler."""
        return EmotionLabeler.rules()

    @classmethod
    def site_training(cls, study: Study) -> SiteTraining | None:
        """Where labels come from all sites."""
        return LabelerTraining.of(study)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> EmotionLabelVoice:
        """Build from the study and the coordinator's labeler, from public speech or from all sites.

        Raises:
            StudyError: there is none, or the study's classes are not the six emotions.
        """
        _check_classes(study)
        return cls(cls.options_of(study), study.voice.form, EmotionLabeler.from_arrays(public))

    @property
    def codebook(self) -> Rows | None:
        """float32 [6, 6], of tokens."""
        return np.eye(LABELS, dtype=np.float32) if self.form == "code-tokens" else None

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:  # noqa: ARG002
        """Measure the clips that each speaker's clips are ranked among: these clips, and no others.

        Nothing of them is kept for the next release. Unusable clips are passed over.
        """
        measured: dict[Speaker, dict[ClipDigest, Rows]] = defaultdict(dict)
        for speaker, samples in usable(clips):
            measured[speaker][clip_digest(samples)] = self._measured(samples)  # the same samples count once
        self._known = {speaker: np.concatenate(list(clips_of.values())) for speaker, clips_of in measured.items()}

    @property
    def trains_on_emotions(self) -> bool:
        """Always: a released label is right or wrong; and the labels train the model where it comes from the site."""
        return True

    def train_on_emotions(self, clips: Iterable[tuple[Speaker, Array, int]]) -> None:
        """Take each clip's label, and train each speaker's labeler on the site's other speakers.

        Raises:
            StudyError: too few speakers or emotions at this site.
        """
        found: dict[Speaker, list[tuple[npt.NDArray[np.float64], int]]] = defaultdict(list)
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

        Before it: the clip's own label if it sounds like it and may stay, else one of the others at random.
        """
        predicted = self._labeler_of(speaker)(self._places(speaker, clip))
        label = self._labels.get((speaker, clip_digest(clip)))
        if label is None:
            raise ClipError("not-trained", "a clip whose label is not known", fix="call `train_on_emotions` first")
        stays, which = noise.uniform((2,))
        if stays >= self._stays.get((speaker, label), 1.0):
            predicted = (predicted + 1) % LABELS if predicted[0] == label else predicted
        own = uniform_errors(predicted, np.array([label]), np.array([which]))
        released = self._response.randomize(own, noise)
        return released if self.form == "code-tokens" else np.eye(LABELS, dtype=np.float32)[released[0]]

    @classmethod
    def is_fitted(cls, study: Study) -> bool:  # noqa: ARG003
        """Always: a clip moves the ranks of the speaker's others."""
        return True

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """How often a label is true."""
        return {"label_epsilon": cls.options_of(study).label_epsilon}

    def parameters(self) -> dict[str, Any]:
        """How labels were made."""
        return {
            "labels_from": self._options.labels_from,
            "label_epsilon": self._options.label_epsilon,
            "choices": LABELS,
            "mistakes": "uniform",
            "ceiling": CEILING if self._trains_at_site else None,
            "kept": self._response.keep,
            "measurements": len(MEASUREMENTS),
        }

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """What randomized response guarantees, and what training the labeler at the sites cost."""
        note = f"{_NOTE[self._options.labels_from]}; the labels of released clips are not covered"
        nominal = self._options.label_epsilon
        rows = [self.stated(sizes, unit, note, nominal if unit == "clip" else None) for unit in UNITS]
        return (*rows, *training_statements(self._options.site_training(), sizes))

    @classmethod
    def losses_of(cls, options: LabelOptions, sizes: Sizes) -> Losses:
        """One response for each clip whose label may change with one of the speaker's: the speaker's own, or all."""
        counts = [len(clips) for clips in sizes.values()]
        if not any(counts):
            return NOTHING
        labels = sum(counts) if options.labels_from == "site" else max(counts)
        return {unit: (options.response().for_group(labels, unit),) for unit in LEDGER_UNITS}

    def _measured(self, clip: Array) -> Rows:
        """float32 [1, n] of one clip, measured once: to fit, to train, and to release. Nothing of it may leave."""
        samples = check_samples(clip)
        digest = clip_digest(samples)
        if digest not in self._measurements:
            self._measurements[digest] = measured_clip(samples, in_windows=False)
        return self._measurements[digest]

    def _places(self, speaker: Speaker, clip: Array) -> npt.NDArray[np.float64]:
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


def _check_classes(study: Study) -> None:
    """The labeler knows the six emotions of public speech, in their order."""
    if study.classes != EMOTIONS:
        raise StudyError(
            f"the voice anonymizer {EmotionLabelVoice.name!r} with the classes {', '.join(study.classes)}",
            expected=f"the classes {', '.join(EMOTIONS)}",
            fix="choose another anonymizer, or leave `classes` out",
        )
