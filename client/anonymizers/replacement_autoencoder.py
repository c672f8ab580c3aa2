"""Measurements of a clip through an autoencoder that replaces one emotion by another and was trained against sex.

Feng and Narayanan, ACII 2021: the values that leave have the meaning of those that were measured, so that whoever used
the originals can use them as they are. The network is that of `moretta.shared.models.replacement_autoencoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from moretta.client.anonymizers.voice_baselines import UnboundedVoice
from moretta.shared.core.array_types import Array
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.federated_encoder import SiteTrainedOptions, SiteTraining
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import PublicSpeechOptions
from moretta.shared.features.speaker_code import measured_clip, measured_public_speech
from moretta.shared.models.federated_replacement import ReplacementTraining
from moretta.shared.models.replacement_autoencoder import LIMIT, SEXES, ReplacementAutoencoder
from moretta.shared.models.train_replacement import SEED, ReplacementTask, train_replacement
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Arrays, Notify, Speaker, anonymizer
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study

_WHY = (
    "no noise is added: what hides emotion and sex is a network trained on public speech, which guarantees nothing; "
    "the emotion labels that a release states are not replaced; see the audit"
)
EmotionName = Literal["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]


class ReplacementOptions(SiteTrainedOptions, PublicSpeechOptions):
    """Options that a study may set."""

    sensitive: EmotionName | Literal["none"] = "FEA"
    """The emotion that is reconstructed as another one; `none` replaces nothing."""
    replacement: EmotionName = "NEU"
    """The emotion that it is reconstructed as."""
    adversary_strength: Annotated[float, Field(ge=0, le=100)] = 2.0
    """Factor of the reversed gradient of the classifier of sex, at the end of training; 0 hides no sex."""
    epochs: int = Field(default=200, ge=10, le=5_000)
    """Epochs of training on public speech."""
    code_training: Literal["public", "federated"] = "public"
    """The autoencoder is trained on public speech, or, from there on, on the clips of all sites."""
    federated_by = "code_training"

    @model_validator(mode="after")
    def _another_emotion_stands_in(self) -> Self:
        if self.sensitive == self.replacement:
            raise ValueError(f"{self.sensitive} replaced by itself: choose another `replacement`, or sensitive = none")
        return self

    def task(self) -> ReplacementTask:
        """The options as a task of the training."""
        return ReplacementTask(
            sensitive=None if self.sensitive == "none" else EMOTIONS.index(self.sensitive),
            replacement=EMOTIONS.index(self.replacement),
            strength=self.adversary_strength,
            epochs=self.epochs,
        )


class AutoencoderTraining(ReplacementTraining):
    """Trains all of the network on the sites' own clips."""

    @property
    def task(self) -> ReplacementTask:
        """The replacement and its training, by the options."""
        return ReplacementOptions.of(self.study.voice.options).task()


@anonymizer("replacement-autoencoder", modality="voice", version="1")
class ReplacementVoice(UnboundedVoice[ReplacementOptions]):
    """95 measurements -> public scale -> autoencoder -> 95 values on the same scale."""

    Options = ReplacementOptions
    forms = ("code",)
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    not_from_options = frozenset({"code_rounds"})
    public_options = frozenset({"sensitive", "replacement", "adversary_strength", "epochs", "public_speech"})
    mechanism = "replacement autoencoder with gradient reversal"
    why = _WHY
    strengths = ("adversary_strength",)
    uses_noise = False

    def __init__(self, options: ReplacementOptions, network: ReplacementAutoencoder) -> None:
        super().__init__(options, "code")
        self._network = network

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """The autoencoder. A fault of its adversary is notified, and stands in the statement of every release. Raises
        StudyError: too few people, or none of an emotion: see `PublicSplit`."""
        options = cls.options_of(study)
        notify("measuring public speech")
        rows = measured_public_speech(options.public_speech, in_windows=False)
        if unknown := len(np.unique(rows.person[~np.isin(rows.sex, SEXES)])):
            notify(f"{unknown} people of the public speech have no part: no table gives their sex")
        notify("training the replacement autoencoder")
        made = train_replacement(rows, options.task(), seed=SEED)
        for fault in made.figures.faults():
            notify(f"replacement autoencoder: {fault}")
        return dict(made.arrays)

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """See `Anonymizer.public_rules`."""
        return ReplacementAutoencoder.rules()

    @classmethod
    def site_training(cls, study: Study) -> SiteTraining | None:
        """The training of the autoencoder at the sites; None where the study has none."""
        return AutoencoderTraining.of(study)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> ReplacementVoice:
        """Build from the study and the autoencoder. Errors: see `public_arrays.named`."""
        return cls(cls.options_of(study), ReplacementAutoencoder.from_arrays(public))

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """float32 [95], in public standard deviations from the public mean."""
        rows = measured_clip(check_samples(clip), in_windows=False)
        return np.asarray(self._network(self._network.places(rows))[0], np.float32)

    def parameters(self) -> dict[str, Any]:
        """The replaced emotion, and how well sex was read in the codes of held-out public people."""
        options = self._options
        return {
            "sensitive": options.sensitive,
            "replacement": options.replacement,
            "adversary_strength": options.adversary_strength,
            "epochs": options.epochs,
            "code_rounds": self._network.rounds,
            "measurements": len(MEASUREMENTS),
            "limit": LIMIT,
            "reconstructed": round(self._network.explained, 3),
            "sex": self._network.figures.stated(),
        }
