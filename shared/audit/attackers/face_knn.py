"""Nearest neighbours on gradients of a clip's mean face."""

from __future__ import annotations

from typing import Any, ClassVar

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import face_gradients


@attacker("face-knn", modality="face")
class FaceNeighbours(VectorIdentifier):
    """Votes weighted by nearness; their number chosen by cross-validation."""

    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"n_neighbors": (5, 1, 3)}

    def vectors(self, clips: ClipSet) -> Floats:
        """Histograms of oriented gradients."""
        return face_gradients(clips)

    def classifier(self, seed: int) -> Any:
        """Nearest neighbours."""
        from sklearn.neighbors import KNeighborsClassifier

        del seed  # nothing is drawn
        return KNeighborsClassifier(weights="distance")
