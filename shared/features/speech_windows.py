"""A clip in overlapping steps, for sequences: what is said in a second, every half of one."""

from __future__ import annotations

import numpy as np

from moretta.shared.features.mfcc import HOP_SAMPLES, SAMPLE_RATE, Audio

STEP_SAMPLES = SAMPLE_RATE
HOP_OF_STEPS = SAMPLE_RATE // 2
_RANGE = 10**-3.0
"""30 dB below the loudest is silence, before and after what is said."""
_SILENCE = 1e-12


def speech_windows(samples: Audio) -> list[Audio]:
    """Parts of the clip, each of `STEP_SAMPLES`, or the whole of what is said where that is shorter."""
    speech = _speech_windows(samples)
    last = max(0, len(speech) - STEP_SAMPLES)
    starts = range(0, last + 1, HOP_OF_STEPS)
    return [speech[start : start + STEP_SAMPLES] for start in starts]


def most_steps(frames: int) -> int:
    """Of a clip of so many MFCC frames, which speaks from its start to its end."""
    return max(1, ((frames - 1) * HOP_SAMPLES - STEP_SAMPLES) // HOP_OF_STEPS + 1)


def _speech_windows(samples: Audio) -> Audio:
    """Without silence at either end, but at least a step long if the clip is."""
    frames = len(samples) // HOP_SAMPLES
    power = np.square(samples[: frames * HOP_SAMPLES], dtype=np.float64).reshape(frames, HOP_SAMPLES).mean(axis=1)
    loud = np.flatnonzero(power >= _RANGE * power.max() + _SILENCE)
    if not len(loud):
        return samples
    first, last = int(loud[0]) * HOP_SAMPLES, (int(loud[-1]) + 1) * HOP_SAMPLES
    missing = max(0, STEP_SAMPLES - (last - first))
    first = max(0, min(first - missing // 2, len(samples) - STEP_SAMPLES))
    return samples[first : max(last, min(first + STEP_SAMPLES, len(samples)))]
