"""One of six public faces a clip: only the label passes, its epsilon is that of labels, and every clip is released."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moretta.client.anonymizers import translated_face
from moretta.client.anonymizers.emotion_labeler import LABELS, EmotionLabeler
from moretta.client.anonymizers.translated_face import LABELER, NAME, PICTURES, TranslatedFace, labeler_of
from moretta.shared.core.array_types import UInt8
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.translated_face import SIDE
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.release_format import check_array
from moretta.shared.study.public_arrays import check_public
from moretta.shared.study.schema import Study, parse_study

WIDTH = TranslatedFace.measurements
Clips = list[tuple[str, UInt8, int]]


class Middle:
    """Finds a face in the middle of everything that is not black."""

    name = "middle"

    def find_all(self, frame: UInt8) -> list[FaceBox]:
        return [FaceBox(frame.shape[1] / 2, frame.shape[0] / 2, 40.0)] if frame.any() else []


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """The track of a crop is how bright it is: each emotion has its own level in `clips`."""
    monkeypatch.setattr(translated_face, "FaceCropper", lambda side: FaceCropper(side, Middle()))
    monkeypatch.setattr(translated_face, "track_statistics", statistics)


def statistics(pictures: UInt8) -> np.ndarray:
    row = np.zeros((1, WIDTH), np.float32)
    row[0, :LABELS] = np.eye(LABELS)[min(int(pictures.mean()) // 40, LABELS - 1)]
    return row + pictures[:, 0, 0, 0].mean().astype(np.float32) * 1e-6


def clips(people: int = 4, each: int = 4) -> Clips:
    made = [(str(who), label, n) for who in range(people) for label in range(LABELS) for n in range(each)]
    return [(who, np.full((2, 60, 80, 3), 20 + 40 * label + int(who) + n, np.uint8), label) for who, label, n in made]


def arrays() -> dict[str, Any]:
    labeler = labeler_of([[(clip, label) for who, clip, label in clips() if who == person] for person in "0123"])
    pictures = np.random.default_rng(1).uniform(0, 1, (LABELS, SIDE, SIDE, 3)).astype(np.float32)
    return {PICTURES: pictures, **labeler.to_arrays(LABELER)}


def study_of(**options: Any) -> Study:
    return parse_study({"voice": {"enabled": False}, "face": {"anonymizer": NAME, "options": options}})


def fitted(recorded: Clips, **options: Any) -> TranslatedFace:
    made = TranslatedFace.from_study(study_of(**options), arrays())
    made.fit([(who, clip) for who, clip, _ in recorded], SeededNoise(1, "fit"))
    made.train_on_emotions(recorded)
    return made


def released(made: TranslatedFace, recorded: Clips) -> list[Any]:
    sources = [SeededNoise(2, n) for n in range(len(recorded))]
    return made.release([clip for _, clip, _ in recorded], sources, [who for who, _, _ in recorded])


def right(made: TranslatedFace, out: list[Any], recorded: Clips) -> list[bool]:
    """Whether each picture is that of the clip's own label."""
    return [np.array_equal(p[0], made._pictures[label]) for p, (_, _, label) in zip(out, recorded, strict=True)]


@pytest.mark.parametrize("labels_from", ["site", "public"])
def test_a_release_is_one_of_six_pictures_and_mostly_that_of_its_label(labels_from: str) -> None:
    recorded = clips()
    made = fitted(recorded, labels_from=labels_from, label_epsilon=20.0)
    out = released(made, recorded)
    kinds = {picture.tobytes() for picture in out}
    assert len(kinds) == LABELS
    for picture in out:
        check_array("face", "frames", picture)
        assert picture.shape == (1, SIDE, SIDE, 3)
    assert np.mean(right(made, out, recorded)) > 0.9


def test_people_with_the_same_label_have_the_same_picture_to_the_last_bit() -> None:
    recorded = clips()
    out = released(fitted(recorded, label_epsilon=20.0), recorded)
    of = {who: out[n] for n, (who, _, label) in enumerate(recorded) if label == 2}
    assert len(of) == 4 and len({picture.tobytes() for picture in of.values()}) == 1


def test_a_label_is_kept_as_often_as_epsilon_says() -> None:
    recorded = clips(people=6, each=20)
    made = fitted(recorded, labels_from="public", label_epsilon=1.0)
    out = released(made, recorded)
    assert np.mean(right(made, out, recorded)) == pytest.approx(np.e / (np.e + LABELS - 1), abs=0.06)


def test_a_clip_without_a_face_is_released_too_and_nothing_shows_how_many_there_are() -> None:
    recorded = clips()
    dark = ("0", np.zeros((3, 60, 80, 3), np.uint8), 1)
    made = fitted([*recorded, dark])
    (out,) = released(made, [dark])
    assert out.shape == (1, SIDE, SIDE, 3) and not made.measured(dark[1]).any()
    sizes = {"0": [1]}
    assert made.statement(sizes, "seeded") == fitted(recorded).statement(sizes, "seeded")
    assert made.counts() == {}


def test_epsilon_is_that_of_every_label_that_a_person_changes() -> None:
    sizes = {"a": [1] * 3, "b": [1] * 5}
    for labels_from, labels in (("public", 5), ("site", 8)):
        study = study_of(labels_from=labels_from, label_epsilon=0.5)
        made = TranslatedFace.from_study(study, arrays())
        rows = {row.unit: row for row in made.privacy(sizes)}
        assert rows["speaker"].epsilon is not None and rows["speaker"].epsilon <= 0.5 * labels + 1e-9
        assert rows["clip"].epsilon == rows["speaker"].epsilon and rows["clip"].nominal == 0.5
        assert made.losses(sizes) == TranslatedFace.planned_losses(study, sizes)
        assert made.losses(sizes)["speaker"][0].tokens == labels  # type: ignore[attr-defined]


def test_too_few_people_other_classes_and_unknown_clips_are_refused() -> None:
    with pytest.raises(StudyError, match="2 people at this site"):
        fitted(clips(people=2))
    with pytest.raises(StudyError, match="the face anonymizer 'translated-face' with the classes"):
        TranslatedFace.from_study(study_of().with_changes(classes=["ANG", "HAP"]), arrays())
    made = fitted(clips())
    (error,) = made.release([clips()[0][1]], [SeededNoise(1)], ["nobody"])
    assert isinstance(error, ClipError) and error.reason == "not-trained"


@pytest.mark.parametrize("name", [PICTURES, *LABELER])
def test_arrays_of_a_coordinator_that_cannot_be_are_refused(name: str) -> None:
    good = arrays()
    check_public(good, TranslatedFace.public_rules(study_of()))
    for wrong in (good[name] * np.nan, good[name][..., :-1], np.full_like(good[name], 1e9)):
        with pytest.raises(StudyError, match=name):
            TranslatedFace.from_study(study_of(), {**good, name: wrong})


def test_a_labeler_reads_drawn_people_by_what_their_tracks_say() -> None:
    labeler = labeler_of([[(clip, label) for who, clip, label in clips() if who == person] for person in "0123"])
    assert isinstance(labeler, EmotionLabeler) and labeler.weights.shape == (WIDTH, LABELS)
    assert labeler.spread.min() > 0


@pytest.mark.parametrize("wrong", [{"label_epsilon": 0}, {"labels_from": "federated"}, {"steps": 0}])
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"face.options.{next(iter(wrong))}"):
        study_of(**wrong)
