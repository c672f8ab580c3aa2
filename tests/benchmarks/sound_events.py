"""Twelve kinds of synthetic sound events of one second, alone and with speech: what RDAL is measured on as published.

They stand in for recordings of FSD50K, and say nothing about these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.signal import butter, chirp, lfilter

from moretta.shared.models.speech import Voice, parallel_corpus

RATE = 16_000
SNR_DECIBEL = (-5.0, 5.0)
"""Of the event to the speech."""
_LEVEL = (0.01, 0.1)
_ROOM_DECIBEL = (-35.0, -20.0)
"""Of noise behind everything, to the event."""
Sound = npt.NDArray[np.float64]
_TIME = np.arange(RATE) / RATE


class Mixtures(NamedTuple):
    """Pairs of the same event: first without speech, then with it."""

    sound: npt.NDArray[np.float32]
    """[n, 16000]"""
    clean: npt.NDArray[np.float32]
    """[n, 16000], the event alone, in the place of each."""
    event: npt.NDArray[np.int64]
    speech: npt.NDArray[np.int64]
    """1 where there is speech."""


def band(r: np.random.Generator, low: float, high: float) -> Sound:
    return lfilter(*butter(2, [low, high], "band", fs=RATE), r.normal(size=RATE))


def struck(r: np.random.Generator, hits: Iterable[float], hz: float, decay: float, partials: Sequence[float]) -> Sound:
    """Decaying partials from each of some moments on."""
    made = np.zeros(RATE)
    for start in hits:
        since = np.maximum(_TIME - start, 0)
        tone = sum(np.sin(2 * np.pi * hz * ratio * since) / (1 + n) for n, ratio in enumerate(partials))
        made += (start <= _TIME) * np.exp(-since / decay) * tone * r.uniform(0.6, 1)
    return made


def pulsed(r: np.random.Generator, hz: float, sharpness: float) -> Sound:
    """1 at each of some evenly spaced moments, and less beside it."""
    return (0.5 + 0.5 * np.sin(2 * np.pi * (hz * _TIME + r.uniform()))) ** sharpness


def swept(r: np.random.Generator, low: float, high: float) -> Sound:
    return chirp(_TIME, low, 1.0, high, phi=float(r.uniform(0, 360))) * np.hanning(RATE) ** r.uniform(0.1, 0.5)


def buzz(r: np.random.Generator, hz: float, wobble: float) -> Sound:
    phase = hz * (_TIME + wobble * np.sin(2 * np.pi * r.uniform(1, 3) * _TIME))
    parts = [np.sin(2 * np.pi * n * phase + r.uniform(0, 6)) / n for n in range(1, 20) if n * hz < RATE / 2]
    return np.asarray(np.sum(parts, axis=0))


def moments(r: np.random.Generator, least: int, most: int) -> Sound:
    return np.sort(r.uniform(0, 0.9, r.integers(least, most)))


EVENTS: dict[str, Callable[[np.random.Generator], Sound]] = {
    "rain": lambda r: band(r, r.uniform(800, 2500), r.uniform(4000, 7500)),
    "wind": lambda r: band(r, r.uniform(80, 200), r.uniform(400, 900)) * (0.3 + pulsed(r, r.uniform(0.5, 2), 1)),
    "steps": lambda r: band(r, 100, r.uniform(700, 2000)) * pulsed(r, r.uniform(1.8, 3.5), r.uniform(15, 40)),
    "clicks": lambda r: band(r, 1500, 7000) * pulsed(r, r.uniform(6, 15), r.uniform(20, 60)),
    "bell": lambda r: struck(r, moments(r, 1, 3), r.uniform(500, 1500), r.uniform(0.2, 0.6), (1, 2.0, 2.76, 5.4)),
    "drips": lambda r: struck(r, moments(r, 2, 6), r.uniform(700, 2500), r.uniform(0.01, 0.04), (1, 1.5)),
    "knocks": lambda r: struck(r, moments(r, 2, 5), r.uniform(120, 350), r.uniform(0.02, 0.06), (1, 1.6, 2.3, 3.1)),
    "rising": lambda r: swept(r, r.uniform(300, 900), r.uniform(1800, 4000)),
    "falling": lambda r: swept(r, r.uniform(1800, 4000), r.uniform(300, 900)),
    "engine": lambda r: buzz(r, r.uniform(35, 90), r.uniform(0, 0.01)) + 0.3 * band(r, 80, 1200),
    "siren": lambda r: np.sin(2 * np.pi * (r.uniform(600, 1200) * _TIME + 60 * pulsed(r, r.uniform(1, 4), 1))),
    "insect": lambda r: buzz(r, r.uniform(180, 450), r.uniform(0, 0.01)) * (0.4 + pulsed(r, r.uniform(10, 30), 1)),
}


def mixtures(pairs: int, *, voices: Sequence[Voice], seed: int) -> Mixtures:
    """Pairs of drawn events, kinds in turn, with speech of some voices."""
    r = np.random.default_rng([seed, 0x50D])
    utterances = -(-pairs // len(voices))
    said = [one for _, spoken in parallel_corpus(voices, utterances, seed) for one in spoken]
    said = [np.pad(one, (0, max(0, RATE - len(one)))) for one in said]
    kinds, rows = list(EVENTS.values()), []
    for number in range(pairs):
        kind = number % len(kinds)
        event = _unit(kinds[kind](r)) * np.exp(r.uniform(*np.log(_LEVEL)))
        level = np.sqrt(np.mean(event**2))
        room = 10 ** (r.uniform(*_ROOM_DECIBEL) / 20) * level * r.normal(size=RATE)
        start = r.integers(len(said[number]) - RATE + 1)
        speech = _unit(said[number][start : start + RATE]) * level * 10 ** (-r.uniform(*SNR_DECIBEL) / 20)
        rows += [(event + room, event, kind, 0), (event + room + speech, event, kind, 1)]
    sound, clean, kinds_of, has_speech = zip(*rows, strict=True)
    arrays = np.stack(sound).astype(np.float32), np.stack(clean).astype(np.float32)
    return Mixtures(*arrays, np.array(kinds_of, np.int64), np.array(has_speech, np.int64))


def _unit(sound: npt.NDArray[np.floating]) -> Sound:
    return np.asarray(sound, np.float64) / (np.sqrt(np.mean(np.square(sound, dtype=np.float64))) + 1e-9)
