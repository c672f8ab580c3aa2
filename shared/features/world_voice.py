"""Speech as pitch, spectral envelope and aperiodicity every 5 ms, changed, and made sound again: the WORLD vocoder.

Morise, Yokomori and Ozawa, IEICE Transactions on Information and Systems E99-D (2016). Pitch by DIO with StoneMask, or
by Harvest, which is slower and misses less of breathy and noisy speech; the envelope by CheapTrick; aperiodicity by
D4C. The package stands in the extra `[world]`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.core.errors import StudyError
from moretta.shared.features.mfcc import SAMPLE_RATE, Audio, check_samples

FRAME_MILLISECONDS = 5.0
FFT_SAMPLES = 1024
"""Samples of the transform that CheapTrick needs at 16 kHz for voices from 71 Hz on."""
BINS = FFT_SAMPLES // 2 + 1
LOWEST_HERTZ, HIGHEST_HERTZ = 60.0, 600.0
"""A shouted female voice of CREMA-D goes beyond 500 Hz."""
Tracker = Literal["dio", "harvest"]
_INSTALL = "pip install 'moretta[world]'"
_LEAST_POWER, _MOST_POWER = 1e-16, 1e6
_USUAL_BANDWIDTH = 90.0
"""Bandwidth in Hz of the first formants of an average voice."""
_SHARPEST = 2.0
"""A cepstrum is not raised more: what is in its high indices is the envelope's own error."""


def missing_world() -> str | None:
    """The reason why this machine cannot take speech apart, with the command that helps; None if it can."""
    if importlib.util.find_spec("pyworld") is None:
        return f"the WORLD vocoder is not installed: {_INSTALL}"
    return None


def _world() -> Any:
    if missing_world() is not None:
        raise StudyError("the WORLD vocoder is not installed", expected="the package pyworld", fix=_INSTALL)
    import pyworld

    return pyworld


@dataclass(frozen=True, slots=True, eq=False)
class WorldVoice:
    """One clip, taken apart. Frame t is the sound around t * 5 ms."""

    hertz: Float64
    """[frames], 0 where there is no voice."""
    envelope: Float64
    """[frames, 513], positive: power at 0 to 8 kHz, without the harmonics."""
    aperiodicity: Float64
    """[frames, 513], from 0 to 1: which share of it is noise."""

    def __len__(self) -> int:
        return len(self.hertz)

    @classmethod
    def of(cls, samples: Array, *, tracker: Tracker = "dio") -> Self:
        """Take apart one clip, [samples], mono at 16 kHz in [-1, 1]. The same samples give the same arrays.

        Raises:
            ClipError: see `check_samples`.
            StudyError: the package is not installed.
        """
        world, sound = _world(), np.asarray(check_samples(samples), np.float64)
        hertz, seconds = _tracked(sound, tracker)
        envelope = world.cheaptrick(sound, hertz, seconds, SAMPLE_RATE, fft_size=FFT_SAMPLES)
        aperiodicity = world.d4c(sound, hertz, seconds, SAMPLE_RATE, fft_size=FFT_SAMPLES)
        return cls(hertz, np.maximum(envelope, _LEAST_POWER), aperiodicity)

    def sound(self) -> Audio:
        """float32 [80 samples a frame], 16 kHz, cut to [-1, 1].

        The noise in it comes from a fixed generator of the vocoder. It hides nothing.
        """
        parts = (np.ascontiguousarray(part, np.float64) for part in (self.hertz, self.envelope, self.aperiodicity))
        made = _world().synthesize(*parts, SAMPLE_RATE, FRAME_MILLISECONDS)
        return np.asarray(np.clip(made, -1, 1), np.float32)

    def with_pitch(self, factor: float | Float64) -> Self:
        """Pitch times a factor, or one for each frame, [frames]; formants stay."""
        return replace(self, hertz=self.hertz * factor)

    def warped(self, factor: float) -> Self:
        """All frequencies of the envelope times a factor, as of a shorter vocal tract; pitch stays.

        Where nothing is known, above 8 kHz of the original, the last value is held.
        """
        places = np.arange(BINS) / factor
        envelope = np.exp(_between(np.log(self.envelope).T, places).T)
        return replace(self, envelope=envelope, aperiodicity=_between(self.aperiodicity.T, places).T)

    def with_bandwidths(self, factor: float) -> Self:
        """Bandwidths of resonances times about a factor: above 1 they are broader, below 1 sharper.

        The cepstrum of a resonance of bandwidth B falls as exp(-pi B n / rate) over its index n, so it is made to fall
        faster. Source: Oppenheim and Schafer, Discrete-Time Signal Processing, on the cepstrum of rational functions.
        """
        cepstrum = np.fft.irfft(np.log(self.envelope), axis=1)
        index = np.minimum(np.arange(FFT_SAMPLES), FFT_SAMPLES - np.arange(FFT_SAMPLES))
        falls = np.exp(-np.pi * (factor - 1) * _USUAL_BANDWIDTH * index / SAMPLE_RATE)
        changed = np.fft.rfft(cepstrum * np.minimum(falls, _SHARPEST), axis=1).real
        return replace(self, envelope=np.maximum(np.exp(changed), _LEAST_POWER))

    def at(self, places: Sequence[float] | Float64) -> Self:
        """The frames at these places, [n], in frames of this clip, whole or between two: other durations.

        Between a voiced and an unvoiced frame the nearer one decides.
        """
        where = np.clip(np.asarray(places, np.float64), 0, len(self) - 1)
        voiced = self.hertz > 0
        # Straight across unvoiced stretches, so that no pitch is drawn towards zero at their edges.
        melody = np.interp(where, np.flatnonzero(voiced), np.log(self.hertz[voiced])) if voiced.any() else where
        hertz = np.where(voiced[np.rint(where).astype(int)], np.exp(melody), 0.0)
        envelope = np.exp(_between(np.log(self.envelope), where))
        return replace(self, hertz=hertz, envelope=envelope, aperiodicity=_between(self.aperiodicity, where))

    def stretched(self, factor: float) -> Self:
        """The voice, longer by a factor, at the same pitch."""
        return self.at(np.linspace(0, len(self) - 1, max(2, round(factor * len(self)))))


def pitch_of(samples: Array, *, tracker: Tracker = "dio") -> Float64:
    """Pitch alone, as `WorldVoice.of` finds it, [frames]. Errors: the same."""
    return _tracked(np.asarray(check_samples(samples), np.float64), tracker)[0]


def _tracked(sound: Float64, tracker: Tracker) -> tuple[Float64, Float64]:
    world = _world()
    limits = {"f0_floor": LOWEST_HERTZ, "f0_ceil": HIGHEST_HERTZ, "frame_period": FRAME_MILLISECONDS}
    track = world.harvest if tracker == "harvest" else world.dio
    coarse, seconds = track(sound, SAMPLE_RATE, **limits)
    return np.asarray(world.stonemask(sound, coarse, seconds, SAMPLE_RATE)), seconds


def _between(rows: Float64, places: Float64) -> Float64:
    """Rows [n, d] at places [m] from 0 to n - 1, straight lines between; beyond the ends the last row."""
    where = np.clip(places, 0, len(rows) - 1)
    below = np.minimum(where.astype(int), len(rows) - 2)
    share = (where - below)[:, None]
    return np.asarray((1 - share) * rows[below] + share * rows[below + 1])


def mel_cepstra(envelope: Float64, size: int) -> Float64:
    """float64 [frames, size] of an envelope: a cosine transform of the log power on a mel axis, as WORLD codes it.

    Scaled so that the sum of squares of a row is the mean square of the log power. Errors: see `WorldVoice.of`.
    """
    return np.asarray(_world().code_spectral_envelope(np.ascontiguousarray(envelope), SAMPLE_RATE, size))


def envelope_of(cepstra: Array) -> Float64:
    """The inverse of `mel_cepstra` as far as it goes, bounded: whatever the rows are, it is finite and positive."""
    exact = np.ascontiguousarray(cepstra, np.float64)
    envelope = _world().decode_spectral_envelope(exact, SAMPLE_RATE, FFT_SAMPLES)
    return np.asarray(np.clip(np.nan_to_num(envelope), _LEAST_POWER, _MOST_POWER))


def packed(voice: WorldVoice, columns: int, *, every: int) -> Float32:
    """float32 [frames / every, columns]: pitch, one band of aperiodicity, the envelope in mel-cepstral coefficients.

    Every so many frames one is kept. Errors: see `WorldVoice.of`.
    """
    world, kept = _world(), slice(None, None, every)
    envelope = mel_cepstra(voice.envelope[kept], columns - 2)
    aperiodicity = world.code_aperiodicity(np.ascontiguousarray(voice.aperiodicity[kept]), SAMPLE_RATE)
    return np.hstack([voice.hertz[kept, None], aperiodicity[:, :1], envelope]).astype(np.float32)


def unpacked(rows: Float32) -> WorldVoice:
    """A voice from rows of `packed`, one frame a row; bounded, so that any rows give finite arrays."""
    world, exact = _world(), np.asarray(rows, np.float64)
    bands = np.clip(exact[:, 1:2], -120.0, 0.0)
    aperiodicity = world.decode_aperiodicity(np.ascontiguousarray(bands), SAMPLE_RATE, FFT_SAMPLES)
    hertz = np.where(exact[:, 0] > LOWEST_HERTZ, np.minimum(exact[:, 0], HIGHEST_HERTZ), 0.0)
    return WorldVoice(hertz, envelope_of(exact[:, 2:]), aperiodicity)
