"""Dense landmarks with their accuracy from crops of a face, and the head that fits them.

Wood et al., "3D face reconstruction with dense landmarks", ECCV 2022. Two stages: the network of `face_track` lays a
face where all faces are, and that of `landmark_net` finds its points, by which it is laid again. Both come with the
package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from moretta.shared.core.array_types import Array, Float64, UInt8
from moretta.shared.features.face_track import (
    SKULL,
    Points,
    Track,
    TrackReader,
    aligned,
    grey_of,
    run,
    shipped_reader,
    similarity,
    steady,
)
from moretta.shared.features.head_fit import STEADINESS, FittedHead, fit_head
from moretta.shared.features.speaker_scale import PublicMeasures
from moretta.shared.models.expression_nets import filled, shipped_arrays
from moretta.shared.models.head_model import HeadModel
from moretta.shared.models.landmark_net import EYES, FILE, PIXELS_PER_DECIMETRE, SIDE, LandmarkNet

CROP_SIDE = 160
"""Pixels of the crops that landmarks are looked for in, whatever the size of the release."""
REFINED = 2
"""How often a face is aligned again by the landmarks that were found: the first network lays it a little aside."""
_PLACES = PIXELS_PER_DECIMETRE * SKULL + EYES


@dataclass(frozen=True)
class FoundPoints:
    """Points of the head model in pixels of a crop: `places` [frames, points, 2], `sigma` [frames, points]."""

    places: Float64
    sigma: Float64


@dataclass(frozen=True)
class LandmarkReader:
    """Finds landmarks, and fits heads to them.

    Attributes:
        stage: what aligns faces.
        net: what finds points in aligned ones.
        model: of heads.
        factor: what the network's standard deviations are multiplied by.
        skull: reads the skull's points off the landmarks, [1 + 2 * points, 10].
    """

    stage: TrackReader
    net: LandmarkNet
    model: HeadModel
    factor: float
    skull: Float64

    def __call__(self, pictures: UInt8) -> Track:
        """Expression channels of the crops of one clip, uint8 [frames, side, side, 3] RGB, of any side."""
        return np.asarray(self.fit(pictures).channels, np.float32)

    def fit(self, pictures: UInt8, *, steadiness: float = STEADINESS) -> FittedHead:
        """The head of one person in crops [frames, side, side, 3]; for `steadiness` see `fit_head`."""
        found = self.find(pictures, follow=np.isfinite(steadiness))
        return fit_head(self.model, found.places, found.sigma, steadiness=steadiness)

    def find(self, pictures: UInt8, *, follow: bool = True) -> FoundPoints:
        """The points of crops [frames, side, side, 3], which `follow` one another or do not."""
        grey = grey_of(pictures)
        skull = self.stage.find_points(grey)
        for _ in range(REFINED):
            skull = self._look(grey, steady(skull) if follow else skull)[1]
        return self._look(grey, steady(skull) if follow else skull)[0]

    def _look(self, grey: UInt8, skull: Points) -> tuple[FoundPoints, Points]:
        """Landmarks of faces that were aligned by these points of the skull, and a better guess of these."""
        matrices = np.stack([similarity(own, _PLACES) for own in skull])  # [frames, 2, 3]
        faces = np.stack([aligned(picture, own, SIDE) for picture, own in zip(grey, matrices, strict=True)])
        found = run(self.net, faces).astype(np.float64)
        places = found[:, :, :2]
        back = np.linalg.inv(matrices[:, :, :2])
        scale = np.sqrt(np.abs(np.linalg.det(back)))[:, None]
        sigma = self.factor * np.exp(found[:, :, 2]) * PIXELS_PER_DECIMETRE * scale
        flat = np.hstack([np.ones((len(places), 1)), places.reshape(len(places), -1)])
        again = (flat @ self.skull).reshape(len(places), -1, 2)

        def in_picture(inside: Float64) -> Float64:
            pixels = inside * PIXELS_PER_DECIMETRE + EYES - matrices[:, None, :, 2]
            return np.asarray(pixels @ back.transpose(0, 2, 1))

        return FoundPoints(in_picture(places), sigma), in_picture(again)


@cache
def shipped_landmarks() -> LandmarkReader:
    """The reader that comes with the package."""
    return landmarks_from(shipped_arrays(FILE))


def landmarks_from(arrays: Mapping[str, Array]) -> LandmarkReader:
    """A reader with the arrays that `deploy/synth/build_landmarks.py` made."""
    model = HeadModel.from_arrays(arrays, "model.")
    net = filled(LandmarkNet(len(model)), "net.", arrays)
    skull = np.asarray(arrays["skull"], np.float64)
    return LandmarkReader(shipped_reader(), net, model, float(arrays["factor"][0]), skull)


@cache
def public_fits() -> PublicMeasures:
    """How the fitted channels of public people are distributed."""
    return PublicMeasures.from_arrays(shipped_arrays(FILE), "public.")
