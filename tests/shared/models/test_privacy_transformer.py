"""A Privacy Transformer on planted clones: an embedding is the utterance's and the voice's part, and both are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moretta.shared.core.errors import StudyError
from moretta.shared.models.privacy_transformer import (
    PREFIX,
    TARGETS,
    PrivacyTransformer,
    TransformerFigures,
    TransformerNet,
)
from moretta.shared.models.replacement_autoencoder import LIMIT, Scale, scale_of
from moretta.shared.models.train_transformer import (
    Clones,
    TransformerTask,
    cloned,
    fitted,
    measured_transformer,
)

WIDTH = 12
TASK = TransformerTask(epochs=40)


def planted(voices: int, utterances: int, together: int, seed: int) -> Clones:
    """Emotion and other content in some directions, the voice in others, and both in some."""
    drawn = np.random.default_rng(seed)
    mixing = np.random.default_rng(0)
    emotion = drawn.integers(6, size=utterances)
    said = np.hstack([2.5 * mixing.normal(size=(6, 3))[emotion], 0.3 * drawn.normal(size=(utterances, 2))])
    who = drawn.normal(size=(voices, 4))
    voice = np.stack([(np.arange(together) + together * turn) % voices for turn in range(utterances)])
    content, owner = said @ mixing.normal(size=(5, WIDTH)), who @ (1.5 * mixing.normal(size=(4, WIDTH)))
    values = content[:, None] + owner[voice] + 0.15 * drawn.normal(size=(utterances, together, WIDTH))
    return Clones(values, voice, emotion)


@pytest.fixture(scope="module")
def known() -> Clones:
    return planted(48, 150, 8, seed=1)


@pytest.fixture(scope="module")
def others() -> Clones:
    return planted(8, 60, 8, seed=2)


@pytest.fixture(scope="module")
def scale(known: Clones) -> Scale:
    return scale_of(known.embeddings.reshape(-1, WIDTH))


@pytest.fixture(scope="module")
def network(known: Clones, scale: Scale) -> TransformerNet:
    return fitted(known, scale, TASK, seed=1)


@pytest.fixture(scope="module")
def made(network: TransformerNet, known: Clones, others: Clones, scale: Scale) -> PrivacyTransformer:
    return measured_transformer(network, known, others, scale, seed=1)


def test_unseen_utterances_of_unseen_voices_are_given_unseen_voices(made: PrivacyTransformer) -> None:
    found = made.figures
    assert found.faults() == ()
    assert found.cosine >= max(0.9, found.source_cosine + 0.2)
    assert found.own_cosine >= 0.9
    assert found.speaker <= 2 * found.speaker_chance < 0.9 < found.speaker_originals
    assert found.emotion >= found.emotion_originals - 0.05 and found.emotion_originals > 0.7


def test_a_constant_hides_everybody_and_is_a_fault(
    network: TransformerNet, known: Clones, others: Clones, scale: Scale
) -> None:
    constant = TransformerNet(WIDTH).eval()
    constant.load_state_dict(network.state_dict())
    torch.nn.init.zeros_(constant.last.weight)
    found = measured_transformer(constant, known, others, scale, seed=1).figures
    assert found.speaker <= 2 * found.speaker_chance  # looks like the best that can be
    assert any("say nothing of utterances" in fault for fault in found.faults())


def test_an_output_that_knows_the_target_alone_is_a_fault(known: Clones, others: Clones, scale: Scale) -> None:
    class Deaf(TransformerNet):
        def forward(self, utterances: torch.Tensor, voices: torch.Tensor) -> torch.Tensor:
            return voices + 0 * utterances

    found = measured_transformer(Deaf(WIDTH), known, others, scale, seed=1).figures
    assert found.cosine > found.source_cosine and found.variation < 0.1
    assert any("say nothing of utterances" in fault for fault in found.faults())


def test_a_network_that_gives_back_its_input_is_a_fault(known: Clones, others: Clones, scale: Scale) -> None:
    class Idle(TransformerNet):
        def forward(self, utterances: torch.Tensor, voices: torch.Tensor) -> torch.Tensor:
            return utterances + 0 * voices

    found = measured_transformer(Idle(WIDTH), known, others, scale, seed=1).figures
    assert found.speaker > 0.9 and found.own_cosine == pytest.approx(1)
    assert any("no voice was changed" in fault for fault in found.faults())
    broken = TransformerFigures.from_array(np.full_like(found.to_array(), np.nan))
    assert broken.faults() == ("figures that are not finite: the training diverged",)


def test_utterance_and_target_are_a_set(network: TransformerNet) -> None:
    tokens = torch.randn(3, 2, 128)
    with torch.no_grad():
        for layer in network.layers:
            np.testing.assert_allclose(layer(tokens.flip(1)), layer(tokens).flip(1), atol=1e-5)
    assert not any("position" in name for name in network.state_dict())


def test_a_target_is_known_by_its_other_utterances() -> None:
    clones = planted(4, 6, 2, seed=3)
    codes = clones.codes(clones.embeddings)
    mine = np.argwhere(clones.voice == clones.voice[0, 1])
    rest = [clones.embeddings[tuple(place)] for place in mine if tuple(place) != (0, 1)]
    np.testing.assert_allclose(codes[0, 1], np.mean(rest, axis=0))
    assert len(rest) == 2


def test_all_clips_of_an_utterance_are_clones_of_it_and_every_voice_has_its_turn() -> None:
    class Length:
        width = 1

        def ready(self) -> None:
            """Nothing."""

        def embed(self, clips: list[np.ndarray]) -> np.ndarray:
            return np.array([[len(clip)] for clip in clips], np.float32)

    from moretta.shared.models.speech import drawn_voices

    steps: list[int] = []
    found = cloned(Length(), drawn_voices(6, 1), 4, 3, seed=1, step=lambda: steps.append(1))
    assert len(steps) == 4 and {*found.voice.ravel()} == set(range(6))
    assert np.ptp(found.embeddings, axis=1).max() == 0 and np.ptp(found.embeddings) > 0
    assert all(len({*row}) == 3 for row in found.voice)


def test_what_is_released_is_finite_and_bounded_whatever_the_weights_are(made: PrivacyTransformer) -> None:
    arrays = dict(made.arrays)
    again = PrivacyTransformer.from_arrays(arrays, width=WIDTH)
    rows, targets = np.random.default_rng(1).normal(size=(5, WIDTH)), np.arange(5)
    assert np.array_equal(again(rows, targets), made(rows, targets))
    assert not np.allclose(made(rows[:1], np.array([0])), made(rows[:1], np.array([1])))
    assert again.figures == made.figures and len(arrays[PREFIX + "voices"]) == TARGETS
    hostile = {**arrays, **{name: np.full_like(array, 1e3) for name, array in arrays.items() if "layers" in name}}
    found = PrivacyTransformer.from_arrays(hostile, width=WIDTH)(np.full((2, WIDTH), 1e30), targets[:2])
    assert np.isfinite(found).all() and np.abs(found).max() <= LIMIT
    for name, array in arrays.items():
        with pytest.raises(StudyError):
            PrivacyTransformer.from_arrays({**arrays, name: np.full_like(array, np.nan)}, width=WIDTH)


def test_recordings_that_lie_elsewhere_are_brought_to_where_synthetic_voices_are(
    made: PrivacyTransformer, others: Clones
) -> None:
    rows, targets = others.embeddings[:, 0], np.zeros(len(others.embeddings), np.int64)
    elsewhere = 40 + 3 * rows
    found = made.on_scale_of(elsewhere)(elsewhere, targets)
    np.testing.assert_allclose(found, made.on_scale_of(rows)(rows, targets), atol=1e-3)
    assert np.abs(found - made(elsewhere, targets)).mean() > 0.5
    assert made.on_scale_of(rows).figures == made.figures


def test_the_same_clones_and_seed_give_the_same_network(known: Clones, scale: Scale) -> None:
    few = TransformerTask(epochs=2)
    first, again = (fitted(known, scale, few, seed=1).state_dict() for _ in range(2))
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
