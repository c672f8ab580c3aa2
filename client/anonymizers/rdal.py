"""A code of a clip that keeps emotion, trained against an adversary of speakers who is replaced again and again.

Luong et al. 2023 (RDAL-M), turned from hiding that there is speech to hiding who speaks. The networks are those of
`moretta.shared.models.rdal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from moretta.client.anonymizers.voice_baselines import UnboundedVoice
from moretta.shared.core.array_types import Array
from moretta.shared.features.public_speech import PublicSpeechOptions, public_speakers
from moretta.shared.models.held_out_people import Attribute, people_without_part
from moretta.shared.models.rdal import Rdal
from moretta.shared.models.rdal_of_speech import BATCH, SEED, mel_rows, public_voice_mask, train_speech_code
from moretta.shared.models.train_rdal import RdalTask
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Arrays, Notify, Speaker, anonymizer
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study

_WHY = (
    "no noise is added: what hides the speaker is a network trained on public speech, which guarantees nothing; "
    "a reader that is trained on the release may find the speaker; see the audit"
)


class RdalOptions(PublicSpeechOptions):
    """Options that a study may set."""

    hides: Attribute = "speaker"
    """The attribute that the adversary reads and the code hides."""
    mask: bool = True
    """Whether spectra pass a fixed mask first, trained to turn any voice into one public voice."""
    adversary_strength: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Factor of the adversary's reversed gradient; 0 hides nothing."""
    replaced_every: int = Field(default=5, ge=0, le=1_000)
    """Epochs after which a verifier that was trained afresh replaces the adversary; 0 never replaces it."""
    epochs: int = Field(default=50, ge=10, le=5_000)
    """Epochs of training on public speech, at most."""

    def task(self) -> RdalTask:
        """The options as a task of the training."""
        return RdalTask(
            strength=self.adversary_strength, epochs=self.epochs, replaced_every=self.replaced_every, batch=BATCH
        )


@anonymizer("rdal", modality="voice", version="1")
class RdalVoice(UnboundedVoice[RdalOptions]):
    """Sound -> magnitudes -> fixed mask -> mel bands -> code of 64 values on a public scale."""

    Options = RdalOptions
    forms = ("code",)
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    public_options = frozenset({"hides", "mask", "adversary_strength", "replaced_every", "epochs", "public_speech"})
    mechanism = "adversarial code with replaced adversaries"
    why = _WHY
    strengths = ("adversary_strength",)
    uses_noise = False

    def __init__(self, options: RdalOptions, network: Rdal) -> None:
        super().__init__(options, "code")
        self._network = network

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Mask and encoder. A fault of the adversary is notified, and stands in the statement of every release. Raises
        StudyError: too few people, or emotions: see `train_speech_code`."""
        options = cls.options_of(study)
        mask = None
        if options.mask:
            notify("training the mask on synthetic speech")
            mask = public_voice_mask(SEED)
        notify("measuring public speech")
        rows = mel_rows(public_speakers(options.public_speech, SEED), mask)
        if unused := people_without_part(rows):
            notify(f"{unused} people of the public speech have no part: their sex is not known, or their clips are few")
        notify("training the code")
        made = train_speech_code(rows, mask, options.hides, options.task(), seed=SEED)
        for fault in made.figures.hidden.faults():
            notify(f"rdal: {fault}")
        return dict(made.arrays)

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """See `Anonymizer.public_rules`."""
        return Rdal.rules(has_mask=cls.options_of(study).mask)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> RdalVoice:
        """Build from the study and its networks. Errors: see `public_arrays.named`."""
        options = cls.options_of(study)
        return cls(options, Rdal.from_arrays(public, has_mask=options.mask))

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """float32 [64], in public standard deviations."""
        return self._network(clip)

    def parameters(self) -> dict[str, Any]:
        """How the networks were made, and what readers found on public people."""
        options, found = self._options, self._network.figures
        return {
            **options.model_dump(mode="json", exclude={"public_speech"}),
            "kept": round(found.kept, 3),
            "verifier_loss": round(found.verifier_loss, 3),
            "stopped_after": found.epoch,
            "readers": {options.hides: found.hidden.stated()},
        }
