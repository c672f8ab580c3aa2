"""The embedding of a clip as another voice would have given it: a Transformer between a public encoder and the release.

Tran and Soleymani 2023. The network is that of `moretta.shared.models.privacy_transformer`. The target voice of each
clip is drawn independently of who speaks, or is always the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.voice_baselines import UnboundedVoice
from moretta.shared.core.array_types import Array
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import Pace, in_lines
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.public_speech import PublicSpeechOptions, recorded_speakers
from moretta.shared.models.privacy_transformer import TARGETS, PrivacyTransformer
from moretta.shared.models.train_transformer import TransformerTask, UtteranceEncoder, train_transformer
from moretta.shared.models.utterance_encoders import WIDTHS, Tier, encoder_of, encoder_rules, mini_hubert_of
from moretta.shared.pretrained.speaker_encoders import HubertEncoder
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Arrays, Notify, Speaker, anonymizer
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import StudyPath

SEED = derive(PUBLIC_SEED, "privacy transformer")
_WHY = (
    "no noise is added: what hides the speaker is a network trained on synthetic voices, which guarantees nothing; "
    "a reader that is trained on the release may find the speaker; see the audit"
)


class TransformerOptions(PublicSpeechOptions):
    """Options that a study may set."""

    encoder: Tier = "mini-hubert"
    """The encoder that embeds clips. Coordinator and sites need the weights of `hubert`; `mini-hubert` is trained once
    on public speech; `statistics` are 95 measurements."""
    encoder_speech: StudyPath | None = None
    """A folder of more speech, without labels, that `mini-hubert` is trained on."""
    encoder_steps: int = Field(default=1_500, ge=10, le=100_000)
    """Steps of that training."""
    target: Literal["drawn", "one"] = "drawn"
    """The voice that clips are given: drawn for each of them, or always the same."""
    utterances: int = Field(default=600, ge=20, le=20_000)
    """Synthetic utterances that the Transformer is trained on, each by eight voices."""
    epochs: int = Field(default=60, ge=1, le=1_000)
    """Epochs of training on these utterances."""


@anonymizer("privacy-transformer", modality="voice", version="1")
class TransformerVoice(UnboundedVoice[TransformerOptions]):
    """Sound -> public encoder -> Transformer, with a target voice -> embedding in public standard deviations."""

    Options = TransformerOptions
    forms = ("code",)
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    public_options = frozenset({"encoder", "encoder_speech", "encoder_steps", "utterances", "epochs", "public_speech"})
    needs_network = True
    mechanism = "regression to the same utterance by another voice"
    why = _WHY

    def __init__(self, options: TransformerOptions, encoder: UtteranceEncoder, network: PrivacyTransformer) -> None:
        super().__init__(options, "code")
        self._encoder, self._network = encoder, network
        self.uses_noise = options.target == "drawn"

    @classmethod
    def missing(cls, study: Study) -> str | None:
        """The weights of HuBERT, where the study names it, and the command that gets them."""
        return HubertEncoder.missing() if cls.options_of(study).encoder == "hubert" else None

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Encoder and Transformer. A fault of the latter is notified, and stands in the statement of every release.

        Raises:
            StudyError: no public speech for the small HuBERT, or of fewer than three people; or no weights of HuBERT.
        """
        options = cls.options_of(study)
        arrays: Arrays = {}
        if options.encoder == "mini-hubert":
            speech = options.public_speech, options.encoder_speech
            arrays |= mini_hubert_of(*speech, steps=options.encoder_steps, notify=notify).arrays
        encoder, recorded = encoder_of(options.encoder, arrays), None
        if options.public_speech is not None:
            notify("embedding public speech")
            recorded = encoder.embed([one.samples for one in recorded_speakers(options.public_speech, SEED)])
        task = TransformerTask(utterances=options.utterances, epochs=options.epochs)
        what = "embedding synthetic voices, to train the Privacy Transformer on"
        pace = Pace(in_lines(notify), what, task.utterances + task.held_out_utterances)
        made = train_transformer(encoder, task, seed=SEED, step=pace.step)
        if recorded is not None:
            made = made.on_scale_of(recorded)
        for fault in made.figures.faults():
            notify(f"privacy transformer: {fault}")
        return {**arrays, **made.arrays}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """See `Anonymizer.public_rules`."""
        encoder = cls.options_of(study).encoder
        return {**encoder_rules(encoder), **PrivacyTransformer.rules(WIDTHS[encoder])}

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> TransformerVoice:
        """Build from the study and both networks. Errors: see `public_arrays.named`."""
        options = cls.options_of(study)
        network = PrivacyTransformer.from_arrays(public, width=WIDTHS[options.encoder])
        return cls(options, encoder_of(options.encoder, public), network)

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:  # noqa: ARG002
        """Look at no clip. Without HuBERT's weights nothing is released: a StudyError, before clips are read."""
        self._encoder.ready()

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """float32 [d], in public standard deviations from the public mean."""
        target = int(noise.uniform((1,))[0] * TARGETS) if self.uses_noise else 0
        embedded = self._encoder.embed([check_samples(clip)])
        return np.asarray(self._network(embedded, np.array([target]))[0], np.float32)

    def parameters(self) -> dict[str, Any]:
        """The encoder, the network's options, and its figures on voices that it was not trained on."""
        options = self._options.model_dump(mode="json", exclude={"public_speech", "encoder_speech"})
        return {**options, "voices": TARGETS, "measured": self._network.figures.stated()}
