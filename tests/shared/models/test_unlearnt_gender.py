"""Toys with a planted bit of sex and one of emotion, the known ways to fake the result, and hostile weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import planted_clips
from torch import nn

from moretta.client.training.example_gradients import ExampleGradients
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import seeded
from moretta.shared.features.mfcc import MELS
from moretta.shared.models import unlearnt_gender
from moretta.shared.models.adversaries import reverse
from moretta.shared.models.train_unlearnt import Split, UnlearntTask, fitted, measured_embeddings, train_unlearnt
from moretta.shared.models.unlearnt_gender import (
    LIMIT,
    SIZES,
    STEPS,
    WIDTH,
    UnlearntEmbedding,
    UnlearntNet,
    losses,
)
from moretta.shared.models.unlearnt_inputs import face_input, voice_input


def test_a_planted_bit_of_sex_is_unlearnt_and_emotion_is_not() -> None:
    """Reversal needs more steps: the branch must follow a classifier that follows it."""
    split = Split.of(planted_clips(("face",)), seed=1)
    plain, hiding = (
        fitted(split.some(held_out=False), UnlearntTask(strength=strength, epochs=epochs), seed=1)
        for strength, epochs in ((0.0, 60), (1.0, 160))
    )
    before = measured_embeddings(plain, plain, split, seed=1)["face"].figures
    after = measured_embeddings(hiding, plain, split, seed=1)["face"].figures
    assert before.sex.fresh_linear >= 0.95 and before.sex.able >= 0.85  # a reader of the planted bit itself: 0.97
    assert after.sex.fresh_linear <= 0.68 and 0.45 <= after.sex.in_loop <= 0.62
    assert after.emotion_kept == before.emotion and after.emotion >= before.emotion - 0.05
    assert not [fault for fault in after.sex.faults() if "without reversal" not in fault]


def test_both_branches_are_trained_together_and_each_stands_alone() -> None:
    clips = planted_clips(("voice", "face"), each=6)
    made = train_unlearnt(clips, UnlearntTask(strength=0.0, epochs=2), seed=1)
    assert made.keys() == {"voice", "face"}
    first = UnlearntNet(("voice", "face")).state_dict()
    for modality, embedding in made.items():
        assert embedding.arrays.keys() == UnlearntEmbedding.rules(modality).keys()
        again = UnlearntEmbedding.from_arrays(modality, embedding.arrays)
        released = again(clips.inputs[modality])
        np.testing.assert_array_equal(released, embedding(clips.inputs[modality]))
        assert released.std(axis=0).min() > 0, "no value of it is constant"
        assert not np.array_equal(
            embedding.arrays[f"{modality}/unlearnt/narrow.bias"], first[f"branches.{modality}.narrow.bias"]
        )


class SoftmaxReversed(nn.Module):
    """The known fake: the reversal stands behind the head's softmax, so head and branch both maximize its loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, code: torch.Tensor, strength: float) -> torch.Tensor:
        found = torch.softmax(self.network(code), dim=1)
        return torch.log((reverse(found, strength) if strength else found).clamp_min(1e-9))


def test_a_reversal_behind_the_softmax_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlearnt_gender, "Adversary", SoftmaxReversed)
    split = Split.of(planted_clips(("face",)), seed=1)
    found = fitted(split.some(held_out=False), UnlearntTask(strength=3.0, epochs=10), seed=1)
    faults = measured_embeddings(found, found, split, seed=1)["face"].figures.sex.faults()
    assert any("above twice chance" in fault for fault in faults), faults


def test_a_branch_that_gives_the_same_for_everybody_has_collapsed() -> None:
    split = Split.of(planted_clips(("face",)), seed=1)
    twin = fitted(split.some(held_out=False), UnlearntTask(strength=0.0, epochs=1), seed=1)
    with seeded(1):
        constant = UnlearntNet(("face",))
    with torch.no_grad():
        constant.branches["face"].narrow.weight.zero_()
    faults = measured_embeddings(constant, twin, split, seed=1)["face"].figures.sex.faults()
    assert any("collapsed" in fault for fault in faults), faults


@pytest.mark.parametrize("modalities", [("voice",), ("face",), ("voice", "face")], ids="-".join)
def test_gradients_of_a_clip_are_those_of_the_clip_alone(modalities: tuple[Modality, ...]) -> None:
    """DP-SGD clips these: also through the recurrent layers, and where a clip has several pictures."""
    with seeded(2):
        network = UnlearntNet(modalities, strength=0.7)
        clips = torch.randn(3, sum(SIZES[name] for name in modalities))
    network.fold()
    targets = torch.tensor([[0.0, 1, 1, 1], [3.0, 0, 1, 2], [5.0, 1, 0.5, 1]])
    with ExampleGradients(network, losses) as gradients_of:
        found = gradients_of(clips, targets)
    for row in range(3):
        network.zero_grad()
        losses(network(clips[row : row + 1]), targets[row : row + 1]).sum().backward()  # type: ignore[no-untyped-call]
        for parameter, each in zip(network.parameters(), found, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(each[row], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("modality", ["voice", "face"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_whatever_the_weights_are_an_embedding_is_finite_and_bounded(modality: Modality, sign: float) -> None:
    rules, drawn = UnlearntEmbedding.rules(modality), np.random.default_rng(1)
    arrays = {
        name: np.full(rule.shape, 1, np.int64)
        if rule.dtype == "int64"
        else (sign * rule.largest * drawn.choice([1, -1], rule.shape)).astype(np.float32)
        for name, rule in rules.items()
    }
    arrays |= {n: np.full(r.shape, r.least, np.float32) for n, r in rules.items() if r.least and r.dtype != "int64"}
    embedding = UnlearntEmbedding.from_arrays(modality, arrays)
    clips = np.where(drawn.random((4, SIZES[modality])) < 0.1, np.nan, drawn.normal(size=(4, SIZES[modality])))
    made = embedding(clips.astype(np.float32))
    assert made.shape == (4, WIDTH) and made.dtype == np.float32
    assert np.isfinite(made).all() and np.abs(made).max() <= LIMIT


def test_a_clip_is_heard_by_its_middle_and_alone() -> None:
    drawn = np.random.default_rng(1)
    short, long = (drawn.normal(0, 0.1, int(16_000 * seconds)).astype(np.float32) for seconds in (1.0, 4.0))
    rows = voice_input([short, long]).reshape(2, STEPS, MELS)
    assert np.isfinite(rows[0, :50]).all() and np.isnan(rows[0, 51:]).all() and np.isfinite(rows[1]).all()
    np.testing.assert_allclose(voice_input([long])[0], rows[1].ravel(), rtol=1e-4, atol=1e-4)
    quiet = long.copy()
    quiet[: 16_000 // 2] = 0  # beyond the middle 2.56 s
    np.testing.assert_allclose(voice_input([quiet])[0], voice_input([long])[0], rtol=1e-3, atol=1e-3)


def test_light_and_complexion_are_not_seen() -> None:
    pictures = np.random.default_rng(1).integers(60, 200, (9, 48, 48, 3)).astype(np.uint8)
    darker = (pictures * 0.6 + 5).astype(np.uint8)
    assert face_input(pictures).shape == (SIZES["face"],)
    np.testing.assert_allclose(face_input(darker), face_input(pictures), atol=0.1)
