from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moretta.client.anonymizers.speaker_references import MeasuredClip, SpeakerReferences, clip_digest
from moretta.shared.core.errors import HomeError
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import SpeakerCode
from moretta.shared.privacy.noise import SeededNoise

WIDTH = len(MEASUREMENTS)


def code() -> SpeakerCode:
    """Of five values, each with unit variance within a person."""
    projection = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, 5)))[0]
    return SpeakerCode(np.ones(WIDTH, np.float32), projection.astype(np.float32), np.zeros((2, 5), np.float32))


def clips_of(speaker: int, clips: int, steps: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(speaker)
    middle = 3 * rng.normal(size=WIDTH)
    own = [middle + rng.normal(size=WIDTH) for _ in range(clips)]
    within = 1.0 if steps > 1 else 0.0
    return [(one + within * rng.normal(size=(steps, WIDTH))).astype(np.float32) for one in own]


def measured(rows: list[np.ndarray]) -> list[MeasuredClip]:
    """As if the measurements were the samples."""
    return [(clip_digest(one), one) for one in rows]


def reported(speaker: int, clips: int, steps: int = 1) -> np.ndarray:
    """[clips, 5], means over steps of the codes of one speaker's clips."""
    known = SpeakerReferences(None, WIDTH)
    rows = clips_of(speaker, clips, steps)
    known.learn({"s": measured(rows)}, SeededNoise(1, speaker))
    scale = known["s"].scale(code())
    return np.stack([scale(clip).mean(axis=0) for clip in rows])


@pytest.mark.parametrize(("clips", "steps"), [(2, 1), (3, 1), (5, 1), (2, 4)])
def test_clips_of_a_speaker_do_not_lie_opposite_each_other_however_few_they_are(clips: int, steps: int) -> None:
    """Told relative to each other alone, two would be each other's mirror image, which links them for certain."""
    products, squares = [], []
    for speaker in range(300):
        codes = reported(speaker, clips, steps)
        products.append((codes.sum(axis=0) ** 2 - (codes**2).sum(axis=0)) / (clips * (clips - 1)))
        squares.append((codes**2).mean(axis=0))
    assert abs(np.mean(products) / np.mean(squares)) < 0.12


def test_the_shift_of_a_speaker_is_drawn_once_and_kept(tmp_path: Path) -> None:
    path, (*known, new) = tmp_path / "kept", clips_of(0, 6)
    first = SpeakerReferences(path, WIDTH)
    first.learn({"s": measured(known)}, SeededNoise(1))
    later = SpeakerReferences(path, WIDTH)
    later.learn({"s": measured(known)}, SeededNoise(2))
    np.testing.assert_array_equal(later["s"].scale(code())(new), first["s"].scale(code())(new))
    later.learn({"s": measured([*known, new])}, SeededNoise(3))
    np.testing.assert_array_equal(later["s"].normals, first["s"].normals)


def test_a_memory_without_shifts_is_refused(tmp_path: Path) -> None:
    """A file of an earlier version: clips released with it would reveal those that were released without."""
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "kept"
    known = SpeakerReferences(path, WIDTH)
    known.learn({"s": measured(clips_of(0, 3))}, SeededNoise(1))
    arrays = {name: array for name, array in load_file(path).items() if not name.endswith("normals")}
    save_file(arrays, path, {"speakers": '["s"]'})
    with pytest.raises(HomeError, match="normals"):
        SpeakerReferences(path, WIDTH)


def test_a_new_clip_leaves_the_weights_of_the_others_as_they_are(tmp_path: Path) -> None:
    path, clips = tmp_path / "kept", clips_of(0, 6)
    first = SpeakerReferences(path, WIDTH)
    first.learn({"s": measured(clips[:5])}, SeededNoise(1))
    later = SpeakerReferences(path, WIDTH)
    later.learn({"s": measured(clips)}, SeededNoise(2))
    np.testing.assert_array_equal(later["s"].weights[:5], first["s"].weights)


def test_what_is_gone_is_forgotten_and_what_is_left_is_as_if_it_had_never_been(tmp_path: Path) -> None:
    path, clips, others = tmp_path / "kept", clips_of(0, 6, steps=2), clips_of(1, 3, steps=2)
    first = SpeakerReferences(path, WIDTH)
    first.learn({"s": measured(clips), "gone": measured(others)}, SeededNoise(1))
    later = SpeakerReferences(path, WIDTH)
    later.learn({"s": measured([clips[0], *clips[2:]])}, SeededNoise(2))
    assert "gone" not in later
    left = np.r_[0:2, 4:12]
    np.testing.assert_array_equal(later["s"].values, first["s"].values[left])
    np.testing.assert_array_equal(later["s"].weights, first["s"].weights[left])
    kept = path.read_bytes()
    assert clip_digest(clips[1]) not in kept and clip_digest(others[0]) not in kept and b"gone" not in kept
    assert clip_digest(clips[0]) in kept


def test_a_clip_that_comes_back_is_a_new_one(tmp_path: Path) -> None:
    known, clips = SpeakerReferences(tmp_path / "kept", WIDTH), clips_of(0, 3)
    known.learn({"s": measured(clips)}, SeededNoise(1))
    before = known["s"].weights
    known.learn({"s": measured(clips[:2])}, SeededNoise(2))
    known.learn({"s": measured(clips)}, SeededNoise(3))
    np.testing.assert_array_equal(known["s"].weights[:2], before[:2])
    assert known["s"].weights[2] != before[2]


def test_the_same_samples_count_once(tmp_path: Path) -> None:
    known, clips = SpeakerReferences(tmp_path / "kept", WIDTH), clips_of(0, 3)
    known.learn({"s": measured([*clips, clips[0]])}, SeededNoise(1))
    assert len(known["s"].values) == 3


def test_no_measurement_is_in_the_file(tmp_path: Path) -> None:
    path, clips = tmp_path / "kept", clips_of(0, 3)
    known = SpeakerReferences(path, WIDTH)
    known.learn({"s": measured(clips)}, SeededNoise(1))
    kept = path.read_bytes()
    assert not any(value.tobytes() in kept for clip in clips for value in clip[0])


def test_the_file_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    values = np.concatenate(clips_of(0, 3))
    save_file({"0/values": values, "0/weights": np.ones(3), "0/normals": np.ones(WIDTH)}, tmp_path / "kept", {
        "speakers": '["s"]'
    })  # fmt: skip
    with pytest.raises(HomeError, match="delete it"):
        SpeakerReferences(tmp_path / "kept", WIDTH)
