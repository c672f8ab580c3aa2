"""Random forest on statistics of a clip's MFCC, which the original project used for emotion."""

from __future__ import annotations

from typing import Any

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import voice_statistics


@attacker("voice-forest", modality="voice")
class VoiceForest(VectorIdentifier):
    """300 trees, as deep as they grow."""

    def vectors(self, clips: ClipSet) -> Floats:
        """Statistics of MFCC."""
        return voice_statistics(clips)

    def classifier(self, seed: int) -> Any:
        """Random forest."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(300, random_state=seed, n_jobs=1)
