"""Random forest on the pixels of a clip's mean face."""

from __future__ import annotations

from typing import Any

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.tabular import VectorIdentifier
from moretta.shared.audit.learn.vectors import face_pixels


@attacker("face-forest", modality="face")
class FaceForest(VectorIdentifier):
    """300 trees, as deep as they grow."""

    def vectors(self, clips: ClipSet) -> Floats:
        """Mean frame and movement."""
        return face_pixels(clips)

    def classifier(self, seed: int) -> Any:
        """Random forest."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(300, random_state=seed, n_jobs=1)
