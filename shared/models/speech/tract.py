"""The two halves of a voice: what the glottis gives, and what the vocal tract makes of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moretta.shared.models.speech.articulation import FRAME_MILLISECONDS, Track

SAMPLE_RATE = 16_000
HOP_SAMPLES = SAMPLE_RATE * FRAME_MILLISECONDS // 1000
"""Of one frame of a track."""
_BANDWIDTHS_HZ = np.array([60.0, 90.0, 150.0, 200.0, 250.0])
_HIGHEST_RESONANCE_HZ = 7400.0


def glottal_pulses(phase: NDArray[np.float64], pitch_hz: NDArray[np.float64], open_share: float) -> Track:
    """Flow of Rosenberg's pulse C (JASA 49, 1971), differentiated.

    Args:
        phase: [samples], where in its cycle the glottis is, 0 to 1.
        pitch_hz: [samples]
        open_share: share of a cycle in which the glottis is open.
    """
    opening, closing = open_share * 0.67, open_share * 0.33
    flow = np.select(
        [phase < opening, phase < open_share],
        [0.5 * (1 - np.cos(np.pi * phase / opening)), np.cos(np.pi / 2 * (phase - opening) / closing)],
    )
    pulses: Track = np.diff(flow, prepend=flow[0]) * SAMPLE_RATE / np.maximum(pitch_hz, 50) / 20
    return pulses


def resonators(centres_hz: Track, bandwidth_factor: float) -> NDArray[np.float64]:
    """Five two-pole resonances in cascade (Klatt 1980, section II.A) that move every frame.

    Args:
        centres_hz: [frames, 5]
        bandwidth_factor: on the bandwidths of the first three.

    Returns:
        [frames, 5, 6], second-order sections as scipy has them.
    """
    bandwidths = _BANDWIDTHS_HZ * np.array([bandwidth_factor] * 3 + [1, 1])
    radius = np.exp(-np.pi * bandwidths / SAMPLE_RATE)
    a1 = -2 * radius * np.cos(2 * np.pi * np.minimum(centres_hz, _HIGHEST_RESONANCE_HZ) / SAMPLE_RATE)
    a2 = np.broadcast_to(radius**2, a1.shape)
    zero, one = np.zeros_like(a1), np.ones_like(a1)
    return np.stack([1 + a1 + a2, zero, zero, one, a1, a2], axis=2)
