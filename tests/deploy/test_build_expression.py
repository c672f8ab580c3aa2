"""Promises of `moretta.deploy.synth.build_expression`: the shipped networks come from drawn people, as documented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from moretta.deploy.synth.build_expression import train_channels, train_points, write
from moretta.deploy.synth.expression_scenes import (
    SIDE,
    Scenes,
    aligned,
    boxed,
    draw_scenes,
    poorly_taken,
    random_actions,
)
from moretta.shared.features.face_track import PLACES, TrackReader
from moretta.shared.models.expression_nets import ChannelNet, PointNet, shipped_arrays
from moretta.shared.models.head.expression import ACTIONS, CHANNELS

MAX_ASSET_BYTES = 1_500_000


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return draw_scenes(9_000_000, 2, 6)


def test_the_same_seed_draws_the_same_scenes(scenes: Scenes) -> None:
    again = draw_scenes(9_000_001, 1, 6)
    np.testing.assert_array_equal(again.pictures, scenes.pictures[6:])
    np.testing.assert_array_equal(again.points, scenes.points[6:])


def test_points_lie_on_the_face_in_their_order(scenes: Scenes) -> None:
    assert scenes.points.min() > 0 and scenes.points.max() < SIDE
    left, right, nose, lips, chin = scenes.points.mean(0)
    assert left[0] > right[0], "the subject's left eye is on the right of the picture"
    assert left[1] < nose[1] < lips[1] < chin[1]


def test_no_face_does_two_things_that_exclude_each_other() -> None:
    rng = np.random.default_rng(1)
    drawn = np.stack([random_actions(rng) for _ in range(500)])
    closed, raised = (drawn[:, list(ACTIONS).index(name)] for name in ("lids closed", "lids raised"))
    assert not ((closed > 0) & (raised > 0)).any()
    assert (drawn.max(0) > 0.9).all(), "every channel is used to the full"
    assert (drawn == 0).all(1).mean() > 0.05, "some faces are at rest"


def test_aligned_faces_have_their_points_in_one_place(scenes: Scenes) -> None:
    rng = np.random.default_rng(1)
    pictures = np.stack([aligned(scenes, row, rng, mirror=False)[0] for row in range(len(scenes))])
    assert pictures.shape == (12, 64, 64) and pictures.dtype == np.uint8
    assert PLACES.min() > 0 and PLACES.max() < 64


def test_mirrored_samples_look_the_other_way(scenes: Scenes) -> None:
    gaze = CHANNELS.index("eyes left")
    rng = np.random.default_rng(3)
    signs = {np.sign(aligned(scenes, 0, rng)[1][gaze] / scenes.values[0, gaze]) for _ in range(20)}
    assert signs == {-1.0, 1.0}


def test_boxes_keep_the_points_inside(scenes: Scenes) -> None:
    rng = np.random.default_rng(2)
    found = np.stack([boxed(scenes, row, rng)[1] for row in range(len(scenes))])
    assert np.abs(found).max() < 1.3
    assert (np.abs(found) < 1).mean() > 0.95


def test_poor_pictures_are_still_pictures(scenes: Scenes) -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        taken = poorly_taken(scenes.pictures[0], rng)
        assert taken.dtype == np.uint8 and taken.shape == (SIDE, SIDE)


def test_training_learns_and_the_file_is_complete(scenes: Scenes, tmp_path: Path) -> None:
    reported: list[str] = []
    points = train_points(scenes, reported.append, epochs=8, batch=8)
    channels, spread = train_channels(scenes, reported.append, epochs=4, people=2, each=3)
    assert isinstance(points, PointNet) and isinstance(channels, ChannelNet)
    assert spread.shape == (len(CHANNELS),) and (spread > 0).all()
    rng = np.random.default_rng(1)
    tracks = [[rng.normal(size=(5, len(CHANNELS))).astype(np.float32) for _ in range(3)] for _ in range(4)]
    write(tmp_path / "expression.safetensors", TrackReader(points, channels, spread), tracks)
    made, shipped = load_file(tmp_path / "expression.safetensors"), shipped_arrays()
    assert {name: array.shape for name, array in made.items()} == {name: a.shape for name, a in shipped.items()}
    assert (tmp_path / "expression.safetensors").stat().st_size < MAX_ASSET_BYTES
    assert reported[0].startswith("points 0 of") and "channels 0 of" in reported[-1]
