"""One of six faces of a public person for each clip: expression translation, with the emotion by randomized response.

Tang and Sebe, 2022, translate a face to another expression and keep whose face it is (`moretta.shared.models.
translated_face`). By itself that hides nobody. So the face that is translated here is a public person's, and all that
comes from the clip is the emotion: what `emotion-label-rr` does for voices, with its guarantee and its limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moretta.client.anonymizers.emotion_labeler import EmotionLabeler
from moretta.client.anonymizers.expression_track import RELEASED
from moretta.client.anonymizers.label_release import LabelRelease, check_classes, label_losses
from moretta.client.anonymizers.speaker_references import Rows
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.reproducibility import derive
from moretta.shared.features.face_track import CROP_SIDE, shipped_reader
from moretta.shared.features.faces import FaceCropper, check_frames
from moretta.shared.features.speaker_normalization import SpeakerRanks
from moretta.shared.models.head.expression import CHANNELS
from moretta.shared.models.head.portrait import PublicPerson
from moretta.shared.models.translated_face import SIDE, TranslationTask, portraits, public_clips, trained_translator
from moretta.shared.pretrained.cache import trained_arrays
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.release.anonymizer import Arrays, Losses, Notify, Sizes, Speaker, anonymizer
from moretta.shared.study.options import Options
from moretta.shared.study.public_arrays import LEAST_SPREAD, PUBLIC_SEED, Rule, Rules, taken
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import Epsilon

NAME = "translated-face"
PICTURES = "face/translated/pictures"
LABELER = tuple(f"face/translated/{name}" for name in ("spread", "weights", "bias"))
_COLUMNS = [CHANNELS.index(name) for name in RELEASED]
_STATISTICS = 3
SEED = derive(PUBLIC_SEED, "translated faces")


class TranslatedOptions(Options):
    """Options that a study may set."""

    person: PublicPerson = "cedar"
    """The public person whose face is released."""
    labels_from: Literal["site", "public"] = "site"
    """The training clips of the labeler: those of the site's other people, or of drawn people."""
    label_epsilon: Epsilon = 3.5
    """Epsilon of one label."""
    heads: int = Field(default=60, ge=2, le=10_000)
    """Drawn people that the translating networks are trained on."""
    steps: int = Field(default=4_000, ge=1, le=500_000)
    """Steps of the networks' training."""

    def response(self) -> RandomizedResponse:
        """The randomized response of one label."""
        return RandomizedResponse(choices=len(EMOTIONS), token_epsilon=self.label_epsilon, unit="clip")

    def task(self) -> TranslationTask:
        """The options as a task of the networks' training."""
        return TranslationTask(heads=self.heads, steps=self.steps)


@anonymizer(NAME, modality="face", version="1")
class TranslatedFace(LabelRelease[TranslatedOptions]):
    """One picture a clip, which hides even its length; a clip without a face gets a label, too, and is not counted.

    Args:
        pictures: float32 [6, 64, 64, 3] in [0, 1], of the public person in each emotion.
        public: the labeler of drawn people, and the spread that ranks are made with.
    """

    Options = TranslatedOptions
    forms = ("frames",)
    strengths = ("label_epsilon",)
    is_reproducible = False  # thousands of steps of training come out differently on another machine
    public_options = frozenset({"person", "heads", "steps"})
    measurements = _STATISTICS * len(RELEASED)

    def __init__(self, options: TranslatedOptions, pictures: Array, public: EmotionLabeler) -> None:
        super().__init__(options, "frames", public, options.response(), options.labels_from)
        self._pictures = (np.clip(pictures, 0, 1) * 255).round().astype(np.uint8)
        self._cropper = FaceCropper(CROP_SIDE)

    @classmethod
    def prepare_public(cls, study: Study, notify: Notify) -> Arrays:
        """The six pictures, and a labeler of drawn people, once for each choice of options."""
        check_classes(study, cls.name, cls.modality)
        options = cls.options_of(study)

        def trained() -> Arrays:
            notify("drawing and measuring clips of public people")
            return labeler_of(public_clips(seed=SEED)).to_arrays(LABELER)

        pictures = portraits(trained_translator(options.task(), seed=SEED, notify=notify), options.person)
        labeler = trained_arrays("face-labelers", "drawn", f"{SEED}", trained)
        return {PICTURES: pictures.astype(np.float32) / np.float32(255), **labeler}

    @classmethod
    def public_rules(cls, study: Study) -> Rules:  # noqa: ARG003
        """See `Anonymizer.public_rules`."""
        pictures = Rule((len(EMOTIONS), SIDE, SIDE, 3), 1.0, 0.0)
        return {PICTURES: pictures, **EmotionLabeler.rules(LABELER, cls.measurements)}

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:
        """Build from the study and the coordinator's arrays. Raises StudyError: they are not what the rules say, or the
        study's classes are not the six emotions."""
        check_classes(study, cls.name, cls.modality)
        (pictures,) = taken(public, {PICTURES: cls.public_rules(study)[PICTURES]})
        return cls(cls.options_of(study), pictures, EmotionLabeler.from_arrays(public, LABELER, cls.measurements))

    def usable(self, clips: Iterable[tuple[Speaker, Array]]) -> Iterator[tuple[Speaker, Array]]:
        """Pictures that pass `check_frames`."""
        for speaker, clip in clips:
            try:
                check_frames(clip)
            except ClipError:
                continue
            yield speaker, clip

    def measured(self, clip: Array) -> Rows:
        """Mean, highest tenth and spread of the expression channels over a clip, float32 [1, n]; zeros without a face.

        Clips without a face are neither dropped nor counted: no epsilon would cover that.
        """
        try:
            found = self._cropper.crop_clip(clip)
        except ClipError:
            found = None
        if found is None or found.centred:
            return np.zeros((1, self.measurements), np.float32)
        return track_statistics(found.pictures)

    def shown(self, label: npt.NDArray[np.int32]) -> Array:
        """The public person with this emotion, uint8 [1, 64, 64, 3]."""
        return self._pictures[label]

    def parameters(self) -> dict[str, Any]:
        """How labels were made, and the pictures."""
        chosen = self._options.model_dump(include={"person", "heads", "steps"})
        return {**super().parameters(), **chosen, "side": SIDE, "detector": self._cropper.detector}

    @classmethod
    def losses_of(cls, options: TranslatedOptions, sizes: Sizes) -> Losses:
        """See `label_losses`."""
        return label_losses(options.response(), options.labels_from, sizes)


def track_statistics(pictures: Array) -> Rows:
    """Crops [frames, 96, 96, 3] of a clip -> float32 [1, 30]."""
    track = shipped_reader()(pictures)[:, _COLUMNS]
    rows = np.concatenate([track.mean(axis=0), np.quantile(track, 0.9, axis=0), track.std(axis=0)])
    return np.asarray(np.nan_to_num(rows, posinf=0, neginf=0)[None], np.float32)


def labeler_of(people: Iterable[Iterable[tuple[Array, int]]]) -> EmotionLabeler:
    """Trained on clips [frames, height, width, 3] of public people, each with its class index."""
    cropper = FaceCropper(CROP_SIDE)
    measured, emotions = [], []
    for clips in people:
        kept = [(found.pictures, label) for clip, label in clips if not (found := cropper.crop_clip(clip)).centred]
        measured.append(np.concatenate([track_statistics(pictures) for pictures, _ in kept]))
        emotions += [label for _, label in kept]
    spread = np.sqrt(np.mean([rows.var(axis=0) for rows in measured], axis=0)).clip(2 * LEAST_SPREAD).astype(np.float32)
    places = [SpeakerRanks.of(rows, np.ones(len(rows)), spread)(rows) for rows in measured]
    return EmotionLabeler.learn(np.concatenate(places), np.array(emotions), spread)
