"""Faces relative to the person's own: whose they are stays at the site, and nothing of a picture gets out."""

from __future__ import annotations

import numpy as np
import pytest

from moretta.client.anonymizers.expression_track import ExpressionTrack, TrackOptions, slow_noise, smoothed
from moretta.client.anonymizers.face_baselines import Pictures
from moretta.shared.core.errors import ClipError
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import FaceCropper
from moretta.shared.features.speaker_scale import Measures, PublicMeasures
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.release_format import check_array

SIDE = 16


class CountingDetector:
    """Finds the middle of every frame that is not black, and counts."""

    name = "counting"

    def __init__(self) -> None:
        self.requested = 0

    def find_all(self, frame: np.ndarray) -> list[FaceBox]:
        self.requested += 1
        if not frame.any():
            return []
        return [FaceBox(frame.shape[1] / 2, frame.shape[0] / 2, 20)]


class Brightness(ExpressionTrack):
    """Measures how bright a face is, and draws it as the grey of a picture."""

    note = "a test"

    def measured(self, pictures: Pictures) -> Measures:
        return pictures.mean((1, 2)) / 255

    def drawn(self, normal: Measures) -> Pictures:
        level = np.clip(128 + 30 * normal.mean(1), 0, 255).astype(np.uint8)
        return np.broadcast_to(level[:, None, None, None], (len(level), SIDE, SIDE, 3)).copy()


Brightness.name, Brightness.modality, Brightness.version = "brightness", "face", "1"


def clip(level: float, seed: int, frames: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    steps = level + 12 * rng.normal(size=(frames, 1, 1, 1))
    return np.clip(steps + rng.normal(size=(frames, 40, 50, 3)), 0, 255).astype(np.uint8)


QUIET = TrackOptions(clip_noise=0.0, frame_noise=0.0)


def anonymizer(detector: CountingDetector | None = None, options: TrackOptions = QUIET) -> Brightness:
    rng = np.random.default_rng(1)
    public = PublicMeasures.of([[rng.normal(0.5, 0.05, (6, 3)) for _ in range(4)] for _ in range(20)])
    return Brightness(FaceCropper(SIDE, detector or CountingDetector()), options, fps=5.0, public=public)


def clips_of(level: float, first: int, count: int = 20) -> list[np.ndarray]:
    return [clip(level, first + number) for number in range(count)]


def released(made: Brightness, speaker: str, clips: list[np.ndarray]) -> list[np.ndarray | Exception]:
    """Each clip with noise of its own, whatever its company."""
    noise = [SeededNoise(1, int(frames.sum())) for frames in clips]
    return made.release(clips, noise, [speaker] * len(clips))


def fitted(
    detector: CountingDetector | None = None, options: TrackOptions = QUIET
) -> tuple[Brightness, list[np.ndarray], list[np.ndarray]]:
    """Two people whose faces are of very different brightness."""
    made, dark, bright = anonymizer(detector, options), clips_of(60, 100), clips_of(190, 200)
    made.fit([("dark", c) for c in dark] + [("bright", c) for c in bright], SeededNoise(1, "fit"))
    return made, dark, bright


def test_people_who_differ_are_released_alike() -> None:
    made, dark, bright = fitted()
    levels = [
        np.mean([np.mean(r) for r in released(made, name, clips)])
        for name, clips in (("dark", dark), ("bright", bright))
    ]
    assert abs(levels[0] - levels[1]) < 15, "the faces themselves are 130 apart"


def test_moments_of_one_person_still_differ() -> None:
    made, dark, _ = fitted()
    raw = np.array([c.mean() for c in dark])
    out = np.array([np.mean(r) for r in released(made, "dark", dark)])
    assert np.corrcoef(raw, out)[0, 1] > 0.8


def test_a_person_of_whom_nothing_was_measured_is_not_released() -> None:
    made, dark, _ = fitted()
    (result,) = released(made, "somebody else", dark[:1])
    assert isinstance(result, ClipError) and result.reason == "unknown-speaker"
    (unfitted,) = released(anonymizer(), "dark", dark[:1])
    assert isinstance(unfitted, ClipError)


def test_a_clip_that_came_after_the_fit_is_released() -> None:
    made, _, _ = fitted()
    (result,) = released(made, "dark", [clip(60, 999)])
    assert isinstance(result, np.ndarray)
    check_array("face", made.form, result)


def test_faces_are_searched_once_for_fit_and_release_together() -> None:
    detector = CountingDetector()
    made, dark, _ = fitted(detector)
    requested = detector.requested
    released(made, "dark", dark)
    assert detector.requested == requested == 2 * 20 * 6


def test_a_clip_is_released_alike_alone_and_in_company() -> None:
    made, dark, _ = fitted()
    together, (alone,) = released(made, "dark", dark), released(made, "dark", dark[3:4])
    np.testing.assert_array_equal(together[3], alone)


def test_a_broken_clip_is_an_error_and_spoils_nobodys_scale() -> None:
    made, dark, _ = fitted()
    other = anonymizer()
    broken = dark[0].astype(np.float32)
    other.fit([("dark", c) for c in [broken, *dark]], SeededNoise(1, "fit"))
    result, *good = released(other, "dark", [broken, *dark])
    assert isinstance(result, ClipError)
    for ours, theirs in zip(good, released(made, "dark", dark), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_clip_without_a_face_is_dropped_and_counted_and_spoils_no_scale() -> None:
    made, dark, _ = fitted()
    other, black = anonymizer(), np.zeros((6, 40, 50, 3), np.uint8)
    other.fit([("dark", c) for c in [black, *dark]], SeededNoise(1, "fit"))
    result, *good = released(other, "dark", [black, *dark])
    assert isinstance(result, ClipError) and result.reason == "no-face"
    assert other.statement({}, "seeded").counts["clips_without_face"] == 1
    for ours, theirs in zip(good, released(made, "dark", dark), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_person_without_any_face_is_dropped_for_that() -> None:
    made, black = anonymizer(), np.zeros((6, 40, 50, 3), np.uint8)
    made.fit([("nobody", black)], SeededNoise(1, "fit"))
    (result,) = released(made, "nobody", [black])
    assert isinstance(result, ClipError) and result.reason == "no-face"


def test_the_statement_has_the_fewest_clips_of_any_speaker() -> None:
    made, dark, _ = fitted()
    released(made, "dark", dark)
    statement = made.statement({}, "seeded")
    assert statement.parameters["fewest_clips"] == 20
    assert statement.counts["frames"] == 120
    assert statement.noise == "seeded", "an offset that can be replayed hides nothing"
    assert "dark" not in statement.model_dump_json(), "keys of speakers stay at the site"


def test_noise_of_a_clip_is_alike_in_all_its_frames_and_another_in_the_next_clip() -> None:
    quiet, dark, _ = fitted()
    noisy = anonymizer(options=TrackOptions(clip_noise=2.0, frame_noise=0.0))
    noisy.fit([("dark", c) for c in dark], SeededNoise(1, "fit"))
    pairs = zip(released(noisy, "dark", dark), released(quiet, "dark", dark), strict=True)
    apart = [(ours.astype(float) - theirs).mean((1, 2, 3)) for ours, theirs in pairs]
    assert np.median([np.ptp(a) for a in apart]) < 15, "all frames of a clip are moved alike, but for the widest"
    assert np.std([a.mean() for a in apart]) > 15


def test_slow_noise_has_its_size_and_is_slow() -> None:
    drawn = slow_noise(SeededNoise(1), (3000, 2), fps=30.0)
    assert drawn.std(0) == pytest.approx([1, 1], abs=0.15)
    assert np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1] > 0.98
    assert np.isfinite(slow_noise(SeededNoise(1), (1, 2), fps=0.5)).all()


def test_smoothing_spares_a_blink_and_takes_jitter() -> None:
    blink = np.zeros((30, 1))
    blink[10:17] = 1  # a fifth of a second at 30 frames per second
    assert smoothed(blink, 30).max() > 0.9
    jitter = np.where(np.arange(30) % 2, 1.0, -1.0)[:, None]
    assert np.abs(smoothed(jitter, 30)[5:-5]).max() < 0.2


@pytest.mark.parametrize("fps", [1.0, 5.0])
def test_few_frames_a_second_are_not_smoothed_away(fps: float) -> None:
    step = np.array([[0.0], [1.0], [0.0]])
    assert smoothed(step, fps).max() > 0.85


def test_the_noise_is_as_large_as_the_study_says_and_stated() -> None:
    noise = TrackOptions(clip_noise=1.5, frame_noise=0.25)
    still, _, _ = fitted()
    loud, _, _ = fitted(options=noise)
    assert steps_in_level(loud) > 5 and steps_in_level(still) < 1e-9
    assert {name: loud.parameters()[name] for name in ("clip_noise", "frame_noise")} == noise.model_dump(
        include={"clip_noise", "frame_noise"}
    )


def steps_in_level(made: Brightness) -> float:
    """Standard deviation over releases of one clip of its mean grey, noise and all."""
    one = clip(60, 100)
    grey = [made.release([one], [SeededNoise(9, draw)], ["dark"])[0] for draw in range(30)]
    return float(np.std([picture.mean() for picture in grey if isinstance(picture, np.ndarray)]))
