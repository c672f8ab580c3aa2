"""Toys with a known result: rows that hold bits of sex, emotion and people; and an encoder that needs no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import pytest

from moretta.client.anonymizers import adversarial_embedding
from moretta.shared.core.terms import Modality
from moretta.shared.features.mfcc import MELS, check_samples, mfcc
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.unlearnt_gender import PICTURES, SIDE, STEPS
from moretta.shared.models.unlearnt_inputs import PublicClips
from moretta.shared.pretrained.encoder import Clips, PretrainedEncoder
from moretta.shared.pretrained.speaker_encoders import Ge2eEncoder

BIT = 1.5
"""Of noise with deviation 0.5: either bit is read in more than 99 of 100 rows."""


def planted(count: int, seed: int, width: int = 10) -> tuple[npt.NDArray[np.float32], ...]:
    """Values [count, width], sex and emotion [count], independent of each other."""
    drawn = np.random.default_rng(seed)
    sex, emotion = drawn.integers(0, 2, count), drawn.integers(0, 2, count)
    values = 0.5 * drawn.normal(size=(count, width))
    values[:, 0] += BIT * (2 * sex - 1)
    values[:, 1] += BIT * (2 * emotion - 1)
    return values.astype(np.float32), sex, emotion


def planted_people(
    people: int = 18, each: int = 24, *, seed: int = 1, emotions: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
) -> PublicRows:
    """Public speech, half of women: 95 mixtures of one bit of sex, one of each emotion, and four of neither."""
    drawn = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    emotion = np.array(emotions)[np.arange(people * each) % len(emotions)]
    sources = 0.4 * drawn.normal(size=(people * each, 11))
    sources[:, 0] += BIT * (2 * (person % 2) - 1)
    sources[np.arange(people * each), 1 + emotion] += 2 * BIT
    mixed = sources @ np.random.default_rng(0).normal(size=(11, len(MEASUREMENTS)))
    sex = np.array(["female", "male"])[person % 2]
    values = mixed + 0.2 * drawn.normal(size=mixed.shape)
    return PublicRows(values, person.astype(np.str_), emotion.astype(np.int64), sex)


def planted_voices(people: int = 12, each: int = 16, *, width: int = 24, seed: int = 1) -> PublicRows:
    """Embeddings of length 1, half of women: five traits of a person, one of sex, one of emotion, and noise."""
    drawn = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    emotion = np.arange(people * each) % 6
    traits = np.hstack([drawn.normal(size=(people, 5))[person], 1.5 * (2 * (person % 2) - 1)[:, None]])
    values = 0.15 * drawn.normal(size=(people * each, width)) + traits @ drawn.normal(size=(6, width))
    values[:, 1] += 0.2 * (emotion - 2.5)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    sex = np.array(["female", "male"])[person % 2]
    return PublicRows(values, person.astype(np.str_), emotion.astype(np.int64), sex)


def planted_mels(people: int = 12, each: int = 16, *, frames: int = 24, seed: int = 1) -> PublicRows:
    """Mel bands [n, 64, frames], half of women: stripes across or along for emotion, and checks for men."""
    drawn = np.random.default_rng(seed)
    person, emotion = np.repeat(np.arange(people), each), np.arange(people * each) % 2
    band, frame = np.indices((64, frames))
    stripes, checks = np.stack([(band % 4 < 2) - 0.5, (frame % 4 < 2) - 0.5]), (band // 4 + frame // 4) % 2 - 0.5
    mels = stripes[emotion] + (person % 2)[:, None, None] * checks + 0.5 * drawn.normal(size=(len(person), 64, frames))
    sex = np.array(["female", "male"])[person % 2]
    return PublicRows(mels.astype(np.float32), person.astype(np.str_), emotion.astype(np.int64), sex)


def planted_clips(modalities: Sequence[Modality], people: int = 12, each: int = 12) -> PublicClips:
    """Noise in which one band, or part of a picture, says the sex, and another one each emotion; they are crossed."""
    drawn = np.random.default_rng(3)
    person = np.repeat(np.arange(people), each)
    rows = np.arange(people * each)
    sex, emotion = person % 2, rows % 6
    inputs = {}
    for modality in modalities:
        if modality == "voice":
            values = drawn.normal(size=(len(person), STEPS, MELS))
            values[:, :, 8] += (2 * sex - 1 + 0.55 * drawn.normal(size=len(sex)))[:, None]
            values[rows, :, 12 + 4 * emotion] += 1
        else:
            values = drawn.normal(size=(len(person), PICTURES, SIDE, SIDE))
            values[:, :, :12] += (2 * sex - 1 + 0.55 * drawn.normal(size=len(sex)))[:, None, None, None]
            for row in range(4):
                values[rows, :, 20 + 4 * emotion + row] += 1
        inputs[modality] = values.reshape(len(person), -1).astype(np.float32)
    of_people = PublicRows(
        np.zeros((len(person), 0)), person.astype(np.str_), emotion.astype(np.int64), np.array(["female", "male"])[sex]
    )
    return PublicClips(inputs, of_people)


class PlantedEncoder(PretrainedEncoder):
    """Stands in for GE2E where its weights are not: means and deviations of MFCC, in fixed random directions."""

    name = "ge2e"
    modality: ClassVar[Modality] = "voice"
    dimensions = Ge2eEncoder.dimensions
    threshold = 0.5

    @classmethod
    def load(cls) -> Self:
        """No weights are needed."""
        return cls()

    def vectors(self, clips: Clips) -> npt.NDArray[np.float32]:
        """float32 [clips, 256]."""
        frames = [mfcc(check_samples(clip)) for clip in clips]
        measured = np.stack([np.concatenate([part.mean(axis=0), part.std(axis=0)]) for part in frames])
        mixed = measured / 10 @ np.random.default_rng(0).normal(size=(measured.shape[1], self.dimensions))
        return np.asarray(mixed, np.float32)


def clear_public() -> None:
    """Forget the public network, and what it made of public speech."""
    adversarial_embedding.public_encoder.cache_clear()
    adversarial_embedding.public_embeddings.cache_clear()


@contextmanager
def planted_encoder() -> Iterator[None]:
    """`adversarial-embedding` embeds by `PlantedEncoder` meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(adversarial_embedding.ENCODERS, "ge2e", PlantedEncoder)
        clear_public()
        yield
    clear_public()
