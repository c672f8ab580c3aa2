"""Learned fusion: what it does without a modality, and that it learns whom to believe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.models.emotion import emotion_model, trained_names
from moretta.shared.models.fusion_gate import Gate, Prediction, first_gate, gate_input, hide_some

CLASSES = 6
INPUTS = 2 * CLASSES + 2

Rows = np.ndarray[Any, Any]


def _logs(rng: np.random.Generator, clips: int, spread: float = 2.0) -> Rows:
    raw = spread * rng.standard_normal((clips, CLASSES))
    return np.asarray(raw - np.log(np.exp(raw).sum(1, keepdims=True)), np.float32)


def _rows(voice: Rows | None, face: Rows | None) -> Rows:
    clips = tuple(f"{n:x}" for n in range(len(voice if voice is not None else face)))  # type: ignore[arg-type]
    given = {"voice": voice, "face": face}
    return gate_input(clips, {m: Prediction(clips, logs) for m, logs in given.items() if logs is not None})  # type: ignore[misc]


def _random_gate(seed: int, spread: float = 0.7) -> Gate:
    gate = Gate()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return gate


def _probabilities(gate: Gate, rows: Rows) -> Rows:
    with torch.inference_mode():
        return np.asarray(torch.softmax(gate(torch.from_numpy(rows)).double(), dim=1))


@pytest.mark.parametrize("there", ["voice", "face"])
def test_without_a_modality_a_clip_is_decided_by_exactly_the_others_calibrated_opinion(
    rng: np.random.Generator, there: str
) -> None:
    logs, gate = _logs(rng, 50), _random_gate(1)
    rows = _rows(logs, None) if there == "voice" else _rows(None, logs)
    with torch.inference_mode():
        assert torch.equal(gate(torch.from_numpy(rows)), getattr(gate, there)(torch.from_numpy(logs)))


def test_what_stands_in_the_place_of_a_missing_modality_changes_nothing(rng: np.random.Generator) -> None:
    rows, gate = _rows(_logs(rng, 20), None), _random_gate(2)
    other = rows.copy()
    other[:, CLASSES : 2 * CLASSES] = _logs(rng, 20)
    assert np.array_equal(_probabilities(gate, rows), _probabilities(gate, other))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (1, 0), (0, 1)]), st.floats(0.01, 30))
def test_outputs_are_probabilities_whatever_the_models_say(seed: int, here: tuple[int, int], spread: float) -> None:
    rng = np.random.default_rng(seed)
    voice, face = (_logs(rng, 4, spread) if there else None for there in here)
    found = _probabilities(_random_gate(seed % 1000), _rows(voice, face))
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert np.allclose(found.sum(axis=1), 1, atol=1e-6)


def test_before_training_all_clips_are_weighed_as_the_vote_weighs_them(rng: np.random.Generator) -> None:
    gate = Gate()
    gate.load_state_dict(first_gate(0.6))
    voice, face = _logs(rng, 30), _logs(rng, 30)
    mean = 0.6 * voice.astype(float) + 0.4 * face.astype(float)
    expected = np.exp(mean) / np.exp(mean).sum(1, keepdims=True)
    assert np.allclose(_probabilities(gate, _rows(voice, face)), expected, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_at_the_ends_of_the_weight_a_clip_with_one_modality_is_decided_by_it(
    rng: np.random.Generator, share: float
) -> None:
    gate = Gate()
    gate.load_state_dict(first_gate(share))
    logs = _logs(rng, 20)
    for rows in (_rows(logs, None), _rows(None, logs)):
        assert np.allclose(_probabilities(gate, rows), np.exp(logs), atol=1e-6)


def test_there_are_few_parameters_for_noise_to_drown() -> None:
    model = emotion_model("fusion", "gate")
    assert sum(parameter.numel() for parameter in model.build(()).parameters()) == 19
    weights = {name: np.asarray(tensor) for name, tensor in first_gate(0.6).items()}
    assert trained_names(model, weights) == set(weights)


def test_opinions_are_put_together_by_clip_and_not_by_place(rng: np.random.Generator) -> None:
    logs = _logs(rng, 3)
    rows = gate_input(
        ("a", "b", "c"), {"voice": Prediction(("c", "x", "a"), logs), "face": Prediction(("b",), logs[:1])}
    )
    assert rows.shape == (3, INPUTS)
    assert np.array_equal(rows[2, :CLASSES], logs[0])
    assert np.array_equal(rows[0, :CLASSES], logs[2])
    assert rows[:, 2 * CLASSES :].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert not rows[1, :CLASSES].any()


def test_modalities_are_hidden_as_often_as_requested_and_never_both(rng: np.random.Generator) -> None:
    clips = 2000
    rows = _rows(_logs(rng, clips), _logs(rng, clips))
    rows[:200] = _rows(_logs(rng, 200), None)
    hidden = hide_some(rows, rng.random(clips), 0.3)
    mask = hidden[:, 2 * CLASSES :]
    assert mask.any(axis=1).all()
    assert np.array_equal(hidden[:200], rows[:200])
    gone = 1 - mask[200:].mean(axis=0)
    assert np.allclose(gone, 0.15, atol=0.03)
    assert np.array_equal(hide_some(rows, rng.random(clips), 0.0), rows)


def _said(rng: np.random.Generator, labels: Rows, sure: Rows) -> Rows:
    """Log-probabilities that point at the label where a model is sure, and are next to uniform noise where not."""
    raw = 0.4 * rng.standard_normal((len(labels), CLASSES))
    raw[np.arange(len(labels)), labels] += np.where(sure, 4.0, 0.0)
    return np.asarray(raw - np.log(np.exp(raw).sum(1, keepdims=True)), np.float32)


def _trained(rows: Rows, labels: Rows) -> Gate:
    gate = Gate()
    gate.load_state_dict(first_gate(0.6))
    optimizer = torch.optim.SGD(gate.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(gate(torch.from_numpy(rows)), torch.from_numpy(labels)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return gate


def _right(probabilities: Rows, labels: Rows) -> float:
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def _vote(rows: Rows) -> Rows:
    return np.asarray(0.6 * np.exp(rows[:, :CLASSES]) + 0.4 * np.exp(rows[:, CLASSES : 2 * CLASSES]))


def test_where_each_modality_is_reliable_on_other_clips_the_gate_beats_the_vote(rng: np.random.Generator) -> None:
    """A voice that is confidently wrong where its runner-up is close, a face that is sure only where it is right."""

    def clips(count: int) -> tuple[Rows, Rows]:
        labels = rng.integers(0, CLASSES, count)
        voice_knows = rng.random(count) < 0.5
        wrong = np.where(voice_knows, labels, rng.integers(0, CLASSES, count))
        voice = _said(rng, wrong, np.ones(count, bool))
        voice[~voice_knows] = _logs_of(0.5 * voice[~voice_knows])  # less sure where it errs, but surer than the face
        return _rows(voice, _said(rng, labels, ~voice_knows) * np.float32(0.6)), labels

    rows, labels = clips(1500)
    gate = _trained(rows, labels)
    fresh, truth = clips(1500)
    assert _right(_probabilities(gate, fresh), truth) > _right(_vote(fresh), truth) + 0.05


def test_where_one_modality_is_noise_the_gate_is_about_as_good_as_the_other(rng: np.random.Generator) -> None:
    def clips(count: int) -> tuple[Rows, Rows]:
        labels = rng.integers(0, CLASSES, count)
        noise = _said(rng, rng.integers(0, CLASSES, count), np.ones(count, bool))  # sure, and wrong five times of six
        return _rows(noise, _said(rng, labels, rng.random(count) < 0.8)), labels

    rows, labels = clips(1500)
    gate = _trained(rows, labels)
    fresh, truth = clips(1500)
    better = _right(fresh[:, CLASSES : 2 * CLASSES], truth)
    assert _right(_vote(fresh), truth) < better - 0.2
    assert _right(_probabilities(gate, fresh), truth) > better - 0.02


def _logs_of(raw: Rows) -> Rows:
    return np.asarray(raw - np.log(np.exp(raw).sum(1, keepdims=True)), np.float32)
