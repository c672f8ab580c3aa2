"""Logistic regression on statistics of a clip's MFCC: the attacker that every release must survive."""

from __future__ import annotations

from typing import Any, ClassVar

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import voice_statistics


@attacker("voice-logistic", modality="voice")
class VoiceLogistic(VectorIdentifier):
    """Multinomial, its penalty chosen by cross-validation."""

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"C": (0.1, 0.01, 1.0)}

    def vectors(self, clips: ClipSet) -> Floats:
        """Statistics of MFCC."""
        return voice_statistics(clips)

    def classifier(self, seed: int) -> Any:
        """Logistic regression."""
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=300, random_state=seed)
