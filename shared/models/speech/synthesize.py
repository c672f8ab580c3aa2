"""One sentence by one voice: mouth movements, glottal source, cascade of resonances, noise, equalizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter, sosfilt

from moretta.shared.core.array_types import Float32, Float64
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
)
from moretta.shared.models.speech.voice import DELIVERIES, Delivery, Voice

FRAME_MILLISECONDS = 5
Track = Float64

_SONORANT_VOICING = 0.45
_CLOSURE_VOICING = 0.12
_BURST_VOICING = 0.20
_LENGTH_SPREAD = 0.10
_NEUTRAL_TUBE_HZ = np.array([500.0, 1500.0, 2500.0])
_RAISED_VOICE = 1.2
_RAISED_VOICE_F1 = 1.08  # a raised voice opens the jaw, and an open jaw raises the first formant
SAMPLE_RATE = 16_000
HOP_SAMPLES = SAMPLE_RATE * FRAME_MILLISECONDS // 1000
"""Samples of one frame of a track."""
_BANDWIDTHS_HZ = np.array([60.0, 90.0, 150.0, 200.0, 250.0])
_HIGHEST_RESONANCE_HZ = 7400.0
_MARGIN_SAMPLES = SAMPLE_RATE // 10
_SPEECH_LEVEL = 0.03
"""Root mean square of neutral speech, full scale 1: about -30 dBFS, so that shouted peaks are not clipped."""
_HIGHEST_PEAK = 0.95
_ROOM_LEVEL = 2e-4
_NOISE_LEVEL = 0.16
_TREMOR_HZ = 7.0


def synthesize(voice: Voice, emotion: str, sentence: str, *, intensity: float = 1.0, seed: int) -> Float32:
    """Say a sentence (a code of `cremad.SENTENCES`): [samples], 16 kHz, in [-1, 1].

    Args:
        intensity: 0 is neutral, 1 as `DELIVERIES` describes.
        seed: of all that differs from one time to the next. The same arguments give the same samples.
    """
    generator = np.random.default_rng([seed, 0x5A7])
    delivery = DELIVERIES[emotion].at(intensity)
    score = articulate(voice, delivery, sentence, generator)
    pitch_hz = _pitch_track(voice, delivery, len(score.voicing), generator)
    speech = _resonate(voice, delivery, score, _glottal_source(voice, delivery, score, pitch_hz, generator))
    speech *= 0.1 / _level(speech)
    for turbulence in score.turbulences:
        _add_turbulence(speech, turbulence, voice, delivery, generator)
    speech = _equalize(speech, voice.equalizer_db)
    speech *= _SPEECH_LEVEL * delivery.loudness / _level(speech)
    clip = np.pad(speech, _MARGIN_SAMPLES)
    clip += generator.normal(0, _ROOM_LEVEL, len(clip))
    clip *= min(1.0, _HIGHEST_PEAK / float(np.abs(clip).max()))
    return clip.astype(np.float32)


def _pitch_track(voice: Voice, delivery: Delivery, frames: int, generator: np.random.Generator) -> Track:
    """[frames] in Hz: three accents, declination, drift, tremor."""
    position = np.linspace(0, 1, frames)
    accents = np.zeros(frames)
    for earliest, latest in ((0.1, 0.25), (0.4, 0.55), (0.72, 0.88)):
        centre, height = generator.uniform(earliest, latest), generator.uniform(0.5, 1.2)
        accents += height * np.exp(-(((position - centre) / 0.06) ** 2))
    movement = 0.16 * voice.pitch_range_factor * delivery.pitch_range * (accents - 0.5)
    fall = delivery.declination * (2 * position - 1)
    drift = 0.004 * np.cumsum(generator.normal(size=frames))
    seconds = np.arange(frames) * FRAME_MILLISECONDS / 1000
    tremor = 1 + delivery.tremor * np.sin(2 * np.pi * _TREMOR_HZ * seconds)
    pitch: Track = voice.pitch_hz * delivery.pitch * np.exp(movement - fall + drift) * tremor
    return pitch


def _glottal_source(
    voice: Voice, delivery: Delivery, score: Score, pitch_hz: Track, generator: np.random.Generator
) -> Track:
    """[samples]: pulses with jitter and shimmer, breath and tilt."""
    frames = len(pitch_hz)
    roughness = voice.jitter_factor * delivery.jitter
    jitter = np.repeat(generator.normal(0, 0.008 * roughness, frames), HOP_SAMPLES)
    pitch = np.repeat(pitch_hz, HOP_SAMPLES)
    phase = np.cumsum(pitch * (1 + jitter) / SAMPLE_RATE) % 1
    open_share = np.clip(voice.open_quotient - 0.012 * delivery.brightness_db, 0.3, 0.85)
    pulses = glottal_pulses(phase, pitch, float(open_share))
    shimmer = np.repeat(1 + generator.normal(0, 0.05 * delivery.jitter, frames), HOP_SAMPLES)
    breath = 0.018 * voice.breath_factor * delivery.breath * (0.3 + (phase < open_share))
    source = (pulses * shimmer + breath * generator.normal(size=len(phase))) * np.repeat(score.voicing, HOP_SAMPLES)
    pole = np.clip(0.25 - 0.03 * voice.tilt_db - 0.035 * delivery.brightness_db, -0.2, 0.85)
    tilted: Track = lfilter([1 - abs(pole)], [1, -pole], source)
    return tilted


def _resonate(voice: Voice, delivery: Delivery, score: Score, source: Track) -> Track:
    """Send [samples] through this voice's five resonances."""
    tract = voice.formant_factor * delivery.formants
    upper = np.array([voice.fourth_formant_hz, voice.fifth_formant_hz]) * tract
    frames = len(score.formants_hz)
    centres = np.concatenate([score.formants_hz, np.broadcast_to(upper, (frames, 2))], axis=1)  # [frames, 5]
    filtered = np.empty_like(source)
    state = np.zeros((5, 2))
    for frame, sections in enumerate(resonators(centres, voice.bandwidth_factor)):
        span = slice(frame * HOP_SAMPLES, (frame + 1) * HOP_SAMPLES)
        filtered[span], state = sosfilt(sections, source[span], zi=state)
    return filtered


def _add_turbulence(
    speech: Track, turbulence: Turbulence, voice: Voice, delivery: Delivery, generator: np.random.Generator
) -> None:
    """Add the noise of a fricative or burst to [samples] in place."""
    noise = turbulence.noise
    samples = turbulence.frames * HOP_SAMPLES
    tract = voice.formant_factor * delivery.formants
    centre = min(noise.centre_hz * (0.5 + 0.5 * tract) * voice.noise_factor, 7600.0)
    radius = np.exp(-np.pi * noise.bandwidth_hz / SAMPLE_RATE)
    poles = [1, -2 * radius * np.cos(2 * np.pi * centre / SAMPLE_RATE), radius**2]
    hiss = lfilter([1 - radius], poles, generator.normal(size=samples))
    gain = _NOISE_LEVEL * noise.level * (0.6 + 0.4 * delivery.breath)
    start = turbulence.start * HOP_SAMPLES
    speech[start : start + samples] += gain * np.sqrt(np.hanning(samples)) * hiss


def _equalize(speech: Track, bands_db: Track) -> Track:
    spectrum = np.fft.rfft(speech)
    position = np.linspace(0, 1, len(spectrum))
    gain_db = np.interp(position, np.linspace(0, 1, len(bands_db)), bands_db)
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(speech))


def _level(samples: Track) -> float:
    return float(np.sqrt(np.mean(samples**2))) + 1e-9


@dataclass(frozen=True, slots=True)
class Turbulence:
    """Noise over some frames."""

    start: int
    frames: int
    noise: Noise


@dataclass(frozen=True, slots=True)
class Score:
    """Movements of the mouth, frame by frame."""

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
    """Tracks for one sentence (a code of `cremad.SENTENCES`) as this voice says it this once."""
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
    def vowel_hz(vowel: str) -> Track:
        return np.array(VOWELS[vowel].formants) * voice.vowel_colours[vowel]

    if sound in VOWELS:
        return [_Segment(VOWELS[sound].milliseconds, 1.0, vowel_hz(sound), vowel_hz(sound))]
    if sound in DIPHTHONGS:
        glide = DIPHTHONGS[sound]
        return [_Segment(glide.milliseconds, 1.0, vowel_hz(glide.start), vowel_hz(glide.end))]
    if sound in SONORANTS:
        target = np.array(SONORANTS[sound].formants)
        return [_Segment(SONORANTS[sound].milliseconds, _SONORANT_VOICING, target, target, FRICATIVES.get(sound))]
    if sound in FRICATIVES:
        return [_Segment(FRICATIVES[sound].milliseconds, 0.0, noise=FRICATIVES[sound])]
    stop = STOPS[sound]
    burst = Noise(stop.burst_hz, BURST_BANDWIDTH_HZ, BURST_LEVEL)
    return [
        _Segment(CLOSURE_MILLISECONDS, _CLOSURE_VOICING * stop.voiced),
        _Segment(stop.burst_milliseconds, _BURST_VOICING * stop.voiced, noise=burst),
    ]


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


def glottal_pulses(phase: Float64, pitch_hz: Float64, open_share: float) -> Track:
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


def resonators(centres_hz: Track, bandwidth_factor: float) -> Float64:
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
