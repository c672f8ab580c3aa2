"""What all face anonymizers share: whole frames in, equal crops of the face out, faces not found counted."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import LEDGER_UNITS, Anonymizer, Array, Speaker
from moretta.shared.core.terms import PrivacyStatement, PrivacyUnit
from moretta.shared.features.faces import CroppedClip, FaceCropper
from moretta.shared.privacy.mechanism import Mechanism
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.release_format import AnonymizerStatement
from moretta.shared.study.schema import Study

Pictures = npt.NDArray[np.uint8]
"""[frames, side, side, 3], RGB."""

SIDES = {"exact": 128, "small": 64}
"""Height and width in pixels of released faces, by the study's preset."""

COUNTED = ("frames", "frames_without_face", "frames_with_other_faces", "clips_without_face")
"""What a statement counts, beside clips that were dropped, such as for `several-faces`."""


class CroppedFaceAnonymizer(Anonymizer):
    """Crops the face out of every frame, then hides it in a way that may depend on whose it is.

    Args:
        cropper: finds and cuts faces.
    """

    epsilon: ClassVar[float | None] = None
    note: ClassVar[str]
    """What is, and what is not, promised."""

    def __init__(self, cropper: FaceCropper) -> None:
        self._cropper = cropper
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))

    @classmethod
    def from_study(cls, study: Study, shared: dict[str, Array]) -> Self:  # noqa: ARG003 - the baselines share nothing
        """Crops of the size that the study's preset has."""
        return cls(FaceCropper(SIDES[study.face.preset]))

    @property
    def form(self) -> str:
        """Pictures."""
        return "frames"

    def release(
        self,
        clips: Sequence[Array],
        noise: Sequence[NoiseSource],
        speakers: Sequence[Speaker],
    ) -> list[Array | Exception]:
        """uint8 [frames, side, side, 3] for each clip; in the place of a clip that failed, its error."""
        out: list[Array | Exception] = []
        for frames, source, speaker in zip(clips, noise, speakers, strict=True):
            try:
                out.append(self._released(frames, source, speaker))
            except Exception as error:  # whatever it is, the clip stays here and is counted
                out.append(error)
        return out

    def statement(self, sizes: dict[str, list[int]], noise: Literal["system", "seeded"]) -> AnonymizerStatement:
        """Parameters, what is promised, and how often no face was found."""
        del sizes  # no figure here is composed over frames
        return AnonymizerStatement(
            modality=self.modality,
            name=self.name,
            version=self.version,
            form=self.form,
            parameters={"side": self._cropper.side, "detector": self._cropper.detector, **self.parameters()},
            privacy=(PrivacyStatement(mechanism=self.name, unit="clip", epsilon=self.epsilon, note=self.note),),
            noise=noise if self.uses_noise else "none",
            counts=dict(self._counts),
        )

    @classmethod
    def planned_losses(cls, study: Study, sizes: dict[str, list[int]]) -> dict[PrivacyUnit, tuple[Mechanism, ...]]:
        """Nothing where the picture does not depend on the clip; else no guarantee."""
        return dict.fromkeys(LEDGER_UNITS, ()) if cls.epsilon == 0 else super().planned_losses(study, sizes)

    def parameters(self) -> dict[str, Any]:
        """What the statement says besides the crops' size and the detector."""
        return {}

    @property
    def uses_noise(self) -> bool:
        """Whether anything random is in the release."""
        return False

    @abstractmethod
    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Pictures, CroppedClip]:
        """What is released in place of a clip, and how its faces were found."""

    def _released(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> Pictures:
        pictures, found = self.hidden(frames, noise, speaker)
        missing = len(frames) if found.centred else found.borrowed
        self._counts.update(
            frames=len(frames),
            frames_without_face=missing,
            frames_with_other_faces=found.with_others,
            clips_without_face=int(found.centred),
        )
        return pictures


class FaceAnonymizer(CroppedFaceAnonymizer):
    """Hides the crops of a clip without regard to whose they are."""

    @abstractmethod
    def hide(self, pictures: Pictures, noise: NoiseSource) -> Pictures:
        """What is released in place of the crops of one clip."""

    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Pictures, CroppedClip]:  # noqa: ARG002
        """Crop, then hide."""
        found = self._cropper.crop_clip(frames)
        return self.hide(found.pictures, noise), found
