"""One public voice that murmurs: syllables without words, at the pitch, level, pace and colour that it is told.

It belongs to nobody, lies between those of men and women, and is the same for everybody, to the last bit: nothing is
drawn but breath and roughness, and those from a fixed seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from moretta.shared.corpus.voice.articulation import Track
from moretta.shared.corpus.voice.phonemes import SONORANTS, VOWELS
from moretta.shared.corpus.voice.tract import HOP_SAMPLES, SAMPLE_RATE, glottal_pulses, resonators
from moretta.shared.features.mfcc import MELS, Audio

BANDS = 8
"""Of colour, evenly spaced on the mel scale from 0 to 8 kHz."""
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_SAMPLES
_SYLLABLES = (("M", "AH"), ("N", "EH"), ("L", "AA"), ("M", "IH"), ("W", "AO"), ("N", "AH"), ("Y", "EH"), ("L", "UH"))
"""What is murmured, over and over."""
_POINTS = 20
"""Of the track of one syllable."""
_CONSONANT = 6
"""Of these, before the vowel."""
_GLIDE_POINTS = 1.5
"""How fast the tongue moves, as a standard deviation."""
_TRACT = 1.08
"""Between the means of men, 1, and women, 1.16."""
_UPPER_HZ = np.array([3500.0, 4500.0]) * _TRACT
_OPEN_SHARE = 0.6
_BREATH_SEED = 0xB4EA
_LEVEL_SAMPLES = SAMPLE_RATE // 40
"""Over which the level is brought to what it should be."""
_FADE_SAMPLES = SAMPLE_RATE // 50
_WINDOW_SAMPLES = 512
_FFT_SAMPLES = 1024
"""Room for the resonances to die away."""
_HIGHEST_PEAK = 0.95


@dataclass(frozen=True, slots=True)
class Manner:
    """How to murmur, every `HOP_SAMPLES`; arrays of [frames]."""

    pitch: Track
    """Octaves above 1 Hz."""
    liveliness: Track
    """Standard deviation of the syllables' pitch, in octaves."""
    roughness: Track
    """Standard deviation of single periods' pitch, as a share of it."""
    level: Track
    """Mean over syllables of the natural logarithm of power."""
    stress: Track
    """Standard deviation of that within syllables."""
    syllables: Track
    """A second."""
    breath: Track
    """Power of breath relative to that of the voice."""
    colour: Track
    """[frames, BANDS], natural logarithm of the gain in power."""


def murmur(manner: Manner) -> Audio:
    """float32 [frames * HOP_SAMPLES] at 16 kHz in [-1, 1]."""
    place = np.cumsum(manner.syllables) / FRAMES_PER_SECOND  # [frames], in syllables
    stress, accent = _carrier(place)
    source = _source(manner, np.exp2(manner.pitch + manner.liveliness * accent))
    sound = _shaped(source, place, manner.colour)
    wanted = _by_sample((manner.level + manner.stress * stress) / 2)
    power = uniform_filter1d(np.square(sound), _LEVEL_SAMPLES, mode="nearest")
    loud = sound * np.exp(wanted) / np.sqrt(power + 1e-12)
    edge = np.minimum(np.arange(len(loud)), np.arange(len(loud))[::-1])
    faded = loud * np.minimum(1.0, edge / _FADE_SAMPLES)
    return np.asarray(np.clip(faded, -_HIGHEST_PEAK, _HIGHEST_PEAK), np.float32)


def _source(manner: Manner, pitch_hz: Track) -> Track:
    """[samples]: pulses and breath."""
    generator = np.random.default_rng(_BREATH_SEED)
    roughness, hiss = generator.normal(size=len(pitch_hz)), generator.normal(size=len(pitch_hz) * HOP_SAMPLES)
    pitch = _by_sample(pitch_hz)
    phase = np.cumsum(pitch * (1 + np.repeat(manner.roughness * roughness, HOP_SAMPLES)) / SAMPLE_RATE) % 1
    pulses = glottal_pulses(phase, pitch, _OPEN_SHARE)
    power = uniform_filter1d(np.square(pulses), _LEVEL_SAMPLES, mode="nearest")
    breath = np.sqrt(power * _by_sample(manner.breath)) * np.diff(hiss, prepend=0.0) / np.sqrt(2)
    return np.asarray(pulses + breath)


def _shaped(source: Track, place: Track, colour: Track) -> Track:
    """[samples]: windows of the source through the mouth as it is in their middle, overlapped and added."""
    size, hop = _WINDOW_SAMPLES, _WINDOW_SAMPLES // 2
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(source, (hop, size)), size)[::hop]  # [windows, size]
    middle = np.minimum(np.arange(len(pieces)) * hop // HOP_SAMPLES, len(place) - 1)
    mouth = _mouth()
    point = (place[middle] * _POINTS).astype(int) % len(mouth)
    gains = np.exp(colour[middle] @ _band_shapes() / 2)  # [windows, bins]
    spectra = np.fft.rfft(pieces * window, _FFT_SAMPLES) * mouth[point] * gains
    made = np.fft.irfft(spectra, _FFT_SAMPLES).reshape(len(pieces), -1, hop)
    out = np.zeros((len(pieces) + made.shape[1], hop))
    for part in range(made.shape[1]):
        out[part : part + len(pieces)] += made[:, part]
    return out.ravel()[hop : hop + len(source)]


def _carrier(place: Track) -> tuple[Track, Track]:
    """[frames] stress and accent at these places, in syllables; both of mean 0 and deviation 1 over all syllables."""
    points = np.arange(len(_SYLLABLES) * _POINTS) / _POINTS
    stress = np.sin(2 * np.pi * (points - 0.3))
    accent = np.sin(2 * np.pi * (points - 0.2)) + np.sin(np.pi * points) + np.sin(np.pi * points / 2)
    told = ((track - track.mean()) / track.std() for track in (stress, accent))
    first, second = (np.interp(place, points, track, period=len(_SYLLABLES)) for track in told)
    return first, second


@lru_cache(maxsize=1)
def _mouth() -> npt.NDArray[np.complex128]:
    """[points, bins]: what the tract makes of each frequency while it says the syllables, which go round."""
    targets = [
        target
        for consonant, vowel in _SYLLABLES
        for target in [SONORANTS[consonant].formants] * _CONSONANT + [VOWELS[vowel].formants] * (_POINTS - _CONSONANT)
    ]
    formants = _TRACT * gaussian_filter1d(np.array(targets), _GLIDE_POINTS, axis=0, mode="wrap")
    centres = np.hstack([formants, np.broadcast_to(_UPPER_HZ, (len(formants), 2))])
    back = np.exp(-2j * np.pi * np.fft.rfftfreq(_FFT_SAMPLES))  # [bins], a sample's delay
    gain, _, _, _, a1, a2 = np.moveaxis(resonators(centres, 1.0), 2, 0)[..., None]  # each [points, 5, 1]
    return np.asarray((gain / (1 + a1 * back + a2 * back**2)).prod(axis=1))


@lru_cache(maxsize=1)
def _band_shapes() -> Track:
    """[BANDS, bins]: at each frequency, how much of each band's gain counts; columns add up to 1."""
    hertz = np.fft.rfftfreq(_FFT_SAMPLES, 1 / SAMPLE_RATE)
    mel = 2595 * np.log10(1 + hertz / 700)  # O'Shaughnessy (1987), as torchaudio has it
    middles = [part.mean() for part in np.array_split(np.arange(1, MELS + 1), BANDS)]
    centres = np.array(middles) / (MELS + 1) * mel[-1]
    return np.stack([np.interp(mel, centres, row) for row in np.eye(BANDS)])


def _by_sample(track: Track) -> Track:
    """[frames] -> [frames * HOP_SAMPLES], in straight lines."""
    samples = np.arange(len(track) * HOP_SAMPLES) / HOP_SAMPLES
    return np.interp(samples, np.arange(len(track)), track)
