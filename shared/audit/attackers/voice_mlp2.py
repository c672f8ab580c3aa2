"""A perceptron on statistics of a clip's MFCC: two hidden layers."""

from __future__ import annotations

from typing import ClassVar

from moretta.shared.audit.attackers.attacker_registry import attacker
from moretta.shared.audit.learn.layered import LayeredIdentifier


@attacker("voice-mlp2", modality="voice")
class VoicePerceptronTwo(LayeredIdentifier):
    """Two hidden layers."""

    hidden: ClassVar[tuple[int, ...]] = (128, 128)
