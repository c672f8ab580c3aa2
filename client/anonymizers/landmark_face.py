"""A public person's face, drawn of landmarks that were found in the clip: Sun, Li, Qi and Lyu, 2022.

`moretta.shared.models.landmark_face` has the paper and the networks. A site finds landmarks by MediaPipe's face mesh,
which it fetches itself. No pixel of the clip is in a release; where the landmarks go still depends on the person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from moretta.client.anonymizers.expression_track import MeasuredFace, MeasuredOptions, NoiseSize
from moretta.client.anonymizers.face_baselines import Pictures
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.features.speaker_scale import Measures
from moretta.shared.models.drawn_landmarks import MESH_POINTS, normalized
from moretta.shared.models.landmark_face import SIDE, LandmarkFace, LandmarkTask
from moretta.shared.pretrained.cache import trained_arrays
from moretta.shared.release.anonymizer import Arrays, Notify, Speaker, anonymizer
from moretta.shared.study.public_arrays import PUBLIC_SEED, Rules
from moretta.shared.study.schema import Study

NAME = "landmark-face"


class LandmarkOptions(MeasuredOptions):
    """Options that a study may set. The defaults are as published: no scale of a person's own, and no noise."""

    preset: Literal["small"] = "small"
    """64 x 64 pixels."""
    clip_noise: NoiseSize = 0.0
    """Standard deviation of noise that is alike in a whole clip, in deviations of the public person's own points."""
    frame_noise: NoiseSize = 0.0
    """Standard deviation of noise that changes within a clip, in the same unit."""
    person_scale: bool = False
    """Whether each person's coordinates are ranked among the person's own first, as `expression-track` does it."""
    paired: bool = True
    """Whether the converter is trained with the points of the public person who does the same; the paper has none."""
    heads: int = Field(default=96, ge=8, le=10_000)
    """Drawn people that the converter is trained on."""
    converter_steps: int = Field(default=1_000, ge=1, le=500_000)
    """Steps of the converter's training."""
    pictures: int = Field(default=1_500, ge=50, le=100_000)
    """Pictures of the public person that the drawing network is trained on."""
    steps: int = Field(default=1_500, ge=1, le=500_000)
    """Steps of the drawing network's training."""

    def task(self) -> LandmarkTask:
        """The options as a task of the training."""
        return LandmarkTask(**self.model_dump(include=set(LandmarkTask.__slots__)))


@anonymizer(NAME, modality="face", version="1")
class LandmarkFaceAnonymizer(MeasuredFace):
    """Crop -> 98 points -> the public person's -> 24 coordinates -> a picture of the public person.

    Args:
        form: the pictures, or the coordinates that they are drawn from.

    Raises:
        AttackersError: the face mesh is not at this site.
    """

    Options = LandmarkOptions
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    needs_network = True  # the face mesh, which finds the points
    public_options = frozenset({"person", *LandmarkTask.__slots__})
    note = (
        "no formal guarantee: no pixel of the person is released, but where landmarks go is, and it depends on the "
        "person's shape, pose and way of moving; see the audit"
    )
    _options: LandmarkOptions

    def __init__(self, options: LandmarkOptions, networks: LandmarkFace, *, fps: float, form: str = "frames") -> None:
        self._mesh, self._networks = FaceMesh.load(), networks
        super().__init__(FaceMesh.cropper(), options, fps=fps, public=networks.public, form=form)
        self.uses_noise = options.person_scale or max(options.clip_noise, options.frame_noise) > 0

    @classmethod
    def missing(cls, study: Study) -> str | None:  # noqa: ARG003
        """The face mesh, and the command that fetches it."""
        return FaceMesh.missing()

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """Both networks, trained on drawn people once for each choice of options. Raises StudyError: the face mesh is
        not here."""
        if (why := FaceMesh.missing()) is not None:
            raise StudyError(f"the anonymizer {NAME} cannot run here: {why}")
        from moretta.shared.models.train_landmark_face import train_landmark_face

        task = LandmarkOptions.of(study.face.options).task()
        seed = derive(PUBLIC_SEED, "landmark faces")

        def trained() -> Arrays:
            return dict(train_landmark_face(task, seed=seed, notify=notify).arrays)

        return trained_arrays("landmark-faces", task.person, f"{task} {seed}", trained)

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """See `Anonymizer.public_rules`."""
        return LandmarkFace.rules()

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:
        """Build from the study and its networks. Errors: see `public_arrays.named`, and the class."""
        options = LandmarkOptions.of(study.face.options)
        return cls(options, LandmarkFace.from_arrays(public), fps=study.face.fps, form=study.face.form)

    def measured(self, pictures: Pictures) -> Measures:
        """Crops [frames, 192, 192, 3] -> coordinates [frames, 24]. Raises ClipError: no frame shows landmarks."""
        points = self._mesh.in_clip(pictures)
        if points is None:
            raise ClipError("no-face", f"{len(pictures)} frames without landmarks", expected="a face in some frame")
        return self._networks.coordinates(normalized(points[:, list(MESH_POINTS)]))

    def normal(self, measures: Measures, speaker: Speaker) -> Measures:
        """The measures as they are, or ranked among the person's own."""
        return super().normal(measures, speaker) if self._options.person_scale else measures

    def drawn(self, normal: Measures) -> Pictures:
        """[frames, 24] -> pictures [frames, 64, 64, 3]."""
        return self._networks.drawn(self._public.values(normal) if self._options.person_scale else normal)

    def parameters(self) -> dict[str, Any]:
        """How networks were made, and what was measured on drawn people."""
        chosen = self._options.model_dump(include={"person_scale", *LandmarkTask.__slots__} - {"person"})
        return {**super().parameters(), **chosen, "side": SIDE, "drawn_people": self._networks.figures.stated()}
