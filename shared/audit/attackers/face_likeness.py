"""Who it is by how like a face is to each clip that is known, within an emotion and across emotions."""

from __future__ import annotations

import numpy as np

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.likeness import LikenessIdentifier
from moretta.shared.audit.learn.vectors import face_gradients, face_pixels


@attacker("face-likeness", modality="face")
class FaceLikeness(LikenessIdentifier):
    """Nine numbers say what likeness counts."""

    def vectors(self, clips: ClipSet) -> Floats:
        """Gradients, mean frame and movement."""
        return np.hstack([face_gradients(clips), face_pixels(clips)])
