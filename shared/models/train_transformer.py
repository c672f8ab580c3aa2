"""Training of a Privacy Transformer on synthetic clones: the same delivery by several voices, embedded.

A target voice is known by the mean embedding of other utterances of it. Voices and utterances that figures are of have
no part in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from moretta.shared.core.array_types import Array, Float32, Float64, Int64
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.workers import seeded
from moretta.shared.models.adversaries import Labelled, batches, fresh_readers, linear_reader
from moretta.shared.models.optimizers import step_down
from moretta.shared.models.privacy_transformer import (
    TARGETS,
    PrivacyTransformer,
    TransformerFigures,
    TransformerNet,
    predicted,
)
from moretta.shared.models.replacement_autoencoder import Scale, placed, scale_of
from moretta.shared.models.speech import Utterance, Voice, drawn_voices, parallel_speech

BATCH, RATE, DECAY = 256, 2e-3, 1e-2
Labels = Int64


class UtteranceEncoder(Protocol):
    """Embeds whole clips, and is not trained here."""

    @property
    def width(self) -> int:
        """Values of an embedding."""

    def ready(self) -> None:
        """Load what it needs; a StudyError where that is not on this machine."""

    def embed(self, clips: Sequence[Array]) -> Float32:
        """float32 [clips, width]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerTask:
    """How much synthetic speech, and how long it is trained on."""

    voices: int = 64
    """Number of training voices; the first `TARGETS` are the voices that utterances get later."""
    held_out: int = 12
    """Number of other voices, from which the figures are."""
    utterances: int = 600
    held_out_utterances: int = 60
    together: int = 8
    """Voices that say each utterance in training."""
    epochs: int = 60


class Clones(NamedTuple):
    """Utterances that several voices say."""

    embeddings: Float64
    """[utterances, together, d]"""
    voice: Labels
    """[utterances, together]"""
    emotion: Labels
    """[utterances]"""

    def codes(self, places: Float64) -> Float64:
        """Mean of the other clips of each clip's voice, [utterances, together, d]."""
        rows, voice = places.reshape(-1, places.shape[-1]), self.voice.ravel()
        total, count = np.zeros((int(voice.max()) + 1, rows.shape[1])), np.bincount(voice)
        np.add.at(total, voice, rows)
        others = np.maximum(count[voice] - 1, 1)[:, None]
        return ((total[voice] - rows) / others).reshape(places.shape)

    def rows(self, places: Float64) -> tuple[Float64, Labels, Labels]:
        """Places [n, d], voices [n] and emotions [n] of all clips."""
        together = self.voice.shape[1]
        return places.reshape(-1, places.shape[-1]), self.voice.ravel(), np.repeat(self.emotion, together)


def cloned(
    encoder: UtteranceEncoder,
    voices: Sequence[Voice],
    utterances: int,
    together: int,
    *,
    seed: int,
    step: Callable[[], Any] = lambda: None,
) -> Clones:
    """Utterances drawn by a seed, each said by some of the voices, which take turns, and embedded."""
    generator = np.random.default_rng([seed, 0x5C1])
    embeddings, voice, emotion = [], [], []
    left = np.empty(0, np.int64)
    for _ in range(utterances):
        if len(left) < together:
            left = generator.permutation(len(voices))
        chosen, left = left[:together], left[together:]
        utterance = Utterance.drawn(generator)
        embeddings.append(encoder.embed(list(parallel_speech(utterance, [voices[one] for one in chosen]))))
        voice.append(chosen)
        emotion.append(utterance.emotion)
        step()
    return Clones(np.stack(embeddings).astype(np.float64), np.stack(voice), np.array(emotion))


def train_transformer(
    encoder: UtteranceEncoder, task: TransformerTask, *, seed: int, step: Callable[[], Any] = lambda: None
) -> PrivacyTransformer:
    """Train on clones, and measure on voices that were held out; `step` is called after each utterance."""
    voices = drawn_voices(task.voices + task.held_out, derive(seed, "voices"))
    known = cloned(
        encoder, voices[: task.voices], task.utterances, task.together, seed=derive(seed, "known"), step=step
    )
    others = cloned(
        encoder,
        voices[task.voices :],
        task.held_out_utterances,
        task.held_out,
        seed=derive(seed, "others"),
        step=step,
    )
    scale = scale_of(known.embeddings.reshape(-1, known.embeddings.shape[-1]))
    network = fitted(known, scale, task, seed=seed)
    return measured_transformer(network, known, others, scale, seed=seed)


def fitted(known: Clones, scale: Scale, task: TransformerTask, *, seed: int) -> TransformerNet:
    """Trained by squared error: each clip is a source, and a clip of its utterance, by any voice, its target."""
    with seeded(seed):
        generator = np.random.default_rng([seed, 0x5C2])
        places = _placed(known, scale)
        codes = known.codes(places)
        network = TransformerNet(places.shape[-1])
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
        utterances, together = known.voice.shape
        steps = task.epochs * max(1, round(utterances * together / BATCH))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        every, wanted = (torch.tensor(part, dtype=torch.float32) for part in (places, codes))
        network.train()
        for _ in range(task.epochs):
            target = torch.tensor(generator.integers(together, size=(utterances, together)))
            for batch in batches(utterances * together, BATCH):
                said, source = batch // together, batch % together
                to = target[said, source]
                missed = network(every[said, source], wanted[said, to]) - every[said, to]
                step_down(missed.square().mean(), optimizer, schedule)
        return network.eval()


def measured_transformer(
    network: TransformerNet, known: Clones, others: Clones, scale: Scale, *, seed: int
) -> PrivacyTransformer:
    """The arrays of a network, with figures of voices that it was not trained on."""
    generator = np.random.default_rng([seed, 0x5C3])
    places, unseen = _placed(known, scale), _placed(others, scale)
    voices = np.stack([places[known.voice == one].mean(axis=0) for one in range(TARGETS)])
    codes = others.codes(unseen)
    source, to = np.nonzero(~np.eye(others.voice.shape[1], dtype=bool))
    made = np.stack([predicted(network, said[source], code[to]) for said, code in zip(unseen, codes, strict=True)])
    own = np.stack([predicted(network, said, code) for said, code in zip(unseen, codes, strict=True)])
    truth = unseen[:, to]

    def released(places: Float64) -> Float64:
        return predicted(network, places, voices[generator.integers(TARGETS, size=len(places))]).astype(np.float64)

    rows, person, emotion = others.rows(unseen)
    trained, _, its_emotion = known.rows(places)
    hidden, hidden_trained = released(rows), released(trained)
    odd = np.repeat(np.arange(len(unseen)) % 2 == 1, others.voice.shape[1])

    def speaker(values: Float64) -> float:
        return max(fresh_readers(Labelled(values[odd], person[odd]), Labelled(values[~odd], person[~odd]), seed=seed))

    figures = TransformerFigures(
        cosine=_cosine(made, truth),
        source_cosine=_cosine(unseen[:, source], truth),
        own_cosine=_cosine(own, unseen),
        variation=float(made.var(axis=0).mean() / truth.var(axis=0).mean()),
        speaker=speaker(hidden),
        speaker_originals=speaker(rows),
        speaker_chance=1 / others.voice.shape[1],
        emotion=linear_reader(Labelled(hidden_trained, its_emotion), Labelled(hidden, emotion)),
        emotion_originals=linear_reader(Labelled(trained, its_emotion), Labelled(rows, emotion)),
    )
    return PrivacyTransformer.of(network, scale, voices, figures)


def _placed(clones: Clones, scale: Scale) -> Float64:
    rows = clones.embeddings.reshape(-1, clones.embeddings.shape[-1])
    return placed(rows, scale).reshape(clones.embeddings.shape)


def _cosine(one: Array, other: Array) -> float:
    """Mean over rows, which are the last axis."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(axis=-1) / np.maximum(norms, 1e-9)).mean())
