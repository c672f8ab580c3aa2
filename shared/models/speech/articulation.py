"""From a sentence to what the mouth does: formant, voicing and noise tracks in frames of 5 ms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moretta.shared.models.speech.phonemes import (
    BURST_BANDWIDTH_HZ,
    BURST_LEVEL,
    CLOSURE_MILLISECONDS,
    DIPHTHONGS,
    FRICATIVES,
    SENTENCE_SOUNDS,
    SONORANTS,
    STOPS,
    VOWELS,
    Noise,
    Stop,
)
from moretta.shared.models.speech.prosody import Delivery
from moretta.shared.models.speech.speaker import Voice

FRAME_MILLISECONDS = 5
Track = NDArray[np.float64]

_SONORANT_VOICING = 0.45
_CLOSURE_VOICING = 0.12
_BURST_VOICING = 0.20
_LENGTH_SPREAD = 0.10
_NEUTRAL_TUBE_HZ = np.array([500.0, 1500.0, 2500.0])
_RAISED_VOICE = 1.2
_RAISED_VOICE_F1 = 1.08  # a raised voice opens the jaw, and an open jaw raises the first formant


@dataclass(frozen=True, slots=True)
class Turbulence:
    """Noise over some frames."""

    start: int
    frames: int
    noise: Noise


@dataclass(frozen=True, slots=True)
class Score:
    """What the mouth does, frame by frame."""

    formants_hz: Track
    """[frames, 3]"""
    voicing: Track
    """[frames], 0 to 1"""
    turbulences: list[Turbulence]


@dataclass(frozen=True, slots=True)
class _Segment:
    """Part of a sound in which the mouth moves evenly. Without formants it passes between its neighbours'."""

    milliseconds: float
    voicing: float
    start_hz: Track | None = None
    end_hz: Track | None = None
    noise: Noise | None = None


def articulate(voice: Voice, delivery: Delivery, sentence: str, generator: np.random.Generator) -> Score:
    """Tracks for one sentence (a code of `names.SENTENCES`) as this voice says it this once."""
    pace = 1 / (voice.rate_factor * delivery.rate)
    segments: list[_Segment] = []
    lengths: list[int] = []
    for sound in SENTENCE_SOUNDS[sentence].split():
        stretch = pace * float(np.exp(generator.normal(0, _LENGTH_SPREAD)))
        for segment in _segments(voice, sound):
            segments.append(segment)
            lengths.append(max(2, int(segment.milliseconds * stretch / FRAME_MILLISECONDS)))
    starts = np.cumsum([0, *lengths[:-1]])
    formants = _smooth(_formant_track(segments, lengths), width=9, mode="edge")
    formants *= voice.formant_factor * delivery.formants * (1 + voice.formant_offsets)
    if delivery.pitch > _RAISED_VOICE:
        formants[:, 0] *= _RAISED_VOICE_F1
    voicing = np.repeat([segment.voicing for segment in segments], lengths)
    return Score(
        formants_hz=formants,
        voicing=_smooth(voicing[:, None], width=7, mode="constant")[:, 0],
        turbulences=[
            Turbulence(int(start), length, segment.noise)
            for start, length, segment in zip(starts, lengths, segments, strict=True)
            if segment.noise is not None
        ],
    )


def _segments(voice: Voice, sound: str) -> list[_Segment]:
    if sound in VOWELS:
        target = _vowel_hz(voice, sound)
        return [_Segment(VOWELS[sound].milliseconds, 1.0, target, target)]
    if sound in DIPHTHONGS:
        glide = DIPHTHONGS[sound]
        return [_Segment(glide.milliseconds, 1.0, _vowel_hz(voice, glide.start), _vowel_hz(voice, glide.end))]
    if sound in SONORANTS:
        target = np.array(SONORANTS[sound].formants)
        return [_Segment(SONORANTS[sound].milliseconds, _SONORANT_VOICING, target, target, FRICATIVES.get(sound))]
    if sound in FRICATIVES:
        noise = FRICATIVES[sound]
        return [_Segment(noise.milliseconds, 0.0, noise=noise)]
    return _stop_segments(STOPS[sound])


def _stop_segments(stop: Stop) -> list[_Segment]:
    burst = Noise(stop.burst_hz, BURST_BANDWIDTH_HZ, BURST_LEVEL)
    return [
        _Segment(CLOSURE_MILLISECONDS, _CLOSURE_VOICING * stop.voiced),
        _Segment(stop.burst_milliseconds, _BURST_VOICING * stop.voiced, noise=burst),
    ]


def _vowel_hz(voice: Voice, vowel: str) -> Track:
    return np.array(VOWELS[vowel].formants) * voice.vowel_colours[vowel]


def _formant_track(segments: list[_Segment], lengths: list[int]) -> Track:
    """[frames, 3] in Hz. A sound without formants is crossed from 30 to 70 % of the way between its neighbours."""
    pieces = []
    last = _NEUTRAL_TUBE_HZ
    for index, (segment, frames) in enumerate(zip(segments, lengths, strict=True)):
        if segment.start_hz is not None and segment.end_hz is not None:
            start, end, way = segment.start_hz, segment.end_hz, np.linspace(0, 1, frames)
            last = end
        else:
            coming = next((later.start_hz for later in segments[index:] if later.start_hz is not None), last)
            start, end, way = last, coming, np.linspace(0.3, 0.7, frames)
        pieces.append(start + (end - start) * way[:, None])
    return np.concatenate(pieces)


def _smooth(track: Track, *, width: int, mode: str) -> Track:
    """Move along [frames, columns] as fast as tongue and glottis do, not at once."""
    window = np.hanning(width)
    window /= window.sum()
    padded = np.pad(track, ((width // 2, width // 2), (0, 0)), mode=mode)  # type: ignore[call-overload]
    return np.stack([np.convolve(column, window, "valid") for column in padded.T], axis=1)
