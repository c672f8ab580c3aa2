"""A track of expression, relative to the person's own usual face, shown by one public head.

What is released is drawn from some numbers a frame: how far brows, lids, nose, lips and jaw are from where this person
usually has them, on a scale that everybody shares. No pixel of the person is in it, nor skin, shape, hair, pose or
light. What may still tell people apart is how they move, and how well their face is read; the audit measures both.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from moretta.client.anonymizers.anonymizer_registry import Array, anonymizer
from moretta.client.anonymizers.face_base import SIDES, Pictures
from moretta.client.anonymizers.face_personal import PersonalFaceAnonymizer
from moretta.shared.features.face_track import CROP_SIDE, public_tracks, shipped_reader
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.speaker_scale import Measures
from moretta.shared.models.head.clip import PUBLIC_PERSON, Portrait
from moretta.shared.models.head.expression import CHANNELS
from moretta.shared.study.schema import Study

RELEASED = (
    "brows lowered",
    "inner brows raised",
    "outer brows raised",
    "lids closed",
    "lower lids tightened",
    "nose wrinkled",
    "lip corners up",
    "jaw open",
    "lips pressed",
    "eyes left",
)
"""Channels that are read well from strangers' faces. What is read badly says more about the face than of what it does;
those channels stay as public people have them in the middle."""
_COLUMNS = [CHANNELS.index(name) for name in RELEASED]


@anonymizer("expression-track", modality="face", version="1")
class ExpressionTrack(PersonalFaceAnonymizer):
    """Releases pictures of a drawn head that moves as the person does.

    Args:
        cropper: finds faces.
        side: height and width of the released pictures.
        fps: frames per second of the clips.
    """

    note = (
        "no formal guarantee: no pixel of the person is released, but how the face moves is, and a way of moving can "
        "tell people apart, the more so the more clips are known to be one person's; noise on each clip was chosen by "
        "attack, not by proof; of a person with one or two clips part of the usual look is released too"
    )

    def __init__(self, cropper: FaceCropper, *, side: int, fps: float) -> None:
        tracks = public_tracks()
        super().__init__(cropper, tracks.only(_COLUMNS), fps=fps)
        self._at_rest = np.median(tracks.quantiles, axis=0)
        self._read = shipped_reader()
        self._portrait = Portrait(side)

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Self:  # noqa: ARG003 - everything is in the package
        """Pictures of the size that the study's preset has, and the study's noise."""
        made = cls(FaceCropper(CROP_SIDE), side=SIDES[study.face.preset], fps=study.face.fps)
        return made.with_noise_of(study.face)

    def measured(self, pictures: Pictures) -> Measures:
        """The released channels of the crops' track."""
        return self._read(pictures)[:, _COLUMNS]

    def drawn(self, normal: Measures) -> Pictures:
        """The public head."""
        tracks = np.tile(self._at_rest, (len(normal), 1))
        tracks[:, _COLUMNS] = self._public.values(normal)
        return np.stack([self._portrait(values) for values in tracks])

    def parameters(self) -> dict[str, Any]:
        """Which channels, and whose head."""
        own = {"channels": list(RELEASED), "public_person": PUBLIC_PERSON, "side": self._portrait.side}
        return {**super().parameters(), **own}
