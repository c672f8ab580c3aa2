"""A track of expression, relative to the speaker's own usual face, shown by one public head.

The site measures every frame: how far brows, lids, nose, lips and jaw are from where this speaker usually has them, on
a scale that everybody shares. The release is drawn from these numbers: no pixel of the speaker is in it, nor skin,
shape, hair, pose or light. How people move, and how well their face is read, may still separate them. The numbers may
also be released themselves, as a sequence of codes.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast

import numpy as np
from pydantic import Field

from moretta.client.anonymizers.face_baselines import FaceAnonymizer, FaceOptions, Pictures
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError
from moretta.shared.features.faces import CroppedClip, FaceCropper
from moretta.shared.features.speaker_scale import PUBLIC_CLIPS, WIDEST, Measures, PublicMeasures, SpeakerScale
from moretta.shared.models.head.expression import CHANNELS
from moretta.shared.models.head.portrait import Portrait, PublicPerson
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Speaker, anonymizer
from moretta.shared.study.options import Options
from moretta.shared.study.schema import Study

RELEASED = (
    *("brows lowered", "inner brows raised", "outer brows raised", "lids closed", "lower lids tightened"),
    *("nose wrinkled", "lip corners up", "jaw open", "lips pressed", "eyes left"),
)
"""Channels that are read well from strangers' faces. A channel that is read badly says more about the face than about
its movement; it stays as public speakers have it in the middle."""
_COLUMNS = [CHANNELS.index(name) for name in RELEASED]
REMEMBERED_CLIPS = 20_000
"""Measures kept from `fit` to `release`, so that no clip is searched for faces twice: some 2 kB each."""
NOISE_SECONDS = 0.3
"""How long the changing noise stays about the same: as slow as a face moves, so that it cannot be filtered out."""
SMOOTHING_SECONDS = 0.06
"""Standard deviation: shorter than a blink, longer than the jitter of single frames."""
NoiseSize = Annotated[float, Field(ge=0, le=100)]
_Measured = tuple[Measures, CroppedClip]


class MeasuredOptions(FaceOptions):
    """Options of anonymizers that measure a face, add noise to normal values, and draw a public face with them."""

    preset: Literal["exact", "small"] = "exact"
    """Size of pictures, as for any face anonymizer. Only drawing and storage grow with it."""
    clip_noise: NoiseSize = 0.7
    """Standard deviation of noise that is alike in a whole clip."""
    frame_noise: NoiseSize = 0.7
    """Standard deviation of noise that changes within a clip."""
    person: PublicPerson = "cedar"
    """The public person whose face is drawn for everybody."""


class MeasuredFace(FaceAnonymizer):
    """Measures each frame, brings each speaker's measures to one scale, adds noise, and draws them.

    Args:
        cropper: its side is what is measured, not what is released.
        public: the distribution that everybody's measures are brought to.
        form: the pictures, or the numbers that they are drawn from.
    """

    Options: ClassVar[type[Options]] = MeasuredOptions
    forms = ("frames", "code-sequence")
    uses_noise = True

    def __init__(
        self, cropper: FaceCropper, options: MeasuredOptions, *, fps: float, public: PublicMeasures, form: str
    ) -> None:
        super().__init__(cropper)
        self.form, self._public, self._options, self._fps = form, public, options, fps
        self._scales: dict[Speaker, SpeakerScale] = {}
        self._fewest_clips = 0
        self._remembered: dict[bytes, _Measured] = {}

    @abstractmethod
    def measured(self, pictures: Pictures) -> Measures:
        """Crops [frames, side, side, 3] of a clip -> measures [frames, dimensions]."""

    @abstractmethod
    def drawn(self, normal: Measures) -> Pictures:
        """Pictures drawn from the normal values of a clip, [frames, dimensions], as they are released."""

    def normal(self, measures: Measures, speaker: Speaker) -> Measures:
        """Measures of a clip of a speaker whom `fit` measured, on the scale that everybody shares."""
        return self._scales[speaker](measures)

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """The smaller one of both noises."""
        options = cast(MeasuredOptions, cls.Options.of(study.face.options))
        return {"face_noise": min(options.clip_noise, options.frame_noise)}

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Measure all clips of each speaker, and draw each speaker's offset."""
        measures_of: dict[Speaker, list[Measures]] = defaultdict(list)
        for speaker, frames in clips:
            try:
                key = _key(frames)
                measured = self._remembered.get(key) or self._measure(frames)
            except Exception:  # noqa: S112 - the clip fails again, and is counted, when its turn comes
                continue
            if measured is None:
                continue
            measures_of[speaker].append(measured[0])
            if len(self._remembered) < REMEMBERED_CLIPS:
                self._remembered[key] = measured
        self._scales = {who: SpeakerScale(rows, self._public, noise=noise) for who, rows in measures_of.items()}
        self._fewest_clips = min(map(len, measures_of.values()), default=0)

    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Array, CroppedClip]:
        """Draw one clip of a speaker whom `fit` measured: without the speaker's scale it would identify the speaker."""
        measured = self._remembered.get(_key(frames)) or self._measure(frames)
        if measured is None:
            self._counts.update(clips_without_face=1)
            found = f"a clip of {len(frames)} frames without a face"
            raise ClipError("no-face", found, expected="a face in some frame")
        if speaker not in self._scales:
            found = "a clip of a person of whom no clip was measured"
            raise ClipError("unknown-speaker", found, expected="`fit` with clips of everybody first")
        normal = smoothed(self.normal(measured[0], speaker), self._fps)
        noisy = normal + noise.normal(self._options.clip_noise, normal.shape[1:])
        noisy += self._options.frame_noise * slow_noise(noise, normal.shape, self._fps)
        released = np.clip(noisy, -WIDEST, WIDEST)
        return self.drawn(released) if self.form == "frames" else released.astype(np.float32), measured[1]

    def parameters(self) -> dict[str, Any]:
        """The scale, the noise, the fewest clips of a speaker, and whose face is drawn."""
        return {
            **super().parameters(),
            "public_clips": PUBLIC_CLIPS,
            "clip_noise": self._options.clip_noise,
            "frame_noise": self._options.frame_noise,
            "smoothing_seconds": SMOOTHING_SECONDS,
            "fewest_clips": self._fewest_clips,
            "public_person": self._options.person,
        }

    def _measure(self, frames: Array) -> _Measured | None:
        """Measures and how faces were found, without pictures. None without a face: the middle of such a frame shows no
        expression, and would spoil the scale."""
        found = self._cropper.crop_clip(frames)
        if found.centred:
            return None
        measures = self.measured(found.pictures)
        if not np.isfinite(measures).all():
            raise ClipError("check-failed", "measures of a face that are not finite")
        return measures, replace(found, pictures=np.zeros((0, 0, 0, 3), np.uint8))


class TrackOptions(MeasuredOptions):
    """Options that a study may set. The noise is on numbers that vary by about 1 within a speaker."""


class Reading(NamedTuple):
    """A way to measure expression: side of the crops in pixels, the reader, and its measures of public people."""

    crop_side: int
    read: Callable[[Pictures], Measures]
    public: PublicMeasures


@anonymizer("expression-track", modality="face", version="1")
class ExpressionTrack(MeasuredFace):
    """Measures expression, and draws it as the same public person. `public`: the distribution that everybody's measures
    are brought to; default the shipped one."""

    Options = TrackOptions
    note = (
        "no formal guarantee: no pixel of the person is released, but how the face moves is, and a way of moving can "
        "identify people, the more so the more clips are known to be one person's; noise on each clip was chosen by "
        "attack, not by proof; of a person with one or two clips part of the usual look is released too"
    )

    def __init__(
        self,
        cropper: FaceCropper,
        options: TrackOptions,
        *,
        fps: float,
        public: PublicMeasures | None = None,
        form: str = "frames",
    ) -> None:
        reading = self.reading()
        super().__init__(cropper, options, fps=fps, public=public or reading.public.only(_COLUMNS), form=form)
        self._at_rest = np.median(reading.public.quantiles, axis=0)
        self._read, self._portrait = reading.read, Portrait(options.side, options.person)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:  # noqa: ARG003 - all is in the package
        """Pictures of the size, and noise as the study says."""
        options = TrackOptions.of(study.face.options)
        return cls(FaceCropper(cls.reading().crop_side), options, fps=study.face.fps, form=study.face.form)

    @classmethod
    def reading(cls) -> Reading:
        """How faces are measured."""
        from moretta.shared.features.face_track import CROP_SIDE, public_tracks, shipped_reader

        return Reading(CROP_SIDE, shipped_reader(), public_tracks())

    def measured(self, pictures: Pictures) -> Measures:
        """[frames, side, side, 3] -> the released channels of the crops' track, [frames, dimensions]."""
        return self._read(pictures)[:, _COLUMNS]

    def drawn(self, normal: Measures) -> Pictures:
        """Normal values of a clip, [frames, dimensions], as the public head shows them."""
        tracks = np.tile(self._at_rest, (len(normal), 1))
        tracks[:, _COLUMNS] = self._public.values(normal)
        return np.stack([self._portrait(values) for values in tracks])

    def parameters(self) -> dict[str, Any]:
        """Parameters of the base class, with the channels and the size of the head's pictures."""
        return {**super().parameters(), "channels": list(RELEASED), "side": self._portrait.side}


def smoothed(values: Measures, fps: float) -> Measures:
    """[frames, dimensions] averaged over neighbouring moments, whatever the frame rate."""
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(values, SMOOTHING_SECONDS * fps, axis=0, mode="nearest", truncate=2.0))


def slow_noise(noise: NoiseSource, shape: tuple[int, ...], fps: float) -> Measures:
    """Noise of variance 1 for the normal values of a clip, [frames, dimensions]."""
    from scipy.ndimage import gaussian_filter1d

    frames, dimensions = shape
    deviation = NOISE_SECONDS * fps
    margin = int(4 * deviation) + 1
    white = noise.normal(1.0, (frames + 2 * margin, dimensions))
    slow = gaussian_filter1d(white, deviation, axis=0, mode="constant")
    weights = gaussian_filter1d(np.eye(1, 2 * margin + 1, margin)[0], deviation, mode="constant")
    return np.asarray(slow[margin : margin + frames] / np.linalg.norm(weights))


def _key(frames: Array) -> bytes:
    digest = hashlib.sha256(f"{frames.dtype.str} {frames.shape} ".encode())
    digest.update(np.ascontiguousarray(frames).data if frames.size else b"")
    return digest.digest()
