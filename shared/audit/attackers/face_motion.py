"""Who it is by how the face moves, closed set: a biometric that a release without any likeness may still carry."""

from __future__ import annotations

from typing import Any, ClassVar

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.movement import Movement
from moretta.shared.audit.learn.tabular import VectorIdentifier


@attacker("face-motion", modality="face")
class FaceMotion(VectorIdentifier):
    """Logistic regression on statistics over time of all frames; its penalty chosen by cross-validation."""

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"regress__C": (0.1, 0.01, 1.0)}

    def fit(self, clips: ClipSet, *, seed: int) -> None:
        """Learn what a frame is made of, then how each person moves."""
        self._movement = Movement().fit(clips, seed=seed)
        super().fit(clips, seed=seed)

    def vectors(self, clips: ClipSet) -> Floats:
        """Levels, spreads, speeds and joint movements of the frames' principal components."""
        return self._movement.vectors(clips)

    def classifier(self, seed: int) -> Any:
        """Principal components, then logistic regression."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import Pipeline

        components = PCA(0.95, svd_solver="full")
        return Pipeline([("reduce", components), ("regress", LogisticRegression(max_iter=300, random_state=seed))])
