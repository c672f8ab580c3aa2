"""A linear model of heads: the points of a neutral head by identity, and how each expression channel moves them.

It stands in for the morphable model of Wood et al., "3D face reconstruction with dense landmarks", ECCV 2022. The head
asset gives expressions; mean and identities are those of drawn people, by principal components.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from moretta.shared.core.array_types import Array, Int64
from moretta.shared.models.head.expression import channel_targets
from moretta.shared.models.head.mesh import HeadAsset, load_asset
from moretta.shared.models.head.render import (
    AIM,
    CAMERA_DISTANCE,
    EYE_GAIN,
    PIVOT,
    FaceIdentity,
    View,
    posed,
    rotation,
    screen_places,
)
from moretta.shared.models.head.traits import draw_traits

Values = npt.NDArray[np.floating[Any]]
COMPONENTS = 60
"""Principal components of identity: 99.6 % of the variance of drawn people's shape."""
_REGIONS = (("eyelids", 64), ("lips", 64), ("ears", 20), ("face", 160))
"""How many points of each part of the skin. Lids and lips move most, and are in the face as well."""
_EYEBALL = 6
"""Points of each eyeball, besides its pupil."""
PUPILS = 2
"""The last points: left and right pupil of the subject."""
POSE = 6
"""Yaw, pitch, roll in radians; logarithm of pixels per decimetre; right and down of the camera's axis in pixels."""
_EYES = np.array([0.0, 7.2841, 1.2454])
"""Between the eyes of the head asset, in decimetres."""
_STEP = 1e-4  # radians


class Seen(NamedTuple):
    """Points of a head over a clip."""

    places: Values
    """Places of the points in pixels (right, down), [frames, points, 2]."""
    slopes: Values
    """Derivatives by identity, channels and pose, [frames, points, 2, components + channels + 6]."""


@dataclass(frozen=True, eq=False)
class HeadModel:
    """Points of a head in decimetres, in the frame of the head asset (x to the subject's left, y up, z to the front).

    Attributes:
        vertices: of the asset, int64 [points]; a pupil is at the front of its eyeball.
        rest: of the mean head, [points, 3].
        identity: by how much one standard deviation of a component moves them, [components, points, 3].
        channels: by how much each channel moves them at full strength, in `CHANNELS`' order, [channels, points, 3].
        turn: how much each follows the head, [points].
        usual: mean of each channel over the training pictures, [channels].
        spread: standard deviation of the same.
    """

    vertices: Int64
    rest: Values
    identity: Values
    channels: Values
    turn: Values
    usual: Values
    spread: Values

    def __len__(self) -> int:
        return len(self.vertices)

    def neutral(self, identity: Values) -> Values:
        """Points of the relaxed head in decimetres, [points, 3]."""
        return np.asarray(self.rest + np.tensordot(identity, self.identity, 1))

    def places(self, identity: Values, channels: Values, pose: Values) -> Values:
        """Where a head is seen, in pixels (right, down), [frames, points, 2].

        The camera is the renderer's: a perspective from `CAMERA_DISTANCE`, along an axis that passes the eyes at `AIM`.
        """
        return self._seen(identity, channels, pose)[0]

    def seen(self, identity: Values, channels: Values, pose: Values) -> Seen:
        """The same with slopes.

        Args:
            identity: in standard deviations, [components].
            channels: [frames, channels].
            pose: see `POSE`, [frames, 6].
        """
        places, lens, heads, turns = self._seen(identity, channels, pose)
        share = self.turn[:, None]
        bend = (1 - share[:, :, None]) * np.eye(3) + share[:, :, None] * turns[:, None]  # [frames, points, 3, 3]
        basis = np.concatenate([self.identity, self.channels])
        by_pose = np.zeros((*places.shape, POSE))
        for axis in range(3):
            aside = _rotations(pose[:, :3] + _STEP * np.eye(3)[axis])
            moved = share * (heads @ ((aside - turns) / _STEP).transpose(0, 2, 1))
            by_pose[..., axis] = (lens @ moved[..., None])[..., 0]
        by_pose[..., 3] = places - pose[:, None, 4:]
        by_pose[:, :, 0, 4] = by_pose[:, :, 1, 5] = 1
        return Seen(places, np.concatenate([(lens @ bend) @ basis.transpose(1, 2, 0), by_pose], axis=3))

    def _seen(self, identity: Values, channels: Values, pose: Values) -> tuple[Values, Values, Values, Values]:
        """Places; their slopes by decimetres of the camera's frame, [frames, points, 2, 3]; points from the pivot, and
        rotations about it, [frames, points, 3] and [frames, 3, 3]."""
        heads = self.neutral(identity) + np.tensordot(channels, self.channels, 1) - PIVOT
        turns = _rotations(pose[:, :3])
        turned = heads + self.turn[:, None] * (heads @ turns.transpose(0, 2, 1) - heads)
        right, up, near = np.moveaxis(turned + PIVOT - (_EYES + AIM), 2, 0)
        nearer = 1 / (1 - np.clip(near, -CAMERA_DISTANCE, CAMERA_DISTANCE / 2) / CAMERA_DISTANCE)
        scale = np.exp(np.clip(pose[:, 3], -20, 20))[:, None] * nearer
        from_axis = np.stack([scale * right, -scale * up], axis=2)
        lens = np.zeros((*from_axis.shape, 3))
        lens[:, :, 0, 0], lens[:, :, 1, 1] = scale, -scale
        lens[:, :, :, 2] = from_axis * nearer[:, :, None] / CAMERA_DISTANCE
        return from_axis + pose[:, None, 4:], lens, heads, turns

    @classmethod
    def of_drawn_people(cls, seeds: range, values: Values) -> Self:
        """The model of the people of these seeds, who move as `values` say, [pictures, channels]."""
        asset, vertices = load_asset(), head_points()
        eyes = np.concatenate(asset.eye_rows)
        shifts = []
        for seed in seeds:
            moved = asset.blend(draw_traits(seed, None, None).shape)
            shifts.append(moved[vertices] - moved[eyes].mean(0))  # a head's eyes are where the asset has them
        mean = np.mean(shifts, axis=0)
        _, sizes, parts = np.linalg.svd(np.reshape(shifts - mean, (len(seeds), -1)), full_matrices=False)
        identity = (sizes[:COMPONENTS, None] / np.sqrt(len(seeds)) * parts[:COMPONENTS]).reshape(COMPONENTS, -1, 3)
        return cls.moved_by_asset(
            vertices=vertices,
            rest=asset.rest[vertices] + mean,
            identity=identity,
            usual=values.mean(0),
            spread=values.std(0),
        )

    @classmethod
    def moved_by_asset(cls, vertices: Int64, **learned: Values) -> Self:
        """With channels and turn of the head asset."""
        asset = load_asset()
        moves: list[Values] = [asset.blend(targets)[vertices] for targets in channel_targets()]
        for axis in range(2):
            gaze = np.zeros((len(vertices), 3))
            gaze[-PUPILS:, axis] = EYE_GAIN * _radius(asset.rest[asset.eye_rows[0]])
            moves.append(gaze)
        turn = np.clip((asset.rest[vertices, 1] - 5.7) / 0.7, 0, 1)
        return cls(vertices=vertices, channels=np.stack(moves), turn=turn * turn * (3 - 2 * turn), **learned)

    def to_arrays(self, prefix: str) -> dict[str, Array]:
        """The model as named arrays, without those of the head asset."""
        arrays = {prefix + name: np.asarray(getattr(self, name), np.float32) for name in ("rest", "usual", "spread")}
        arrays[prefix + "identity"] = self.identity.astype(np.float16)
        return arrays | {prefix + "vertices": self.vertices.astype(np.int32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], prefix: str) -> Self:
        """The inverse of `to_arrays`."""
        names = ("rest", "identity", "usual", "spread")
        learned = {name: np.asarray(arrays[prefix + name], np.float64) for name in names}
        return cls.moved_by_asset(arrays[prefix + "vertices"].astype(np.int64), **learned)


def true_points(identity: FaceIdentity, weights: dict[str, float], view: View, width: int, height: int) -> Values:
    """Where a drawn frame shows the points of `head_points`, in pixels (right, down), [points, 2]."""
    asset, rows = load_asset(), head_points()
    points = posed(identity, weights, view.pose)
    pupil = np.sin(view.gaze) * EYE_GAIN
    front = np.array([*pupil, np.sqrt(max(1 - float(pupil @ pupil), 0.0)) - 1])
    chosen = points[rows]
    for place, eye in zip((-2, -1), asset.eye_rows, strict=True):
        chosen[place] += rotation(view.pose) @ front * _radius(identity.vertices[eye])
    return screen_places(chosen, width, height)


@cache
def head_points() -> Int64:
    """Vertices of the asset that are landmarks, spread evenly over each part of a face, alike on both sides."""
    asset, twins = load_asset(), _twins()
    chosen: list[int] = []
    for region, count in _REGIONS:
        chosen += _spread(asset, np.flatnonzero(asset.masks[region] > 0.5), chosen, count)
    left = asset.eye_rows[0]
    front = left[asset.rest[left, 2] > asset.rest[left, 2].mean()]
    chosen += _spread(asset, front, [], 2 * _EYEBALL)
    pupil = int(left[asset.rest[left, 2].argmax()])
    return np.array([*chosen, pupil, twins[pupil]])


@cache
def mirrored_points() -> Int64:
    """Where in `head_points` each point's counterpart on the other side of the face is, [points]."""
    place = {int(row): number for number, row in enumerate(head_points()[:-PUPILS])}
    pairs = [place[int(_twins()[row])] for row in place]
    return np.array([*pairs, len(pairs) + 1, len(pairs)])


@cache
def _twins() -> Int64:
    """The vertex on the other side of the head, of each vertex of the asset."""
    from scipy.spatial import cKDTree

    rest = load_asset().rest
    return np.asarray(cKDTree(rest).query(rest * [-1, 1, 1])[1])


def _spread(asset: HeadAsset, rows: Int64, taken: list[int], count: int) -> list[int]:
    """Rows of vertices and their counterparts, each pair the farthest from all that were chosen before."""
    places, twins, chosen = asset.rest[rows], _twins(), list[int]()
    start = asset.rest[taken] if taken else places.mean(0)[None]
    far = np.linalg.norm(places[:, None] - start, axis=2).min(1)
    while len(chosen) < count:
        best = int(rows[far.argmax()])
        for row in sorted({best, int(twins[best])}):
            chosen.append(row)
            far = np.minimum(far, np.linalg.norm(places - asset.rest[row], axis=1))
    return chosen


def _rotations(angles: Values) -> Values:
    """[frames, 3, 3] of yaw, pitch and roll, [frames, 3]."""
    return np.stack([rotation((float(a), float(b), float(c))) for a, b, c in angles]).astype(np.float64)


def _radius(eyeball: Values) -> float:
    return float(np.ptp(eyeball[:, 0])) / 2
