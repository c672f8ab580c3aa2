"""The network on sequences learns what no statistic sees, repeats by seed, and is shown varied examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.models.emotion import emotion_model, initial_weights, voice_sequence, voice_statistics
from moretta.shared.models.sequence_net import Varying, train_centrally


def planted(count: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences [80, 4] that rise slowly and fall at once, or the same backwards: alike in every statistic."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    tooth = np.arange(80) % 10 / 10.0
    made = []
    for label in labels:
        rising = np.roll(tooth, rng.integers(10))[:, None] * rng.uniform(1, 2, 4) + 0.1 * rng.normal(size=(80, 4))
        made.append((rising if label else rising[::-1]).astype(np.float32))
    return made, labels.astype(np.int64)


def trained(inputs: np.ndarray, labels: np.ndarray, seed: int) -> torch.nn.Module:
    model = emotion_model("face", "sequence", 2)
    network = model.build(inputs.shape[1:])
    network.load_state_dict(initial_weights(model, inputs, seed=seed))
    train_centrally(network, inputs, labels, epochs=8, seed=seed, varying=Varying(), dropout=0.2)
    return network


def test_the_order_of_frames_is_learned_which_statistics_cannot_see() -> None:
    from sklearn.linear_model import LogisticRegression

    (known, labels), (others, truth) = planted(96, 1), planted(100, 2)
    one, two = (np.stack([voice_statistics(x, None) for x in part]) for part in (known, others))
    assert LogisticRegression(max_iter=500).fit(one, labels).score(two, truth) < 0.65
    network = trained(np.stack([voice_sequence(x, None) for x in known]), labels, 1)
    with torch.inference_mode():
        found = network(torch.from_numpy(np.stack([voice_sequence(x, None) for x in others]))).argmax(1).numpy()
    assert (found == truth).mean() > 0.9


def test_the_same_seed_trains_the_same_weights_and_another_one_others() -> None:
    sequences, labels = planted(40, 1)
    inputs = np.stack([voice_sequence(x, None) for x in sequences])
    once, again, other = (trained(inputs, labels, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)


def test_bands_are_moved_and_time_is_stretched_by_as_much_as_is_allowed() -> None:
    bump = np.zeros((1, 48, 256), np.float32)
    bump[0, 20, 108:149] = 1.0
    places, widths = set(), set()
    for seed in range(60):
        varying = Varying(shift=0.0, time_mask=0.0, coefficient_mask=0.0, stretch=0.2, bands=2)
        (made,) = varying(bump, np.random.default_rng(seed))
        places.add(int(made.max(axis=1).argmax()))
        widths.add(int((made.max(axis=0) > 0.5).sum()))
    assert places == {18, 19, 20, 21, 22}
    assert 41 in widths and 32 <= min(widths) < 36 and 46 < max(widths) <= 50


@pytest.mark.parametrize("shape", [(13, 256), (288, 16), (1, 2)])
def test_examples_are_varied_within_bounds_and_the_originals_stay(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    batch = rng.normal(size=(6, *shape)).astype(np.float32)
    before = batch.copy()
    made = Varying()(batch, np.random.default_rng(2))
    assert np.array_equal(batch, before)
    assert made.shape == batch.shape and made.dtype == np.float32
    assert np.isfinite(made).all()
    assert np.array_equal(made, Varying()(batch, np.random.default_rng(2)))
    assert np.array_equal(Varying(0.0, 0.0, 0.0)(batch, rng), batch)
    for old, new in zip(batch, made, strict=True):  # most values are those of the example, moved in time
        assert np.isin(new, old).mean() >= 0.5 or shape == (1, 2)
    if shape != (1, 2):
        assert not np.array_equal(made, batch)
