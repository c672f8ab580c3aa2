"""Baselines of voice: the clip as it is, the same sound for everybody, moved formants; and bases of voice anonymizers.

McAdams coefficient: Patino et al., "Speaker anonymisation using the McAdams coefficient", Interspeech 2021, section 3;
the second baseline (B2) of the VoicePrivacy Challenges, known to be weak against attackers that train on its output.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np

from moretta.client.anonymizers.planned_losses import OptionsT, PlannedAnonymizer
from moretta.shared.core.array_types import Array, Float64
from moretta.shared.core.terms import CODEBOOK_FORMS, PrivacyStatement
from moretta.shared.features.mfcc import MELS, Audio, Frames, check_samples, mfcc
from moretta.shared.features.public_speech import MfccOptions, PublicVoice
from moretta.shared.features.voice_forms import as_waveform
from moretta.shared.privacy.accounting import training_statements
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import (
    LEDGER_UNITS,
    UNITS,
    Arrays,
    Losses,
    Notify,
    Sizes,
    Speaker,
    anonymizer,
    no_bound,
)
from moretta.shared.study.public_arrays import Rules
from moretta.shared.study.schema import Study

ALPHA = 0.8
"""The paper's coefficient. Below 1 it spreads the angles of poles below 1 radian (2.5 kHz) upwards."""
ORDER = 20
WINDOW_SAMPLES = 320  # 20 ms
HOP_SAMPLES = WINDOW_SAMPLES // 2
FRAMES = 260
_BAND_LOG_ENERGY = -2.0  # steady noise, some 40 dB above the quietest that MFCC can show
_MAX_POLE_RADIUS = 0.995  # rounding can push a pole of pure tones onto the unit circle, where synthesis diverges
_WHITE_NOISE = 1e-9  # relative; keeps the normal equations of silence and pure tones solvable


def usable(clips: Iterable[tuple[Speaker, Array]]) -> Iterator[tuple[Speaker, Audio]]:
    """Clips that pass `check_samples`; the others fail again, and are counted, when their turn comes."""
    for speaker, clip in clips:
        try:
            samples = check_samples(clip)
        except Exception:  # noqa: S112
            continue
        yield speaker, samples


NOTHING: Losses = dict.fromkeys(LEDGER_UNITS, ())
"""No privacy loss, for each unit of the ledger."""


class UnboundedVoice(PlannedAnonymizer[OptionsT]):
    """Base of anonymizers whose release has no guarantee: only the audit shows what they hide.

    Training at the sites may have a guarantee of its own.
    """

    why: ClassVar[str]
    """Note of the privacy statement: the reason why there is no bound."""

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """No bound on the release, and the guarantees of training at the sites."""
        rows = [self.stated(sizes, unit, self.why) for unit in LEDGER_UNITS]
        return (*rows, *training_statements(self._options.site_training(), sizes))

    @classmethod
    def losses_of(cls, options: OptionsT, sizes: Sizes) -> Losses:  # noqa: ARG003
        """No bound, where there is a clip."""
        return no_bound(cls.why) if any(sizes.values()) else NOTHING


class NoiselessVoice(PlannedAnonymizer[MfccOptions]):
    """Releases sound, or its MFCC, without noise. The public arrays only scale the input of emotion models."""

    Options = MfccOptions
    forms: ClassVar[tuple[str, ...]] = ("mfcc", "waveform")
    public_options = frozenset({"coefficients", "public_speech"})
    uses_noise = False
    epsilon: ClassVar[float | None] = None
    """Epsilon at every unit; None without a guarantee."""
    why: ClassVar[str]
    """Note of the privacy statement on this epsilon."""

    def __init__(self, form: str, coefficients: int) -> None:
        super().__init__(MfccOptions(coefficients=coefficients), form)

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Statistics of public speech."""
        notify("measuring public speech")
        return cls.options_of(study).public_voice().to_arrays()

    @classmethod
    def public_rules(cls, study: Study) -> Rules:
        """See `Anonymizer.public_rules`."""
        return PublicVoice.rules(cls.options_of(study).coefficients, optional=True)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:  # noqa: ARG003
        """Build from the study; the public arrays are not needed."""
        return cls(study.voice.form, cls.options_of(study).coefficients)

    @abstractmethod
    def transform(self, samples: Array) -> Array:
        """float32 [samples] at 16 kHz in [-1, 1] -> the same, as it is released."""

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """The transformed clip, or its MFCC."""
        made = self.transform(check_samples(clip))
        return mfcc(made, self._options.coefficients) if self.form == "mfcc" else made

    def parameters(self) -> dict[str, Any]:
        """The number of coefficients."""
        return {"coefficients": self._options.coefficients}

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:
        """The same guarantee at every unit."""
        return tuple(self.stated(sizes, unit, self.why) for unit in UNITS)

    @classmethod
    def losses_of(cls, options: MfccOptions, sizes: Sizes) -> Losses:  # noqa: ARG003
        """None where the release does not depend on the clips; else no guarantee."""
        return NOTHING if cls.epsilon == 0 else no_bound()


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
    mechanism = "constant"
    epsilon = 0.0
    why = "the number of clips and their labels are released as they are"

    def __init__(self, form: str, coefficients: int) -> None:
        super().__init__(form, coefficients)
        self._codebook = np.zeros((1, coefficients), np.float32)
        self._codebook[0, 0] = _BAND_LOG_ENERGY * np.sqrt(MELS)
        self._array: Array = np.repeat(self._codebook, FRAMES, axis=0)
        if form in CODEBOOK_FORMS:
            self._array = np.zeros(FRAMES, np.int32)
        elif form == "code":
            self._array = self._codebook[0]
        elif form == "waveform":
            self._array = as_waveform("mfcc", self._array)

    @property
    def codebook(self) -> Frames | None:
        """float32 [1, coefficients]"""
        return self._codebook

    def transform(self, samples: Array) -> Array:  # noqa: ARG002
        """The same array for each clip, in the form of the study."""
        return self._array.copy()

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:  # noqa: ARG002
        """The same array for each clip that can be used."""
        return self.transform(check_samples(clip))

    def parameters(self) -> dict[str, Any]:
        """The size of the array."""
        return {"frames": FRAMES, **super().parameters()}


@anonymizer("mcadams", modality="voice", version="1")
class McAdams(NoiselessVoice):
    """Moves formants by one coefficient, the same for everybody. It guarantees nothing."""

    mechanism = "McAdams coefficient"
    why = "a fixed transformation without noise can be undone"

    def transform(self, samples: Array) -> Array:
        """The samples with their formants moved."""
        return move_formants(samples, ALPHA)

    def parameters(self) -> dict[str, Any]:
        """The coefficient and the order of the prediction."""
        return {"alpha": ALPHA, "order": ORDER, **super().parameters()}


def move_formants(samples: Array, alpha: float) -> Audio:
    """Transform speech frame by frame: linear prediction, poles moved, the same excitation filtered again.

    Args:
        samples: [samples] at 16 kHz.
        alpha: the McAdams coefficient; 1 changes nothing.

    Returns:
        float32 [samples], at the level of the input, in [-1, 1].
    """
    from scipy.signal import lfilter

    count = -(-len(samples) // HOP_SAMPLES) + 1
    padded = np.zeros((count + 1) * HOP_SAMPLES)  # half a window of silence before, and enough after
    padded[HOP_SAMPLES : HOP_SAMPLES + len(samples)] = samples
    window = np.hanning(WINDOW_SAMPLES + 1)[:-1]  # periodic: halves that overlap add up to 1
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES] * window
    filters = linear_prediction(frames)
    out = np.zeros_like(padded)
    for index, (frame, analysis, synthesis) in enumerate(zip(frames, filters, move_poles(filters, alpha), strict=True)):
        part = slice(index * HOP_SAMPLES, index * HOP_SAMPLES + WINDOW_SAMPLES)
        out[part] += lfilter([1.0], synthesis, lfilter(analysis, [1.0], frame))
    out = out[HOP_SAMPLES:][: len(samples)]
    level = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    gain = level / max(float(np.sqrt(np.mean(out**2))), 1e-12)
    return np.asarray(np.clip(gain * out, -1, 1), np.float32)


def linear_prediction(frames: Float64) -> Float64:
    """Prediction error filters of [frames, samples] by the autocorrelation method.

    Returns:
        [frames, ORDER + 1], each starting with 1 and with all its roots inside the unit circle.
    """
    samples = frames.shape[1]
    lags = [np.einsum("ft,ft->f", frames[:, : samples - lag], frames[:, lag:]) for lag in range(ORDER + 1)]
    correlation = np.stack(lags, axis=1)  # [frames, lags]
    correlation[:, 0] = correlation[:, 0] * (1 + _WHITE_NOISE) + 1e-12
    toeplitz = correlation[:, np.abs(np.subtract.outer(np.arange(ORDER), np.arange(ORDER)))]  # [frames, order, order]
    predictors = np.linalg.solve(toeplitz, correlation[:, 1:, None])[:, :, 0]
    return np.concatenate([np.ones((len(frames), 1)), -predictors], axis=1)


def move_poles(filters: Float64, alpha: float) -> Float64:
    """Filters [frames, order + 1] whose complex poles have the angle phi ** alpha in place of phi; real poles stay."""
    order = filters.shape[1] - 1
    companions = np.zeros((len(filters), order, order))
    companions[:, 0] = -filters[:, 1:]
    companions[:, np.arange(1, order), np.arange(order - 1)] = 1.0
    poles = np.linalg.eigvals(companions)  # [frames, order]
    angle = np.angle(poles)
    bent = np.where(poles.imag == 0, angle, np.sign(angle) * np.minimum(np.abs(angle) ** alpha, np.pi))
    moved = np.minimum(np.abs(poles), _MAX_POLE_RADIUS) * np.exp(1j * bent)
    polynomial = np.ones((len(filters), 1), np.complex128)
    for pole in moved.T:  # multiply by (z - pole), one pole of every frame at a time
        shifted = np.pad(polynomial, ((0, 0), (0, 1)))
        polynomial = shifted - pole[:, None] * np.pad(polynomial, ((0, 0), (1, 0)))
    return np.ascontiguousarray(polynomial.real)
