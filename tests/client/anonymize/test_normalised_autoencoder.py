"""A code relative to the person's own: of everybody's pictures the public person's is left, moved a little."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.client.anonymize.normalised_autoencoder import NormalisedAutoencoder
from moretta.client.anonymize.registry import get_anonymizer
from moretta.shared.errors import StudyError
from moretta.shared.features.face_detectors import FaceBox
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec
from moretta.shared.models.autoencoder_file import autoencoder_arrays
from moretta.shared.models.codec import Codec
from moretta.shared.models.expression_code import DIMENSIONS, ExpressionCode
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.public import CODE_PREFIX, expression_code
from moretta.shared.release.format import check_array
from moretta.shared.study import parse_study

STUDY = parse_study({"face": {"anonymizer": "normalised-autoencoder", "preset": "small"}})


class MiddleDetector:
    """The middle of every frame."""

    name = "middle"

    def find(self, frame: np.ndarray) -> FaceBox:
        return FaceBox(frame.shape[1] / 2, frame.shape[0] / 2, 40)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Autoencoder(AutoencoderSpec.preset("small")).eval()


@pytest.fixture(scope="module")
def code(model: Autoencoder) -> ExpressionCode:
    return expression_code(model, seed=1, people=3, shots=6)


def shared(model: Autoencoder, code: ExpressionCode) -> dict[str, np.ndarray]:
    arrays = {f"face/{name}": array for name, array in autoencoder_arrays(model).items()}
    return {**arrays, **code.to_arrays(CODE_PREFIX)}


def clips(level: float, count: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(int(level))
    return [np.clip(level + 20 * rng.normal(size=(5, 48, 48, 3)), 0, 255).astype(np.uint8) for _ in range(count)]


def test_it_is_made_of_what_the_coordinator_sends(model: Autoencoder, code: ExpressionCode) -> None:
    made = get_anonymizer("face", "normalised-autoencoder").from_study(STUDY, shared(model, code))
    assert isinstance(made, NormalisedAutoencoder)
    assert made.statement({}, "system").parameters["dimensions"] == DIMENSIONS


def test_a_network_without_directions_is_refused(model: Autoencoder) -> None:
    arrays = {f"face/{name}": array for name, array in autoencoder_arrays(model).items()}
    with pytest.raises(StudyError, match="directions"):
        get_anonymizer("face", "normalised-autoencoder").from_study(STUDY, arrays)


def test_unlike_people_are_released_as_one_public_person(model: Autoencoder, code: ExpressionCode) -> None:
    made = NormalisedAutoencoder(FaceCropper(64, MiddleDetector()), model, code, fps=5.0)
    people = {"dark": clips(50), "bright": clips(200)}
    made.fit([(name, clip) for name, own in people.items() for clip in own], SeededNoise(1))
    means = {}
    for name, own in people.items():
        results = made.release(own, [SeededNoise(1, name, n) for n in range(len(own))], [name] * len(own))
        arrays = [result for result in results if isinstance(result, np.ndarray)]
        assert len(arrays) == len(own)
        for array in arrays:
            check_array("face", "frames", array)
        means[name] = np.mean([array.mean(0) for array in arrays], axis=0)
    codec, crop = Codec(model), FaceCropper(64, MiddleDetector()).crop_clip
    through = {name: codec.decode(codec.encode(crop(own[0]).pictures)).mean(0) for name, own in people.items()}
    apart, before = (np.abs(m["dark"] - m["bright"]).mean() for m in (means, through))
    assert apart < before / 2


def test_public_people_are_drawn_alike_for_one_seed_and_unlike_for_another(model: Autoencoder) -> None:
    once, again, other = (expression_code(model, seed=seed, people=2, shots=2) for seed in (1, 1, 2))
    np.testing.assert_allclose(again.into, once.into, rtol=1e-6)
    assert not np.allclose(other.into, once.into)
