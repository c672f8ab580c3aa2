"""Expression tracks: what a drawn face does is read, and the public person shows it, whoever did it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from moretta.client.anonymizers.expression_track import RELEASED, ExpressionTrack, TrackOptions
from moretta.shared.core.errors import StudyError
from moretta.shared.features.face_track import CROP_SIDE, PLACES, public_tracks, shipped_reader, similarity
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.head import make_identity
from moretta.shared.models.head.expression import ACTIONS, CHANNELS, action_weights
from moretta.shared.models.head.mesh import MeshPart, load_asset
from moretta.shared.models.head.portrait import Portrait, PublicPerson, public_person
from moretta.shared.models.head.render import FaceIdentity, View, Window, _fragments, draw, posed, screen_places
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import get_anonymizer
from moretta.shared.release.release_format import check_array
from moretta.shared.study.schema import Study, parse_study

FIRST_STRANGER = 7_000_000
"""Seeds of people whom the networks have not seen."""
READABLE = ("brows lowered", "lids closed", "lip corners up", "jaw open")


class MiddleDetector:
    """The square that a detector finds around the heads drawn here."""

    name = "middle"

    def find_all(self, frame):
        from moretta.shared.features.face_detectors import FaceBox

        height, width = frame.shape[:2]
        return [FaceBox(width / 2, 0.5 * height, 0.69 * height)]


def frame(seed: int, light: float = 0.3, **values: float) -> np.ndarray:
    row = np.array([values.get(name.replace(" ", "_"), 0.0) for name in CHANNELS])
    view = View(light=(light, 0.5, 1.0))
    weights = action_weights(row)
    return draw(make_identity(seed), weights, view, width=160, height=120, supersample=1, rng=None)


def track(*frames: np.ndarray) -> np.ndarray:
    crops = FaceCropper(CROP_SIDE, MiddleDetector()).crop_clip(np.stack(frames)).pictures
    return shipped_reader()(crops)


QUIET = TrackOptions(clip_noise=0.0, frame_noise=0.0)
"""Without noise on clips; what is left of it is each person's offset."""


def made(options: TrackOptions = TrackOptions()) -> ExpressionTrack:  # noqa: B008
    return ExpressionTrack(FaceCropper(CROP_SIDE, MiddleDetector()), options, fps=5.0)


def test_it_is_found_by_name_and_needs_nothing_from_anybody() -> None:
    study = parse_study({"face": {"anonymizer": "expression-track", "options": {"preset": "small"}}})
    assert isinstance(get_anonymizer("face", "expression-track").from_study(study, {}), ExpressionTrack)


@pytest.mark.parametrize("name", READABLE)
def test_a_strangers_movement_is_read(name: str) -> None:
    at_rest, moved = [], []
    for seed in range(FIRST_STRANGER, FIRST_STRANGER + 4):
        rows = track(frame(seed), frame(seed), frame(seed, **{name.replace(" ", "_"): 1.0}))
        # The middle frame borrows a quarter of its points from the last: they stand still here.
        at_rest.append(rows[0, CHANNELS.index(name)])
        moved.append(rows[2, CHANNELS.index(name)])
    assert np.mean(np.subtract(moved, at_rest)) > 0.4
    assert min(np.subtract(moved, at_rest)) > 0


def test_brightness_and_size_of_the_picture_hardly_matter() -> None:
    plain = frame(FIRST_STRANGER, lip_corners_up=0.8)
    (row,) = track(plain)
    (dim,) = track((plain * 0.5).astype(np.uint8))
    assert np.abs(row - dim).max() < 0.25


def test_a_frames_track_does_not_depend_on_later_clips() -> None:
    frames = np.stack([frame(FIRST_STRANGER), frame(FIRST_STRANGER, jaw_open=0.7)])
    reader, crops = shipped_reader(), FaceCropper(CROP_SIDE, MiddleDetector()).crop_clip(frames).pictures
    np.testing.assert_array_equal(reader(crops), reader(crops))
    np.testing.assert_allclose(reader(np.concatenate([crops, crops]))[:1], reader(crops)[:1], atol=1e-5)


def test_two_people_who_do_the_same_are_released_alike() -> None:
    anonymizer, noise = made(QUIET), SeededNoise(1, "fit")
    people = {}
    for seed in (FIRST_STRANGER, FIRST_STRANGER + 1):
        rest = [np.stack([frame(seed, jaw_open=0.1 * k)] * 3) for k in range(4)]
        smile = [np.stack([frame(seed, lip_corners_up=0.7 + 0.1 * k)] * 3) for k in range(4)]
        people[str(seed)] = rest + smile
    anonymizer.fit([(name, clip) for name, clips in people.items() for clip in clips], noise)
    shown = []
    for name, clips in people.items():
        results = anonymizer.release(clips, [noise] * 8, [name] * 8)
        for result in results:
            assert isinstance(result, np.ndarray)
            check_array("face", "frames", result)
        shown.append(np.stack([result[1] for result in results if isinstance(result, np.ndarray)]).astype(float))
    own = np.mean([np.abs(one[:4].mean(0) - one[4:].mean(0)).mean() for one in shown])
    other = np.abs(shown[0].mean(0) - shown[1].mean(0)).mean()
    assert other < own, "a smile changes the public face more than another person does"


def test_the_numbers_that_are_drawn_may_be_released_themselves() -> None:
    """With the same noise, the sequence of codes is what the pictures show."""
    clip = np.stack([frame(FIRST_STRANGER, jaw_open=0.2 * k) for k in range(3)])
    study = Study().with_changes(face={"anonymizer": "expression-track", "form": "code-sequence"})
    released = {}
    for form in ("frames", "code-sequence"):
        anonymizer = ExpressionTrack(FaceCropper(CROP_SIDE, MiddleDetector()), TrackOptions(), fps=5.0, form=form)
        anonymizer.fit([("a", clip)], SeededNoise(1, "fit"))
        (released[form],) = anonymizer.release([clip], [SeededNoise(1, "clip")], ["a"])
        check_array("face", form, released[form])
        assert (anonymizer.statement({}, "seeded").form, anonymizer.frames(released[form])) == (form, 3)
    np.testing.assert_array_equal(made().drawn(released["code-sequence"]), released["frames"])
    assert get_anonymizer("face", "expression-track").from_study(study, {}).form == "code-sequence"


def test_only_the_public_person_is_drawn() -> None:
    anonymizer = made()
    (picture,) = anonymizer.drawn(np.zeros((1, len(RELEASED))))
    expected = Portrait(128, "cedar")(public_tracks().values(np.zeros((1, len(CHANNELS))))[0])
    np.testing.assert_array_equal(picture, expected)


def test_the_statement_names_every_channel_and_promises_nothing() -> None:
    statement = made().statement({}, "system")
    assert statement.parameters["channels"] == list(RELEASED)
    assert statement.privacy[0].epsilon is None
    assert "no formal guarantee" in statement.privacy[0].note


@pytest.mark.parametrize("person", get_args(PublicPerson))
def test_every_channel_moves_the_portrait(person: PublicPerson) -> None:
    portrait = Portrait(128, person)
    rest = portrait(np.zeros(len(CHANNELS))).astype(int)
    for number, name in enumerate(CHANNELS):
        values = np.zeros(len(CHANNELS))
        values[number] = 1.0 if name in ACTIONS else 0.3
        assert np.abs(portrait(values) - rest).max() > 20, name


@pytest.mark.parametrize("person", get_args(PublicPerson))
def test_no_tooth_shows_through_a_public_persons_chin(person: PublicPerson) -> None:
    """Peculiar heads have this fault, the head of seed 1,000,009 for one."""
    assert teeth_below_the_lips(public_person(person)) == 0
    assert teeth_below_the_lips(make_identity(1_000_009)) > 20


def teeth_below_the_lips(head: FaceIdentity) -> int:
    """Pixels of teeth that are seen below all of the lips while the head smiles, and while it opens its mouth."""
    asset, side, found = load_asset(), 256, 0
    lips = np.flatnonzero(asset.masks["lips"] > 0.5)
    for values in ({"lip corners up": 0.9, "jaw open": 0.5}, {"jaw open": 1.0, "lip corners apart": 0.8}):
        row = np.array([values.get(name, 0.0) for name in CHANNELS])
        points = posed(head, action_weights(row), (0.0, 0.0, 0.0))
        seen = _fragments(head, points, side, side, Window(0, 0, side, side))
        lowest = screen_places(points, side, side)[lips, 1].max()
        teeth = head.part[seen.triangle] == MeshPart.TEETH
        found += int((seen.pixel[teeth] // side > lowest + 1).sum())
    return found


def test_a_person_who_is_not_there_is_an_error_that_lists_those_who_are() -> None:
    with pytest.raises(StudyError, match=r"'amber'.* or 'sienna' \(got 'nobody'\)"):
        Study().with_changes(face={"anonymizer": "expression-track", "options": {"person": "nobody"}})


def test_a_window_of_a_frame_is_that_part_of_the_frame() -> None:
    person, view = make_identity(1), View()
    whole = draw(person, {}, view, width=80, height=60, supersample=2, rng=None)
    window = Window(20, 10, 40, 30)
    part = draw(person, {}, view, width=80, height=60, supersample=2, rng=None, window=window)
    np.testing.assert_array_equal(part, whole[10:40, 20:60])


def test_points_that_were_moved_are_moved_back() -> None:
    angle = 0.3
    turn = 1.7 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = PLACES @ turn.T + (5, -3)
    matrix = similarity(moved, PLACES)
    np.testing.assert_allclose(moved @ matrix[:, :2].T + matrix[:, 2], PLACES, atol=1e-9)


def test_the_studys_noise_is_what_is_drawn_with_and_what_is_stated() -> None:
    options = {"clip_noise": 1.25, "frame_noise": 0.0}
    study = Study().with_changes(face={"anonymizer": "expression-track", "options": options})
    said = get_anonymizer("face", "expression-track").from_study(study, {}).statement({}, "seeded").parameters
    assert (said["clip_noise"], said["frame_noise"]) == (1.25, 0.0)
    usual = made().statement({}, "seeded").parameters
    assert (usual["clip_noise"], usual["frame_noise"]) == (0.7, 0.7)
