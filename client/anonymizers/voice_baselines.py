"""Baselines of voice: the clip as it is, the same sound for everybody, and the base of those without noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from moretta.shared.core.terms import CODEBOOK_FORMS, PrivacyStatement
from moretta.shared.features.mfcc import MELS, Frames, check_samples, mfcc
from moretta.shared.features.public_speech import MfccOptions, PublicVoice
from moretta.shared.features.voice_forms import as_waveform, frame_count
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import (
    LEDGER_UNITS,
    UNITS,
    Anonymizer,
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

FRAMES = 260
_BAND_LOG_ENERGY = -2.0  # steady noise, some 40 dB above the quietest that MFCC can show


class NoiselessVoice(Anonymizer):
    """Releases sound, or its MFCC, without noise. The public arrays only scale the input of emotion models."""

    Options = MfccOptions
    forms: ClassVar[tuple[str, ...]] = ("mfcc", "waveform")
    public_options = frozenset({"coefficients", "public_speech"})
    uses_noise = False
    mechanism: ClassVar[str]
    why: ClassVar[str]
    """Why nothing is guaranteed."""

    def __init__(self, form: str, coefficients: int) -> None:
        self.form = form
        self._coefficients = coefficients

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Statistics of public speech."""
        notify("measuring public speech")
        return MfccOptions.of(study.voice.options).public_voice().to_arrays()

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """The same."""
        return PublicVoice.rules(MfccOptions.of(study.voice.options).coefficients, optional=True)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:  # noqa: ARG003
        """Build from the study; the public arrays are not needed."""
        return cls(study.voice.form, MfccOptions.of(study.voice.options).coefficients)

    @abstractmethod
    def transform(self, samples: Array) -> Array:
        """float32 [samples] at 16 kHz in [-1, 1] -> the same, as it is released."""

    def frames(self, released: Array) -> int:
        """MFCC frames behind one released array."""
        return frame_count(self.form, released)

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """The transformed clip, or its MFCC."""
        made = self.transform(check_samples(clip))
        return mfcc(made, self._coefficients) if self.form == "mfcc" else made

    def parameters(self) -> dict[str, Any]:
        """The number of coefficients."""
        return {"coefficients": self._coefficients}

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:  # noqa: ARG002
        """At no unit a finite epsilon."""
        return tuple(PrivacyStatement(mechanism=self.mechanism, unit=u, epsilon=None, note=self.why) for u in UNITS)

    @classmethod
    def planned_losses(cls, study: Study, sizes: Sizes) -> Losses:
        """That nothing is guaranteed, stated before a clip is read."""
        return super().planned_losses(study, sizes)


@anonymizer("none", modality="voice", version="1")
class IdentityVoice(NoiselessVoice):
    """No anonymization: the anchor that shows what attackers and models reach on original voices."""

    mechanism = "none"
    why = "voices are released as they are"

    def transform(self, samples: Array) -> Array:
        """The samples themselves."""
        return np.clip(samples, -1, 1)


@anonymizer("constant", modality="voice", version="1")
class ConstantVoice(NoiselessVoice):
    """2.6 s of steady, flat noise for every usable clip: the anchor at which every attacker must be at chance."""

    forms = ("mfcc", "tokens", "waveform", "code", "code-sequence", "code-tokens")

    def __init__(self, form: str, coefficients: int) -> None:
        super().__init__(form, coefficients)
        self._codebook = np.zeros((1, coefficients), np.float32)
        self._codebook[0, 0] = _BAND_LOG_ENERGY * np.sqrt(MELS)
        tokens = np.zeros(FRAMES, np.int32)
        centroids = self._codebook[tokens]
        self._array: Array = tokens if form in CODEBOOK_FORMS else centroids
        if form == "code":
            self._array = centroids[0]
        if form == "waveform":
            self._array = as_waveform("mfcc", centroids)

    @property
    def codebook(self) -> Frames | None:
        """float32 [1, coefficients]"""
        return self._codebook

    def transform(self, samples: Array) -> Array:  # noqa: ARG002
        """The same array for each clip."""
        return self._array.copy()

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """The same array for each clip that can be used, in the form of the study."""
        return self.transform(check_samples(clip))

    def parameters(self) -> dict[str, Any]:
        """The size of the array."""
        return {"frames": FRAMES, **super().parameters()}

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:  # noqa: ARG002
        """Epsilon 0 at every unit: what is released does not depend on what was said, nor by whom."""
        note = "the number of clips and their labels are released as they are"
        return tuple(PrivacyStatement(mechanism="constant", unit=unit, epsilon=0.0, note=note) for unit in UNITS)

    @classmethod
    def planned_losses(cls, study: Study, sizes: Sizes) -> Losses:
        """None: what is released does not depend on the clips."""
        del study, sizes
        return dict.fromkeys(LEDGER_UNITS, ())
