"""The base of face anonymizers, and baselines: as it is, one grey picture, and two that look private and are weak.

Whole frames in, equal crops of the face out; frames in which no face was found are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import cv2
import numpy as np

from moretta.shared.core.array_types import Array, UInt8
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.features.faces import CroppedClip, FaceCropper, check_frames
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import LEDGER_UNITS, Anonymizer, Losses, Sizes, Speaker, anonymizer
from moretta.shared.study.options import Options
from moretta.shared.study.schema import Study

Pictures = UInt8
"""[frames, side, side, 3], RGB."""
SIDES = {"exact": 128, "small": 64}
"""Height and width in pixels of released faces, by the preset."""
COUNTED = ("frames", "frames_without_face", "frames_with_other_faces", "clips_without_face")
"""Counts in a statement, besides clips that were dropped, such as for `several-faces`."""
GREY = 128
SIGMA = 1 / 16
"""Standard deviation of the blur as a part of the crop's side: 8 pixels of 128."""
BLOCKS = 8
"""Blocks along each side of a mosaic."""


class FaceOptions(Options):
    """Options that a study may set for any face anonymizer."""

    preset: Literal["exact", "small"] = "small"
    """`exact`: 128 x 128 pixels, the size of the original autoencoder; `small`: 64 x 64."""

    @property
    def side(self) -> int:
        """Height and width of released faces in pixels."""
        return SIDES[self.preset]


class FaceAnonymizer(Anonymizer):
    """Crops the face out of every frame, then hides it: in `hide`, or in `hidden` where that depends on the speaker."""

    Options: ClassVar[type[Options]] = FaceOptions
    forms: ClassVar[tuple[str, ...]] = ("frames",)
    form = "frames"
    uses_noise = False
    epsilon: ClassVar[float | None] = None
    note: ClassVar[str]
    """Note of the privacy statement: what the release guarantees, and what it does not."""

    def __init__(self, cropper: FaceCropper) -> None:
        self._cropper = cropper
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:  # noqa: ARG003 - most need no arrays
        """Crops of the size that the study's preset has."""
        return cls(FaceCropper(FaceOptions.of(study.face.options).side))

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:
        """Pictures that are released in place of the crops of one clip, uint8 [frames, side, side, 3]."""
        raise NotImplementedError(f"{self.name} has neither `hide` nor `hidden`")

    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Array, CroppedClip]:  # noqa: ARG002
        """The array that is released in place of a clip, and the crops that were found in it."""
        found = self._cropper.crop_clip(frames)
        return self.hide(found.pictures, noise), found

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Array:
        """uint8 [frames, side, side, 3], or codes where the anonymizer releases them."""
        released, found = self.hidden(clip, noise, speaker)
        without = len(clip) if found.centred else found.borrowed
        self._counts.update(frames=len(clip), frames_without_face=without, clips_without_face=int(found.centred))
        self._counts.update(frames_with_other_faces=found.with_others)
        return released

    def parameters(self) -> dict[str, Any]:
        """The size of the crops, and what found them."""
        return {"side": self._cropper.side, "detector": self._cropper.detector}

    def counts(self) -> dict[str, int]:
        """How often no face was found."""
        return dict(self._counts)

    def privacy(self, sizes: Sizes) -> tuple[PrivacyStatement, ...]:  # noqa: ARG002 - nothing is composed over frames
        """Guarantee for a clip."""
        return (PrivacyStatement(mechanism=self.name, unit="clip", epsilon=self.epsilon, note=self.note),)

    @classmethod
    def planned_losses(cls, study: Study, sizes: Sizes) -> Losses:
        """None where the picture does not depend on the clip; else no guarantee."""
        return dict.fromkeys(LEDGER_UNITS, ()) if cls.epsilon == 0 else super().planned_losses(study, sizes)


@anonymizer("none", modality="face", version="1")
class NoFaceAnonymizer(FaceAnonymizer):
    """No anonymization: the anchor that shows what an attacker can do at most."""

    note = "the faces are released as they are: nothing is hidden"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops."""
        return pictures


@anonymizer("constant", modality="face", version="1")
class ConstantFaceAnonymizer(FaceAnonymizer):
    """One grey picture a clip, which hides even its length: the anchor at which every attacker must be at chance."""

    epsilon = 0.0
    note = "the picture does not depend on the clip; that there is a clip, and its label, is released"

    def release_clip(self, clip: Array, noise: NoiseSource, speaker: Speaker) -> Pictures:  # noqa: ARG002
        """No face is searched for: whether a clip shows one is not counted either."""
        check_frames(clip)
        return np.full((1, self._cropper.side, self._cropper.side, 3), GREY, np.uint8)


@anonymizer("blur", modality="face", version="1")
class BlurFaceAnonymizer(FaceAnonymizer):
    """Gaussian blur of every crop."""

    note = "no formal guarantee: a blur keeps coarse shape and colour, and attackers trained on blurred faces read it"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops, blurred."""
        sigma = SIGMA * pictures.shape[1]
        return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in pictures])

    def parameters(self) -> dict[str, Any]:
        """The width of the blur."""
        return {**super().parameters(), "sigma_pixels": SIGMA * self._cropper.side}


@anonymizer("pixelate", modality="face", version="1")
class PixelateFaceAnonymizer(FaceAnonymizer):
    """Replaces each block of pixels by its mean."""

    note = "no formal guarantee: a mosaic keeps coarse shape and colour, and attackers trained on mosaics read it"

    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:  # noqa: ARG002
        """The crops as mosaics of 8 x 8 blocks."""
        side = pictures.shape[1]
        means = (cv2.resize(picture, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA) for picture in pictures)
        return np.stack([cv2.resize(mean, (side, side), interpolation=cv2.INTER_NEAREST) for mean in means])

    def parameters(self) -> dict[str, Any]:
        """The number of blocks."""
        return {**super().parameters(), "blocks": BLOCKS}
