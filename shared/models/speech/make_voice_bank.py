"""The public voice of public speech: whose it is, and which of that person's recordings can be understood.

The voice is that of the person whose emotions are distinguished best by the public code: what a listener learns of a
clip's emotion goes through the choice among that person's recordings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moretta.shared.core.array_types import Float64, Int64
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.mfcc import Audio
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.public_speech import recorded_speakers
from moretta.shared.features.sentence_recognizer import SentenceRecognizer, Spoken
from moretta.shared.features.speaker_code import CodeReference, PublicRows, SpeakerCode, measured
from moretta.shared.features.world_voice import WorldVoice, packed
from moretta.shared.models.speech import make_voice, synthesize
from moretta.shared.models.speech.voice_bank import (
    COLUMNS,
    HOP_FRAMES,
    LONGEST_FRAMES,
    MOVED,
    SENTENCE_CODES,
    VoiceBank,
    word_values,
)

BEFORE, AFTER = 8, 12
"""Frames of 10 ms that stay around the words."""
MOST_PEOPLE = 4
"""Largest number of people whose recordings are recognised, since recognition takes longest."""
_FEWEST_RECORDINGS = 2
_COLUMNS = [MEASUREMENTS.index(name) for name in MOVED]
_LEAST_VALUE_SPREAD = 0.02


def make_voice_bank(rows: PublicRows, code: SpeakerCode, folder: Path | None, seed: int) -> VoiceBank:
    """Of the people of `rows`, who are those of `folder` by this seed; None means the project's own voice. Raises
    StudyError: nobody says two sentences that are recognised."""
    if folder is None:
        return bank_of(list(_own_voice(seed)), code, moves_of(rows, code))
    found: list[tuple[int, VoiceBank]] = []
    for person in clearest_people(rows, code)[:MOST_PEOPLE]:
        recordings = (one.samples for one in recorded_speakers(folder, seed) if one.person == person)
        recognised = ((SentenceRecognizer.load().spoken(clip), clip) for clip in recordings)
        understood = [(said, clip) for said, clip in recognised if said is not None and _is_brief(said)]
        sentences = {said.sentence for said, _ in understood}
        if len(sentences) >= _FEWEST_RECORDINGS and len(understood) > len(sentences):
            found.append((len(sentences), bank_of(understood, code, moves_of(rows, code))))
        if len(sentences) == len(SENTENCE_CODES):
            break
    if not found:
        raise StudyError(
            "public speech in which nobody says two of the known sentences so that they are recognised",
            expected="people who say the sentences of CREMA-D",
            fix="set `public_speech` to such recordings, or leave it out: the voice is then a synthetic one",
        )
    return max(found, key=lambda each: each[0])[1]


def _is_brief(said: Spoken) -> bool:
    """Whether sites take it: pauses between words can be of any length."""
    return BEFORE + said.words[-1][1] - said.words[0][0] + AFTER <= LONGEST_FRAMES


def _own_voice(seed: int) -> Iterator[tuple[Spoken, Audio]]:
    """The project's formant synthesizer, every sentence in every emotion, as far as it is recognised."""
    voice, recognizer = make_voice(seed, sex="female"), SentenceRecognizer.load()
    for number, sentence in enumerate(SENTENCE_CODES):
        for label, emotion in enumerate(EMOTIONS):
            clip = synthesize(voice, emotion, sentence, seed=len(EMOTIONS) * number + label)
            said = recognizer.spoken(clip)
            if said is not None and said.sentence == sentence:
                yield said, clip


def clearest_people(rows: PublicRows, code: SpeakerCode) -> list[str]:
    """People, those first whose clips lie nearest to the middle of their own emotion, without the clip itself."""
    right: dict[str, float] = {}
    for mine in rows.groups():
        codes, emotion = _codes(rows.values[mine], code), rows.emotion[mine]
        belongs = emotion[:, None] == np.unique(emotion)  # [clips, emotions]
        sums, counts = belongs.T @ codes, belongs.sum(axis=0)
        others = sums[None] - belongs[:, :, None] * codes[:, None]
        middles = others / np.maximum(counts - belongs, 1)[:, :, None]
        distance = np.square(codes[:, None] - middles).sum(axis=2)
        right[str(rows.person[mine[0]])] = float(belongs[np.arange(len(mine)), distance.argmin(axis=1)].mean())
    return sorted(right, key=lambda person: (-right[person], person))


def _codes(values: Float64, code: SpeakerCode) -> Float64:
    return CodeReference.of(values, np.ones(len(values)), code)(values)


def moves_of(rows: PublicRows, code: SpeakerCode) -> Float64:
    """[d, 5], least squares of what moves within people on their codes."""
    codes, moved = [], []
    for mine in rows.groups():
        own = rows.values[mine]
        codes.append(_codes(own, code))
        moved.append(own[:, _COLUMNS] - own[:, _COLUMNS].mean(axis=0))
    stacked = np.concatenate(codes)
    inner = stacked.T @ stacked + np.eye(code.size)
    return np.asarray(np.linalg.solve(inner, stacked.T @ np.concatenate(moved)))


def bank_of(understood: Sequence[tuple[Spoken, Audio]], code: SpeakerCode, moves: Float64) -> VoiceBank:
    """Bank of one person's clips, each with its recognised words. Errors: see `WorldVoice.of`."""
    values = np.concatenate(measured([clip for _, clip in understood], in_windows=False)).astype(np.float64)
    frames, recordings, words, sounds = [], list[tuple[int, int, int]](), list[tuple[int, int, int]](), []
    start = 0
    for number, (said, clip) in enumerate(understood):
        kept = packed(voice := WorldVoice.of(clip, tracker="harvest"), COLUMNS, every=HOP_FRAMES)
        first = max(0, said.words[0][0] - BEFORE)
        last = min(len(kept), said.words[-1][1] + AFTER)
        places = np.clip(np.array(said.words), first, last) - first
        frames.append(kept[first:last])
        recordings.append((SENTENCE_CODES.index(said.sentence), start, start + last - first))
        words += [(number, start + int(begin), start + int(end)) for begin, end in places]
        sounds.append(word_values(voice, HOP_FRAMES * (places + first)))
        start += last - first
    table = np.array(words, np.int64)
    durations = _relative_durations(np.array(recordings, np.int64), table)
    every = np.column_stack([durations, np.concatenate(sounds)])
    scale = np.stack([np.nanmean(every, axis=0), np.maximum(np.nanstd(every, axis=0), _LEAST_VALUE_SPREAD)])
    return VoiceBank(
        np.concatenate(frames),
        np.array(recordings, np.int64),
        table,
        _codes(values, code).astype(np.float32),
        moves.astype(np.float32),
        np.nan_to_num(scale).astype(np.float32),
    )


def _relative_durations(recordings: Int64, words: Int64) -> Float64:
    """[words], natural logarithm of the duration by that of the same word in all recordings of the sentence."""
    found = np.zeros(len(words))
    for sentence in np.unique(recordings[:, 0]):
        own = [np.flatnonzero(words[:, 0] == number) for number in np.flatnonzero(recordings[:, 0] == sentence)]
        logs = np.log(np.stack([words[each, 2] - words[each, 1] for each in own]))
        for each, values in zip(own, logs - logs.mean(axis=0), strict=True):
            found[each] = values
    return found
