"""`expression-track` by a fitted head: dense landmarks with their accuracy, and the expression of the head that fits.

Wood et al., "3D face reconstruction with dense landmarks", ECCV 2022 (docs/systems/fitted-expression.md). Identity is
fitted beside expression and pose, and never released.
"""

from __future__ import annotations

from moretta.client.anonymizers.expression_track import ExpressionTrack, Reading
from moretta.shared.release.anonymizer import anonymizer


@anonymizer("fitted-expression", modality="face", version="1")
class FittedExpression(ExpressionTrack):
    """Fits one head to each clip, and lets the public person show its expression on everybody's scale."""

    @classmethod
    def reading(cls) -> Reading:
        """How faces are measured."""
        from moretta.shared.features.dense_landmarks import CROP_SIDE, public_fits, shipped_landmarks

        return Reading(CROP_SIDE, shipped_landmarks(), public_fits())
