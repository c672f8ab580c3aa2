"""One delivery by several voices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.mfcc import mfcc_batch
from moretta.shared.models.speech import (
    Utterance,
    drawn_voices,
    make_voice,
    parallel_corpus,
    parallel_speech,
    synthesize,
)

SAID = Utterance(sentence="TIE", emotion=EMOTIONS.index("ANG"), seed=5)
VOICES = [replace(voice, rate_factor=rate) for voice, rate in zip(drawn_voices(4, 1), (0.8, 1, 1.2, 1.4), strict=True)]


def test_voices_of_different_rates_say_an_utterance_in_equal_time_and_at_the_same_moments() -> None:
    said = parallel_speech(SAID, VOICES)
    own = [synthesize(voice, "ANG", "TIE", seed=5) for voice in VOICES]
    assert len({len(one) for one in own}) == len(VOICES)
    assert said.shape == (4, len(own[1]))
    other = parallel_speech(replace(SAID, seed=6), VOICES[:1])[0]
    loud = [[np.square(part).mean() for part in np.array_split(one, 60)] for one in (*said, other)]
    alike = np.corrcoef(np.log(loud))[0]
    assert alike[1:4].min() > alike[4] + 0.05  # another delivery is loud at other moments


def test_only_the_voice_differs() -> None:
    same = parallel_speech(SAID, [VOICES[0], VOICES[1], VOICES[0]])
    assert np.array_equal(same[0], same[2])
    colour = [frames[:, 1:].mean(axis=0) for frames in mfcc_batch(list(same))]
    assert np.abs(colour[0] - colour[1]).max() > 1
    for change in ({"emotion": 3}, {"sentence": "DFA"}, {"seed": 6}, {"intensity": 0.5}):
        other = parallel_speech(replace(SAID, **change), VOICES[:1])[0]
        assert not np.array_equal(other, same[0])


def test_a_faster_delivery_is_faster_for_all() -> None:
    fast = parallel_speech(SAID, VOICES[:2], rate_factor=1.5)
    assert fast.shape[1] < parallel_speech(SAID, VOICES[:2]).shape[1] - 4000


def test_a_parallel_corpus_varies_in_all_that_an_utterance_has_and_its_seed_gives_it_again() -> None:
    found = list(parallel_corpus(drawn_voices(2, 3), 12, seed=4))
    for part in ("sentence", "emotion", "seed", "intensity"):
        assert len({getattr(utterance, part) for utterance, _ in found}) > 3, part
    again = next(parallel_corpus(drawn_voices(2, 3), 1, seed=4))
    assert again[0] == found[0][0] and np.array_equal(again[1], found[0][1])
    assert {voice.sex for voice in drawn_voices(2, 3)} == {"female", "male"}
    assert make_voice(1).pitch_hz not in [voice.pitch_hz for voice in drawn_voices(4, 3)]
