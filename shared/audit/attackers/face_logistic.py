"""Logistic regression on principal components of a clip's mean face: eigenfaces."""

from __future__ import annotations

from typing import Any, ClassVar

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import face_pixels


@attacker("face-logistic", modality="face")
class FaceLogistic(VectorIdentifier):
    """Multinomial, its penalty chosen by cross-validation."""

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"regress__C": (0.1, 0.01, 1.0)}

    def vectors(self, clips: ClipSet) -> Floats:
        """Mean frame and movement."""
        return face_pixels(clips)

    def classifier(self, seed: int) -> Any:
        """Principal components, then logistic regression."""
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import Pipeline

        components = PCA(0.98, svd_solver="full")
        return Pipeline([("reduce", components), ("regress", LogisticRegression(max_iter=300, random_state=seed))])
