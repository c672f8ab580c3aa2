"""A track of expression, relative to the speaker's own usual face, shown by one public head.

The site measures every frame: how far brows, lids, nose, lips and jaw are from where this speaker usually has them, on
a scale that everybody shares. The release is drawn from these numbers. No pixel of the speaker is in it, nor skin,
shape, hair, pose or light. What may still tell people apart is how they move, and how well their face is read; the
audit measures both.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moretta.client.anonymizers.face_base import CroppedFaceAnonymizer, FaceOptions, Pictures
from moretta.shared.core.errors import ClipError
from moretta.shared.features.faces import CroppedClip, FaceCropper
from moretta.shared.features.speaker_scale import PUBLIC_CLIPS, WIDEST, Measures, PublicMeasures, SpeakerScale
from moretta.shared.models.head.expression import CHANNELS
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.release.anonymizer import Array, Speaker, anonymizer
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


class TrackOptions(FaceOptions):
    """What a study chooses: noise on numbers that vary by about 1 within a speaker."""

    clip_noise: NoiseSize = 0.7
    """Standard deviation of noise that is alike in a whole clip."""
    frame_noise: NoiseSize = 0.7
    """The same of noise that changes within a clip."""


@dataclass(frozen=True, slots=True)
class _Measured:
    measures: Measures
    found: CroppedClip
    """Without its pictures."""


class PersonalFaceAnonymizer(CroppedFaceAnonymizer):
    """Measures each frame, brings each speaker's measures to one scale, and draws them as the same public person.

    Args:
        cropper: its side is what is measured, not what is released.
        public: the distribution that everybody's measures are brought to.
        options: what the study chooses.
        fps: frames per second of the clips.
    """

    Options = TrackOptions
    uses_noise = True

    def __init__(self, cropper: FaceCropper, public: PublicMeasures, options: TrackOptions, *, fps: float) -> None:
        super().__init__(cropper)
        self._public, self._options, self._fps = public, options, fps
        self._scales: dict[Speaker, SpeakerScale] = {}
        self._clips_of: dict[Speaker, int] = {}
        self._remembered: dict[bytes, _Measured] = {}

    @abstractmethod
    def measured(self, pictures: Pictures) -> Measures:
        """[frames, side, side, 3] -> [frames, dimensions]."""

    @abstractmethod
    def drawn(self, normal: Measures) -> Pictures:
        """Normal values of a clip, [frames, dimensions], as the public face shows them."""

    @classmethod
    def strength(cls, study: Study) -> dict[str, float]:
        """The smaller of both noises."""
        options = TrackOptions.of(study.face.options)
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
            measures_of[speaker].append(measured.measures)
            if len(self._remembered) < REMEMBERED_CLIPS:
                self._remembered[key] = measured
        self._scales = {who: SpeakerScale(rows, self._public, noise=noise) for who, rows in measures_of.items()}
        self._clips_of = {who: len(rows) for who, rows in measures_of.items()}

    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Pictures, CroppedClip]:
        """Draw one clip of a speaker whom `fit` measured.

        Raises:
            ClipError: reason `no-face`; or `unknown-speaker`, without whose scale a release would identify the speaker.
        """
        measured = self._remembered.get(_key(frames)) or self._measure(frames)
        if measured is None:
            self._counts.update(clips_without_face=1)
            raise ClipError(
                "no-face", f"a clip of {len(frames)} frames without a face", expected="a face in some frame"
            )
        scale = self._scales.get(speaker)
        if scale is None:
            raise ClipError(
                "unknown-speaker",
                "a clip of a person of whom no clip was measured",
                expected="`fit` with clips of everybody first",
            )
        normal = smoothed(scale(measured.measures), self._fps)
        noisy = normal + noise.normal(self._options.clip_noise, normal.shape[1:])
        noisy += self._options.frame_noise * slow_noise(noise, normal.shape, self._fps)
        return self.drawn(np.clip(noisy, -WIDEST, WIDEST)), measured.found

    def parameters(self) -> dict[str, Any]:
        """The scale, the noise, and the fewest clips of a speaker."""
        return {
            **super().parameters(),
            "public_clips": PUBLIC_CLIPS,
            "clip_noise": self._options.clip_noise,
            "frame_noise": self._options.frame_noise,
            "smoothing_seconds": SMOOTHING_SECONDS,
            "fewest_clips": min(self._clips_of.values(), default=0),
        }

    def _measure(self, frames: Array) -> _Measured | None:
        """None without a face: the middle of such a frame shows no expression, and would spoil the scale."""
        found = self._cropper.crop_clip(frames)
        if found.centred:
            return None
        measures = self.measured(found.pictures)
        if not np.isfinite(measures).all():
            raise ClipError("check-failed", "measures of a face that are not finite")
        return _Measured(measures, replace(found, pictures=np.zeros((0, 0, 0, 3), np.uint8)))


@anonymizer("expression-track", modality="face", version="1")
class ExpressionTrack(PersonalFaceAnonymizer):
    """Releases pictures of a drawn head that moves as the speaker does. Arguments: see the base class."""

    note = (
        "no formal guarantee: no pixel of the person is released, but how the face moves is, and a way of moving can "
        "tell people apart, the more so the more clips are known to be one person's; noise on each clip was chosen by "
        "attack, not by proof; of a person with one or two clips part of the usual look is released too"
    )

    def __init__(self, cropper: FaceCropper, options: TrackOptions, *, fps: float) -> None:
        from moretta.shared.features.face_track import public_tracks, shipped_reader
        from moretta.shared.models.head.render import Portrait

        tracks = public_tracks()
        super().__init__(cropper, tracks.only(_COLUMNS), options, fps=fps)
        self._at_rest = np.median(tracks.quantiles, axis=0)
        self._read, self._portrait = shipped_reader(), Portrait(options.side)

    @classmethod
    def from_study(cls, study: Study, public: Mapping[str, Array]) -> Self:  # noqa: ARG003 - all is in the package
        """Pictures of the size, and noise as the study says."""
        from moretta.shared.features.face_track import CROP_SIDE

        return cls(FaceCropper(CROP_SIDE), TrackOptions.of(study.face.options), fps=study.face.fps)

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
        from moretta.shared.models.head.render import PUBLIC_PERSON

        own = {"channels": list(RELEASED), "public_person": PUBLIC_PERSON, "side": self._portrait.side}
        return {**super().parameters(), **own}


def smoothed(values: Measures, fps: float) -> Measures:
    """[frames, dimensions] averaged over neighbouring moments, whatever the frame rate."""
    from scipy.ndimage import gaussian_filter1d

    deviation = SMOOTHING_SECONDS * fps
    kept: npt.NDArray[Any] = gaussian_filter1d(values, deviation, axis=0, mode="nearest", truncate=2.0)
    return kept


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
