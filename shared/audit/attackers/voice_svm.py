"""Support vector machine with a Gaussian kernel on statistics of a clip's MFCC."""

from __future__ import annotations

from typing import Any, ClassVar

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import voice_statistics


@attacker("voice-svm", modality="voice")
class VoiceSvm(VectorIdentifier):
    """One against the rest; slack and kernel width chosen by cross-validation."""

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"C": (10.0, 1.0), "gamma": ("scale", 0.001)}

    def vectors(self, clips: ClipSet) -> Floats:
        """Statistics of MFCC."""
        return voice_statistics(clips)

    def classifier(self, seed: int) -> Any:
        """Support vectors."""
        from sklearn.svm import SVC

        return SVC(decision_function_shape="ovr", random_state=seed)
