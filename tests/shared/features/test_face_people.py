from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.core.errors import ClipError
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import FaceCropper, find_people

WIDTH, HEIGHT = 320, 120
SPEAKER, BYSTANDER = FaceBox(90, 60, 60), FaceBox(250, 60, 30)
Boxes = list[list[FaceBox]]


class Scripted:
    """Finds the boxes it was given, and paints nothing: pictures tell by themselves where they were cut."""

    name = "scripted"

    def __init__(self, boxes: Boxes) -> None:
        self._boxes = iter(boxes)

    def find_all(self, _: np.ndarray) -> list[FaceBox]:
        return next(self._boxes)


def frames(count: int) -> np.ndarray:
    """Frames whose red is the column."""
    columns = np.broadcast_to(np.linspace(0, 250, WIDTH).astype(np.uint8), (count, HEIGHT, WIDTH))
    return np.ascontiguousarray(np.stack([columns] * 3, -1))


def columns_of(boxes: Boxes) -> np.ndarray:
    """Where each crop was cut, by its middle."""
    clip = FaceCropper(16, Scripted(boxes)).crop_clip(frames(len(boxes)))
    return clip.pictures[:, 8, 8, 0].astype(float) / 250 * WIDTH


def refused(boxes: Boxes) -> bool:
    try:
        columns_of(boxes)
    except ClipError as error:
        assert error.reason == "several-faces"
        return True
    return False


def test_a_small_face_behind_the_speaker_is_counted_and_in_no_crop() -> None:
    boxes = [[SPEAKER, BYSTANDER]] * 12
    assert np.abs(columns_of(boxes) - SPEAKER.x).max() < 4
    assert FaceCropper(16, Scripted(boxes)).crop_clip(frames(12)).with_others == 12


def test_a_person_beside_who_leans_forward_ends_the_clip() -> None:
    growing = [FaceBox(250, 60, 30 + 60 * k / 11) for k in range(12)]
    assert refused([sorted([SPEAKER, other], key=lambda box: -box.size) for other in growing])


@pytest.mark.parametrize("count", [1, 2, 3, 12, 40])
def test_two_faces_of_similar_size_end_the_clip(count: int) -> None:
    assert refused([[SPEAKER, FaceBox(250, 60, 50)]] * count)


def test_a_clip_in_which_only_the_bystander_stays_is_refused() -> None:
    assert refused([[SPEAKER, BYSTANDER]] * 7 + [[BYSTANDER]] * 5)


def test_one_person_after_another_is_refused() -> None:
    assert refused([[SPEAKER]] * 6 + [[FaceBox(250, 60, 60)]] * 6)


def test_a_lost_face_is_never_replaced_by_another() -> None:
    boxes = [[SPEAKER, BYSTANDER]] * 12
    boxes[5] = boxes[6] = [BYSTANDER]
    assert np.abs(columns_of(boxes) - SPEAKER.x).max() < 4


def test_a_mistake_of_the_detector_neither_moves_the_crop_nor_ends_the_clip() -> None:
    boxes = [[SPEAKER]] * 12
    boxes[4] = [FaceBox(250, 60, 80)]
    assert np.abs(columns_of(boxes) - SPEAKER.x).max() < 4


def test_a_face_found_twice_is_one() -> None:
    assert not refused([[SPEAKER, FaceBox(96, 66, 50)]] * 12)


def test_where_a_face_comes_before_the_speakers_another_frame_is_shown_or_the_clip_ends() -> None:
    over = FaceBox(100, 60, 40)
    boxes = [[SPEAKER]] * 12
    boxes[5] = boxes[6] = [FaceBox(150, 60, 20), FaceBox(100, 75, 20)]
    clip = FaceCropper(16, Scripted(boxes)).crop_clip(frames(12))
    assert clip.borrowed == 2
    assert refused([[SPEAKER, FaceBox(130, 60, 36)]] * 12) and refused([[over, FaceBox(160, 60, 40)]] * 12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), step=st.floats(0, 0.4), shown=st.floats(0.6, 1.0))
def test_one_person_alone_is_never_refused(seed: int, step: float, shown: float) -> None:
    """However the head sways within its reach, and however often the detector misses it."""
    rng = np.random.default_rng(seed)
    x = 160 + np.clip(np.cumsum(rng.uniform(-step, step, 24)), -1.5, 1.5) * 60
    boxes = [[FaceBox(float(at), 60, float(60 * rng.uniform(0.9, 1.1)))] if rng.random() < shown else [] for at in x]
    if any(boxes):
        assert not refused(boxes)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_whoever_is_beside_is_in_no_crop(seed: int) -> None:
    """Two people who keep to their halves of the picture, missed at random: one of them alone is in the crops."""
    rng = np.random.default_rng(seed)
    sizes, shown = rng.uniform(20, 70, 2), rng.uniform(0.2, 1.0, 2)
    boxes: Boxes = []
    for _ in range(16):
        here = [
            FaceBox(float(middle + rng.uniform(-5, 5)), 60, float(size))
            for middle, size, often in zip((80, 240), sizes, shown, strict=True)
            if rng.random() < often
        ]
        boxes.append(sorted(here, key=lambda box: -box.size))
    if any(boxes) and not refused(boxes):
        assert len({at > WIDTH / 2 for at in columns_of(boxes)}) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.builds(FaceBox, st.floats(-50, 400), st.floats(-50, 200), st.floats(1, 300)), max_size=4),
        min_size=1,
        max_size=12,
    )
)
def test_any_boxes_are_distinguished_or_refused(boxes: Boxes) -> None:
    try:
        people = find_people(boxes, width=WIDTH, height=HEIGHT)
    except ClipError as error:
        assert error.reason == "several-faces"
    else:
        assert (people is None) == (not any(boxes))
