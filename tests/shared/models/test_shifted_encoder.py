"""An encoder tuned away from its person: codes go where they should, nothing else changes, and a collapse is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.audit.pretrained.face_encoders import SFaceEncoder
from moretta.shared.core.array_types import Float32, Int64, UInt8
from moretta.shared.core.errors import CorpusError
from moretta.shared.models.autoencoder import Autoencoder, AutoencoderSpec, Reconstructor
from moretta.shared.models.face_images import render_face_images
from moretta.shared.models.shifted_encoder import ShiftTask, TunedEncoder, codes_of, shifted, tune_encoder, tuning_steps
from moretta.shared.models.train_autoencoder import train_autoencoder
from moretta.shared.models.training_state import TrainOptions

SPEC = AutoencoderSpec(side=32, latent=24)
PEOPLE, EACH = 20, 4
WHO, SHOWN = np.repeat(np.arange(PEOPLE), EACH), np.tile(np.arange(EACH), PEOPLE)


@pytest.fixture(scope="module")
def pictures() -> UInt8:
    """A mixture of two coarse patterns for each person and a weaker pattern for each emotion, 32 x 32."""
    rng = np.random.default_rng(0)
    mixtures = rng.normal(size=(PEOPLE, 2))
    traits, emotions = (np.kron(rng.normal(size=(n, 4, 4, 3)), np.ones((1, 8, 8, 1))) for n in (2, EACH))
    people = np.tensordot(mixtures, traits, 1)
    return np.clip(128 + 30 * people[WHO] + 15 * emotions[SHOWN], 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def plain(pictures: UInt8) -> Autoencoder:
    return train_autoencoder(pictures, TrainOptions(spec=SPEC, epochs=6, batch=8, seed=1)).model


def _tuned(plain: Autoencoder, pictures: UInt8, **task: object) -> TunedEncoder:
    given = {"epochs": 8, "batch": 8, "neighbours": 6, "centroids": 4, "learning_rate": 0.002}
    return tune_encoder(plain, pictures, WHO, SHOWN, ShiftTask(**(given | task)))  # type: ignore[arg-type]


def _all(rows: int) -> Int64:
    return np.arange(rows)


def test_supervised_codes_go_the_stated_way_to_the_mean_of_the_nearest() -> None:
    bank = np.array([[1, 0], [0, 2], [9, 9], [0, -1]], np.float32)
    task = ShiftTask(distance=0.5, neighbours=2)
    found = shifted(np.zeros((1, 2), np.float32), bank, task, same=lambda _: _all(4))
    np.testing.assert_allclose(found, [[0.25, -0.25]])
    far = shifted(np.zeros((1, 2), np.float32), bank, task, same=lambda _: np.array([1, 2]))
    np.testing.assert_allclose(far, [[2.25, 2.75]])


def test_unsupervised_codes_go_to_the_nearest_centroid() -> None:
    rng = np.random.default_rng(0)
    centers = np.array([[10, 0], [-10, 0]], np.float32)
    bank = np.repeat(centers, 50, axis=0) + rng.normal(size=(100, 2)).astype(np.float32)
    task = ShiftTask(shift="unsupervised", distance=1.0, centroids=2)
    found = shifted(np.array([[6, 3], [-6, 3]], np.float32), bank, task, same=lambda _: _all(0))
    np.testing.assert_allclose(found, centers, atol=0.5)


def test_nobody_is_moved_towards_oneself_nor_towards_another_emotion(
    plain: Autoencoder, pictures: UInt8, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, Int64]] = []

    def spying(codes: Float32, bank: Float32, task: ShiftTask, *, same: object) -> Float32:
        seen.extend((row, same(row)) for row in range(len(codes)))  # type: ignore[operator]
        return shifted(codes, bank, task, same=same)  # type: ignore[arg-type]

    monkeypatch.setattr("moretta.shared.models.shifted_encoder.shifted", spying)
    _tuned(plain, pictures, epochs=1)
    assert len(seen) == len(pictures)
    for row, others in seen:
        assert len(others) and (SHOWN[others] == SHOWN[row]).all() and (WHO[others] != WHO[row]).all()
        assert (WHO[others] < PEOPLE - 2).all()  # the last tenth is held out


@pytest.mark.parametrize("shift", ["supervised", "unsupervised"])
def test_codes_of_held_out_people_come_twice_as_near_and_the_decoder_stays(
    shift: str, plain: Autoencoder, pictures: UInt8
) -> None:
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    made = _tuned(plain, pictures, shift=shift, distance=1.0)
    assert made.after < made.before / 2
    for name, tensor in made.model.state_dict().items():
        assert torch.equal(tensor, before[name]) is name.startswith("decoder") or "num_batches" in name
        assert torch.equal(plain.state_dict()[name], before[name])


def test_the_same_seed_gives_the_same_network_and_steps_are_counted(plain: Autoencoder, pictures: UInt8) -> None:
    steps: list[int] = []
    task = ShiftTask(epochs=2, batch=8, neighbours=4)
    one = tune_encoder(plain, pictures, WHO, SHOWN, task, step=lambda: steps.append(1)).model
    other = tune_encoder(plain, pictures, WHO, SHOWN, task).model
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in one.state_dict().items())
    assert len(steps) == tuning_steps(task, PEOPLE, EACH)


def test_too_few_people_and_emotions_of_one_person_are_refused(plain: Autoencoder, pictures: UInt8) -> None:
    two = slice(0, 2 * EACH)
    with pytest.raises(CorpusError, match="2 people"):
        tune_encoder(plain, pictures[two], WHO[two], SHOWN[two], ShiftTask())
    with pytest.raises(CorpusError, match="nobody else"):
        tune_encoder(plain, pictures, WHO, WHO, ShiftTask())
    with pytest.raises(CorpusError, match="centroids"):
        _tuned(plain, pictures, shift="unsupervised", centroids=500)


@pytest.mark.slow
@pytest.mark.user_cache
def test_outputs_are_others_and_not_one_face_and_a_mean_face_fails() -> None:
    if SFaceEncoder.missing():
        pytest.skip("no weights: run `moretta attackers fetch`")
    encoder, spec = SFaceEncoder.load(), AutoencoderSpec.preset("small")
    drawn = render_face_images(90, spec.side, seed=4)
    whose, shown = np.repeat(np.arange(90), 3), np.unique(drawn.emotions, return_inverse=True)[1]
    model = train_autoencoder(drawn.pictures[:210], TrainOptions(spec=spec, epochs=12, batch=8)).model
    made = tune_encoder(model, drawn.pictures[:210], whose[:210], shown[:210], ShiftTask())
    assert made.after < made.before / 2

    def vectors(pictures: UInt8) -> Float32:
        return encoder.embed_many([picture[None] for picture in pictures])

    def released(network: Autoencoder) -> Float32:
        return vectors(Reconstructor(network)(held.astype(np.float32) / np.float32(255)))

    held, people = np.asarray(drawn.pictures[210:]), whose[210:]
    left, right = np.triu_indices(len(held), 1)
    unlike = people[left] != people[right]
    originals, outputs = vectors(held), released(made.model)
    impostors = (originals[left] * originals[right]).sum(axis=1)[unlike]
    assert ((originals * outputs).sum(axis=1) < np.quantile(impostors, 0.95)).mean() >= 0.9

    def diversity(found: Float32) -> float:
        return float(1 - (found[left] * found[right]).sum(axis=1)[unlike].mean())

    assert diversity(outputs) >= 0.5 * diversity(originals)
    last = made.model.encoder[-1]
    with torch.no_grad():  # everybody gets the mean code
        last.bias.copy_(torch.from_numpy(codes_of(made.model, held).mean(axis=0)))
        last.weight.zero_()
    assert diversity(released(made.model)) < 0.5 * diversity(originals)
