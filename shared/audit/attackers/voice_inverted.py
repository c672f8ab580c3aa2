"""The least likely person, where a classifier does worse than chance on clips that it has not seen."""

from __future__ import annotations

from typing import ClassVar

from moretta.shared.audit.attackers.attacker_registry import attacker
from moretta.shared.audit.attackers.voice_forest import VoiceForest
from moretta.shared.audit.attackers.voice_knn import VoiceNeighbours
from moretta.shared.audit.attackers.voice_logistic import VoiceLogistic
from moretta.shared.audit.attackers.voice_svm import VoiceSvm
from moretta.shared.audit.learn.inverted import InvertedIdentifier
from moretta.shared.audit.learn.tabular import VectorIdentifier


@attacker("voice-inverted", modality="voice")
class VoiceInverted(InvertedIdentifier):
    """The quick classifiers, in every setting."""

    classifiers: ClassVar[tuple[type[VectorIdentifier], ...]] = (VoiceForest, VoiceNeighbours, VoiceSvm, VoiceLogistic)
    cost: ClassVar[int] = 2
