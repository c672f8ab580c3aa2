"""Mel-cepstral distortion: how far speech is from the same sentence, said the same way, in the voice it should have.

Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", IEEE PACRIM 1993: in dB,
10 / ln 10 * sqrt(2 * sum over d of (c_d - c'_d)^2), without c_0, which is loudness, averaged over frames. There c is
the cosine series of the log amplitude. Rows of `mel_cepstra` are sqrt 2 times as large, so that factor 2 is in them.
Frames are laid onto each other by dynamic time warping.
"""

from __future__ import annotations

import math

import numpy as np

from moretta.shared.core.array_types import Float32, Float64

COEFFICIENTS = 25
"""With c_0: order 24, as evaluations of voice conversion at 16 kHz have it."""
QUIETEST_DECIBELS = 40.0
"""Below the clip's loudest frame: what is quieter is a pause, whose spectrum is that of the room."""
_DECIBELS = 10 / math.log(10)


def distortion(truth: Float64, made: Float64) -> float:
    """Mean over the best path, in dB, of cepstra [frames, coefficients] each, c_0 first.

    The path goes from the first frames to the last, by one frame in either or in both, with the least sum.
    """
    apart = np.linalg.norm(truth[:, None, 1:] - made[None, :, 1:], axis=2)
    rows, columns = apart.shape
    above = [(math.inf, 0)] * columns
    for row in range(rows):
        line: list[tuple[float, int]] = []
        for column in range(columns):
            before = [above[column], line[column - 1] if column else (math.inf, 0)]
            before.append(above[column - 1] if column else (math.inf, 0))
            total, steps = min(before) if row or column else (0.0, 0)
            line.append((total + float(apart[row, column]), steps + 1))
        above = line
    total, steps = above[-1]
    return _DECIBELS * total / steps


def mel_cepstral_distortion(truth: Float32, made: Float32) -> float:
    """Of two clips, [samples] at 16 kHz, in dB; 0 for the same clip.

    Raises:
        ClipError, StudyError: see `WorldVoice.of`.
    """
    from moretta.shared.features.world_voice import WorldVoice, mel_cepstra

    one, two = (mel_cepstra(WorldVoice.of(clip).envelope, COEFFICIENTS) for clip in (truth, made))
    return distortion(_loud(one), _loud(two))


def _loud(cepstra: Float64) -> Float64:
    """The frames that are no pause; c_0 is the mean log power."""
    decibels = _DECIBELS * cepstra[:, 0]
    return np.asarray(cepstra[decibels > decibels.max() - QUIETEST_DECIBELS])
