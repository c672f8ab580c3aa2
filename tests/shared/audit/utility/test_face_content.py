"""Meters of what is left of a face: whole of the same picture, small of a damaged one, gone where nothing compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speakers import codes, describe
from speakers import faces as patterns

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.pretrained.face_encoders import DlibEncoder, SFaceEncoder
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility import evaluators, face_content
from moretta.shared.audit.utility.content import NOTHING_TO_COMPARE, MeterInput
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.audit.utility.face_content import FACE_METERS, NO_PICTURE
from moretta.shared.audit.utility.kept_face import kept_movement, landmark_error, same_moments, structural_similarity
from moretta.shared.core.array_types import Float32, UInt8
from moretta.shared.features.landmarks import FaceMesh, eye_distance
from moretta.shared.models.head import make_identity, render_frame
from moretta.shared.pretrained import cached

Rows = dict[tuple[str, str, str], Result]


def _measured(original: ClipSet | None, released: ClipSet, *meters: str) -> Rows:
    sets = {"released": released} if original is None else {"original": original, "released": released}
    given = MeterInput(sets, seed=1, draws=50)  # type: ignore[arg-type]
    rows = [row for name in meters or FACE_METERS for row in FACE_METERS[name](given)]
    return {(row.attacker, row.scenario, row.metric): row for row in rows}


def _changed(clips: ClipSet, change: Callable[[UInt8], UInt8]) -> ClipSet:
    arrays = [np.stack([change(frame) for frame in clips.frames(i)]) for i in range(len(clips))]
    return ClipSet.from_arrays(clips.clips, arrays, modality="face", form="frames")


def _points(seed: int) -> Float32:
    return np.random.default_rng(seed).normal(50, 20, (468, 2)).astype(np.float32)


def _turned(points: Float32, angle: float, scale: float) -> Float32:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T + 7).astype(np.float32)


@given(st.floats(-1, 1), st.floats(0.3, 3), st.integers(0, 99))
def test_place_size_and_turn_of_a_face_are_no_error_and_its_shape_is(angle: float, scale: float, seed: int) -> None:
    points = _points(seed)
    assert landmark_error(points, _turned(points, angle, scale)) < 1e-3
    moved = points.copy()
    moved[:100, 1] += eye_distance(points)
    assert landmark_error(points, moved) > 0.1


def test_another_face_that_moves_the_same_way_has_the_whole_movement() -> None:
    rng = np.random.default_rng(0)
    smile, others = rng.normal(size=(2, 468, 2))
    strength = np.array([0.0, 1, 3, 2, 0])[:, None, None]
    one = (_points(1) + strength * smile).astype(np.float32)
    assert kept_movement(one, (_points(2) + 0.5 * strength * smile).astype(np.float32)) > 0.8
    assert abs(kept_movement(one, (_points(2) + strength * others).astype(np.float32))) < 0.3
    still = one[:1].repeat(5, 0)
    assert np.isnan(kept_movement(one[:2], one[:2])) and np.isnan(kept_movement(still, one))
    assert kept_movement(one, still) == 0


def test_structural_similarity_is_that_of_the_paper() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    assert structural_similarity(picture, picture) == pytest.approx(1.0)
    assert structural_similarity(picture, np.asarray(cv2.resize(picture, (32, 32)))) < 0.9
    # Of two flat pictures only the term of brightness is left: (2ab + C1) / (a^2 + b^2 + C1).
    flat = [np.full((32, 32, 3), level, np.uint8) for level in (100, 50)]
    assert structural_similarity(flat[0], flat[1]) == pytest.approx((10_000 + 6.5025) / (12_500 + 6.5025))


def test_frames_are_compared_at_the_same_share_of_both_clips() -> None:
    clip = np.arange(24, dtype=np.uint8)[:, None, None, None]
    one, two = same_moments(clip, clip[::2], 6)
    assert (one[:, 0, 0, 0] - two[:, 0, 0, 0]).max() <= 1 and len(one) == len(two) == 6


def test_codes_absent_originals_and_absent_networks_are_named() -> None:
    made = replace(codes(speakers=3, clips=2), modality="face")
    assert {row.reason for row in _measured(made, made, "picture").values()} == {NO_PICTURE}
    seen = patterns(speakers=2, clips=2)
    alone = _measured(None, seen)
    compared = [row for (*_, metric), row in alone.items() if metric in ("ssim", "landmark_error")]
    assert {row.reason for row in compared} == {NOTHING_TO_COMPARE} and all(row.invalid for row in compared)
    row = _measured(seen, seen, "landmarks")["face-mesh", "ignorant", "landmark_error"]
    assert row.value is None and row.invalid and "moretta attackers fetch face-mesh" in row.reason


def test_one_face_for_everybody_is_at_distance_zero_and_not_below() -> None:
    people = np.arange(4)
    for seed in range(50):
        face = np.random.default_rng(seed).normal(size=128).astype(np.float32)
        vectors = np.repeat(face[None] / np.linalg.norm(face), 4, axis=0)
        distance = face_content._mean_distance(vectors, people, people)
        assert distance is not None and 0 <= distance < 1e-6


def test_landmarks_have_no_figure_where_releases_show_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def points(self, rgb: UInt8) -> Float32 | None:
            return None if rgb.std() < 1 else _points(int(rgb[0, 0, 0]))

    monkeypatch.setattr(face_content.FaceMesh, "missing", classmethod(lambda cls: None))
    monkeypatch.setattr(face_content.FaceMesh, "load", classmethod(lambda cls: Finder()))
    seen = patterns(speakers=3, clips=2)
    same = _measured(seen, seen, "landmarks")["face-mesh", "ignorant", "landmark_error"]
    assert same.value == pytest.approx(0, abs=1e-5) and same.chance is not None and same.chance > 0.1
    grey = _measured(seen, _changed(seen, lambda f: np.full_like(f, 128)), "landmarks")
    assert "show a face" in grey["face-mesh", "ignorant", "landmark_error"].reason


def test_meters_follow_the_evaluators_of_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluators, "evaluator_names", lambda **_: ["face-logistic"])
    seen = patterns(speakers=3, clips=6)
    rows = evaluate_utility(seen, seen, seed=1, draws=10, workers=1, scratch=tmp_path)
    assert list(dict.fromkeys(row.target for row in rows)) == [
        "emotion", "landmarks", "picture", "identity", "diversity", "expression"
    ]  # fmt: skip
    assert {row.modality for row in rows} == {"face"}
    (similar,) = [row for row in rows if row.metric == "ssim"]
    assert similar.value == pytest.approx(1.0) and similar.chance is not None and similar.chance < 0.5


@pytest.fixture(scope="module")
def people() -> ClipSet:
    """Three rendered people with two clips of three frames each, 160 x 120."""
    clips, arrays = [], []
    for person in range(3):
        for number, emotion in enumerate(("HAP", "ANG")):
            shown = make_identity(40 + person, sex="female" if person % 2 else "male")
            frames = [render_frame(shown, emotion, intensity=strength) for strength in (0.1, 0.6, 1.0)]
            clips.append(describe(person, number))
            arrays.append(np.stack(frames))
    return ClipSet.from_arrays(clips, arrays, modality="face", form="frames")


@pytest.mark.user_cache
def test_the_same_face_is_whole_a_blurred_one_nearly_and_one_face_for_all_is_a_collapse(people: ClipSet) -> None:
    if FaceMesh.missing() or SFaceEncoder.missing():
        pytest.skip("no weights: run `moretta attackers fetch`")
    meters = ("landmarks", "picture", "identity by sface")
    same = {metric: row for (_, _, metric), row in _measured(people, people, *meters).items()}
    assert same["landmark_error"].value == pytest.approx(0, abs=1e-6)
    assert same["landmark_movement"].value == pytest.approx(1, abs=1e-6)
    assert same["ssim"].value == pytest.approx(1) and same["identity_cosine"].value == pytest.approx(1)
    blurred = _measured(people, _changed(people, lambda f: np.asarray(cv2.GaussianBlur(f, (0, 0), 1.0))), *meters)
    error = blurred["face-mesh", "ignorant", "landmark_error"]
    assert error.value is not None and error.chance is not None and 0 < error.value < error.chance
    assert blurred["sface", "ignorant", "identity_cosine"].value == pytest.approx(0.95, abs=0.15)
    one = people.frames(0)
    collapsed = _measured(people, _changed(people, lambda f: one[0]), "identity by sface")
    apart = {s: collapsed["sface", s, "identity_distance"].value for s in ("unprotected", "ignorant")}
    assert apart["ignorant"] == pytest.approx(0, abs=1e-5) and (apart["unprotected"] or 0) > 0.2


@pytest.mark.user_cache
def test_a_release_without_originals_still_shows_whether_its_faces_are_one(people: ClipSet) -> None:
    if SFaceEncoder.missing():
        pytest.skip("no weights: run `moretta attackers fetch`")
    found = _measured(None, people, "identity by sface")
    assert (found["sface", "ignorant", "identity_distance"].value or 0) > 0.2
    assert found["sface", "ignorant", "identity_cosine"].reason == NOTHING_TO_COMPARE


def test_the_network_and_both_encoders_are_what_fetch_gets() -> None:
    assert cached("face-mesh") is None
    assert FaceMesh.missing() == "no weights of face-mesh: run `moretta attackers fetch face-mesh`"
    assert all(cls.name in name for cls, name in zip((SFaceEncoder, DlibEncoder), list(FACE_METERS)[2:4], strict=True))
