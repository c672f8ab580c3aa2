"""The embedding of a clip by a public speaker encoder, through an autoencoder trained against speaker and sex.

Perero-Codosero et al., Computer Speech and Language 2022. The network is that of
`moretta.shared.models.adversarial_embedding`. The paper makes speech of the embedding; here the embedding is released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.voice_baselines import UnboundedVoice
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import StudyError
from moretta.shared.data.clips import Clip
from moretta.shared.data.recordings import read_sound
from moretta.shared.features.federated_encoder import Measure, SiteTrainedOptions, SiteTraining
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.public_speech import MfccOptions, PublicVoice, public_speakers
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.features.world_voice import WorldVoice, missing_world
from moretta.shared.models.adversarial_embedding import AdversarialEmbedding
from moretta.shared.models.federated_embedding import EmbeddingTraining
from moretta.shared.models.held_out_people import people_without_part
from moretta.shared.models.train_embedding import SEED, EmbeddingTask, embedded, train_embedding
from moretta.shared.models.voice_driver import VoiceDriver, train_driver
from moretta.shared.pretrained.encoder import PretrainedEncoder, public_network
from moretta.shared.pretrained.speaker_encoders import CamPlusPlusEncoder, Ge2eEncoder
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Arrays, Notify, Speaker, anonymizer
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study

ENCODERS: dict[str, type[PretrainedEncoder]] = {cls.name: cls for cls in (Ge2eEncoder, CamPlusPlusEncoder)}
"""Public networks, by the name that a study gives."""
_WHY = (
    "no noise is added: what hides speaker and sex is a network trained on public speech, which guarantees nothing; "
    "a reader that is trained on the release may find both; see the audit"
)


class EmbeddingOptions(SiteTrainedOptions, MfccOptions):
    """Options that a study may set."""

    encoder: Literal["ge2e", "campplus"] = "ge2e"
    """The public network that embeds clips. Coordinator and sites need its weights."""
    adversary_strength: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Factor of the reversed gradients of both heads, at the end of training; 0 hides nothing."""
    epochs: int = Field(default=100, ge=10, le=5_000)
    """Epochs of training on public speech."""
    code_training: Literal["public", "federated"] = "public"
    """The autoencoder is trained on public speech, or, from there on, on the clips of all sites."""
    federated_by = "code_training"

    def task(self) -> EmbeddingTask:
        """The options as a task of the training."""
        return EmbeddingTask(strength=self.adversary_strength, epochs=self.epochs)


@lru_cache(maxsize=2)
def public_encoder(name: str) -> PretrainedEncoder:
    """The public network of that name. Errors: see `public_network`."""
    return public_network(ENCODERS[name])


@lru_cache(maxsize=1)  # training at the sites needs the rows of the public autoencoder again
def public_embeddings(name: str, folder: Path | None) -> PublicRows:
    """Public speech as that network embeds it. Errors: see `public_network` and `embedded`."""
    encoder = public_encoder(name)
    return embedded(public_speakers(folder, SEED), encoder)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embedding of the sound of a clip."""

    encoder: str

    def __call__(self, clip: Clip) -> Array | None:
        """float32 [1, d]. Errors: see `read_sound`."""
        sound = read_sound(clip)
        return None if sound is None else public_encoder(self.encoder).embed_many([check_samples(sound)])


class AutoencoderTraining(EmbeddingTraining):
    """Trains all of the autoencoder on the sites' own clips."""

    @property
    def _options(self) -> EmbeddingOptions:
        return EmbeddingOptions.of(self.study.voice.options)

    @property
    def width(self) -> int:
        """Number of dimensions of the public network's embeddings."""
        return ENCODERS[self._options.encoder].dimensions

    @property
    def strength(self) -> float:
        """Strength of the reversal, by the options."""
        return self._options.adversary_strength

    @property
    def measure(self) -> Measure:
        """Embeddings. Errors: see `public_network`."""
        public_encoder(self._options.encoder)
        return Embedded(self._options.encoder)

    def public_rows(self) -> PublicRows:
        """Embeddings of the study's public speech."""
        return public_embeddings(self._options.encoder, self._options.public_speech)


@anonymizer("adversarial-embedding", modality="voice", version="1")
class EmbeddingVoice(UnboundedVoice[EmbeddingOptions]):
    """Sound -> public speaker encoder -> autoencoder -> embedding on the scale of public ones, of length 1.

    As `waveform`, the clip itself is released, its pitch, formants and bandwidths changed as the new embedding says.

    Args:
        driver: what changes sound as an embedding says; None to release embeddings.
    """

    Options = EmbeddingOptions
    forms = ("code", "waveform")
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    not_from_options = frozenset({"code_rounds"})
    public_options = frozenset({"coefficients", "encoder", "adversary_strength", "epochs", "public_speech"})
    needs_network = True
    mechanism = "adversarial autoencoder of speaker embeddings"
    why = _WHY
    strengths = ("adversary_strength",)
    uses_noise = False

    def __init__(
        self, options: EmbeddingOptions, network: AdversarialEmbedding, driver: VoiceDriver | None = None
    ) -> None:
        super().__init__(options, "code" if driver is None else "waveform")
        self._network, self._driver = network, driver

    @classmethod
    def missing(cls, study: Study) -> str | None:
        """The encoder's weights, or the vocoder where sound is released, and the command that gets them."""
        vocoder = missing_world() if study.voice.form == "waveform" else None
        return ENCODERS[cls.options_of(study).encoder].missing() or vocoder

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """The autoencoder, and what drives the vocoder. A fault of the heads of the autoencoder is notified, and stands
        in the statement of every release.

        Raises:
            StudyError: no weights of the encoder, or too few people: see `train_embedding.Split`.
        """
        options = cls.options_of(study)
        notify(f"embedding public speech by {options.encoder}")
        rows = public_embeddings(options.encoder, options.public_speech)
        if unused := people_without_part(rows):
            notify(f"{unused} people of the public speech have no part: their sex is not known, or their clips are few")
        notify("training the autoencoder of embeddings")
        made = train_embedding(rows, options.task(), seed=SEED)
        for fault in made.figures.faults():
            notify(f"adversarial embedding: {fault}")
        if study.voice.form == "code":
            return dict(made.arrays)
        notify("fitting what an embedding says about the sound of a voice")
        driver = train_driver(public_encoder(options.encoder), seed=SEED)
        return {**made.arrays, **driver.to_arrays(), **options.public_voice().to_arrays()}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """See `Anonymizer.public_rules`."""
        options = cls.options_of(study)
        width = ENCODERS[options.encoder].dimensions
        if study.voice.form == "code":
            return AdversarialEmbedding.rules(width)
        scale = PublicVoice.rules(options.coefficients, optional=True)
        return {**AdversarialEmbedding.rules(width), **VoiceDriver.rules(width), **scale}

    @classmethod
    def site_training(cls, study: Study) -> SiteTraining | None:
        """The training of the autoencoder at the sites; None where the study has none."""
        return AutoencoderTraining.of(study)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> EmbeddingVoice:
        """Build from the study and what is public. Errors: see `public_arrays.named`."""
        options = cls.options_of(study)
        width = ENCODERS[options.encoder].dimensions
        network, form = AdversarialEmbedding.from_arrays(public, width=width), study.voice.form
        return cls(options, network, None if form == "code" else VoiceDriver.from_arrays(public, width=width))

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:  # noqa: ARG002
        """Look at no clip. Without the encoder's weights, or the vocoder for sound, nothing is released: a StudyError,
        before clips are read."""
        _ = self._encoder
        if self._driver is not None and (found := missing_world()):
            raise StudyError(found, expected="the package, for sound as the released form", fix="install it")

    @cached_property
    def _encoder(self) -> PretrainedEncoder:
        """Loaded where clips are embedded; the server needs none of it to check a statement."""
        return public_encoder(self._options.encoder)

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """float32 [d], of length 1; or the sound that it makes of the clip, float32 [samples]."""
        sound = check_samples(clip)
        before = self._encoder.embed_many([sound])
        after = self._network(before)
        if self._driver is None:
            return np.asarray(after[0], np.float32)
        made = self._driver.change(before[0], after[0]).applied(WorldVoice.of(sound)).sound()
        return made[: len(sound)]  # the vocoder's last frame is beyond: the longest clip would be too long to release

    def parameters(self) -> dict[str, Any]:
        """How the network was made, and what readers of speaker and sex found on public people."""
        options = self._options.model_dump(mode="json", include={"encoder", "adversary_strength", "epochs"})
        stated = {**options, "code_rounds": self._network.rounds, "readers": self._network.figures.stated()}
        if self._driver is None:
            return stated
        return {**stated, "coefficients": self._options.coefficients, "driver_explains": self._driver.stated()}
