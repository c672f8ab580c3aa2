"""Parallel speech: one delivery of a sentence by several voices, which are aligned to the sample.

A real person never says a sentence twice alike. Synthetic voices do: with one seed and one rate of speech, pauses,
accents and emotion are equal, and only the voice differs. So it is known exactly how an utterance sounds in another
voice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from moretta.shared.core.array_types import Float32
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.models.speech.phonemes import SENTENCE_SOUNDS
from moretta.shared.models.speech.synthesize import synthesize
from moretta.shared.models.speech.voice import Voice, make_voice

INTENSITIES = (0.4, 1.2)
"""Least and largest intensity of drawn utterances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One utterance that all voices say, with its delivery."""

    sentence: str
    """A code of `SENTENCE_SOUNDS`."""
    emotion: int
    """Class index, in the order of `EMOTIONS`."""
    seed: int
    """Seed of everything in which one delivery differs from the next."""
    intensity: float = 1.0
    """0 is neutral, 1 as `DELIVERIES` describes."""

    @classmethod
    def drawn(cls, generator: np.random.Generator) -> Self:
        """Any sentence, emotion and intensity."""
        sentences = sorted(SENTENCE_SOUNDS)
        return cls(
            sentence=sentences[int(generator.integers(len(sentences)))],
            emotion=int(generator.integers(len(EMOTIONS))),
            intensity=float(generator.uniform(*INTENSITIES)),
            seed=int(generator.integers(2**31)),
        )


def drawn_voices(count: int, seed: int) -> list[Voice]:
    """Voices of this seed, female and male in turn."""
    seeds = np.random.default_rng([seed, 0x9A7A]).integers(2**31, size=count)
    return [make_voice(int(one), sex=("female", "male")[number % 2]) for number, one in enumerate(seeds)]


def parallel_speech(utterance: Utterance, voices: Sequence[Voice], *, rate_factor: float = 1.0) -> Float32:
    """The same delivery by each voice: [voices, samples], 16 kHz, in [-1, 1].

    Args:
        voices: who says it, one at least. Their own rate of speech is not used.
        rate_factor: of all of them, relative to an average speaker.
    """
    same: dict[str, Any] = {"intensity": utterance.intensity, "seed": utterance.seed}
    emotion = EMOTIONS[utterance.emotion]
    said = (replace(voice, rate_factor=rate_factor) for voice in voices)
    return np.stack([synthesize(voice, emotion, utterance.sentence, **same) for voice in said])


def parallel_corpus(voices: Sequence[Voice], utterances: int, seed: int) -> Iterator[tuple[Utterance, Float32]]:
    """Utterances that are drawn by a seed, each with its speech by all voices: see `parallel_speech`."""
    generator = np.random.default_rng([seed, 0x9A7B])
    for _ in range(utterances):
        utterance = Utterance.drawn(generator)
        yield utterance, parallel_speech(utterance, voices)
