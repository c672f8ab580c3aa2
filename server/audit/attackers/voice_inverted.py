"""The least likely person, where a classifier does worse than chance on clips that it has not seen."""

from __future__ import annotations

from typing import ClassVar

from moretta.server.audit.attackers.base import attacker
from moretta.server.audit.attackers.voice_forest import VoiceForest
from moretta.server.audit.attackers.voice_knn import VoiceNeighbours
from moretta.server.audit.attackers.voice_logistic import VoiceLogistic
from moretta.server.audit.attackers.voice_svm import VoiceSvm
from moretta.server.audit.learn.inverted import InvertedIdentifier
from moretta.server.audit.learn.tabular import VectorIdentifier


@attacker("voice-inverted", modality="voice")
class VoiceInverted(InvertedIdentifier):
    """The quick classifiers, in every setting."""

    classifiers: ClassVar[tuple[type[VectorIdentifier], ...]] = (VoiceForest, VoiceNeighbours, VoiceSvm, VoiceLogistic)
    cost: ClassVar[int] = 2
