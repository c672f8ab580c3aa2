"""Directions of expression in a code: planted ones are found, and who it is stays behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.errors import ReleaseError, RunError
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec
from moretta.shared.models.codec import Codec
from moretta.shared.models.expression_code import ExpressionCode, learn_expression_code
from moretta.shared.models.reconstruct import Reconstructor

LATENT, CHANNELS = 40, 6


def planted(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Codes = who it is + movement + light, for 40 people; codes and movements of a public person who moves alike."""
    rng = np.random.default_rng(seed)
    mixing, light = rng.normal(size=(CHANNELS, LATENT)), 3 * rng.normal(size=(2, LATENT))

    def codes(moved: np.ndarray) -> np.ndarray:
        own = 5 * rng.normal(size=LATENT)
        return own + moved @ mixing + rng.normal(size=(len(moved), 2)) @ light + 0.1 * rng.normal(size=(len(moved), 40))

    movements = [rng.normal(size=(12, CHANNELS)) for _ in range(40)]
    public = rng.normal(size=(80, CHANNELS))
    return [codes(moved) for moved in movements], movements, codes(public), public


def test_movement_is_measured_and_the_person_is_not() -> None:
    codes, movements, home, _ = planted()
    learnt = learn_expression_code(codes, movements, home, dimensions=CHANNELS)
    strangers, moved, _, _ = planted(0)
    measured = np.concatenate([own - own.mean(0) for own in (learnt.measures(c) for c in strangers)])
    true = np.concatenate([own - own.mean(0) for own in moved])
    guess, *_ = np.linalg.lstsq(measured, true, rcond=None)
    assert 1 - ((true - measured @ guess) ** 2).sum() / (true**2).sum() > 0.9


def test_everybodys_movement_is_worn_by_the_public_person() -> None:
    codes, movements, home, public = planted()
    learnt = learn_expression_code(codes, movements, home, dimensions=CHANNELS)
    own = learnt.measures(codes[0])
    worn = learnt.worn(own - own.mean(0) + learnt.public.middle)
    far = np.linalg.norm(codes[0].mean(0) - home.mean(0))
    assert np.linalg.norm(worn.mean(0) - home.mean(0)) < 0.05 * far
    back = learnt.measures(worn)
    assert np.corrcoef((back - back.mean(0)).ravel(), (own - own.mean(0)).ravel())[0, 1] > 0.9
    assert worn.shape == codes[0].shape and len(public)


def test_arrays_come_back_and_forged_ones_are_refused() -> None:
    codes, movements, home, _ = planted()
    learnt = learn_expression_code(codes, movements, home)
    arrays = learnt.to_arrays("code/")
    back = ExpressionCode.from_arrays(arrays, "code/", latent=LATENT)
    np.testing.assert_allclose(back.measures(codes[0]), learnt.measures(codes[0]), rtol=1e-3, atol=1e-3)
    with pytest.raises(ReleaseError, match="into"):
        ExpressionCode.from_arrays(arrays, "code/", latent=LATENT + 1)
    with pytest.raises(ReleaseError, match="home"):
        ExpressionCode.from_arrays({**arrays, "code/home": arrays["code/home"] * np.inf}, "code/", latent=LATENT)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Autoencoder(AutoencoderSpec.preset("small")).eval()


def test_both_halves_together_are_the_autoencoder(model: Autoencoder) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    codec = Codec(model, "float32")
    whole = Reconstructor(model, "float32")(pictures.astype(np.float32) / 255)
    np.testing.assert_allclose(codec.decode(codec.encode(pictures)).astype(int), whole.astype(int), atol=1)
    np.testing.assert_array_equal(codec.encode(pictures[1:2])[0], codec.encode(pictures)[1])


def test_a_code_that_is_not_finite_is_not_drawn(model: Autoencoder) -> None:
    with pytest.raises(RunError):
        Codec(model, "float32").decode(np.full((1, 300), np.nan, np.float32))
