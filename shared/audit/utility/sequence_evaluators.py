"""Evaluators that train a small network on sequences of clips: they see order in time, and take minutes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moretta.shared.audit.attackers.base import NotConvergedError
from moretta.shared.audit.crossval import check_learned
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.utility.evaluators import UtilityEvaluator, utility_evaluator
from moretta.shared.core.array_types import Float32, Int64

if TYPE_CHECKING:
    from torch import nn

    from moretta.shared.models.emotion import EmotionModel
    from moretta.shared.models.sequence_net import Varying

LONGER = 2
DROPOUT = 0.3


class _OfSequences(UtilityEvaluator):
    """A federated model of a modality, trained centrally on varied examples.

    Where that does not fit its training data, a network is trained longer on examples as they are. If that does not
    fit either, the result is invalid: the failure says nothing about the release.
    """

    only_named: ClassVar[bool] = True
    model: ClassVar[str]
    epochs: ClassVar[int] = 40
    learning_rate: ClassVar[float] = 3e-3

    def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None:
        """Learn from sequences [clips, coefficients, steps]. Raises NotConvergedError: they were not fitted."""
        try:
            self._network = self._trained(vectors, emotions, seed, self.epochs, self._varying())
        except NotConvergedError:
            self._network = self._trained(vectors, emotions, seed, LONGER * self.epochs, None)

    def scores(self, vectors: Float32) -> Float32:
        """Probabilities."""
        return _probabilities(self._network, vectors)

    def _varying(self) -> Varying:
        from moretta.shared.models.sequence_net import Varying

        return Varying()

    def _model(self) -> EmotionModel:
        from moretta.shared.models.emotion import emotion_model

        return emotion_model(type(self).modality, self.model, len(self.classes))

    def _made(self, vectors: Float32, seed: int) -> nn.Module:
        from moretta.shared.models.emotion import initial_weights

        model = self._model()
        network = model.build(vectors.shape[1:])
        network.load_state_dict(initial_weights(model, vectors, seed=seed))
        return network

    def _trained(self, vectors: Float32, emotions: Int64, seed: int, epochs: int, varying: Varying | None) -> nn.Module:
        from moretta.shared.models.sequence_net import train_centrally

        network = self._made(vectors, seed)
        dropout = 0.0 if varying is None else DROPOUT
        train_centrally(
            network,
            vectors,
            emotions,
            epochs=epochs,
            seed=seed,
            varying=varying,
            dropout=dropout,
            learning_rate=self.learning_rate,
        )
        check_learned(vectors, emotions, _probabilities(network, vectors).argmax(axis=1))
        return network


@utility_evaluator("voice-crnn", modality="voice")
class VoiceRecurrent(_OfSequences):
    """An evaluator on log-mel spectra: of originals, and of releases that are sound. It pools, in steps of 10 ms."""

    model, epochs, learning_rate = "crnn", 20, 2e-3

    def vectors(self, clips: ClipSet) -> Float32:
        """[clips, 48, 256]"""
        from moretta.shared.models.mel_recurrent import log_mels

        return np.stack([log_mels(clips.waveform(i)) for i in range(len(clips))])

    def _varying(self) -> Varying:
        from moretta.shared.models.sequence_net import Varying

        return Varying(time_mask=0.1, stretch=0.15, bands=2)

    def _model(self) -> EmotionModel:
        from moretta.shared.models.emotion import recurrent_network

        return replace(super()._model(), network=partial(recurrent_network, pooled=True))


def _probabilities(network: nn.Module, vectors: Float32) -> Float32:
    import torch

    with torch.inference_mode():
        parts = [network(part).softmax(dim=1) for part in torch.split(torch.from_numpy(vectors), 256)]
    return np.asarray(torch.cat(parts).numpy())


@utility_evaluator("face-sequence", modality="face")
class FaceSequence(_OfSequences):
    """An evaluator on the directions of gradients in small grey frames, or on codes."""

    model = "sequence"

    def vectors(self, clips: ClipSet) -> Float32:
        """[clips, 288, 16]; of codes [clips, d, 256]."""
        from moretta.shared.models.emotion import face_sequence

        see = clips.movement if clips.holds_pictures else clips.mfcc
        return np.stack([face_sequence(see(i), None) for i in range(len(clips))])
