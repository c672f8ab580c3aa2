"""The network of a speaker code, trained on public speech to recognize emotions.

Measurements normalized within the speaker -> hidden units -> code -> the speaker's own mean and covariance removed ->
noise, as codes are released -> a linear head for emotions. The number of rounds is found on speakers who are held out,
in turns; then all speakers are trained on for as long. Sites get arrays: see `moretta.shared.features.speaker_code`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.core.array_types import Array, Float64, Int64
from moretta.shared.core.errors import StudyError
from moretta.shared.core.workers import seeded
from moretta.shared.features.speaker_code import CODE_LIMIT, HiddenLayer
from moretta.shared.features.speaker_normalization import PRIOR_CLIPS_PER_VALUE
from moretta.shared.models.optimizers import step_down

UNITS = 128
DROPOUT = 0.5


class SpeakerNet(nn.Module):
    """Places [n, width] to codes [n, size]. The last layer has no bias: a person's mean is removed after it."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, UNITS)
        self.code = nn.Linear(UNITS, size, bias=False)

    def forward(self, places: Tensor) -> Tensor:
        """Inputs and units are dropped in training."""
        dropped = functional.dropout(places, DROPOUT, self.training)
        codes: Tensor = self.code(functional.dropout(torch.relu(self.hidden(dropped)), DROPOUT, self.training))
        return codes

    def arrays(self) -> tuple[HiddenLayer, Float64]:
        """The hidden units, and the directions [units, d] in them: together what `forward` is out of training."""
        weight, bias, directions = (
            tensor.detach().numpy() for tensor in (self.hidden.weight.mT, self.hidden.bias, self.code.weight.mT)
        )
        return HiddenLayer(np.ascontiguousarray(weight), bias.copy()), np.asarray(directions, np.float64)


class _InverseRoot(torch.autograd.Function):
    """S^(-1/2) with a gradient that equal eigenvalues cannot break.

    The derivative of a matrix function in the basis of its eigenvectors is a product with divided differences (Higham,
    Functions of Matrices, 2008, theorem 3.11); those of 1/sqrt(x) are -1 / (sqrt(a) sqrt(b) (sqrt(a) + sqrt(b))).
    """

    @staticmethod
    def forward(ctx: Any, symmetric: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(symmetric)
        ctx.save_for_backward(values.sqrt(), vectors)
        root: Tensor = vectors / values.sqrt().unsqueeze(-2) @ vectors.mT
        return root

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        roots, vectors = ctx.saved_tensors
        first, second = roots.unsqueeze(-1), roots.unsqueeze(-2)
        (gradient,) = gradients
        inside = vectors.mT @ ((gradient + gradient.mT) / 2) @ vectors
        back: Tensor = vectors @ (-inside / (first * second * (first + second))) @ vectors.mT
        return back


def inverse_root(symmetric: Tensor) -> Tensor:
    """The symmetric inverse root of positive definite matrices [..., d, d]."""
    root: Tensor = _InverseRoot.apply(symmetric)
    return root


def whitened_codes(codes: Tensor, clips: Sequence[int]) -> Tensor:
    """Codes [n, d] relative to each person's own, within +- `CODE_LIMIT`, in the same order.

    A person's clips stand beside one another; `clips` are the numbers of each person's, which add up to n.
    """
    unit = torch.eye(codes.shape[1], dtype=codes.dtype)
    centred = [own - own.mean(dim=0) for own in torch.split(codes, list(clips))]
    covariances = torch.stack([own.mT @ own / len(own) for own in centred])  # [people, d, d]
    count = torch.tensor(clips, dtype=codes.dtype)[:, None, None]
    prior = PRIOR_CLIPS_PER_VALUE * codes.shape[1]
    roots = inverse_root((count * covariances + prior * unit) / (count + prior))
    whitened = [own @ root for own, root in zip(centred, roots, strict=True)]
    return torch.cat(whitened).clamp(-CODE_LIMIT, CODE_LIMIT)


LEARNING_RATE, HEAD_RATE, DECAY = 2e-3, 5e-3, 1e-2
ROUNDS, ROUND_STEPS = 20, 10
"""At most so many rounds of so many steps. A round has people of its own."""
ROUND_ROWS = 2_000
"""People are added to a round until it has so many rows: what a step costs does not grow with the corpus."""
FOLDS = 3
MIN_SPEAKERS = 3


class PublicSpeech:
    """Places [n, m], people [n] (any names) and emotions [n] (0 to `emotions` exclusive) as tensors.

    A person's rows stand beside one another.
    """

    def __init__(self, places: Array, person: Array, emotion: Int64, emotions: int) -> None:
        order = np.argsort(person, kind="stable")
        _, number, counts = np.unique(person[order], return_inverse=True, return_counts=True)
        self.places = torch.tensor(places[order], dtype=torch.float32)
        self.person, self.emotion = torch.tensor(number), torch.tensor(emotion[order])
        self.clips, self.emotions = [int(count) for count in counts], emotions

    def some(self, speakers: Int64) -> PublicSpeech:
        """The speech of these people only."""
        rows = np.isin(self.person.numpy(), speakers)
        places, person, emotion = (part.numpy()[rows] for part in (self.places, self.person, self.emotion))
        return PublicSpeech(places, person, emotion, self.emotions)

    def in_random_rounds(self, generator: np.random.Generator) -> Iterator[PublicSpeech]:
        """Whole people by chance, up to `ROUND_ROWS` rows or two people, for `ROUNDS` rounds."""
        counts = np.array(self.clips)
        for _ in range(ROUNDS):
            speakers = generator.permutation(len(counts))
            taken = max(2, int(np.searchsorted(np.cumsum(counts[speakers]), ROUND_ROWS)))
            yield self if taken >= len(counts) else self.some(speakers[:taken])


def train_speaker_net(
    places: Array, person: Array, emotion: Int64, *, size: int, noise: float, seed: int
) -> tuple[HiddenLayer, Float64]:
    """Learn hidden units, and directions [units, size] in them. The same seed gives the same network.

    Args:
        places: [n, m], relative to each person.
        person: [n], any names.
        noise: standard deviation of the noise that codes will be released with; the network trains under it.
        seed: of weights, noise and the order of people. Not secret.

    Raises:
        StudyError: fewer than `MIN_SPEAKERS` people, or one emotion only.
    """
    known, labels = np.unique(emotion, return_inverse=True)
    speech = PublicSpeech(places, person, labels, len(known))
    if len(speech.clips) < MIN_SPEAKERS or len(known) < 2:
        raise StudyError(
            f"public speech of {len(speech.clips)} people in {len(known)} emotions",
            expected=f"at least {MIN_SPEAKERS} people, of whom some are held out, and 2 emotions",
            fix='name more of it as `public_speech`, or take `code_encoder = "directions"`',
        )
    with seeded(seed):
        rounds = _best_rounds(speech, size, noise, seed)
        *_, last = islice(_trained(speech, size, noise, seed), rounds)
        return last.net.arrays()


class _Training:
    """A network, its head and their optimizer."""

    def __init__(self, width: int, size: int, noise: float, balance: Tensor) -> None:
        self.net, self.head = SpeakerNet(width, size), nn.Linear(size, len(balance))
        self._noise, self._balance = noise, balance
        groups: list[dict[str, Any]] = [
            {"params": self.net.parameters()},
            {"params": self.head.parameters(), "lr": HEAD_RATE},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=DECAY)

    def round(self, speech: PublicSpeech) -> None:
        """`ROUND_STEPS` steps on all of this speech."""
        self.net.train()
        for _ in range(ROUND_STEPS):
            codes = whitened_codes(self.net(speech.places), speech.clips)
            codes = codes + self._noise * torch.randn_like(codes)
            loss = functional.cross_entropy(self.head(codes), speech.emotion, weight=self._balance)
            step_down(loss, self._optimizer)

    @torch.no_grad()
    def loss(self, speech: PublicSpeech) -> float:
        """Cross-entropy of emotions, each counting alike, of people who may not have been trained on."""
        self.net.eval()
        codes = whitened_codes(self.net(speech.places), speech.clips)
        return functional.cross_entropy(self.head(codes), speech.emotion, weight=self._balance).item()


def _trained(speech: PublicSpeech, size: int, noise: float, seed: int) -> Iterator[_Training]:
    """The training after each round."""
    torch.manual_seed(seed)
    generator = np.random.default_rng([seed, 0xC0DE])
    counts = torch.bincount(speech.emotion, minlength=speech.emotions).float().clamp(min=1)
    training = _Training(speech.places.shape[1], size, noise, counts.mean() / counts)
    for part in speech.in_random_rounds(generator):
        training.round(part)
        yield training


def _best_rounds(speech: PublicSpeech, size: int, noise: float, seed: int) -> int:
    """After how many rounds people who are held out are recognized best, on average over folds of people."""
    speakers = np.random.default_rng([seed, 0xF01D]).permutation(len(speech.clips))
    curves = []
    for held in np.array_split(speakers, FOLDS):
        left, others = speech.some(np.setdiff1d(speakers, held)), speech.some(held)
        curves.append([t.loss(others) for t in _trained(left, size, noise, seed)])
    return 1 + int(np.argmin(np.mean(curves, axis=0)))
