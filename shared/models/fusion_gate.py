"""Learned fusion: a gate that weighs the calibrated predictions of a voice and a face model, clip by clip.

It looks at nothing but what both models say of a clip, so it has few parameters, which the noise of DP-SGD spares. A
modality that is not there is left out exactly: the clip is then decided by the other's calibrated probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from moretta.shared.core.array_types import Float32, Float64
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import Modality

MODALITIES: tuple[Modality, ...] = ("voice", "face")


class Temperature(nn.Module):
    """[N, classes] log-probabilities -> the same over a temperature, normalized (Guo et al., ICML 2017).

    The learned parameter is the logarithm of 1 / temperature: 0 changes nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.zeros(1))

    def forward(self, logs: torch.Tensor) -> torch.Tensor:
        """Row by row."""
        return torch.log_softmax(logs * self.sharpness.exp(), dim=-1)


class Gate(nn.Module):
    """[N, 2 classes + 2] of `gate_input` -> [N, classes] log-probabilities.

    With both modalities: g log p_voice + (1 - g) log p_face, each calibrated, sharpened by a third temperature. The
    weight g in (0, 1) is a logistic function of each model's certainty, of its decision, and of their agreement.
    Source: Arevalo et al., "Gated multimodal units", ICLR workshop 2017, on decisions in the place of hidden layers.
    """

    def __init__(self, classes: int = len(EMOTIONS)) -> None:
        super().__init__()
        self.classes = classes
        self.voice, self.face, self.both = Temperature(), Temperature(), Temperature()
        self.weigh = nn.Linear(2 * classes + 3, 1)
        nn.init.zeros_(self.weigh.weight)
        nn.init.zeros_(self.weigh.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, whose softmax they are themselves."""
        n = self.classes
        voice, face = self.voice(rows[:, :n]), self.face(rows[:, n : 2 * n])
        here = rows[:, 2 * n :] > 0.5  # bool [N, 2]
        share = self._share(voice, face)
        together = self.both(share * voice + (1 - share) * face)
        alone = torch.where(here[:, :1], voice, face)
        return torch.where(here.all(dim=1, keepdim=True), together, alone)

    def _share(self, voice: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
        """The weight of voice, [N, 1]."""
        first, second = voice.exp(), face.exp()
        uncertain = math.log(self.classes)  # entropy of a model that knows nothing, in nats
        doubts = [-(p * logs).sum(1, keepdim=True) / uncertain for p, logs in ((first, voice), (second, face))]
        agreement = (first * second).sum(1, keepdim=True)
        return torch.sigmoid(self.weigh(torch.cat([first, second, *doubts, agreement], dim=1)))


class Prediction(NamedTuple):
    """Predictions of one model for its clips: pseudonyms [n], and log-probabilities float32 [n, classes]."""

    clips: tuple[str, ...]
    logs: Float32


def gate_input(clips: tuple[str, ...], predictions: Mapping[Modality, Prediction]) -> Float32:
    """Input of the gate for clips (pseudonyms), float32 [clips, 2 classes + 2].

    Log-probabilities of voice, of face, and whether each is there; of a modality that a clip has not, everything is 0.
    """
    classes = next((prediction.logs.shape[1] for prediction in predictions.values()), len(EMOTIONS))
    rows = np.zeros((len(clips), 2 * classes + 2), np.float32)
    place = {clip: number for number, clip in enumerate(clips)}
    for column, modality in enumerate(MODALITIES):
        if modality not in predictions:
            continue
        known, logs = predictions[modality]
        chosen = [number for number, clip in enumerate(known) if clip in place]
        at = [place[known[number]] for number in chosen]
        rows[at, column * classes : (column + 1) * classes] = logs[chosen]
        rows[at, 2 * classes + column] = 1
    return rows


def hide_some(rows: Float32, chances: Float64, dropout: float) -> Float32:
    """Rows in which one modality of a clip that has both is hidden, here and there.

    Args:
        chances: [clips], uniform in [0, 1): below half of `dropout` voice is hidden, below all of it the face.
        dropout: share of the clips.
    """
    hidden = rows.copy()
    classes = rows.shape[1] // 2 - 1
    chosen = rows[:, 2 * classes :].all(axis=1) & (chances < dropout)
    for column, gone in enumerate((chosen & (chances < dropout / 2), chosen & (chances >= dropout / 2))):
        hidden[gone, column * classes : (column + 1) * classes] = 0
        hidden[gone, 2 * classes + column] = 0
    return hidden


def first_gate(share: float, classes: int = len(EMOTIONS)) -> dict[str, torch.Tensor]:
    """Weights before training: calibration that changes nothing, and the vote's weight of voice for every clip."""
    gate = Gate(classes)
    share = min(max(share, 0.02), 0.98)
    with torch.no_grad():
        gate.weigh.bias.fill_(math.log(share / (1 - share)))
    return dict(gate.state_dict())
