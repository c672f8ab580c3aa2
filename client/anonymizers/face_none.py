"""No anonymization: the faces as they are. The anchor that shows what an attacker can do at most."""

from __future__ import annotations

from moretta.client.anonymizers.anonymizer_registry import anonymizer
from moretta.client.anonymizers.face_base import FaceAnonymizer, Pictures
from moretta.shared.privacy.noise import NoiseSource


@anonymizer("none", modality="face", version="1")
class NoFaceAnonymizer(FaceAnonymizer):
    """Releases the crops."""

    note = "the faces are released as they are: nothing is hidden"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops."""
        return pictures
