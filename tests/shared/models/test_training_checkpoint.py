"""A training that was interrupted goes on to the weights that it would have had anyway."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from moretta.shared.core.errors import Interrupted, StudyError
from moretta.shared.models.autoencoder import AutoencoderSpec
from moretta.shared.models.train_autoencoder import TrainedAutoencoder, train_autoencoder
from moretta.shared.models.training_state import TrainOptions

TINY = AutoencoderSpec(side=32, latent=16)
STEPS_PER_EPOCH = 5


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def faces(count: int = 20) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)


def options(**changes) -> TrainOptions:
    return TrainOptions(**{"spec": TINY, "epochs": 3, "batch": 4, **changes})


def same(one: TrainedAutoencoder, other: TrainedAutoencoder) -> bool:
    states = (trained.model.state_dict() for trained in (one, other))
    equal = all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    return equal and one.history == other.history


def ended_after(steps: int, checkpoint: Path, **changes) -> None:
    """Train so many steps, and be asked to end."""
    made = iter(range(1, 1000))
    with pytest.raises(Interrupted, match="go on with --resume"):
        train_autoencoder(faces(), options(**changes), checkpoint=checkpoint, stopped=lambda: next(made) == steps)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("steps", [2, STEPS_PER_EPOCH + 1, 2 * STEPS_PER_EPOCH + 4])
def test_training_ended_within_an_epoch_goes_on_to_the_same_weights(tmp_path, steps, optimizer):
    checkpoint, made = tmp_path / "training.safetensors", []
    ended_after(steps, checkpoint, optimizer=optimizer)
    done = []
    resumed = train_autoencoder(
        faces(), options(optimizer=optimizer), checkpoint=checkpoint, begun=done.append, step=lambda: made.append(1)
    )
    assert same(resumed, train_autoencoder(faces(), options(optimizer=optimizer)))
    assert done == [steps]
    assert len(made) == 3 * STEPS_PER_EPOCH - steps


KILLED = """
import os, signal, sys, torch
sys.path.insert(0, sys.argv[1])
from test_training_checkpoint import faces, options, train_autoencoder
from pathlib import Path
torch.set_num_threads(1)
steps = iter(range(1, 1000))
die = lambda: next(steps) == int(sys.argv[3]) and os.kill(os.getpid(), signal.SIGKILL)
train_autoencoder(faces(), options(), checkpoint=Path(sys.argv[2]), step=die)
"""


@pytest.mark.parametrize("steps", [STEPS_PER_EPOCH + 3, 3 * STEPS_PER_EPOCH])
def test_killed_training_goes_on_from_its_last_whole_epoch_to_the_same_weights(tmp_path, steps):
    checkpoint = tmp_path / "training.safetensors"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(checkpoint), str(steps)]
    killed = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    done = []
    resumed = train_autoencoder(faces(), options(), checkpoint=checkpoint, begun=done.append)
    assert done == [(steps - 1) // STEPS_PER_EPOCH * STEPS_PER_EPOCH]
    assert same(resumed, train_autoencoder(faces(), options()))


def test_kill_while_the_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint = tmp_path / "training.safetensors"
    ended_after(STEPS_PER_EPOCH + 1, checkpoint)
    before = checkpoint.read_bytes()

    def torn(_tensors, path, **_):
        Path(path).write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        train_autoencoder(faces(), options(), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_what_a_kill_left_of_a_checkpoint_is_removed(tmp_path):
    checkpoint, part = tmp_path / "training.safetensors", tmp_path / ".training.0123456789abcdef.part"
    part.write_bytes(b"half")
    ended_after(2, checkpoint)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_checkpoint_after_the_last_epoch_gives_the_result_without_a_step(tmp_path):
    checkpoint, steps = tmp_path / "training.safetensors", []
    trained = train_autoencoder(faces(), options(), checkpoint=checkpoint)
    again = train_autoencoder(faces(), options(), checkpoint=checkpoint, step=lambda: steps.append(1))
    assert same(again, trained)
    assert not steps


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"epochs": 4}, "epochs 3, now 4"), ({"seed": 2}, "seed 1, now 2"), ({"noise": 0.2}, "noise 0.1, now 0.2")],
)
def test_checkpoint_of_another_training_is_refused_by_name(tmp_path, changes, named):
    checkpoint = tmp_path / "training.safetensors"
    ended_after(2, checkpoint)
    with pytest.raises(StudyError, match=named):
        train_autoencoder(faces(), options(**changes), checkpoint=checkpoint)


def test_other_pictures_are_refused(tmp_path):
    checkpoint = tmp_path / "training.safetensors"
    ended_after(2, checkpoint)
    other = faces()
    other[7, 3, 3] += 1
    with pytest.raises(StudyError, match="of another training: pictures"):
        train_autoencoder(other, options(), checkpoint=checkpoint)


@pytest.mark.parametrize("damage", ["cut", "text", "weights"])
def test_damaged_checkpoint_is_bad_input(tmp_path, damage):
    checkpoint = tmp_path / "training.safetensors"
    ended_after(2, checkpoint)
    if damage == "weights":
        from moretta.shared.models.autoencoder import Autoencoder, save_autoencoder

        save_autoencoder(Autoencoder(TINY), checkpoint)
    else:
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000] if damage == "cut" else b"not a checkpoint")
    with pytest.raises(StudyError, match=r"cannot be read.*delete"):
        train_autoencoder(faces(), options(), checkpoint=checkpoint)


def test_checkpoint_is_arrays_and_json(tmp_path):
    """Nothing in it is ever executed."""
    checkpoint = tmp_path / "training.safetensors"
    ended_after(2, checkpoint)
    with safe_open(checkpoint, framework="np") as file:
        names = set(file.keys())
        assert file.metadata()["format"] == "moretta-training-1"
    assert {"model/encoder.0.weight", "optimizer/0/exp_avg", "optimizer/0/exp_avg_sq", "optimizer/0/step"} <= names
