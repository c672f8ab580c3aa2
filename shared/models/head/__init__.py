"""Synthetic people: seeded heads that show the six emotions, drawn with numpy and OpenCV alone.

The shapes come from a CC0 asset (HEAD-NOTICE.md); identities, colours and hair are this project's own.
"""

from moretta.shared.models.head.portrait import Portrait, PublicPerson
from moretta.shared.models.head.render import FaceIdentity, make_identity, render_clip, render_frame

__all__ = ["FaceIdentity", "Portrait", "PublicPerson", "make_identity", "render_clip", "render_frame"]
