"""What all face anonymizers share: whole frames in, equal crops of the face out, faces not found counted."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.faces import CroppedClip, FaceCropper
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import LEDGER_UNITS, Anonymizer, Array, Losses, Sizes, Speaker
from moretta.shared.study.options import Options
from moretta.shared.study.schema import Study

Pictures = npt.NDArray[np.uint8]
"""[frames, side, side, 3], RGB."""
SIDES = {"exact": 128, "small": 64}
"""Height and width in pixels of released faces, by the preset."""
COUNTED = ("frames", "frames_without_face", "frames_with_other_faces", "clips_without_face")
"""What a statement counts, besides clips that were dropped, such as for `several-faces`."""


class FaceOptions(Options):
    """What a study chooses for any face anonymizer."""

    preset: Literal["exact", "small"] = "small"
    """`exact`: 128 x 128 pixels, the size of the original autoencoder; `small`: 64 x 64."""

    @property
    def side(self) -> int:
        """Height and width of released faces in pixels."""
        return SIDES[self.preset]


class CroppedFaceAnonymizer(Anonymizer):
    """Crops the face out of every frame, then hides it in a way that may depend on the speaker.

    Args:
        cropper: finds and cuts faces.
    """

    Options = FaceOptions
    forms = ("frames",)
    form = "frames"
    uses_noise = False
    epsilon: ClassVar[float | None] = None
    note: ClassVar[str]
    """What is, and what is not, promised."""

    def __init__(self, cropper: FaceCropper) -> None:
        self._cropper = cropper
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:  # noqa: ARG003 - most need no arrays
        """Crops of the size that the study's preset has."""
        return cls(FaceCropper(FaceOptions.of(study.face.options).side))

    @abstractmethod
    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Pictures, CroppedClip]:
        """What is released in place of a clip, and how its faces were found."""

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Pictures:
        """uint8 [frames, side, side, 3]."""
        pictures, found = self.hidden(clip, noise, speaker)
        self._counts.update(
            frames=len(clip),
            frames_without_face=len(clip) if found.centred else found.borrowed,
            frames_with_other_faces=found.with_others,
            clips_without_face=int(found.centred),
        )
        return pictures

    def parameters(self) -> dict[str, Any]:
        """The size of the crops, and what found them."""
        return {"side": self._cropper.side, "detector": self._cropper.detector}

    def counts(self) -> dict[str, int]:
        """How often no face was found."""
        return dict(self._counts)

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:  # noqa: ARG002 - nothing is composed over frames
        """Of a clip."""
        return (PrivacyStatement(mechanism=self.name, unit="clip", epsilon=self.epsilon, note=self.note),)

    @classmethod
    def planned_losses(cls, study: Study, sizes: Sizes) -> Losses:
        """Nothing where the picture does not depend on the clip; else no guarantee."""
        return dict.fromkeys(LEDGER_UNITS, ()) if cls.epsilon == 0 else super().planned_losses(study, sizes)


class FaceAnonymizer(CroppedFaceAnonymizer):
    """Hides the crops of a clip, whoever the speaker is."""

    @abstractmethod
    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:
        """What is released in place of the crops of one clip."""

    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Pictures, CroppedClip]:  # noqa: ARG002
        """Crop, then hide."""
        found = self._cropper.crop_clip(frames)
        return self.hide(found.pictures, noise), found
