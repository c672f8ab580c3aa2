"""Support vector machine on gradients of a clip's mean face."""

from __future__ import annotations

from typing import Any, ClassVar

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import face_gradients


@attacker("face-svm", modality="face")
class FaceSvm(VectorIdentifier):
    """One against the rest; slack chosen by cross-validation."""

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"C": (10.0, 1.0, 0.1)}

    def vectors(self, clips: ClipSet) -> Floats:
        """Histograms of oriented gradients."""
        return face_gradients(clips)

    def classifier(self, seed: int) -> Any:
        """Support vectors."""
        from sklearn.svm import SVC

        return SVC(decision_function_shape="ovr", random_state=seed)
