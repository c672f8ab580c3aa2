"""Who it is, given the emotion that the release states: eigenfaces and movement, emotion by emotion."""

from __future__ import annotations

from moretta.shared.audit.attackers.attacker_registry import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.given_emotion import EmotionAwareIdentifier
from moretta.shared.audit.learn.vectors import face_pixels


@attacker("face-given-emotion", modality="face")
class FaceGivenEmotion(EmotionAwareIdentifier):
    """A set of weights for each emotion."""

    def plain_vectors(self, clips: ClipSet) -> Floats:
        """[clips, d]."""
        return face_pixels(clips)
