"""Synthetic people: seeded heads that show the six emotions, drawn with numpy and OpenCV alone.

    from moretta.shared.models.head import make_identity, render_clip, render_frame

The shapes come from a CC0 asset (HEAD-NOTICE.md); identities, colours and hair are this project's own.
"""

from moretta.shared.models.head.clip import render_clip
from moretta.shared.models.head.head_identity import FaceIdentity, make_identity
from moretta.shared.models.head.render import render_frame

__all__ = ["FaceIdentity", "make_identity", "render_clip", "render_frame"]
