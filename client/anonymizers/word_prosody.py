"""How each word of a clip is said relative to its speaker's other words, with noise: duration, pitch and level."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moretta.client.anonymizers.speaker_references import ClipDigest, MeasuredClip, SpeakerReferences, clip_digest
from moretta.shared.core.array_types import Float32, Float64
from moretta.shared.core.errors import ClipError
from moretta.shared.features.mfcc import Audio
from moretta.shared.features.prosodic_features import pitch_track
from moretta.shared.features.sentence_recognizer import SentenceRecognizer, Spoken
from moretta.shared.features.speaker_normalization import SpeakerRanks
from moretta.shared.models.speech.voice_bank import WORD_VALUES, VoiceBank, Word
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Speaker

_VOICED = 0.6  # clarity, as in `kept_speech`
_ANY_OCTAVES = 7.2
_FARTHEST = 2.0
"""Natural logarithms of duration: no scale that a coordinator sends makes a word longer or shorter by more."""


class WordProsody:
    """Measures words, and remembers what each speaker's words are normalized by.

    Args:
        bank: of the public voice, whose words are the unit of durations, and into whose range words are brought.
        sigma: deviation of the noise on each value, which varies by about 1 within a speaker.
        grid_frames: durations are whole multiples of so many frames of 10 ms.
    """

    def __init__(self, bank: VoiceBank, *, sigma: float, grid_frames: int) -> None:
        self._bank, self._sigma, self._grid = bank, sigma, grid_frames
        self._understood: dict[ClipDigest, Spoken | None] = {}
        self.keep_in(None)

    def keep_in(self, path: Path | None) -> None:
        """Where secret weights are kept; None keeps them in memory alone."""
        self._references = SpeakerReferences(path, WORD_VALUES)

    def learn(self, clips: Iterable[tuple[Speaker, Audio]], noise: NoiseSource) -> None:
        """Take the clips that each speaker's words are normalized by: these, and no others."""
        measured: dict[Speaker, list[MeasuredClip]] = defaultdict(list)
        self._understood.clear()
        for speaker, samples in clips:
            digest = clip_digest(samples)
            said = self._understood[digest] = SentenceRecognizer.load().spoken(samples)
            if said is not None and self._bank.says(said.sentence):
                measured[speaker].append((digest, self._rows(samples, said)))
        self._references.learn(measured, noise)

    def spoken(self, samples: Audio) -> Spoken | None:
        """See `SentenceRecognizer.spoken`; results of fitting are used again."""
        digest = clip_digest(samples)
        return self._understood[digest] if digest in self._understood else SentenceRecognizer.load().spoken(samples)

    def noisy(self, samples: Audio, said: Spoken, noise: NoiseSource, speaker: Speaker) -> list[Word]:
        """Words with noise, in the range of the public voice, durations on the grid.

        Raises ClipError: reason `unknown-speaker`.
        """
        if speaker not in self._references:
            raise ClipError("unknown-speaker", "a speaker of whom nothing was fitted", fix="call `fit` first")
        reference, (middle, spread) = self._references[speaker], self._bank.word_scale.astype(np.float64)
        places = SpeakerRanks.of(reference.values, reference.weights, spread)(self._rows(samples, said))
        places = (places + noise.private_normal(self._sigma, places.shape)) / (1 + self._sigma**2)
        values = middle + spread * places
        longer = np.exp(np.clip(values[:, 0], -_FARTHEST, _FARTHEST))
        durations = self._bank.durations(said.sentence) * longer
        on_grid = self._grid * np.maximum(1, np.rint(durations / self._grid))
        return [
            Word(float(duration), float(pitch), float(level))
            for duration, (_, pitch, level) in zip(on_grid, values, strict=True)
        ]

    def _rows(self, samples: Audio, said: Spoken) -> Float32:
        """[words, 3]"""
        track = pitch_track(samples)
        octaves = np.where(track.clarity > _VOICED, np.log2(track.hertz), np.nan).astype(np.float64)
        rows = np.empty((len(said.words), WORD_VALUES))
        for row, (first, last) in zip(rows, said.words, strict=True):
            row[:] = last - first, _mean(octaves[first:last]), _mean(track.level[first:last].astype(np.float64))
        rows[:, 0] = np.log(rows[:, 0] / self._bank.durations(said.sentence))
        for column, default in ((1, _ANY_OCTAVES), (2, 0.0)):
            known = _mean(rows[:, column])
            rows[:, column] = np.nan_to_num(rows[:, column], nan=default if np.isnan(known) else known)
        return rows.astype(np.float32)


def _mean(values: Float64) -> float:
    """Mean of the values that are no NaN; NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
