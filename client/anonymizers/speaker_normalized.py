"""Manner of speaking, normalized by the same speaker's other clips: possible only at a site that knows its speakers.

1. Measurements of pitch, level, spectrum and rhythm become ranks among the speaker's own clips.
2. A public map makes a code of them.
3. The speaker's own mean and covariance are removed, and noise is added.
4. The code, a sequence of codes, or tokens are released.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from moretta.client.anonymizers.normalized_codes import NormalizedCodes
from moretta.client.anonymizers.planned_losses import PlannedAnonymizer
from moretta.client.anonymizers.speaker_references import Rows
from moretta.client.anonymizers.voice_baselines import NOTHING, usable
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features import speaker_code
from moretta.shared.features.emotion_encoder import CODE, EmotionTraining, EncoderOptions
from moretta.shared.features.federated_encoder import SiteTraining
from moretta.shared.features.mfcc import check_samples
from moretta.shared.features.prosodic_features import MEASUREMENTS, most_steps
from moretta.shared.features.voice_forms import nearest
from moretta.shared.privacy.accounting import training_statements
from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import LEDGER_UNITS, Arrays, Losses, Notify, Sizes, Speaker, anonymizer, no_bound
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules
from moretta.shared.study.schema import Study

_NOTE = (
    "between any two people with as many clips and steps, whatever they said: every clip changes what the person's "
    "others are normalized by, so a clip loses as much as its speaker; what hides people is the normalization, "
    "which guarantees nothing by itself: see the audit"
)
_NO_NOISE = "no noise is added: what hides people is the normalization, which guarantees nothing; see the audit"


class NormalizedOptions(EncoderOptions):
    """Options that a study may set."""

    code_noise: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Standard deviation of the noise on the code's values, which vary by 1 within a speaker."""
    code_encoder: Literal["directions", "network"] = "directions"
    """The code of measurements is made by directions in closed form, or by a network trained on public speech."""
    code_training: Literal["public", "federated"] = "public"
    """The code is trained on public speech, or, from there on, on the clips of all sites."""
    codebook_size: int = Field(default=64, ge=2, le=4096)
    """Number of codewords, for the form `code-tokens`."""
    federated_by = "code_training"

    @model_validator(mode="after")
    def _sites_train_directions(self) -> Self:
        if self.code_training == "federated" and self.code_encoder != "directions":
            raise ValueError("sites train directions: set code_training to public, or code_encoder to directions")
        return self


class CodeTraining(EmotionTraining):
    """Trains the directions of a code."""

    trained = frozenset({speaker_code.PROJECTION, speaker_code.CODEWORDS})
    rounds_arrays = frozenset({speaker_code.ROUNDS})

    def public_code(self, public: Mapping[str, Array]) -> speaker_code.SpeakerCode:
        """The code that the sites have already."""
        return speaker_code.SpeakerCode.from_arrays(public)

    def public_after(self, public: Mapping[str, Array], weights: Arrays | None) -> Arrays:
        """The code along the trained directions, scaled by public speech, with codewords for public speech."""
        directions = self.public_code(public).projection if weights is None else weights[CODE].T.astype(np.float64)
        return speaker_code.code_along(
            self.public_rows(),
            directions,
            codebook_size=NormalizedOptions.of(self.study.voice.options).codebook_size,
            seed=derive(self.study.seed, "speaker code"),
            rounds=self.plan.rounds,
        ).to_arrays()


def _public_rows(study: Study) -> speaker_code.PublicRows:
    folder = NormalizedOptions.of(study.voice.options).public_speech
    return speaker_code.measured_public_speech(folder, in_windows=study.voice.form != "code")


@anonymizer("speaker-normalized", modality="voice", version="2")
class SpeakerNormalized(PlannedAnonymizer[NormalizedOptions]):
    """Codes of a clip relative to the other clips of the same speaker at this site.

    The code of a speaker's only clip is noise around 0. All that a speaker's clips have in common is lost, so the
    emotion of a speaker who was recorded in one emotion only cannot be read.

    Args:
        code: fitted on public speech, or, from there on, trained at the sites.
    """

    Options = NormalizedOptions
    forms = ("code", "code-sequence", "code-tokens")
    not_from_options = frozenset({"code_rounds", "codebook_size"})
    public_options = frozenset({"code_size", "codebook_size", "code_encoder", "public_speech"})
    mechanism = "Gaussian noise on bounded codes"
    delta = 1e-5
    strengths = ("code_size", "code_noise")

    def __init__(self, options: NormalizedOptions, form: str, code: speaker_code.SpeakerCode) -> None:
        super().__init__(options, form)
        self._code, self._in_windows = code, form != "code"
        self._codes = NormalizedCodes(code, in_windows=self._in_windows)

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """A code of public speech."""
        notify("measuring public speech")
        options = cls.options_of(study)
        return speaker_code.train_speaker_code(
            _public_rows(study),
            size=options.code_size,
            codebook_size=options.codebook_size,
            seed=derive(PUBLIC_SEED, "speaker code"),
            network_noise=options.code_noise if options.code_encoder == "network" else None,
        ).to_arrays()

    @classmethod
    def public_choices(cls, study: Study) -> dict[str, Any]:
        """Choices that the public arrays depend on; noise is one of them only where a network is trained under it."""
        options, windows = cls.options_of(study), study.voice.form != "code"
        noise = options.code_noise if options.code_encoder == "network" else None
        return {**super().public_choices(study), "in_windows": windows, "network_noise": noise}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The code, of the study's size and encoder."""
        options = cls.options_of(study)
        return speaker_code.SpeakerCode.rules(options.code_size, is_network=options.code_encoder == "network")

    @classmethod
    def site_training(cls, study: Study) -> SiteTraining | None:
        """The training of the code at the sites; None where the study has none."""
        return CodeTraining.of(study, in_windows=study.voice.form != "code")

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> SpeakerNormalized:
        """Build from the study and the code of public speech, or the one that the sites trained. Raises StudyError:
        there is no such code, or one of another size or kind."""
        options, code = cls.options_of(study), speaker_code.SpeakerCode.from_arrays(public)
        made = "directions" if code.hidden is None else "network"
        if code.size != options.code_size:
            raise StudyError(f"a public code of {code.size} values", expected=f"{options.code_size}, as the study says")
        if made != options.code_encoder:
            raise StudyError(f"a public code of the kind {made}", expected=f"{options.code_encoder}, as the study says")
        return cls(options, study.voice.form, code)

    @property
    def codebook(self) -> Rows | None:
        """float32 [k, d], of tokens."""
        return self._code.codewords if self.form == "code-tokens" else None

    def keep_in(self, folder: Path) -> None:
        """Keep secret weights and shifts there, so that a clip counts as much in a later release as in this one."""
        path, former = folder / f"{self.name}.safetensors", folder / "speaker-normalised.safetensors"
        if former.exists() and not path.exists():
            former.rename(path)
        for name in ("clips", "steps"):  # files of earlier versions hold measurements, even of clips that were deleted
            (folder / f"speaker-normalised-{name}.safetensors").unlink(missing_ok=True)
        self._codes.keep_in(path)

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Take the clips that each speaker's clips are normalized by: these usable clips, and no others."""
        self._codes.learn(usable(clips), noise)

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:
        """Codes with noise, on a grid that hides the low bits; or the nearest codewords."""
        noisy = self._codes.noisy(check_samples(clip), noise, speaker, sigma=self._options.code_noise)
        if self.form == "code-tokens":
            return nearest(noisy, self._code.codewords)
        exact = np.asarray(noisy, np.float32)
        return exact if self._in_windows else exact[0]

    @classmethod
    def is_fitted(cls, study: Study) -> bool:  # noqa: ARG003
        """Always: the speaker's other clips are normalized by a clip."""
        return True

    def parameters(self) -> dict[str, Any]:
        """The code and the noise. The weights of a speaker's clips are secret, too."""
        return {
            "code_size": self._options.code_size,
            "code_noise": self._options.code_noise,
            "code_rounds": self._code.rounds,
            "code_encoder": self._options.code_encoder,
            "limit": speaker_code.CODE_LIMIT,
            "measurements": len(MEASUREMENTS),
            "codebook_size": len(self._code.codewords) if self.form == "code-tokens" else None,
        }

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """Guarantees of the noise, which are weak, and of training the code at the sites."""
        note = _NOTE if self._options.code_noise else _NO_NOISE
        rows = [self.stated(sizes, unit, note) for unit in LEDGER_UNITS]
        return (*rows, *training_statements(self._options.site_training(), sizes))

    @classmethod
    def losses_of(cls, options: NormalizedOptions, sizes: Sizes) -> Losses:
        """One Gaussian over all codes of the speaker with most; sizes are in codes. Training is accounted for apart."""
        if not any(sizes.values()):
            return NOTHING
        if not options.code_noise:
            return no_bound(_NO_NOISE)
        distance = 2 * speaker_code.CODE_LIMIT * float(np.sqrt(max(map(sum, sizes.values())) * options.code_size))
        return {unit: (Gaussian(unit=unit, sigma=options.code_noise, distance=distance),) for unit in LEDGER_UNITS}

    @classmethod
    def planned_losses(cls, study: Study, sizes: Sizes) -> Losses:
        """See `losses_of`; of clips of so many MFCC frames, each of which is one code, or one for each step."""
        whole = study.voice.form == "code"
        codes = {who: [1 if whole else most_steps(frames) for frames in clips] for who, clips in sizes.items()}
        return super().planned_losses(study, codes)
