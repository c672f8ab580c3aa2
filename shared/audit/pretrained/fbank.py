"""Filter banks, as the encoders heard them when they were trained."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moretta.shared.data.media import SAMPLE_RATE

if TYPE_CHECKING:
    from torch import Tensor

_SLANEY_LINEAR_HZ = 200 / 3
_SLANEY_BREAK_HZ, _SLANEY_BREAK_MEL = 1000.0, 15.0
_SLANEY_STEP = np.log(6.4) / 27


def kaldi_fbank(samples: npt.NDArray[np.float32], bins: int = 80) -> Tensor:
    """Kaldi's log mel energies with its defaults but for the dither, mean over time removed.

    Args:
        samples: [samples] at 16 kHz in [-1, 1], at least 25 ms.
        bins: mel filters.

    Returns:
        float32 [T, bins], T = 1 + (samples - 400) // 160.
    """
    import torch
    from torchaudio.compliance import kaldi

    loud = torch.from_numpy(samples)[None] * 32768.0  # Kaldi reads 16-bit integers
    energies: Tensor = kaldi.fbank(loud, num_mel_bins=bins, sample_frequency=SAMPLE_RATE, dither=0.0)
    return energies - energies.mean(dim=0, keepdim=True)


def slaney_mel(samples: npt.NDArray[np.float32], bins: int = 40) -> Tensor:
    """Mel power, not logarithmic: frames of 25 ms every 10 ms, centred, filters of equal area on Slaney's mel scale.

    Args:
        samples: [samples] at 16 kHz. Loudness matters: nothing here removes it.
        bins: mel filters.

    Returns:
        float32 [T, bins], T = 1 + samples // 160.
    """
    import torch

    size, hop = SAMPLE_RATE // 40, SAMPLE_RATE // 100
    window = torch.hann_window(size)
    spectrum = torch.stft(
        torch.from_numpy(samples), size, hop, window=window, center=True, pad_mode="constant", return_complex=True
    )
    return (_slaney_filters(bins, size) @ spectrum.abs().square()).T


@lru_cache
def _slaney_filters(bins: int, size: int) -> Tensor:
    """float32 [bins, size / 2 + 1], triangles between neighbouring mel points."""
    import torch

    top = _hz_to_mel(SAMPLE_RATE / 2)
    points = np.array([_mel_to_hz(mel) for mel in np.linspace(0.0, top, bins + 2)])  # [bins + 2], in Hz
    frequencies = np.linspace(0, SAMPLE_RATE / 2, size // 2 + 1)
    low, centre, high = points[:-2, None], points[1:-1, None], points[2:, None]
    rising = (frequencies - low) / (centre - low)
    falling = (high - frequencies) / (high - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * 2 / (high - low)
    return torch.from_numpy(triangles.astype(np.float32))


def _hz_to_mel(hz: float) -> float:
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_LINEAR_HZ
    return _SLANEY_BREAK_MEL + float(np.log(hz / _SLANEY_BREAK_HZ) / _SLANEY_STEP)


def _mel_to_hz(mel: float) -> float:
    if mel < _SLANEY_BREAK_MEL:
        return mel * _SLANEY_LINEAR_HZ
    return _SLANEY_BREAK_HZ * float(np.exp(_SLANEY_STEP * (mel - _SLANEY_BREAK_MEL)))
