"""One public voice that can say a corpus's sentences: recordings of one person, taken apart, each with its manner.

A sentence is said by the recording whose manner is nearest to the one that is wanted; what is left between the two
moves pitch, range, level, tilt and pace along directions that public speech shows. Nothing here comes from a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import numpy as np

from moretta.shared.core.array_types import Array, Float32, Float64, Int64
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.data.corpora.cremad import SENTENCES
from moretta.shared.features.mfcc import Audio
from moretta.shared.features.speaker_code import CODE_LIMIT
from moretta.shared.features.world_voice import BINS, WorldVoice, unpacked
from moretta.shared.study.public_arrays import LEAST_SPREAD, Rule, Rules, named

COLUMNS = 50
"""Values of a frame: pitch, aperiodicity, and the envelope in mel-cepstral coefficients."""
HOP_FRAMES = 2
"""Frames of WORLD for one that is kept: 10 ms."""
MOVED = ("pitch median", "pitch deviation", "level mean", "tilt mean", "duration")
"""Measurements of `prosodic_features.MEASUREMENTS` that are moved from the recording's manner to the wanted one."""
FARTHEST = np.array([0.5, 0.15, 2.0, 2.0, 0.35])
"""No clip is moved by more: octaves, octaves, natural logarithms of power twice, and of duration."""
WORD_VALUES = 3
"""Values of a word: logarithm of its duration by that of the bank, octaves of pitch, natural logarithm of power."""
MAX_RECORDINGS, MAX_FRAMES = 1_000, 200_000
LONGEST_FRAMES = 1_000
"""Most frames of one recording, 10 s: speaking needs tens of kilobytes for each frame."""
SENTENCE_CODES = tuple(sorted(SENTENCES))
_WORDS = [len(SENTENCES[code].split()) for code in SENTENCE_CODES]
_PREFIX = "voice/spoken/"
_LARGEST = 1e4
_VOICED_HERTZ = 40.0
_LEAST_DEVIATION = 0.05


class Word(NamedTuple):
    """How one word is said: relative to the bank's own average, in the units of `WORD_VALUES`."""

    duration: float
    pitch: float
    level: float


@dataclass(frozen=True, slots=True, eq=False)
class VoiceBank:
    """All that is needed to speak in the public voice. Indices are checked when the arrays are read."""

    frames: Float32
    """[frames, 50], all recordings one after the other, see `packed`."""
    recordings: Int64
    """[recordings, 3]: which of `SENTENCE_CODES`, first frame, and the one after the last."""
    words: Int64
    """[words, 3]: recording, first frame, and the one after the last, of `frames`."""
    manners: Float32
    """[recordings, d]: codes among the person's own clips, as `SpeakerCode` makes them."""
    moves: Float32
    """[d, 5], how far a unit of each value of a manner moves each of `MOVED`, in public speech."""
    word_scale: Float32
    """[2, 3]: mean and deviation of the `WORD_VALUES` of the public voice."""

    def to_arrays(self) -> dict[str, Array]:
        """The arrays by name, as the coordinator sends them."""
        return {_PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def rules(cls, size: int | str = "values") -> Rules:
        """Rules for the arrays, by name: type, shape and bounds."""
        rules = {
            "frames": Rule(("spoken frames", COLUMNS), _LARGEST),
            "recordings": Rule(("spoken recordings", 3), MAX_FRAMES, 0, dtype="int64"),
            "words": Rule(("spoken words", 3), MAX_FRAMES, 0, dtype="int64"),
            "manners": Rule(("spoken recordings", size), CODE_LIMIT + 1e-3),
            "moves": Rule((size, len(MOVED)), _LARGEST),
            "word_scale": Rule((2, WORD_VALUES), _LARGEST),
        }
        return {_PREFIX + name: rule for name, rule in rules.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Self:
        """Check and take what the coordinator sent.

        Raises:
            StudyError: see `public_arrays.named`; or places that are in no recording, too many of them, or a recording
                that is too long, or without as many words as its sentence has.
        """
        found = named(arrays, cls.rules())
        bank = cls(**{field.name: found[_PREFIX + field.name] for field in fields(cls)})
        if not bank._fits():
            raise StudyError(
                f"a public voice of {len(bank.recordings)} recordings whose places do not fit its frames",
                expected=f"recordings of up to {LONGEST_FRAMES} frames one after the other, each with the words of its "
                "sentence in order",
                fix="let the coordinator make what is public for this study",
            )
        return bank

    def _fits(self) -> bool:
        few = len(self.recordings) <= MAX_RECORDINGS and len(self.frames) <= MAX_FRAMES
        if not few or self.recordings[:, 0].max() >= len(SENTENCE_CODES) or (self.word_scale[1] < LEAST_SPREAD).any():
            return False
        if len(self.words) != sum(_WORDS[code] for code in self.recordings[:, 0]):  # before all are looked through
            return False
        ends = [0, *self.recordings[:, 2].tolist()]
        for number, (sentence, first, last) in enumerate(self.recordings.tolist()):
            own = self.words[self.words[:, 0] == number, 1:]
            if first != ends[number] or not 0 < last - first <= LONGEST_FRAMES:
                return False
            places = own.ravel()
            inside = len(places) > 0 and places[0] >= first and places[-1] <= last
            if not inside or (np.diff(places) < 0).any() or (own[:, 1] <= own[:, 0]).any():
                return False
            if len(own) != _WORDS[sentence]:
                return False
        return bool(ends[-1] == len(self.frames))

    def says(self, sentence: str) -> bool:
        """Whether there is a recording of one of `SENTENCE_CODES`."""
        return bool((self.recordings[:, 0] == SENTENCE_CODES.index(sentence)).any())

    def durations(self, sentence: str) -> Float64:
        """[words] in frames of 10 ms, the geometric mean of all recordings of a sentence that the voice says."""
        own = np.flatnonzero(self.recordings[:, 0] == SENTENCE_CODES.index(sentence))
        lengths = [np.diff(self.words[self.words[:, 0] == number, 1:], axis=1)[:, 0] for number in own]
        return np.asarray(np.exp(np.log(np.stack(lengths)).mean(axis=0)))

    def nearest(self, sentence: str, manner: Float64) -> int:
        """The recording of a sentence whose manner is nearest to [d]. Raises ClipError: reason `unknown-sentence`: the
        voice has no recording of it."""
        code = SENTENCE_CODES.index(sentence)
        own = np.flatnonzero(self.recordings[:, 0] == code)
        if not len(own):
            raise ClipError("unknown-sentence", f"the sentence {sentence}", expected="one that the public voice says")
        return int(own[np.square(self.manners[own] - manner).sum(axis=1).argmin()])

    def say(self, sentence: str, manner: Float64, words: list[Word] | None = None) -> Audio:
        """float32 [samples], 16 kHz, in [-1, 1].

        Args:
            sentence: one of `SENTENCE_CODES`.
            manner: [d], finite, as `manners`.
            words: duration, pitch and level of each word, in place of those of the manner.

        Raises:
            ClipError: see `nearest`.
            StudyError: the WORLD vocoder is not installed.
        """
        number = self.nearest(sentence, manner)
        lack = np.asarray(manner - self.manners[number], np.float64) @ self.moves
        lack = np.clip(lack, -FARTHEST, FARTHEST)
        _, first, last = self.recordings[number].tolist()
        voice = unpacked(self.frames[first:last])
        places = self.words[self.words[:, 0] == number, 1:] - first  # [words, 2]
        if words is None:
            voice = _shifted(voice, np.full(len(voice), lack[0]), np.full(len(voice), lack[2]))
            stretch = np.full(len(voice), np.exp(lack[4]))
        else:
            voice, stretch = _worded(voice, places, words)
        voice = _tilted(_ranged(voice, lack[1]), lack[3])
        ends = np.concatenate([[0.0], np.cumsum(stretch)]) * HOP_FRAMES
        count = max(2, int(ends[-1]))
        return voice.at(np.interp(np.arange(count), ends[:-1], np.arange(len(voice)))).sound()


def word_values(voice: WorldVoice, places: Int64) -> Float64:
    """[words, 2]: octaves and natural logarithm of power of each word [words, 2] of frames; NaN without a voice."""
    power = np.log(voice.envelope.mean(axis=1))
    found = np.full((len(places), 2), np.nan)
    for row, (first, last) in zip(found, places.tolist(), strict=True):
        hertz = voice.hertz[first:last]
        if (hertz > _VOICED_HERTZ).any():
            row[0] = np.log2(hertz[hertz > _VOICED_HERTZ]).mean()
        row[1] = np.log(np.exp(power[first:last]).mean()) if last > first else np.nan
    return found


def _worded(voice: WorldVoice, places: Int64, words: list[Word]) -> tuple[WorldVoice, Float64]:
    """Each word at its own pitch, level and duration; between their middles pitch and level move evenly."""
    own = word_values(voice, places)
    wanted = np.array([[word.pitch, word.level] for word in words])
    lack = np.nan_to_num(wanted - own)
    middles = places.mean(axis=1)
    frames = np.arange(len(voice))
    octaves, level = (np.interp(frames, middles, column) for column in lack.T)
    stretch = np.ones(len(voice))
    for (first, last), word in zip(places.tolist(), words, strict=True):
        stretch[first:last] = word.duration / (last - first)
    return _shifted(voice, np.clip(octaves, -1, 1), np.clip(level, -4, 4)), stretch


def _shifted(voice: WorldVoice, octaves: Float64, level: Float64) -> WorldVoice:
    louder = voice.envelope * np.exp(level)[:, None]
    return replace(voice.with_pitch(2.0**octaves), envelope=louder)


def _ranged(voice: WorldVoice, more: float) -> WorldVoice:
    """The melody wider, by `more` octaves of its deviation."""
    voiced = voice.hertz > _VOICED_HERTZ
    if not voiced.any():
        return voice
    octaves = np.log2(voice.hertz[voiced])
    middle, deviation = float(np.median(octaves)), max(float(octaves.std()), _LEAST_DEVIATION)
    hertz = voice.hertz.copy()
    hertz[voiced] = 2 ** (middle + (octaves - middle) * np.clip(1 + more / deviation, 0.3, 2.5))
    return replace(voice, hertz=np.minimum(hertz, 800.0))


def _tilted(voice: WorldVoice, more: float) -> WorldVoice:
    """High frequencies stronger, by `more` natural logarithms of power from the middle of the mel scale to its end."""
    mel = np.log1p(np.linspace(0, 8000, BINS) / 700)
    return replace(voice, envelope=voice.envelope * np.exp(more * (2 * mel / mel[-1] - 1)))
