"""One sentence by one voice: glottal source, cascade of resonances, noise, equalizer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter, sosfilt

from moretta.shared.data.clip_names import Emotion
from moretta.shared.models.speech.articulation import FRAME_MILLISECONDS, Score, Track, Turbulence, articulate
from moretta.shared.models.speech.prosody import DELIVERIES, Delivery
from moretta.shared.models.speech.speaker import Voice
from moretta.shared.models.speech.tract import HOP_SAMPLES, SAMPLE_RATE, glottal_pulses, resonators

_MARGIN_SAMPLES = SAMPLE_RATE // 10
_SPEECH_LEVEL = 0.03
"""Root mean square of neutral speech, full scale 1: about -30 dBFS, so that shouted peaks are not clipped."""
_HIGHEST_PEAK = 0.95
_ROOM_LEVEL = 2e-4
_NOISE_LEVEL = 0.16
_TREMOR_HZ = 7.0


def synthesize(
    voice: Voice, emotion: Emotion, sentence: str, *, intensity: float = 1.0, seed: int
) -> NDArray[np.float32]:
    """Say a sentence.

    Args:
        voice: who says it.
        emotion: how.
        sentence: a code of `names.SENTENCES`.
        intensity: 0 is neutral, 1 as `prosody.DELIVERIES` describes.
        seed: of all that differs from one time to the next. The same arguments give the same samples.

    Returns:
        [samples], 16 kHz, in [-1, 1].
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
