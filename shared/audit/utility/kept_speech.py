"""How much of a clip its release keeps: pitch over time and duration, recognised words, and the sound itself.

Mel-cepstral distortion says how far speech is from the same sentence, said the same way, in the voice it should have.
Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", IEEE PACRIM 1993: in dB,
10 / ln 10 * sqrt(2 * sum over d of (c_d - c'_d)^2), without c_0, which is loudness, averaged over frames. There c is
the cosine series of the log amplitude. Rows of `mel_cepstra` are sqrt 2 times as large, so that factor 2 is in them.
Frames are laid onto each other by dynamic time warping.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from moretta.shared.core.array_types import Float32, Float64
from moretta.shared.features.prosodic_features import pitch_track

METRICS = ("pitch_correlation", "pitch_cents", "duration_ratio")
_VOICED = 0.6
"""Clarity from which a frame counts as voiced. With noise 20 dB below the speech, melodies of 30 clips of CREMA-D are
then within 31 cents of those without; from 0.45 on, as in `prosodic_features`, within 53."""
_FEWEST = 10
"""Fewest frames, of 10 ms, that must be voiced in both."""
_CENTS = 1200.0
_OCTAVE_ERROR = 0.8 * _CENTS
"""Largest distance from the clip's median: farther values are mistakes of the tracker, as in `prosodic_features`."""


def compared(original: Float32, released: Float32) -> tuple[float, float, float]:
    """Correlation of the logarithms of pitch, its deviation in cents, and the release's share of the duration.

    Both clips, [samples] at 16 kHz, are laid over each other from beginning to end. The deviation is the root mean
    square after each clip's median was taken off: another register is no loss of melody. Frames whose pitch
    lies about an octave from the clip's median are left out. NaN where fewer than ten are left that are voiced in both.
    """
    ratio = len(released) / max(1, len(original))
    one, two = pitch_track(original), pitch_track(released)
    place = np.linspace(0, len(two.hertz) - 1, len(one.hertz)).round().astype(int)
    both = (one.clarity > _VOICED) & (two.clarity[place] > _VOICED)
    if both.sum() < _FEWEST:
        return float("nan"), float("nan"), ratio
    first, second = _melody(one.hertz[both]), _melody(two.hertz[place][both])
    near = (np.abs(first) < _OCTAVE_ERROR) & (np.abs(second) < _OCTAVE_ERROR)
    if near.sum() < _FEWEST:
        return float("nan"), float("nan"), ratio
    first, second = first[near], second[near]
    spread = float(first.std() * second.std())
    related = float(np.mean((first - first.mean()) * (second - second.mean())) / spread) if spread > 0 else 0.0
    return related, float(np.sqrt(np.mean((first - second) ** 2))), ratio


def _melody(hertz: Float32) -> Float64:
    """Pitch in cents from the median."""
    cents = _CENTS * np.log2(np.asarray(hertz, np.float64))
    return np.asarray(cents - np.median(cents))


def word_errors(truth: Sequence[str], recognized: Sequence[str]) -> int:
    """Words that were put in, left out or taken for others: the edit distance."""
    from torchaudio.functional import edit_distance

    return int(edit_distance(list(truth), list(recognized)))


def guessed_errors(truth: Sequence[Sequence[str]]) -> float:
    """Word error rate of choosing one of the sentences that occur, at random.

    A choice among a dozen sentences is far easier than free recognition: a low rate says that enough of the words is
    left to know which sentence was said, and a high one that it is not.
    """
    texts = sorted({tuple(text) for text in truth})
    apart = {(one, other): word_errors(one, other) for one in texts for other in texts}
    errors = sum(apart[tuple(text), other] for text in truth for other in texts) / len(texts)
    return errors / sum(map(len, truth))


COEFFICIENTS = 25
"""Mel-cepstral coefficients with c_0: order 24, as in evaluations of voice conversion at 16 kHz."""
QUIETEST_DECIBELS = 40.0
"""Decibels below the clip's loudest frame: quieter frames are pauses, whose spectrum is that of the room."""
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
