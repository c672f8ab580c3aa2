"""Evaluators that train a small network on sequences of clips: they see order in time, and take minutes."""

from __future__ import annotations

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

EPOCHS, LONGER = 40, 2
DROPOUT, TRACT = 0.3, 0.12


class _OfSequences(UtilityEvaluator):
    """The federated model `sequence` of a modality, trained centrally on varied examples.

    Where that does not fit its training data, a network is trained longer on examples as they are. What still does not
    fit is invalid: its failure says nothing about the release.
    """

    only_named: ClassVar[bool] = True

    def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None:
        """Learn from sequences [clips, coefficients, steps]. Raises NotConvergedError: they were not fitted."""
        from moretta.shared.models.sequence_net import Varying

        try:
            tract = TRACT if type(self).modality == "voice" and not self.holds_codes else 0.0
            self._network = self._trained(vectors, emotions, seed, EPOCHS, Varying(tract=tract))
        except NotConvergedError:
            self._network = self._trained(vectors, emotions, seed, LONGER * EPOCHS, None)

    def scores(self, vectors: Float32) -> Float32:
        """Probabilities."""
        return _probabilities(self._network, vectors)

    def _model(self) -> EmotionModel:
        from moretta.shared.models.emotion import emotion_model

        return emotion_model(type(self).modality, "sequence", len(self.classes))

    def _trained(self, vectors: Float32, emotions: Int64, seed: int, epochs: int, varying: Varying | None) -> nn.Module:
        from moretta.shared.models.emotion import initial_weights
        from moretta.shared.models.sequence_net import train_centrally

        model = self._model()
        network = model.build(vectors.shape[1:])
        network.load_state_dict(initial_weights(model, vectors, seed=seed))
        dropout = 0.0 if varying is None else DROPOUT
        train_centrally(network, vectors, emotions, epochs=epochs, seed=seed, varying=varying, dropout=dropout)
        check_learned(vectors, emotions, _probabilities(network, vectors).argmax(axis=1))
        return network


def _probabilities(network: nn.Module, vectors: Float32) -> Float32:
    import torch

    with torch.inference_mode():
        parts = [network(part).softmax(dim=1) for part in torch.split(torch.from_numpy(vectors), 256)]
    return np.asarray(torch.cat(parts).numpy())


@utility_evaluator("voice-sequence", modality="voice")
class VoiceSequence(_OfSequences):
    """On MFCC, or on codes."""

    def vectors(self, clips: ClipSet) -> Float32:
        """[clips, coefficients, 256]"""
        from moretta.shared.models.emotion import voice_sequence

        return np.stack([voice_sequence(clips.mfcc(i), None) for i in range(len(clips))])


@utility_evaluator("face-sequence", modality="face")
class FaceSequence(_OfSequences):
    """On the directions of gradients in small grey frames, or on codes."""

    def vectors(self, clips: ClipSet) -> Float32:
        """[clips, 288, 16]; of codes [clips, d, 256]."""
        from moretta.shared.models.emotion import face_sequence

        see = clips.movement if clips.holds_pictures else clips.mfcc
        return np.stack([face_sequence(see(i), None) for i in range(len(clips))])
