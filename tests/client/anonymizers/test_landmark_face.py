"""Faces drawn of landmarks: no pixel passes, noise is what the study says, and a missing face mesh is an error."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from moretta.client.anonymizers.landmark_face import NAME, LandmarkFaceAnonymizer
from moretta.shared.core.array_types import Float32, UInt8
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.landmarks import POINTS, FaceMesh
from moretta.shared.features.speaker_scale import PublicMeasures
from moretta.shared.models.drawn_landmarks import normalized, random_showing, true_points
from moretta.shared.models.head.portrait import public_person
from moretta.shared.models.landmark_face import (
    ENCODER,
    MODES,
    Drawer,
    LandmarkFace,
    LandmarkFigures,
    PointLayers,
    PointModes,
)
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study, parse_study


class Middle:
    """Finds one face in the middle of everything."""

    name = "middle"

    def find_all(self, frame: UInt8) -> list[FaceBox]:
        return [FaceBox(frame.shape[1] / 2, frame.shape[0] / 2, 40.0)]


class Mesh:
    """Finds points by the brightest row of a crop, whatever else is in it, and none in a black one."""

    def in_clip(self, crops: UInt8) -> Float32 | None:
        if not crops.any():
            return None
        rng = np.random.default_rng(1)
        rest, moved = rng.normal(size=(2, POINTS, 2))
        rows = crops.max(axis=(2, 3)).argmax(axis=1)
        return np.asarray(rest + moved * rows[:, None, None] / 192, np.float32)


@pytest.fixture(autouse=True)
def mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaceMesh, "load", classmethod(lambda cls: Mesh()))
    monkeypatch.setattr(FaceMesh, "cropper", staticmethod(lambda: FaceCropper(192, cast(Any, Middle()))))


@pytest.fixture(scope="module")
def networks() -> LandmarkFace:
    rng, head = np.random.default_rng(0), public_person("cedar")
    own = normalized(np.stack([true_points(head, random_showing(rng), 160, 120) for _ in range(60)]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts = PointLayers(), PointLayers(), Drawer()
        with torch.no_grad():
            for weights in (weights for part in parts for weights in part.parameters()):
                weights.mul_(2.5)  # as they are, untrained layers give everybody the same
        made = LandmarkFace.of(*parts, PointModes.of(own))
    people = rng.normal(size=(4, 6, 1, MODES)).clip(-2, 2)
    return made.finished(PublicMeasures.of(people), LandmarkFigures(0.05, 0.02, 0.01))


def study_of(form: str = "", **options: Any) -> Study:
    return parse_study({"voice": {"enabled": False}, "face": {"anonymizer": NAME, "form": form, "options": options}})


def clip(*rows: int, grey: int = 40) -> UInt8:
    """A frame for each row that is bright; all else is grey."""
    frames = np.full((len(rows), 64, 80, 3), grey, np.uint8)
    for frame, row in zip(frames, rows, strict=True):
        frame[row] = 250
    return frames


def released(study: Study, networks: LandmarkFace, *clips: UInt8, seed: int = 1) -> list[Any]:
    made = LandmarkFaceAnonymizer.from_study(study, networks.arrays)
    made.fit([("a", each) for each in clips], SeededNoise(seed, "fit"))
    return made.release(clips, [SeededNoise(seed, n) for n in range(len(clips))], ["a"] * len(clips))


@pytest.mark.parametrize("form", ["frames", "code-sequence"])
def test_only_landmarks_pass(networks: LandmarkFace, form: str) -> None:
    """Clips of other colours whose landmarks are the same have the same release, to the last bit."""
    dark, bright, other = released(
        study_of(form), networks, clip(20, 30, grey=10), clip(20, 30, grey=200), clip(40, 44)
    )
    check_array("face", form, dark)
    np.testing.assert_array_equal(dark, bright)
    assert not np.array_equal(dark, other)


@pytest.mark.parametrize("scale", [False, True])
def test_noise_is_what_the_study_says(networks: LandmarkFace, scale: bool) -> None:
    clips = clip(20, 30, 25), clip(40, 44, 36)
    options = {"form": "code-sequence", "person_scale": scale}
    plain = released(study_of(**options), networks, *clips)
    noisy = released(study_of(**options, clip_noise=1.0, frame_noise=0.0), networks, *clips)
    moved = noisy[0] - plain[0]
    inside = (np.abs(noisy[0]) < 3).all(axis=0)
    assert inside.sum() >= 5 and np.abs(moved[:, inside]).max() > 0.3
    np.testing.assert_allclose(moved[:, inside], np.broadcast_to(moved[:1, inside], moved[:, inside].shape), atol=1e-5)
    # The offset of a person's scale is drawn, so seeds differ there even without noise on clips.
    assert np.array_equal(plain[0], released(study_of(**options), networks, *clips, seed=2)[0]) is not scale


def test_a_clip_without_landmarks_is_dropped(networks: LandmarkFace) -> None:
    good, none = released(study_of(), networks, clip(20, 22), np.zeros((2, 64, 80, 3), np.uint8))
    assert good.shape == (2, 64, 64, 3)
    assert isinstance(none, ClipError) and none.reason == "no-face"


def test_a_statement_says_how_networks_were_made_and_promises_nothing(networks: LandmarkFace) -> None:
    made = LandmarkFaceAnonymizer.from_study(study_of(clip_noise=0.5, heads=40), networks.arrays)
    stated = made.statement({}, "seeded")
    assert stated.parameters["drawn_people"] == {"before": 0.05, "after": 0.02, "picture": 0.01}
    assert (stated.parameters["heads"], stated.parameters["clip_noise"]) == (40, 0.5)
    assert stated.noise == "seeded" and all(row.epsilon is None for row in stated.privacy)
    assert LandmarkFaceAnonymizer.from_study(study_of(), networks.arrays).statement({}, "seeded").noise == "none"
    assert LandmarkFaceAnonymizer.strength(study_of(clip_noise=0.5, frame_noise=0.2)) == {"face_noise": 0.2}


def test_without_the_face_mesh_the_command_that_fetches_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moretta.shared.features.landmarks.cached", lambda name: None)
    said: list[str] = []
    assert "moretta attackers fetch face-mesh" in (LandmarkFaceAnonymizer.missing(study_of()) or "")
    with pytest.raises(StudyError, match="moretta attackers fetch face-mesh"):
        LandmarkFaceAnonymizer.prepare_public(study_of(), said.append)
    assert not said


def test_networks_of_a_coordinator_that_cannot_be_are_refused(networks: LandmarkFace) -> None:
    name = next(name for name in networks.arrays if name.startswith(ENCODER))
    for wrong in (networks.arrays[name] * np.nan, networks.arrays[name][:1]):
        with pytest.raises(StudyError, match=name):
            LandmarkFaceAnonymizer.from_study(study_of(), {**networks.arrays, name: wrong})


@pytest.mark.parametrize("wrong", [{"preset": "exact"}, {"heads": 3}, {"clip_noise": -1}, {"person": "nobody"}])
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"face.options.{next(iter(wrong))}"):
        study_of(**wrong)
