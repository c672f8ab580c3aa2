"""A perceptron on statistics of a clip's MFCC: one hidden layer."""

from __future__ import annotations

from typing import ClassVar

from moretta.shared.audit.attackers.attacker_registry import attacker
from moretta.shared.audit.learn.layered import LayeredIdentifier


@attacker("voice-mlp1", modality="voice")
class VoicePerceptronOne(LayeredIdentifier):
    """One hidden layer."""

    hidden: ClassVar[tuple[int, ...]] = (128,)
