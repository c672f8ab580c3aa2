"""Promises of `moretta.shared.models.head`: what a rendered frame and clip show."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from moretta.shared.core.labels import EMOTIONS, Emotion
from moretta.shared.models.head import FaceIdentity, make_identity, render_clip, render_frame
from moretta.shared.models.head.expression import RECIPES, crease_depths, showing, spread_actions
from moretta.shared.models.head.mesh import rasterise


@pytest.fixture(scope="module")
def person() -> FaceIdentity:
    return make_identity(11)


def _change(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


def test_frame_has_the_requested_size_and_a_person_in_it(person: FaceIdentity) -> None:
    frame = render_frame(person, Emotion.NEU, width=96, height=72)
    assert frame.shape == (72, 96, 3)
    assert frame.dtype == np.uint8
    assert _change(frame[20:60, 30:66], np.broadcast_to(frame[2, 2], (40, 36, 3))) > 10


def test_frame_without_rng_is_exact_and_with_rng_follows_its_seed(person: FaceIdentity) -> None:
    first, second = (render_frame(person, Emotion.HAP) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    noisy = [render_frame(person, Emotion.HAP, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert _change(noisy[0], noisy[2]) > 0.5


def test_every_pair_of_emotions_looks_different(person: FaceIdentity) -> None:
    faces = {emotion: render_frame(person, emotion)[30:95, 50:110] for emotion in EMOTIONS}
    for first, second in itertools.combinations(EMOTIONS, 2):
        assert _change(faces[first], faces[second]) > 0.8, (first, second)


def test_no_intensity_shows_a_relaxed_face(person: FaceIdentity) -> None:
    relaxed = [render_frame(person, emotion, intensity=0.0) for emotion in (Emotion.ANG, Emotion.FEA)]
    np.testing.assert_array_equal(relaxed[0], relaxed[1])


@pytest.mark.parametrize(
    "moved",
    [
        {"jaw_open": 0.6},
        {"blink": 1.0},
        {"gaze": (0.4, 0.0)},
        {"pose": (0.3, 0.0, 0.0)},
        {"light": (-1.0, 0.2, 0.4)},
    ],
)
def test_each_circumstance_changes_the_picture(person: FaceIdentity, moved: dict[str, object]) -> None:
    still = render_frame(person, Emotion.NEU)
    assert _change(still, render_frame(person, Emotion.NEU, **moved)) > 0.02  # type: ignore[arg-type]


def test_background_does_not_move_with_the_face(person: FaceIdentity) -> None:
    first = render_frame(person, Emotion.NEU)
    second = render_frame(person, Emotion.HAP, pose=(0.2, 0.0, 0.0))
    np.testing.assert_array_equal(first[:20, :20], second[:20, :20])


def test_clip_has_a_frame_per_loudness_and_repeats_by_seed(person: FaceIdentity) -> None:
    loudness = np.linspace(0, 1, 5)
    clips = [list(render_clip(person, Emotion.SAD, loudness, fps=10, seed=seed)) for seed in (4, 4, 5)]
    assert len(clips[0]) == 5
    assert clips[0][0].shape == (120, 160, 3)
    np.testing.assert_array_equal(clips[0], clips[1])
    assert _change(np.array(clips[0]), np.array(clips[2])) > 0.5


def test_loud_speech_opens_the_mouth(person: FaceIdentity) -> None:
    quiet, loud = (list(render_clip(person, Emotion.NEU, np.full(2, level), fps=10, seed=1))[1] for level in (0.0, 1.0))
    mouth, eyes = np.s_[70:95, 65:95], np.s_[0:25, 0:30]
    assert _change(quiet[mouth], loud[mouth]) > 3 * _change(quiet[eyes], loud[eyes])


def test_clip_without_loudness_is_empty(person: FaceIdentity) -> None:
    assert list(render_clip(person, Emotion.NEU, np.zeros(0), fps=10, seed=1)) == []


def test_recipes_cover_all_emotions_within_the_actions_range() -> None:
    assert set(RECIPES) == set(EMOTIONS)
    for emotion in EMOTIONS:
        assert all(0 < weight <= 1 for weight in RECIPES[emotion].values())
        assert showing(emotion).keys() == spread_actions(RECIPES[emotion]).keys()


def test_action_outside_the_asset_is_named() -> None:
    with pytest.raises(ValueError, match="earWiggle"):
        spread_actions({"earWiggle": 1.0})


def test_frowning_draws_frown_lines_and_neutral_draws_none() -> None:
    assert crease_depths({}) == (0.0, 0.0, 0.0, 0.0)
    frown, forehead, nose, smile = crease_depths(spread_actions({"browDown": 1.0}))
    assert frown > 0.9
    assert (forehead, nose, smile) == (0.0, 0.0, 0.0)


def test_nearer_triangle_hides_the_farther() -> None:
    corners = np.array([[[0, 0], [9, 0], [0, 9]], [[0, 0], [4, 0], [0, 4]]], float)
    depth = np.array([[5.0, 5, 5], [3, 3, 3]])
    seen = rasterise(corners, depth, np.array([True, True]), 10, 10)
    owner = dict(zip(seen.pixel.tolist(), seen.triangle.tolist(), strict=True))
    assert owner[0] == 1
    assert owner[6] == 0
    assert 99 not in owner


def test_weights_interpolate_the_corners() -> None:
    corners = np.array([[[0, 0], [8, 0], [0, 8]]], float)
    seen = rasterise(corners, np.ones((1, 3)), np.array([True]), 10, 10)
    places = seen.mix(corners)
    np.testing.assert_allclose(places[:, 0] + 10 * places[:, 1], seen.pixel, atol=1e-3)


def test_hidden_and_offscreen_triangles_draw_nothing() -> None:
    corners = np.array([[[0, 0], [8, 0], [0, 8]], [[-20, -20], [-10, -20], [-20, -10]]], float)
    seen = rasterise(corners, np.ones((2, 3)), np.array([False, True]), 10, 10)
    assert len(seen.pixel) == 0
