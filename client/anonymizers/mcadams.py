"""McAdams coefficient: formants are moved by bending the angles of the poles of linear prediction.

Source: Patino et al., "Speaker anonymisation using the McAdams coefficient", Interspeech 2021, section 3; the second
baseline (B2) of the VoicePrivacy Challenges. It is known to be weak against an attacker that trains on its output,
needs no training and no codebook, and is here for comparison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.voice_baselines import NoiselessVoice
from moretta.shared.features.mfcc import Audio
from moretta.shared.release.anonymizer import Array, anonymizer

ALPHA = 0.8
"""The paper's coefficient. Below 1 it spreads the angles of poles below 1 radian (2.5 kHz) upwards."""
ORDER = 20
WINDOW_SAMPLES = 320  # 20 ms
HOP_SAMPLES = WINDOW_SAMPLES // 2

_MAX_POLE_RADIUS = 0.995  # rounding can push a pole of pure tones onto the unit circle, where synthesis diverges
_WHITE_NOISE = 1e-9  # relative; keeps the normal equations of silence and pure tones solvable

Floats = npt.NDArray[np.float64]


@anonymizer("mcadams", modality="voice", version="1")
class McAdams(NoiselessVoice):
    """Moves formants by one coefficient, the same for everybody. It guarantees nothing."""

    mechanism = "McAdams coefficient"
    why = "a fixed transformation without noise can be undone"

    def __init__(self, form: str, coefficients: int, alpha: float = ALPHA) -> None:
        super().__init__(form, coefficients)
        self._alpha = alpha

    def transform(self, samples: Array) -> Array:
        """The samples with their formants moved."""
        return move_formants(samples, self._alpha)

    def parameters(self) -> dict[str, Any]:
        """The coefficient and the order of the prediction."""
        return {"alpha": self._alpha, "order": ORDER, **super().parameters()}


def move_formants(samples: npt.NDArray[Any], alpha: float) -> Audio:
    """Transform speech frame by frame: linear prediction, poles moved, the same excitation filtered again.

    Args:
        samples: [samples] at 16 kHz.
        alpha: the McAdams coefficient; 1 changes nothing.

    Returns:
        float32 [samples], at the level of the input, in [-1, 1].
    """
    from scipy.signal import lfilter

    window = np.hanning(WINDOW_SAMPLES + 1)[:-1]  # periodic: halves that overlap add up to 1
    frames = _windows(samples) * window
    filters = linear_prediction(frames)
    moved = move_poles(filters, alpha)
    out = np.zeros((len(frames) + 1) * HOP_SAMPLES)
    for index, (frame, analysis, synthesis) in enumerate(zip(frames, filters, moved, strict=True)):
        part = slice(index * HOP_SAMPLES, index * HOP_SAMPLES + WINDOW_SAMPLES)
        out[part] += lfilter([1.0], synthesis, lfilter(analysis, [1.0], frame))
    out = out[HOP_SAMPLES:][: len(samples)]
    level = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    gain = level / max(float(np.sqrt(np.mean(out**2))), 1e-12)
    return np.asarray(np.clip(gain * out, -1, 1), np.float32)


def linear_prediction(frames: Floats) -> Floats:
    """Prediction error filters by the autocorrelation method.

    Args:
        frames: [frames, samples]

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


def move_poles(filters: Floats, alpha: float) -> Floats:
    """Filters whose complex poles have the angle phi ** alpha in place of phi; real poles stay.

    Args:
        filters: [frames, order + 1], each starting with 1.

    Returns:
        [frames, order + 1]
    """
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


def _windows(samples: npt.NDArray[Any]) -> Floats:
    """[frames, WINDOW_SAMPLES], half overlapping, with half a window of silence before and enough after."""
    frames = -(-len(samples) // HOP_SAMPLES) + 1
    padded = np.zeros((frames + 1) * HOP_SAMPLES)
    padded[HOP_SAMPLES : HOP_SAMPLES + len(samples)] = samples
    windows: Floats = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    return windows
