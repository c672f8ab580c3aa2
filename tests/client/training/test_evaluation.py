from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moretta.client.settings import StudyPseudonyms
from moretta.client.training import evaluation
from moretta.client.training.data import TrainingSet
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.models import outputs
from moretta.shared.study.schema import Study

ANG, DIS, FEA, HAP, NEU, SAD = range(6)


def _features(clips: dict[str, tuple[str, int, list[float]]]) -> TrainingSet:
    """Clip -> speaker, true class, and the probabilities that the fake model will give."""
    return TrainingSet(
        features=np.array([p for _, _, p in clips.values()], np.float32),
        labels=np.array([label for _, label, _ in clips.values()], np.int64),
        speakers=tuple(speaker for speaker, _, _ in clips.values()),
        clips=tuple(clips),
    )


def _marked(settings: Any, study: Study, speakers: tuple[str, ...]) -> Any:
    return np.array([name[0] == "h" for name in speakers], bool)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Evaluates fake releases: features are the probabilities, every speaker called h... is held out."""

    def run(weight: float = 0.6, **by_modality: dict[str, tuple[str, int, list[float]]]) -> Any:
        monkeypatch.setattr(evaluation, "released_features", lambda s, study, m: _features(by_modality[m]))
        monkeypatch.setattr(evaluation, "held_out_mask", _marked)
        monkeypatch.setattr(evaluation, "checked_weights", lambda model, weights: {})
        monkeypatch.setattr(outputs, "_probabilities", lambda model, state, features: features.astype(np.float64))
        settings: Any = SimpleNamespace(names=lambda _: StudyPseudonyms(PseudonymKey(bytes(32)), None))
        models: Any = {m: {} for m in by_modality}
        study = Study().with_changes(voice__weight=weight)
        return evaluation.evaluate_site(settings, study, models).counts

    return run


def _sure(*classes: int, shares: tuple[float, ...] = (1.0,)) -> list[float]:
    row = [0.0] * 6
    for index, share in zip(classes, shares, strict=True):
        row[index] = share
    return row


def test_fusion_is_the_weighted_mean_of_probabilities(evaluate: Any) -> None:
    counts = evaluate(
        voice={"c": ("h1", SAD, _sure(ANG, SAD, shares=(0.6, 0.4))), "d": ("h1", SAD, _sure(ANG))},
        face={"c": ("h1", SAD, _sure(SAD, HAP, shares=(0.9, 0.1))), "d": ("h1", SAD, _sure(SAD))},
    )
    # c: anger 0.6 * 0.6 = 0.36, sadness 0.6 * 0.4 + 0.4 * 0.9 = 0.60; d: anger 0.6, sadness 0.4
    assert counts["fused"]["h1"][SAD].tolist() == [1, 0, 0, 0, 0, 1]
    assert counts["voice"]["h1"][SAD, ANG] == 2
    assert counts["face"]["h1"][SAD, SAD] == 2


def test_a_clip_with_one_modality_is_decided_by_it(evaluate: Any) -> None:
    counts = evaluate(
        voice={"c": ("h1", ANG, _sure(ANG)), "sound-only": ("h1", DIS, _sure(DIS))},
        face={"c": ("h1", ANG, _sure(ANG)), "silent-film": ("h2", FEA, _sure(NEU))},
    )
    assert counts["fused"]["h1"].sum() == 2
    assert counts["fused"]["h1"][DIS, DIS] == 1
    assert counts["fused"]["h2"][FEA, NEU] == 1
    assert "h2" not in counts["voice"]


@pytest.mark.parametrize("weight", [0.0, 5e-324, 1e-9, 0.5, 1 - 1e-16, 1.0])
def test_a_clip_with_one_modality_is_decided_by_it_whatever_the_weight(evaluate: Any, weight: float) -> None:
    counts = evaluate(
        weight,
        voice={"c": ("h1", HAP, _sure(HAP)), "sound-only": ("h1", DIS, _sure(DIS))},
        face={"c": ("h1", HAP, _sure(HAP)), "silent-film": ("h2", FEA, _sure(NEU))},
    )
    assert counts["fused"]["h1"][DIS, DIS] == counts["fused"]["h1"][HAP, HAP] == 1
    assert counts["fused"]["h2"][FEA, NEU] == 1


def test_at_a_weight_of_0_or_1_one_modality_decides_alone(evaluate: Any) -> None:
    voice, face = {"c": ("h1", SAD, _sure(SAD))}, {"c": ("h1", SAD, _sure(NEU))}
    assert evaluate(1.0, voice=voice, face=face)["fused"]["h1"][SAD, SAD] == 1
    assert evaluate(0.0, voice=voice, face=face)["fused"]["h1"][SAD, NEU] == 1


def test_one_model_alone_gives_no_fused_counts(evaluate: Any) -> None:
    counts = evaluate(voice={"c": ("h1", ANG, _sure(ANG))})
    assert set(counts) == {"voice", "voice/3"}


def test_speakers_who_were_trained_on_are_not_counted(evaluate: Any) -> None:
    counts = evaluate(voice={"c": ("h1", ANG, _sure(ANG)), "d": ("trained", ANG, _sure(ANG))})
    assert set(counts["voice"]) == {"h1"}


def test_a_site_without_held_out_speakers_counts_nothing(evaluate: Any) -> None:
    assert evaluate(voice={"d": ("trained", ANG, _sure(ANG))}) == {}


def test_the_table_of_three_decides_among_anger_happiness_and_sadness_alone(evaluate: Any) -> None:
    counts = evaluate(
        voice={
            "a": ("h1", HAP, _sure(NEU, HAP, ANG, shares=(0.7, 0.2, 0.1))),  # of the three, happiness
            "b": ("h1", SAD, _sure(FEA, ANG, shares=(0.6, 0.4))),
            "c": ("h1", NEU, _sure(NEU)),  # not one of the three: not counted
        }
    )
    assert counts["voice/3"]["h1"].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert counts["voice"]["h1"].sum() == 3
