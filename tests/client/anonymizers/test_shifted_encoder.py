"""Faces through a tuned encoder: what the coordinator makes of options, and what a site releases and states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moretta.client.anonymizers import shifted_encoder
from moretta.client.anonymizers.autoencoder import PREFIX
from moretta.client.anonymizers.shifted_encoder import NAME, ShiftedEncoder, ShiftedEncoderOptions
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.features.face_detectors import NoDetector
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, autoencoder_arrays, save_autoencoder
from moretta.shared.models.face_images import PICTURES_PER_PERSON, FaceImages
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.release.release_format import check_array
from moretta.shared.study.public_arrays import check_public
from moretta.shared.study.schema import Study, parse_study


def study_of(**options: Any) -> Study:
    return parse_study({"voice": {"enabled": False}, "face": {"anonymizer": NAME, "options": options}})


@pytest.fixture(autouse=True)
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moretta.shared.features.faces.best_detector", NoDetector)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain autoencoder that nobody has trained."""
    path = tmp_path_factory.mktemp("weights") / "face.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_autoencoder(Autoencoder(AutoencoderSpec.preset("small")).eval(), path)
    return path


@pytest.fixture
def noise_for_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(people: int, side: int, *, seed: int) -> FaceImages:
        rng, count = np.random.default_rng(seed), people * PICTURES_PER_PERSON
        pictures = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
        return FaceImages(pictures, 0, "none", emotions=tuple(EMOTIONS[n % 3] for n in range(count)))

    monkeypatch.setattr(shifted_encoder, "render_face_images", drawn)


@pytest.mark.usefixtures("noise_for_faces")
def test_the_encoder_of_the_studys_file_is_tuned_and_sent_once_for_equal_options(weights: Path) -> None:
    said: list[str] = []
    study = study_of(weights=str(weights), training_faces=30, tuning_epochs=1)
    public = ShiftedEncoder.prepare_public(study, said.append)
    check_public(public, ShiftedEncoder.public_rules(study))
    assert any("from their targets" in line for line in said)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        plain = autoencoder_arrays(Autoencoder(AutoencoderSpec.preset("small")))
    changed = {name for name, array in plain.items() if not np.array_equal(array, public[PREFIX + name])}
    assert changed and all(name.startswith("encoder") for name in changed)
    said.clear()
    again = prepare_public(study, said.append)
    assert not said and all(np.array_equal(array, again[name]) for name, array in public.items())


def test_a_release_is_pictures_and_states_how_codes_were_shifted() -> None:
    study = study_of(shift="unsupervised", distance=0.5)
    arrays = autoencoder_arrays(Autoencoder(AutoencoderSpec.preset("small")))
    made = ShiftedEncoder.from_study(study, {f"{PREFIX}{name}": array for name, array in arrays.items()})
    clip = np.random.default_rng(1).integers(0, 256, (3, 60, 80, 3)).astype(np.uint8)
    first, second = (made.release([clip], [SeededNoise(1)], ["a"])[0] for _ in range(2))
    assert isinstance(first, np.ndarray) and isinstance(second, np.ndarray)
    check_array("face", "frames", first)
    np.testing.assert_array_equal(first, second)
    stated = made.statement({}, "seeded")
    assert stated.parameters["shift"] == "unsupervised" and stated.parameters["distance"] == 0.5
    assert stated.parameters["centroids"] == 16 and "neighbours" not in stated.parameters
    assert all(row.epsilon is None for row in stated.privacy)


def test_weights_that_are_none_are_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(StudyError, match="train-face"):
        ShiftedEncoder.prepare_public(study_of(weights=str(tmp_path / "absent")), said.append)
    assert not said


@pytest.mark.parametrize("wrong", [{"distance": 0}, {"distance": 1.5}, {"neighbours": 0}, {"shift": "both"}])
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"face.options.{next(iter(wrong))}"):
        study_of(**wrong)


def test_the_task_has_what_the_study_chose() -> None:
    task = ShiftedEncoderOptions(shift="unsupervised", distance=1.0, centroids=5, tuning_epochs=3, noise=0.0).task()
    assert (task.shift, task.distance, task.centroids, task.epochs, task.noise) == ("unsupervised", 1.0, 5, 3, 0.0)
