"""Face anonymizers that release how a person's face differs from that person's own usual look, worn by a public face.

The site measures every frame, brings each person's measures to one scale, and draws them as the same public person.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from moretta.client.anonymizers.anonymizer_registry import Array, Speaker
from moretta.client.anonymizers.face_base import CroppedFaceAnonymizer, Pictures
from moretta.shared.core.errors import ClipError
from moretta.shared.features.faces import CroppedClip, FaceCropper
from moretta.shared.features.speaker_scale import PUBLIC_CLIPS, WIDEST, Measures, PublicMeasures, SpeakerScale
from moretta.shared.privacy.noise import NoiseSource
from moretta.shared.study.schema import CLIP_NOISE, FRAME_NOISE, FaceSection, Study

REMEMBERED_CLIPS = 20_000
"""Measures kept from `fit` to `release`, so that no clip is searched for faces twice: some 2 kB each."""
NOISE_SECONDS = 0.3
"""How long the changing noise stays about the same: as slow as a face moves, so that it cannot be filtered out."""
SMOOTHING_SECONDS = 0.06
"""Standard deviation: shorter than a blink, longer than the jitter of single frames."""


@dataclass(frozen=True, slots=True)
class _Measured:
    measures: Measures
    found: CroppedClip
    """Without its pictures."""


class PersonalFaceAnonymizer(CroppedFaceAnonymizer):
    """Measures, scales by person, draws.

    Args:
        cropper: its side is what is measured, not what is released.
        public: the distribution that everybody's measures are brought to.
        fps: frames per second of the clips.
    """

    clip_noise: float = CLIP_NOISE
    """Standard deviation, in normal values, of noise that is alike in a whole clip."""
    frame_noise: float = FRAME_NOISE
    """The same of noise that changes within a clip."""

    def __init__(self, cropper: FaceCropper, public: PublicMeasures, *, fps: float) -> None:
        super().__init__(cropper)
        self._public = public
        self._fps = fps
        self._people: dict[Speaker, SpeakerScale] = {}
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
        return {"face_noise": min(study.face.clip_noise, study.face.frame_noise)}

    def with_noise_of(self, section: FaceSection) -> Self:
        """With as much noise as the study says."""
        self.clip_noise, self.frame_noise = section.clip_noise, section.frame_noise
        return self

    def fit(self, clips: Iterable[tuple[Speaker, Array]], noise: NoiseSource) -> None:
        """Measure everybody's clips, and draw everybody's offset."""
        own: dict[Speaker, list[Measures]] = defaultdict(list)
        for speaker, frames in clips:
            try:
                key = _key(frames)
                measured = self._remembered.get(key) or self._measure(frames)
            except Exception:  # noqa: S112 - the clip fails again, and is counted, when its turn comes
                continue
            if measured is None:
                continue
            own[speaker].append(measured.measures)
            if len(self._remembered) < REMEMBERED_CLIPS:
                self._remembered[key] = measured
        self._people = {speaker: SpeakerScale(measures, self._public, noise=noise) for speaker, measures in own.items()}
        self._clips_of = {speaker: len(measures) for speaker, measures in own.items()}

    def hidden(self, frames: Array, noise: NoiseSource, speaker: Speaker) -> tuple[Pictures, CroppedClip]:
        """Draw one clip of a person that `fit` was told of.

        Raises:
            ClipError: reason `no-face`; or `unknown-speaker`, without whose scale a release would show who it is.
        """
        measured = self._remembered.get(_key(frames)) or self._measure(frames)
        if measured is None:
            self._counts.update(clips_without_face=1)
            raise ClipError(
                "no-face", f"a clip of {len(frames)} frames without a face", expected="a face in some frame"
            )
        scale = self._people.get(speaker)
        if scale is None:
            raise ClipError(
                "unknown-speaker",
                "a clip of a person of whom no clip was measured",
                expected="`fit` with clips of everybody first",
            )
        normal = smoothed(scale(measured.measures), self._fps)
        noisy = normal + noise.normal(self.clip_noise, normal.shape[1:])
        noisy += self.frame_noise * slow_noise(noise, normal.shape, self._fps)
        return self.drawn(np.clip(noisy, -WIDEST, WIDEST)), measured.found

    @property
    def uses_noise(self) -> bool:
        """Everybody's offset is random."""
        return True

    def parameters(self) -> dict[str, Any]:
        """How people were brought to one scale, and how few clips there were of anybody."""
        fewest = min(self._clips_of.values(), default=0)
        noises = {
            "clip_noise": self.clip_noise,
            "frame_noise": self.frame_noise,
            "smoothing_seconds": SMOOTHING_SECONDS,
        }
        return {"public_clips": PUBLIC_CLIPS, **noises, "fewest_clips": fewest}

    def _measure(self, frames: Array) -> _Measured | None:
        """None without a face: what the middle of such a frame shows is no expression, and would spoil the scale."""
        found = self._cropper.crop_clip(frames)
        if found.centred:
            return None
        measures = self.measured(found.pictures)
        if not np.isfinite(measures).all():
            raise ClipError("check-failed", "measures of a face that are not finite")
        return _Measured(measures, replace(found, pictures=np.zeros((0, 0, 0, 3), np.uint8)))


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
