"""Evaluators that others have trained: face-api's expression network, and self-supervised speech with a linear
model."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.pretrained.expression_evaluator import ExpressionEvaluator
from moretta.shared.audit.pretrained.hubert import HubertEncoder, SelfSupervisedEncoder, Wav2Vec2Encoder
from moretta.shared.audit.utility.evaluator_registry import Floats, Ints, UtilityEvaluator, utility_evaluator
from moretta.shared.audit.utility.trained import Linear

EMOTION_LAYER = 9
"""Of twelve: emotion is read best from the upper middle layers (Pepino et al., Interspeech 2021, section 4)."""
_CHUNK = 16


@utility_evaluator("face-api-expression", modality="face", kind="pretrained")
class Expression(UtilityEvaluator):
    """An outsider's view: the network has seen neither these people nor any released picture."""

    @classmethod
    def missing(cls) -> str | None:
        """Its weights."""
        found = ExpressionEvaluator.availability()
        return None if found.present else found.reason

    def vectors(self, clips: ClipSet) -> Floats:
        """Its six probabilities, [clips, 6]."""
        network = ExpressionEvaluator.load()
        return np.concatenate([network.probabilities([clips.frames(i)]) for i in range(len(clips))])

    def fit(self, vectors: Floats, emotions: Ints, *, seed: int) -> None:
        """Nothing: it is used as it is."""

    def scores(self, vectors: Floats) -> Floats:
        """The probabilities."""
        return vectors


class SelfSupervised(Linear):
    """Logistic regression on one hidden layer of a network that was trained on speech without labels."""

    encoder: ClassVar[type[SelfSupervisedEncoder]]

    @classmethod
    def missing(cls) -> str | None:
        """What its encoder misses."""
        found = cls.encoder.availability()
        return None if found.present else found.reason

    def vectors(self, clips: ClipSet) -> Floats:
        """Mean and standard deviation over time, [clips, 2 * width]."""
        network = self.encoder.load()
        starts = range(0, len(clips), _CHUNK)
        chunks = ([clips.waveform(i) for i in range(s, min(s + _CHUNK, len(clips)))] for s in starts)
        return np.concatenate([network.summarise(chunk, layer=EMOTION_LAYER) for chunk in chunks])


@utility_evaluator("hubert-emotion", modality="voice")
class Hubert(SelfSupervised):
    """On HuBERT."""

    encoder = HubertEncoder


@utility_evaluator("wav2vec2-emotion", modality="voice")
class Wav2Vec2(SelfSupervised):
    """On wav2vec 2.0."""

    encoder = Wav2Vec2Encoder
