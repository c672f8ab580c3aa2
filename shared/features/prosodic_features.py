"""How something was said: level, pitch, voice, spectrum and rhythm of a clip or of its windows, in numbers.

What is measured follows the reviews of vocal expression: Juslin and Laukka, Psychological Bulletin 129 (2003), table 7,
and the minimal set of Eyben et al., IEEE Transactions on Affective Computing 7 (2016). The numbers are those of a
person as much as of a mood: nothing here is anonymous before it is normalized within the speaker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.features.mfcc import HOP_SAMPLES, MELS, SAMPLE_RATE, Audio, check_samples, mfcc_batch
from moretta.shared.features.pitch import PitchTrack, pitch_track

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_SAMPLES

_SPEECH_RANGE = 3 * np.log(10.0)  # 30 dB below the loudest is no longer speech
_PEAK_RANGE = 2 * np.log(10.0)
_LOUDEST_PERCENTILE = 97
_VOICED_CLARITY = 0.45
_FEWEST_VOICED = 5
_SMOOTHING_FRAMES = 9
_OCTAVE_ERROR = 0.8  # octaves from the median
_JUMP = 0.2  # octaves between frames that no voice can move
_COEFFICIENTS = 13
_BANDS = 8
_MODULATIONS = ((0.5, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 16.0))
"""In Hz: phrases, stresses, syllables, sounds."""
_MODULATION_FFT = 1024


@dataclass(frozen=True)
class _Clip:
    """What the measurements look at; frames from the first spoken one to the last."""

    level: Doubles
    """[frames], natural logarithm of power."""
    smooth: Doubles
    """[frames], the same without the ripple of single periods."""
    pitch: Doubles
    """[voiced frames], octaves above 1 Hz, octave errors put right."""
    clarity: Doubles
    """[frames]"""
    speech: Flags
    """[frames]"""
    voiced: Flags
    """[frames]"""
    cepstrum: Doubles
    """[frames, 13] MFCC."""
    bands: Doubles
    """[voiced frames, 40], natural logarithm of mel band energy."""


def delivery_batch(clips: Sequence[npt.NDArray[Any]]) -> list[Floats]:
    """`delivery` of many clips, whose MFCC are quicker made together."""
    checked = [check_samples(clip) for clip in clips]
    return [
        _measured(pitch_track(samples), frames)
        for samples, frames in zip(checked, mfcc_batch(checked, MELS), strict=True)
    ]


def delivery(samples: npt.NDArray[Any]) -> Floats:
    """float32 [len(MEASUREMENTS)], finite, in the order of `MEASUREMENTS`.

    Args:
        samples: [samples], mono at 16 kHz in [-1, 1].

    Raises:
        ClipError: the clip cannot be used, see `moretta.shared.features.mfcc.check_samples`.
    """
    return delivery_batch([samples])[0]


def _measured(track: PitchTrack, cepstrum: npt.NDArray[Any]) -> Floats:
    clip = _prepared(track, cepstrum)
    values = [value for measure in _GROUPS for _, value in measure(clip)]
    return np.nan_to_num(np.asarray(values, np.float32), posinf=0.0, neginf=0.0)


def _prepared(track: PitchTrack, cepstrum: npt.NDArray[Any]) -> _Clip:
    level = track.level.astype(np.float64)
    loudest = np.percentile(level, _LOUDEST_PERCENTILE)
    speech = level > loudest - _SPEECH_RANGE
    first, last = np.flatnonzero(speech)[[0, -1]]
    part = slice(int(first), int(last) + 1)
    voiced = (track.clarity > _VOICED_CLARITY) & speech
    if voiced.sum() < _FEWEST_VOICED:
        voiced = speech  # whispered throughout: the spectrum is still worth something
    smoothing = np.hanning(_SMOOTHING_FRAMES + 2)[1:-1]
    octaves = np.log2(track.hertz[voiced].astype(np.float64))
    off = octaves - np.median(octaves)
    exact = np.asarray(cepstrum, np.float64)
    return _Clip(
        level=level[part],
        smooth=np.convolve(level, smoothing / smoothing.sum(), "same")[part],
        pitch=octaves - (off > _OCTAVE_ERROR) + (off < -_OCTAVE_ERROR),
        clarity=track.clarity[part].astype(np.float64),
        speech=speech[part],
        voiced=voiced[part],
        cepstrum=exact[part, :_COEFFICIENTS],
        bands=exact[voiced] @ _inverse_cosine(),
    )


Measured = Iterator[tuple[str, float]]


def _level(clip: _Clip) -> Measured:
    speech = clip.level[clip.speech]
    low, high = np.percentile(speech, (10, 95))
    slopes = np.diff(clip.smooth) if len(clip.smooth) > 1 else np.zeros(1)
    falling, rising = np.percentile(slopes, (10, 90))
    yield "level mean", speech.mean()
    yield "level deviation", speech.std()
    yield "level peak", high
    yield "level range", high - low
    yield "level movement", slopes.std()
    yield "level attack", rising
    yield "level decay", falling
    yield "level skew", _skew(speech)
    for name, third in zip(("start", "middle", "end"), np.array_split(clip.level, 3), strict=True):
        yield f"level {name}", third.mean() - clip.level.mean() if len(third) else 0.0


def _pitch(clip: _Clip) -> Measured:
    pitch, place = clip.pitch, np.flatnonzero(clip.voiced)
    low, middle, high, peak = np.percentile(pitch, (10, 50, 90, 98))
    together = np.diff(place) == 1
    steps = np.diff(pitch)[together] if len(pitch) > 1 else np.zeros(0)
    steps = steps[np.abs(steps) < _JUMP]
    yield "pitch median", middle
    yield "pitch mean", pitch.mean()
    yield "pitch deviation", pitch.std()
    yield "pitch low", low
    yield "pitch high", high
    yield "pitch peak", peak
    yield "pitch range", high - low
    yield "pitch slope", _slope(place, pitch)
    yield "pitch movement", np.abs(steps).mean() if len(steps) else 0.0
    yield "pitch unsteadiness", steps.std() if len(steps) else 0.0
    yield "pitch with level", _correlation(clip.level[clip.voiced], pitch)
    for name, third in zip(("start", "middle", "end"), np.array_split(pitch, 3), strict=True):
        yield f"pitch {name}", third.mean() - pitch.mean() if len(third) else 0.0


def _voice(clip: _Clip) -> Measured:
    yield "voiced share", clip.voiced.mean()
    yield "clarity mean", clip.clarity[clip.speech].mean()
    yield "clarity deviation", clip.clarity[clip.speech].std()


def _spectrum(clip: _Clip) -> Measured:
    bands, across = clip.bands, np.linspace(-1, 1, MELS)
    tilt = bands @ across / (across @ across)  # [frames]
    energy = np.exp(bands)
    centre = energy @ np.arange(MELS) / energy.sum(axis=1)
    low, wide, middle, high = (energy[:, part].sum(axis=1) for part in (_LOW, _WIDE, _MIDDLE, _HIGH))
    yield "tilt mean", tilt.mean()
    yield "tilt deviation", tilt.std()
    yield "centre mean", centre.mean()
    yield "centre deviation", centre.std()
    yield "high to low mean", np.log(high / wide).mean()
    yield "high to low deviation", np.log(high / wide).std()
    yield "middle to low mean", np.log(middle / low).mean()
    for number, part in enumerate(np.array_split(np.arange(MELS), _BANDS), start=1):
        band = bands[:, part].mean(axis=1)
        quiet, loud = np.percentile(band, (20, 90))
        yield f"band {number} mean", band.mean() - bands.mean()
        yield f"band {number} range", loud - quiet


_LOW, _WIDE, _MIDDLE, _HIGH = slice(0, 8), slice(0, 10), slice(12, 25), slice(25, MELS)
"""Mel bands up to about 0.45, 0.6, from 0.75 to 2.6, and above 2.6 kHz."""


def _timbre(clip: _Clip) -> Measured:
    voiced, moves = clip.cepstrum[clip.voiced], np.diff(clip.cepstrum, axis=0)
    for number in range(1, _COEFFICIENTS):
        yield f"cepstrum {number} mean", voiced[:, number].mean()
        yield f"cepstrum {number} deviation", voiced[:, number].std()
        yield f"cepstrum {number} movement", moves[:, number].std() if len(moves) else 0.0


def _rhythm(clip: _Clip) -> Measured:
    frames, smooth = len(clip.level), clip.smooth
    inner = smooth[1:-1]
    peaks = (inner > smooth[:-2]) & (inner > smooth[2:]) & (inner > smooth.max() - _PEAK_RANGE)
    spectrum = _modulation(clip.level)
    last = clip.level[-max(1, frames // 6) :]
    yield "duration", np.log(frames)
    yield "speech share", clip.speech.mean()
    yield "peaks a second", peaks.sum() / frames * FRAMES_PER_SECOND
    yield "final level", last.mean() - clip.level[clip.speech].mean()
    for low, high in _MODULATIONS:
        yield f"modulation from {low:g} Hz", np.log(spectrum(low, high) / (spectrum(0.5, 20) + 1e-9) + 1e-3)


def _modulation(level: Doubles) -> Any:
    power = np.abs(np.fft.rfft((level - level.mean()) * np.hanning(len(level) + 2)[1:-1], _MODULATION_FFT)) ** 2
    hertz = np.fft.rfftfreq(_MODULATION_FFT, 1 / FRAMES_PER_SECOND)
    return lambda low, high: float(power[(hertz >= low) & (hertz < high)].sum())


def _skew(values: Doubles) -> float:
    return float(((values - values.mean()) ** 3).mean() / (values.std() ** 3 + 1e-6))


def _slope(place: npt.NDArray[np.int64], values: Doubles) -> float:
    """From the first frame to the last, of the straight line that fits best."""
    if len(values) < _FEWEST_VOICED:
        return 0.0
    across = (place - place[0]) / max(1, place[-1] - place[0])
    centred = across - across.mean()
    return float(centred @ values / max(float(centred @ centred), 1e-9))


def _correlation(left: Doubles, right: Doubles) -> float:
    if len(left) < _FEWEST_VOICED:
        return 0.0
    scale = left.std() * right.std()
    return float(((left - left.mean()) * (right - right.mean())).mean() / scale) if scale > 1e-9 else 0.0


@lru_cache(maxsize=1)
def _inverse_cosine() -> Doubles:
    """[40, 40], whose product with 40 MFCC gives log band energies: the transpose of an orthonormal DCT-II."""
    place, order = np.arange(MELS)[:, None], np.arange(MELS)[None]
    cosine = np.cos(np.pi * (place + 0.5) * order / MELS) * np.sqrt(2 / MELS)
    cosine[:, 0] /= np.sqrt(2)
    return np.ascontiguousarray(cosine.T)


_GROUPS = (_level, _pitch, _voice, _spectrum, _timbre, _rhythm)


def _names() -> tuple[str, ...]:
    silence = np.zeros(4)
    flags = np.ones(4, bool)
    like = _Clip(silence, silence, silence, silence, flags, flags, np.zeros((4, 13)), np.zeros((4, MELS)))
    return tuple(name for measure in _GROUPS for name, _ in measure(like))


MEASUREMENTS: tuple[str, ...] = _names()
"""Names of the values of `delivery`, in its order."""


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
