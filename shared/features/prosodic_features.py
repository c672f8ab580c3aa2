"""How something was said: level, pitch, voice, spectrum and rhythm of a clip or of its windows, in numbers.

The measurements follow reviews of vocal expression: Juslin and Laukka, Psychological Bulletin 129 (2003), table 7, and
the minimal set of Eyben et al., IEEE Transactions on Affective Computing 7 (2016). The numbers are those of a
person as much as of a mood: nothing here is anonymous before it is normalized within the speaker.

Pitch is the lag at which a frame is most like itself: autocorrelation divided by that of the window (Boersma, IFA
Proceedings 17, 1993, section 3). No path is searched through the frames: octave errors are few, and statistics over a
clip that leave out what lies an octave from the median bear them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from moretta.shared.core.array_types import Array, Bool, Float32, Float64, Int64
from moretta.shared.features.mfcc import HOP_SAMPLES, MELS, SAMPLE_RATE, Audio, check_samples, mfcc_batch

Doubles = Float64
Flags = Bool
Measured = dict[str, Any]

FRAMES_PER_SECOND = SAMPLE_RATE // HOP_SAMPLES
LOWEST_HERTZ = 60
HIGHEST_HERTZ = 500
_WINDOW_SAMPLES = 640  # 40 ms: more than two periods of all but the very lowest voices
_FFT_SAMPLES = 2048
_OCTAVE_COST = 0.02  # of clarity, for each octave down from the highest pitch: of equal peaks the first one counts
_NO_POWER = 1e-10

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
_LOW, _WIDE, _MIDDLE, _HIGH = slice(0, 8), slice(0, 10), slice(12, 25), slice(25, MELS)
"""Mel bands up to about 0.45, 0.6, from 0.75 to 2.6, and above 2.6 kHz."""
_MODULATIONS = ((0.5, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 16.0))
"""Bands of modulation in Hz: phrases, stresses, syllables, sounds."""
_MODULATION_FFT = 1024

STEP_SAMPLES = SAMPLE_RATE
HOP_OF_STEPS = SAMPLE_RATE // 2
_RANGE = 10**-3.0
"""Share of the loudest power below which it is silence, before and after speech: 30 dB."""
_SILENCE = 1e-12


class PitchTrack(NamedTuple):
    """One value each 10 ms, on the grid of `moretta.shared.features.mfcc`; arrays of [1 + samples // 160]."""

    hertz: Float32
    """Pitch in Hz; in frames that are not voiced it means nothing."""
    clarity: Float32
    """How much like itself a frame is one period later: near 1 for a clear voice, near 0 for noise."""
    level: Float32
    """Natural logarithm of the mean power of the frame."""


def pitch_track(samples: Array) -> PitchTrack:
    """Pitch of one clip, [samples], mono at 16 kHz in [-1, 1]."""
    window, own = _window()
    half = _WINDOW_SAMPLES // 2
    padded = np.pad(np.asarray(samples, np.float32), (half, half + HOP_SAMPLES))
    parts = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[::HOP_SAMPLES]
    parts = parts[: 1 + len(samples) // HOP_SAMPLES]
    frames = np.asarray(parts - parts.mean(axis=1, keepdims=True), np.float32) * window  # [frames, window]
    power = np.abs(np.fft.rfft(frames, _FFT_SAMPLES)) ** 2
    correlation = np.fft.irfft(power, _FFT_SAMPLES)[:, : len(own)]  # [frames, lags]
    energy = correlation[:, 0]
    likeness = correlation / (energy[:, None] + _NO_POWER) / own
    first, last = SAMPLE_RATE // HIGHEST_HERTZ, SAMPLE_RATE // LOWEST_HERTZ
    lags = np.arange(first, last + 1)
    candidates = likeness[:, first : last + 1] - _OCTAVE_COST * np.log2(lags / first).astype(np.float32)
    best, rows = candidates.argmax(axis=1), np.arange(len(candidates))
    # The parabola through a peak and its neighbours is highest at most half a sample away.
    before, peak, after = (likeness[rows, lags[best] + step].astype(np.float64) for step in (-1, 0, 1))
    bend = before - 2 * peak + after
    between = np.clip(np.where(bend < 0, (before - after) / (2 * np.minimum(bend, -1e-9)), 0.0), -0.5, 0.5)
    level = np.log(energy / _WINDOW_SAMPLES + _NO_POWER)
    values = (SAMPLE_RATE / (lags[best] + between), candidates[rows, best], level)
    return PitchTrack(*(np.asarray(value, np.float32) for value in values))


@lru_cache(maxsize=1)
def _window() -> tuple[Float32, Float32]:
    """The window, and its own autocorrelation at every lag that is used, 1 at lag 0."""
    window = np.hanning(_WINDOW_SAMPLES).astype(np.float32)
    own = np.fft.irfft(np.abs(np.fft.rfft(window, _FFT_SAMPLES)) ** 2, _FFT_SAMPLES)
    own = own[: SAMPLE_RATE // LOWEST_HERTZ + 2] / own[0]
    return window, own.astype(np.float32)


def delivery_batch(clips: Sequence[Array]) -> list[Float32]:
    """`delivery` of many clips, whose MFCC are quicker made together."""
    checked = [check_samples(clip) for clip in clips]
    cepstra = mfcc_batch(checked, MELS)
    found = [_measured(_prepared(pitch_track(clip), frames)) for clip, frames in zip(checked, cepstra, strict=True)]
    return [np.nan_to_num(np.asarray([*one.values()], np.float32), posinf=0.0, neginf=0.0) for one in found]


def delivery(samples: Array) -> Float32:
    """float32, finite, in the order of `MEASUREMENTS`, of one clip, mono at 16 kHz. Errors: see `check_samples`."""
    return delivery_batch([samples])[0]


class _Clip(NamedTuple):
    """Input of the measurements, [frames] from the first spoken one to the last unless stated.

    `level` is the natural logarithm of power, `smooth` the same without the ripple of single periods. `pitch` [voiced
    frames] is in octaves above 1 Hz, octave errors put right; `cepstrum` [frames, 13] are MFCC; `bands` [voiced frames,
    40] are natural logarithms of mel band energy.
    """

    level: Doubles
    smooth: Doubles
    pitch: Doubles
    clarity: Doubles
    speech: Flags
    voiced: Flags
    cepstrum: Doubles
    bands: Doubles


def _prepared(track: PitchTrack, cepstrum: Array) -> _Clip:
    level = track.level.astype(np.float64)
    speech = level > np.percentile(level, _LOUDEST_PERCENTILE) - _SPEECH_RANGE
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


@lru_cache(maxsize=1)
def _inverse_cosine() -> Doubles:
    """[40, 40], whose product with 40 MFCC gives log band energies: the transpose of an orthonormal DCT-II."""
    place, order = np.arange(MELS)[:, None], np.arange(MELS)[None]
    cosine = np.cos(np.pi * (place + 0.5) * order / MELS) * np.sqrt(2 / MELS)
    cosine[:, 0] /= np.sqrt(2)
    return np.ascontiguousarray(cosine.T)


def _measured(clip: _Clip) -> Measured:
    voice = {"voiced share": clip.voiced.mean(), **_moments("clarity", clip.clarity[clip.speech])}
    return {**_level(clip), **_pitch(clip), **voice, **_spectrum(clip), **_timbre(clip), **_rhythm(clip)}


def _moments(name: str, values: Doubles) -> Measured:
    return {f"{name} mean": values.mean(), f"{name} deviation": values.std()}


def _thirds(name: str, values: Doubles) -> Measured:
    thirds = zip(("start", "middle", "end"), np.array_split(values, 3), strict=True)
    return {f"{name} {part}": third.mean() - values.mean() if len(third) else 0.0 for part, third in thirds}


def _level(clip: _Clip) -> Measured:
    speech = clip.level[clip.speech]
    low, high = np.percentile(speech, (10, 95))
    slopes = np.diff(clip.smooth) if len(clip.smooth) > 1 else np.zeros(1)
    falling, rising = np.percentile(slopes, (10, 90))
    return {
        **_moments("level", speech),
        "level peak": high,
        "level range": high - low,
        "level movement": slopes.std(),
        "level attack": rising,
        "level decay": falling,
        "level skew": ((speech - speech.mean()) ** 3).mean() / (speech.std() ** 3 + 1e-6),
        **_thirds("level", clip.level),
    }


def _pitch(clip: _Clip) -> Measured:
    pitch, place = clip.pitch, np.flatnonzero(clip.voiced)
    low, middle, high, peak = np.percentile(pitch, (10, 50, 90, 98))
    together = np.diff(place) == 1
    steps = np.diff(pitch)[together] if len(pitch) > 1 else np.zeros(0)
    steps = steps[np.abs(steps) < _JUMP]
    return {
        "pitch median": middle,
        **_moments("pitch", pitch),
        "pitch low": low,
        "pitch high": high,
        "pitch peak": peak,
        "pitch range": high - low,
        "pitch slope": _slope(place, pitch),
        "pitch movement": np.abs(steps).mean() if len(steps) else 0.0,
        "pitch unsteadiness": steps.std() if len(steps) else 0.0,
        "pitch with level": _correlation(clip.level[clip.voiced], pitch),
        **_thirds("pitch", pitch),
    }


def _spectrum(clip: _Clip) -> Measured:
    bands, across = clip.bands, np.linspace(-1, 1, MELS)
    tilt = bands @ across / (across @ across)  # [frames]
    energy = np.exp(bands)
    centre = energy @ np.arange(MELS) / energy.sum(axis=1)
    low, wide, middle, high = (energy[:, part].sum(axis=1) for part in (_LOW, _WIDE, _MIDDLE, _HIGH))
    found = {
        **_moments("tilt", tilt),
        **_moments("centre", centre),
        **_moments("high to low", np.log(high / wide)),
        "middle to low mean": np.log(middle / low).mean(),
    }
    for number, part in enumerate(np.array_split(np.arange(MELS), _BANDS), start=1):
        band = bands[:, part].mean(axis=1)
        quiet, loud = np.percentile(band, (20, 90))
        found |= {f"band {number} mean": band.mean() - bands.mean(), f"band {number} range": loud - quiet}
    return found


def _timbre(clip: _Clip) -> Measured:
    voiced, moves = clip.cepstrum[clip.voiced], np.diff(clip.cepstrum, axis=0)
    found: Measured = {}
    for number in range(1, _COEFFICIENTS):
        found |= _moments(f"cepstrum {number}", voiced[:, number])
        found[f"cepstrum {number} movement"] = moves[:, number].std() if len(moves) else 0.0
    return found


def _rhythm(clip: _Clip) -> Measured:
    frames, smooth, level = len(clip.level), clip.smooth, clip.level
    inner = smooth[1:-1]
    peaks = (inner > smooth[:-2]) & (inner > smooth[2:]) & (inner > smooth.max() - _PEAK_RANGE)
    power = np.abs(np.fft.rfft((level - level.mean()) * np.hanning(frames + 2)[1:-1], _MODULATION_FFT)) ** 2
    hertz = np.fft.rfftfreq(_MODULATION_FFT, 1 / FRAMES_PER_SECOND)

    def within(low: float, high: float) -> float:
        return float(power[(hertz >= low) & (hertz < high)].sum())

    whole = within(0.5, 20) + 1e-9
    return {
        "duration": np.log(frames),
        "speech share": clip.speech.mean(),
        "peaks a second": peaks.sum() / frames * FRAMES_PER_SECOND,
        "final level": level[-max(1, frames // 6) :].mean() - level[clip.speech].mean(),
        **{f"modulation from {low:g} Hz": np.log(within(low, high) / whole + 1e-3) for low, high in _MODULATIONS},
    }


def _slope(place: Int64, values: Doubles) -> float:
    """Rise of the straight line that fits best, from the first frame to the last."""
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


_NO, _ALL = np.zeros(4), np.ones(4, bool)
_SILENT = _Clip(_NO, _NO, _NO, _NO, _ALL, _ALL, np.zeros((4, _COEFFICIENTS)), np.zeros((4, MELS)))
MEASUREMENTS: tuple[str, ...] = tuple(_measured(_SILENT))
"""Names of the values of `delivery`, in its order."""


def speech_windows(samples: Audio) -> list[Audio]:
    """Parts of the clip, each of `STEP_SAMPLES`, or the whole of what is said where that is shorter."""
    frames, first, last = len(samples) // HOP_SAMPLES, 0, len(samples)
    power = np.square(samples[: frames * HOP_SAMPLES], dtype=np.float64).reshape(frames, HOP_SAMPLES).mean(axis=1)
    loud = np.flatnonzero(power >= _RANGE * power.max() + _SILENCE)
    if len(loud):  # without silence at either end, but at least a step long if the clip is
        first, last = int(loud[0]) * HOP_SAMPLES, (int(loud[-1]) + 1) * HOP_SAMPLES
        missing = max(0, STEP_SAMPLES - (last - first))
        first = max(0, min(first - missing // 2, len(samples) - STEP_SAMPLES))
        last = max(last, min(first + STEP_SAMPLES, len(samples)))
    speech = samples[first:last]
    starts = range(0, max(0, len(speech) - STEP_SAMPLES) + 1, HOP_OF_STEPS)
    return [speech[start : start + STEP_SAMPLES] for start in starts]


def most_steps(frames: int) -> int:
    """Most steps of a clip of so many MFCC frames, which speaks from its start to its end."""
    return max(1, ((frames - 1) * HOP_SAMPLES - STEP_SAMPLES) // HOP_OF_STEPS + 1)
