from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moretta.client.anonymize.speaker_references import SpeakerReferences
from moretta.shared.errors import HomeError
from moretta.shared.features.delivery import MEASUREMENTS
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


def told(speaker: int, clips: int, steps: int = 1) -> np.ndarray:
    """[clips, 5], means over steps of the codes of one speaker's clips."""
    known = SpeakerReferences(None, WIDTH)
    rows = clips_of(speaker, clips, steps)
    known.learn("s", rows, SeededNoise(1, speaker))
    scale = known["s"].scale(code())
    return np.stack([scale(clip).mean(axis=0) for clip in rows])


@pytest.mark.parametrize(("clips", "steps"), [(2, 1), (3, 1), (5, 1), (2, 4)])
def test_clips_of_a_speaker_do_not_lie_opposite_each_other_however_few_they_are(clips: int, steps: int) -> None:
    """Told relative to each other alone, two would be each other's mirror image, which links them for certain."""
    products, squares = [], []
    for speaker in range(300):
        codes = told(speaker, clips, steps)
        products.append((codes.sum(axis=0) ** 2 - (codes**2).sum(axis=0)) / (clips * (clips - 1)))
        squares.append((codes**2).mean(axis=0))
    assert abs(np.mean(products) / np.mean(squares)) < 0.12


def test_the_shift_of_a_speaker_is_drawn_once_and_kept(tmp_path: Path) -> None:
    path, (*known, new) = tmp_path / "kept", clips_of(0, 6)
    first = SpeakerReferences(path, WIDTH)
    first.learn("s", known, SeededNoise(1))
    first.save()
    later = SpeakerReferences(path, WIDTH)
    np.testing.assert_array_equal(later["s"].scale(code())(new), first["s"].scale(code())(new))
    later.learn("s", [new], SeededNoise(2))
    np.testing.assert_array_equal(later["s"].normals, first["s"].normals)


def test_a_memory_without_shifts_is_refused(tmp_path: Path) -> None:
    """Such as an earlier version wrote: clips told with it would give away those that were told without."""
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "kept"
    known = SpeakerReferences(path, WIDTH)
    known.learn("s", clips_of(0, 3), SeededNoise(1))
    known.save()
    arrays = {name: array for name, array in load_file(path).items() if not name.endswith("normals")}
    save_file(arrays, path, {"speakers": '["s"]'})
    with pytest.raises(HomeError, match="normals"):
        SpeakerReferences(path, WIDTH)
