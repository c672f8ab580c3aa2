"""One emotion label a clip, by randomized response: the smallest release that still shows emotion.

1. Measurements of how a clip was said become ranks among the speaker's own clips.
2. A model recognizes the likeliest emotion. It is trained on the site's other speakers, on public speech, or by all
   sites.
3. A wrong label is replaced by another wrong one at random, and so are some right labels of speakers whose emotions are
   recognized more often than others'.
4. The label passes k-ary randomized response.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.emotion_labeler import (
    ARRAYS,
    LABELS,
    EmotionLabeler,
)
from moretta.client.anonymizers.label_release import LabelRelease, check_classes, label_losses
from moretta.client.anonymizers.speaker_references import Rows
from moretta.client.anonymizers.voice_baselines import usable
from moretta.shared.core.array_types import Array
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.emotion_encoder import BIAS, CODE, HEAD, EmotionTraining, EncoderOptions
from moretta.shared.features.federated_encoder import SiteTraining
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import SpeakerCode, measured_clip, measured_public_speech, train_speaker_code
from moretta.shared.privacy.accounting import training_statements
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.release.anonymizer import Arrays, Losses, Notify, Sizes, Speaker, anonymizer
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Epsilon


class LabelOptions(EncoderOptions):
    """Options that a study may set."""

    labels_from: Literal["site", "public", "federated"] = "site"
    """The training clips of the labeler: the site's other speakers, public speech, or all sites together."""
    label_epsilon: Epsilon = 3.5
    """Epsilon of one label."""
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
class EmotionLabelVoice(LabelRelease[LabelOptions]):
    """One of six labels for each clip, as `LabelRelease` has it. `form`: `code-tokens`, or `code`: 1 at the label's
    place, and else 0."""

    Options = LabelOptions
    forms = ("code", "code-tokens")
    strengths = ("label_epsilon",)
    public_options = frozenset({"public_speech"})
    measurements = len(MEASUREMENTS)

    def __init__(self, options: LabelOptions, form: str, public: EmotionLabeler) -> None:
        super().__init__(options, form, public, options.response(), options.labels_from)

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """A labeler of public speech."""
        check_classes(study, cls.name, cls.modality)
        notify("measuring public speech")
        rows = measured_public_speech(cls.options_of(study).public_speech, in_windows=False)
        return EmotionLabeler.of_public(rows).to_arrays()

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """The labeler."""
        return EmotionLabeler.rules()

    @classmethod
    def site_training(cls, study: Study) -> SiteTraining | None:
        """The training of the labeler at the sites; None where labels do not come from all sites."""
        return LabelerTraining.of(study)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> EmotionLabelVoice:
        """Build from the study and the coordinator's labeler, from public speech or from all sites. Raises StudyError:
        there is none, or the study's classes are not the six emotions."""
        check_classes(study, cls.name, cls.modality)
        return cls(cls.options_of(study), study.voice.form, EmotionLabeler.from_arrays(public))

    @property
    def codebook(self) -> Rows | None:
        """float32 [6, 6], of tokens."""
        return np.eye(LABELS, dtype=np.float32) if self.form == "code-tokens" else None

    def usable(self, clips: Iterable[tuple[Speaker, Array]]) -> Iterator[tuple[Speaker, Array]]:
        """Sound that passes `check_samples`."""
        return usable(clips)

    def measured(self, clip: Array) -> Rows:
        """How the clip was said."""
        return measured_clip(check_samples(clip), in_windows=False)

    def shown(self, label: npt.NDArray[np.int32]) -> Array:
        """A token, or a code."""
        return label if self.form == "code-tokens" else np.eye(LABELS, dtype=np.float32)[label[0]]

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """Guarantees of the randomized response, and the privacy loss of training the labeler at the sites."""
        return (*super().privacy(sizes), *training_statements(self._options.site_training(), sizes))

    @classmethod
    def losses_of(cls, options: LabelOptions, sizes: Sizes) -> Losses:
        """See `label_losses`."""
        return label_losses(options.response(), options.labels_from, sizes)
