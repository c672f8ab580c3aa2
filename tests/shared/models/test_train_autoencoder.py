import cv2
import numpy as np
import pytest
import torch

from moretta.shared.core.errors import CorpusError, RunError, StudyError
from moretta.shared.models.autoencoder import AutoencoderSpec
from moretta.shared.models.train_autoencoder import train_autoencoder, training_steps
from moretta.shared.models.training_state import TrainOptions

TINY = AutoencoderSpec(side=32, latent=16)


def discs(count: int) -> np.ndarray:
    """Discs of some colour at some place: as little as an autoencoder can learn something from."""
    rng = np.random.default_rng(7)
    pictures = np.full((count, 32, 32, 3), 40, np.uint8)
    for picture in pictures:
        centre = tuple(int(v) for v in rng.integers(10, 22, 2))
        cv2.circle(picture, centre, 8, tuple(int(v) for v in rng.integers(120, 255, 3)), -1)
    return pictures


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options(**changes) -> TrainOptions:
    return TrainOptions(**{"spec": TINY, "epochs": 3, "batch": 8, "learning_rate": 0.003, **changes})


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.001), ("sgd", 0.5)])
def test_training_draws_unseen_pictures_better_than_the_mean_picture(optimizer, rate):
    pictures = discs(100)
    trained = train_autoencoder(pictures, options(epochs=4, batch=4, optimizer=optimizer, learning_rate=rate))
    mean_error = np.square((pictures[90:] - pictures[:90].mean(0)) / 255).mean()
    assert trained.psnr > -10 * np.log10(mean_error) + 0.3
    assert trained.history[-1].loss < 0.5 * trained.history[0].loss
    assert (trained.trained_on, trained.held_out) == (90, 10)
    assert not trained.model.training


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    one, same, other = (train_autoencoder(discs(16), options(epochs=1, seed=seed)).model for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_training_leaves_the_callers_random_generator_alone():
    before = torch.get_rng_state()
    train_autoencoder(discs(10), options(epochs=1))
    assert torch.equal(before, torch.get_rng_state())


def test_pictures_are_not_changed():
    pictures = discs(16)
    train_autoencoder(pictures, options(epochs=1))
    np.testing.assert_array_equal(pictures, discs(16))


@pytest.mark.parametrize("count", [2, 17, 40])
def test_every_step_is_reported(count):
    reported = []
    train_autoencoder(discs(count), options(epochs=2), step=lambda: reported.append(1))
    assert len(reported) == training_steps(options(epochs=2), count)


def test_what_step_raises_ends_the_training():
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(discs(16), options(), step=interrupt)


@pytest.mark.parametrize("pictures", [discs(1), discs(0), np.zeros((9, 64, 64, 3), np.uint8), discs(9).astype(float)])
def test_unusable_pictures_are_refused(pictures):
    with pytest.raises(CorpusError):
        train_autoencoder(pictures, options())


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch": 1}, {"learning_rate": 0}, {"learning_rate": 2}, {"noise": 1.5}, {"optimizer": "lbfgs"}],
)
def test_impossible_options_are_refused(change):
    with pytest.raises(StudyError):
        options(**change)


def test_diverged_training_is_reported(monkeypatch):
    nothing = torch.full((), torch.nan, requires_grad=True)
    monkeypatch.setattr(torch.nn.functional, "mse_loss", lambda out, _: out.sum() * nothing)
    with pytest.raises(RunError, match="diverged"):
        train_autoencoder(discs(16), options())
