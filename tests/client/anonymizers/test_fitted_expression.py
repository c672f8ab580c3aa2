"""`fitted-expression`: the expression of a fitted head, shown by the public person, whoever did it."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.client.anonymizers.expression_track import RELEASED, TrackOptions
from moretta.client.anonymizers.fitted_expression import FittedExpression
from moretta.shared.core.errors import ClipError
from moretta.shared.features.dense_landmarks import CROP_SIDE, shipped_landmarks
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.head import make_identity
from moretta.shared.models.head.expression import CHANNELS, action_weights
from moretta.shared.models.head.render import View, draw
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study, parse_study

FIRST_STRANGER = 7_200_000
READABLE = ("lids closed", "lip corners up", "jaw open")


class MiddleDetector:
    """The square that a detector finds around the heads drawn here; nothing in a black picture."""

    name = "middle"

    def find_all(self, frame):
        height, width = frame.shape[:2]
        return [FaceBox(width / 2, 0.5 * height, 0.69 * height)] if frame.any() else []


def frame(seed: int, **values: float) -> np.ndarray:
    row = np.array([values.get(name.replace(" ", "_"), 0.0) for name in CHANNELS])
    return draw(make_identity(seed), action_weights(row), View(), width=320, height=240, supersample=1, rng=None)


def made(**options: float) -> FittedExpression:
    return FittedExpression(FaceCropper(CROP_SIDE, MiddleDetector()), TrackOptions(**options), fps=5.0)


def test_it_is_found_by_name_and_needs_nothing_from_anybody() -> None:
    study = parse_study({"face": {"anonymizer": "fitted-expression", "options": {"preset": "small"}}})
    assert isinstance(get_anonymizer("face", "fitted-expression").from_study(study, {}), FittedExpression)


@pytest.mark.parametrize("name", READABLE)
def test_a_strangers_movement_is_read(name: str) -> None:
    moved = []
    for seed in range(FIRST_STRANGER, FIRST_STRANGER + 4):
        shown = frame(seed, **{name.replace(" ", "_"): 1.0})
        crops = FaceCropper(CROP_SIDE, MiddleDetector()).crop_clip(np.stack([frame(seed), shown])).pictures
        rows = shipped_landmarks().fit(crops, steadiness=np.inf).channels
        moved.append(rows[1] - rows[0])
    own = np.stack(moved)[:, CHANNELS.index(name)]
    assert own.mean() > 0.3 and own.min() > 0


def test_a_release_is_made_of_what_is_drawn_and_says_which_channels() -> None:
    clip = np.stack([frame(FIRST_STRANGER, jaw_open=0.2 * k) for k in range(4)])
    study = Study().with_changes(face={"anonymizer": "fitted-expression", "form": "code-sequence"})
    assert get_anonymizer("face", "fitted-expression").from_study(study, {}).form == "code-sequence"
    released = {}
    for form in ("frames", "code-sequence"):
        anonymizer = FittedExpression(FaceCropper(CROP_SIDE, MiddleDetector()), TrackOptions(), fps=5.0, form=form)
        anonymizer.fit([("a", clip)], SeededNoise(1, "fit"))
        (released[form],) = anonymizer.release([clip], [SeededNoise(1, "clip")], ["a"])
        check_array("face", form, released[form])
    drawn = made().drawn(released["code-sequence"]).astype(int)
    assert np.abs(drawn - released["frames"]).max() <= 2  # codes have 32 bits
    statement = made().statement({}, "system")
    assert statement.parameters["channels"] == list(RELEASED)
    assert statement.privacy[0].epsilon is None and "no formal guarantee" in statement.privacy[0].note


def test_one_frame_is_a_clip_and_no_face_is_none() -> None:
    anonymizer, black = made(), np.zeros((3, 240, 320, 3), np.uint8)
    clip = frame(FIRST_STRANGER)[None]
    anonymizer.fit([("a", clip), ("b", black)], SeededNoise(1, "fit"))
    released, dropped = anonymizer.release([clip, black], [SeededNoise(1, "x")] * 2, ["a", "a"])
    assert isinstance(released, np.ndarray) and released.shape == (1, 128, 128, 3)
    assert isinstance(dropped, ClipError) and dropped.reason == "no-face"
    assert anonymizer.counts()["clips_without_face"] == 1
