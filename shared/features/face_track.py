"""Expression tracks: crops of a face in, its movement out, frame by frame.

Each frame's face is found by five points of the skull, laid onto the same place, and read by a small network. Both
networks come with the package, so nothing has to be fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import torch

from moretta.shared.core.array_types import Array, Float32, Float64, UInt8
from moretta.shared.features.speaker_scale import PublicMeasures
from moretta.shared.models import expression_nets as nets

CROP_SIDE = 96
"""Pixels of the crops that tracks are read from, whatever the size of the release."""
BATCH = 16
"""Frames at once. It is fixed, and the last batch is filled up, so that a frame's track does not depend on others."""
PIXELS_PER_DECIMETRE = 34.0
_EYES = (32.0, 20.0)
SKULL = np.array([[0.308, 0.0], [-0.308, 0.0], [0.0, 0.375], [0.0, 0.667], [0.0, 0.93]])
"""The points of an average skull from the front, (right in the picture, down) from between the eyes, in decimetres."""
PLACES = SKULL * PIXELS_PER_DECIMETRE + _EYES
"""Where an aligned face has the points, in pixels."""

Track = Float32
"""[frames, channels], in the order of `moretta.shared.models.head.expression.CHANNELS`."""
Points = Float64


@dataclass(frozen=True)
class TrackReader:
    """Reads tracks with two networks: one finds the skull's points, one reads an aligned face.

    The outputs of the second are multiplied by `spread`, [channels].
    """

    points: nets.PointNet
    channels: nets.ChannelNet
    spread: Float32

    def __call__(self, pictures: UInt8) -> Track:
        """The track of the crops of one clip, uint8 [frames, side, side, 3] RGB, of any side."""
        grey = grey_of(pictures)
        places = self.steady_points(grey)
        faces = np.stack([aligned(picture, similarity(own, PLACES)) for picture, own in zip(grey, places, strict=True)])
        return np.asarray(run(self.channels, faces) * self.spread, np.float32)

    def steady_points(self, grey: UInt8) -> Points:
        """See `find_points` with `steady`."""
        return steady(self.find_points(grey))

    def find_points(self, grey: UInt8) -> Points:
        """Where the skull's points are, uint8 [frames, side, side] -> [frames, points, 2] in pixels (right, down)."""
        side, own = grey.shape[1], nets.POINT_SIDE
        small = np.stack([cv2.resize(picture, (own, own), interpolation=cv2.INTER_AREA) for picture in grey])
        inside = (run(self.points, small).reshape(-1, nets.POINTS, 2) + 1) * own / 2
        return np.asarray((inside + 0.5) * side / own - 0.5, np.float64)


@cache
def shipped_reader() -> TrackReader:
    """The reader that comes with the package."""
    return reader_from(nets.shipped_arrays())


def reader_from(arrays: Mapping[str, Array]) -> TrackReader:
    """A reader with the tensors of both networks."""
    points = nets.filled(nets.PointNet(), "points.", arrays)
    channels = nets.filled(nets.ChannelNet(), "channels.", arrays)
    return TrackReader(points, channels, np.asarray(arrays["spread"], np.float32))


@cache
def public_tracks() -> PublicMeasures:
    """How the tracks of public people are distributed."""
    return PublicMeasures.from_arrays(nets.shipped_arrays(), "public.")


def steady(points: Points) -> Points:
    """[frames, points, 2] averaged with the neighbouring frames: a head moves less than a network's outputs jitter."""
    padded = np.pad(points, ((1, 1), (0, 0), (0, 0)), mode="edge")
    return np.asarray(0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:])


def aligned(picture: UInt8, matrix: Points, side: int = nets.FACE_SIDE) -> UInt8:
    """One grey picture turned, moved and scaled by `similarity`'s matrix, [side, side]."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    # A picture that is made much smaller would otherwise lose pixels between the samples.
    source = cv2.GaussianBlur(picture, (0, 0), 0.35 / scale) if scale < 0.8 else picture
    turned = cv2.warpAffine(source, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(turned, np.uint8)


def similarity(source: Array, target: Array) -> Points:
    """The turn, scale and shift that best take points [n, 2] to others, as a matrix [2, 3] (least squares)."""
    middle, wanted = source.mean(0), target.mean(0)
    a, b = source - middle, target - wanted
    power = max(float((a**2).sum()), 1e-9)
    along, across = (a * b).sum() / power, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / power
    turn = np.array([[along, -across], [across, along]])
    return np.hstack([turn, (wanted - turn @ middle)[:, None]])


def grey_of(pictures: UInt8) -> UInt8:
    """RGB pictures [frames, side, side, 3] in grey, [frames, side, side]."""
    return np.stack([np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8) for picture in pictures])


@torch.inference_mode()
def run(net: torch.nn.Module, pictures: UInt8) -> Float32:
    """The network's outputs for aligned grey pictures, uint8 [frames, side, side], `BATCH` at once."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        whole = np.zeros((BATCH, *part.shape[1:]), np.uint8)
        whole[: len(part)] = part
        parts.append(net(nets.standardised(whole)).numpy()[: len(part)])
    return np.concatenate(parts)
