import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.core.errors import ClipError
from moretta.shared.core.labels import Emotion
from moretta.shared.features import face_detectors
from moretta.shared.features.face_detectors import FaceBox, Hog, NoDetector, best_detector
from moretta.shared.features.faces import FaceCropper, cut
from moretta.shared.models.head import make_identity, render_frame


class Scripted:
    """Answers with the boxes it was given: one, none or several a frame."""

    name = "scripted"

    def __init__(self, boxes):
        self._boxes = iter(boxes)

    def find_all(self, _):
        boxes = next(self._boxes)
        return boxes if isinstance(boxes, list) else [] if boxes is None else [boxes]


def ramp(count: int = 1, height: int = 60, width: int = 80) -> np.ndarray:
    """Frames whose red is the column, green the row and blue the frame's number."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([np.stack([columns, rows, np.full_like(rows, k)], -1) for k in range(count)]).astype(np.uint8)


def test_cut_at_its_own_size_copies_pixels():
    crop = cut(ramp()[0], FaceBox(40, 30, 16), 16)
    np.testing.assert_array_equal(crop, ramp()[0, 22:38, 32:48])


@pytest.mark.parametrize("factor", [2, 3])
def test_cut_smaller_averages_pixels(factor):
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 255, (60, 80, 3)).astype(np.uint8)
    crop = cut(frame, FaceBox(40, 30, 16 * factor), 16)
    part = frame[30 - 8 * factor : 30 + 8 * factor, 40 - 8 * factor : 40 + 8 * factor]
    means = part.reshape(16, factor, 16, factor, 3).mean((1, 3))
    assert np.abs(crop - means).max() <= 1


@settings(max_examples=40, deadline=None)
@given(x=st.floats(-50, 150), y=st.floats(-50, 150), size=st.floats(1, 400), side=st.sampled_from([16, 48]))
def test_any_box_gives_a_crop_of_the_side(x, y, size, side):
    crop = cut(ramp()[0], FaceBox(x, y, size), side)
    assert crop.shape == (side, side, 3)
    assert crop.dtype == np.uint8


def test_frame_without_face_borrows_the_last_box_and_is_counted():
    box = FaceBox(20, 20, 16)
    clip = FaceCropper(16, Scripted([None, box, None, box])).crop_clip(ramp(4))
    assert (clip.borrowed, clip.centred) == (2, False)
    for number, picture in enumerate(clip.pictures):
        np.testing.assert_array_equal(picture, ramp(4)[number, 12:28, 12:28])


def test_clip_without_any_face_is_cut_from_the_centre_and_reported():
    clip = FaceCropper(60, NoDetector()).crop_clip(ramp(3))
    assert (clip.borrowed, clip.centred) == (0, True)
    np.testing.assert_array_equal(clip.pictures, ramp(3)[:, :, 10:70])


def test_single_frame_without_face_is_cut_from_the_centre_and_reported():
    crop, found = FaceCropper(60, NoDetector()).crop(ramp()[0])
    assert not found
    np.testing.assert_array_equal(crop, ramp()[0, :, 10:70])


def test_jitter_of_the_detector_is_smoothed():
    boxes = [FaceBox(40 + 4 * (-1) ** k, 30, 20 + 4 * (-1) ** k) for k in range(12)]
    clip = FaceCropper(16, Scripted(boxes)).crop_clip(ramp(12))
    left_columns = clip.pictures[1:-1, 8, 0, 0].astype(int)
    assert np.ptp(left_columns) <= 1


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (np.zeros((0, 60, 80, 3), np.uint8), "empty"),
        (np.zeros((2, 60, 80, 3), np.float32), "bad-frames"),
        (np.zeros((2, 60, 80), np.uint8), "bad-frames"),
        (np.zeros((2, 60, 80, 4), np.uint8), "bad-frames"),
        (np.zeros((2, 4, 80, 3), np.uint8), "bad-frames"),
        ([1, 2], "bad-frames"),
    ],
)
def test_what_is_no_clip_is_refused(frames, reason):
    with pytest.raises(ClipError) as refused:
        FaceCropper(16, NoDetector()).crop_clip(frames)
    assert refused.value.reason == reason


@pytest.fixture(scope="module")
def person() -> np.ndarray:
    return render_frame(make_identity(1_000_003), Emotion.NEU, width=160, height=120)


def detectors():
    yield pytest.param("hog", id="hog")
    yield pytest.param("yunet", id="yunet")


@pytest.mark.parametrize("name", detectors())
def test_detector_finds_the_face_of_a_person_wherever_it_is(name, person):
    detector = _detector(name)
    wide = np.pad(person, ((60, 0), (200, 0), (0, 0)), mode="edge")
    near, far = detector.find_all(person)[0], detector.find_all(wide)[0]
    assert abs(near.x - 80) < 16 and abs(near.y - 55) < 16 and 60 < near.size < 110
    assert abs(far.x - near.x - 200) < 12 and abs(far.y - near.y - 60) < 12


@pytest.mark.parametrize("name", detectors())
def test_detector_finds_nothing_in_an_empty_room(name):
    room = np.full((120, 160, 3), 90, np.uint8)
    assert _detector(name).find_all(room) == []


def _detector(name: str):
    if name == "hog":
        pytest.importorskip("dlib")
        return Hog()
    detector = best_detector()
    if detector.name != "yunet":
        pytest.skip("the weights of YuNet are not in the cache")
    return detector


def test_best_detector_is_chosen_in_a_fixed_order(monkeypatch):
    monkeypatch.setattr("moretta.shared.pretrained.cache.cached", lambda _: None)
    if importlib.util.find_spec("dlib"):
        assert best_detector().name == "hog"
    monkeypatch.setitem(sys.modules, "dlib", None)
    assert face_detectors.best_detector().name == "none"
