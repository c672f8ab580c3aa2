"""Adversaries that a code is learnt against: what they can tell of who speaks becomes part of the encoder's loss.

An encoder can fool one adversary that it has known for long without hiding anything from the next (Elazar and Goldberg,
"Adversarial removal of demographic attributes from text data", EMNLP 2018). So adversaries here live for one round of
training only, have learnt before they count, and are asked about clips that they have not seen. They are told the
emotion, as the audit's attackers are: what a person's clips of one emotion have in common is what normalising leaves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from moretta.shared.models.mutual_information import ConditionalGaussian, club
from moretta.shared.study_voice import CodeAdversary

FIRST_STEPS, NEXT_STEPS = 30, 2
"""How long adversaries learn when they are new, and before each later step of the encoder."""
_UNITS = 32
_RATE, _DECAY = 2e-2, 1e-3


class Told(NamedTuple):
    """What an adversary is given."""

    codes: Tensor
    """[n, d], as released."""
    person: Tensor
    """int64 [n]"""
    emotion: Tensor
    """int64 [n]"""

    def only(self, rows: Tensor) -> Told:
        """Some of the clips."""
        return Told(*(part[rows] for part in self))


class Adversary(Protocol):
    """Learns who speaks from codes and emotions."""

    def learn(self, told: Told, steps: int) -> None:
        """Get better on these clips; codes need no gradient."""

    def leak(self, told: Told) -> Tensor:
        """What these clips tell of who speaks, in nats, with a gradient for the codes."""


class SpeakerClassifier:
    """Predicts the person; the encoder gets its gradient reversed (Ganin and Lempitsky, ICML 2015).

    Reversing means to lower what the adversary gains over guessing. A clip on which it gains nothing counts nothing:
    who is certain and wrong could be right the other way round.

    Args:
        size: values in a code.
        people: to tell apart.
        emotions: that there are.
        units: hidden ones; 0 for a classifier that is linear for each emotion.
    """

    def __init__(self, size: int, people: int, emotions: int, *, units: int) -> None:
        width = size + emotions + size * emotions
        layers = [nn.Linear(width, units), nn.ReLU(), nn.Linear(units, people)] if units else [nn.Linear(width, people)]
        self._net, self._emotions, self._guess = nn.Sequential(*layers), emotions, math.log(people)
        self._optimizer = torch.optim.Adam(self._net.parameters(), lr=_RATE, weight_decay=_DECAY)

    def learn(self, told: Told, steps: int) -> None:
        """By cross-entropy."""
        seen = self._seen(told)
        for _ in range(steps):
            _step(self._optimizer, functional.cross_entropy(self._net(seen), told.person))

    def leak(self, told: Told) -> Tensor:
        """Mean of the nats by which it does better than guessing."""
        loss = functional.cross_entropy(self._net(self._seen(told)), told.person, reduction="none")
        return (self._guess - loss).clamp(min=0).mean()

    def _seen(self, told: Told) -> Tensor:
        emotion = functional.one_hot(told.emotion, self._emotions).to(told.codes.dtype)
        each = (told.codes[:, None, :] * emotion[:, :, None]).flatten(1)
        return torch.cat([told.codes, emotion, each], dim=1)


class InformationBound:
    """An upper bound of the mutual information of codes and people, given the emotion: see `mutual_information.club`.

    Args:
        size: values in a code.
        people: there are.
        emotions: that there are.
    """

    def __init__(self, size: int, people: int, emotions: int) -> None:
        self._counts = (people, emotions)
        self._model = ConditionalGaussian(people + emotions + people * emotions, size)
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=_RATE, weight_decay=_DECAY)

    def learn(self, told: Told, steps: int) -> None:
        """By likelihood."""
        condition = self._condition(told)
        for _ in range(steps):
            _step(self._optimizer, -self._model.log_likelihood(condition, told.codes).mean())

    def leak(self, told: Told) -> Tensor:
        """The bound; by chance it may lie below 0."""
        mean, log_variance = self._model(self._condition(told))
        return club(mean, log_variance, told.codes, given=told.emotion)

    def _condition(self, told: Told) -> Tensor:
        people, emotions = self._counts
        person = functional.one_hot(told.person, people)
        emotion = functional.one_hot(told.emotion, emotions)
        both = functional.one_hot(told.person * emotions + told.emotion, people * emotions)
        return torch.cat([person, emotion, both], dim=1).to(told.codes.dtype)


def new_adversaries(kind: CodeAdversary, size: int, people: int, emotions: int) -> Sequence[Adversary]:
    """Adversaries that have learnt nothing yet."""
    if kind == "gradient-reversal":
        return [SpeakerClassifier(size, people, emotions, units=units) for units in (0, _UNITS)]
    return [InformationBound(size, people, emotions)] if kind == "mutual-information" else []


class AdversaryRound:
    """Adversaries for a few steps of the encoder: they learn from half of the clips, and are asked about the others.

    Args:
        adversaries: new ones.
        clips: that there are.
    """

    def __init__(self, adversaries: Sequence[Adversary], clips: int) -> None:
        self._adversaries = adversaries
        self._known = torch.rand(clips) < 0.5
        self._steps = FIRST_STEPS

    def leak(self, told: Told) -> Tensor:
        """What they can tell by now of the clips they have not seen, on average over adversaries."""
        seen = Told(told.codes.detach(), told.person, told.emotion).only(self._known)
        for adversary in self._adversaries:
            adversary.learn(seen, self._steps)
        self._steps = NEXT_STEPS
        asked = told.only(~self._known)
        return torch.stack([adversary.leak(asked) for adversary in self._adversaries]).mean()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
