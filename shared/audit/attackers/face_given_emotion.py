"""Who it is, given the emotion that the release states: eigenfaces and movement, emotion by emotion."""

from __future__ import annotations

from moretta.shared.audit.attackers.base import Floats, attacker
from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.learn.features import face_pixels
from moretta.shared.audit.learn.given_emotion import EmotionAwareIdentifier


@attacker("face-given-emotion", modality="face")
class FaceGivenEmotion(EmotionAwareIdentifier):
    """A set of weights for each emotion."""

    def plain_vectors(self, clips: ClipSet) -> Floats:
        """[clips, d]."""
        return face_pixels(clips)
