"""Evaluators of emotion: they read what is there, nothing where nothing is, and never people they were trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from speakers import describe

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility import evaluators as evaluators_module
from moretta.shared.audit.utility.evaluators import (
    EVALUATORS,
    UtilityEvaluator,
    evaluate_utility,
    get_evaluator,
    utility_evaluator,
)
from moretta.shared.core.array_types import Float32, Int64
from moretta.shared.core.errors import AttackersError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.pretrained.speaker_encoders import HubertEncoder

CHANCE = 1 / 6
EVALUATED = ("voice-forest", "voice-logistic")


def speech(*, lively: float, seed: int = 0, speakers: int = 6, clips: int = 12) -> ClipSet:
    """Every emotion has a place among the frames, `lively` deviations from the others."""
    rng = np.random.default_rng(3)
    places = rng.normal(size=(6, 13))
    rng = np.random.default_rng(seed)
    meta = [describe(s, n) for s in range(speakers) for n in range(clips)]
    arrays = [(lively * places[EMOTIONS.index(m.emotion)] + rng.normal(size=(30, 13))).astype(np.float32) for m in meta]
    return ClipSet.from_arrays(meta, arrays, modality="voice", form="mfcc")


def rows_of(
    original: ClipSet | None, released: ClipSet, scratch: Path, *evaluators: str, workers: int = 1
) -> list[Result]:
    names = evaluators or ("voice-logistic",)
    return evaluate_utility(original, released, evaluators=names, seed=1, draws=50, workers=workers, scratch=scratch)


def uar(rows: list[Result], evaluator: str, scenario: str) -> float:
    (row,) = [r for r in rows if (r.attacker, r.scenario) == (evaluator, scenario)]
    assert row.value is not None
    return row.value


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the evaluators that a test registers after it."""
    EVALUATORS.load()
    monkeypatch.setattr(EVALUATORS, "_items", dict(EVALUATORS._items))


@pytest.mark.parametrize("name", EVALUATED)
def test_emotion_that_is_there_is_read_and_emotion_that_is_gone_is_not(name: str, tmp_path: Path) -> None:
    rows = rows_of(speech(lively=1.5), speech(lively=0.0, seed=4), tmp_path, name)
    assert uar(rows, name, "unprotected") > 0.8
    assert uar(rows, name, "semi-informed") < 0.35
    assert uar(rows, name, "ignorant") < 0.35


def test_an_evaluator_trained_on_open_data_is_tested_on_releases_too(tmp_path: Path) -> None:
    rows = rows_of(speech(lively=1.5), speech(lively=1.5, seed=4), tmp_path)
    assert {r.scenario for r in rows} == {"unprotected", "semi-informed", "ignorant"}
    assert uar(rows, "voice-logistic", "ignorant") > 0.8


def test_without_originals_only_releases_are_evaluated(tmp_path: Path) -> None:
    rows = rows_of(None, speech(lively=1.5), tmp_path)
    assert {r.scenario for r in rows} == {"semi-informed"}


def test_no_evaluator_is_tested_on_people_it_was_trained_on(registry: None, tmp_path: Path) -> None:
    @utility_evaluator("voice-memory", modality="voice")
    class Memory(UtilityEvaluator):
        """Sees the speaker, and remembers the speakers it was trained on."""

        def vectors(self, clips: ClipSet) -> Float32:
            return clips.labels.astype(np.float32)[:, None]

        def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None:
            self.known = set(vectors[:, 0])

        def scores(self, vectors: Float32) -> Float32:
            assert self.known
            assert not self.known & set(vectors[:, 0])
            return np.eye(6, dtype=np.float32)[[0] * len(vectors)]

    del Memory
    rows = rows_of(None, speech(lively=1.0), tmp_path, "voice-memory")
    assert uar(rows, "voice-memory", "semi-informed") == pytest.approx(CHANCE)


def test_an_evaluator_that_fails_is_a_result_with_the_reason_and_the_others_go_on(
    registry: None, tmp_path: Path
) -> None:
    @utility_evaluator("voice-broken", modality="voice")
    class Broken(UtilityEvaluator):
        def vectors(self, clips: ClipSet) -> Float32:
            raise ValueError("no ears")

        def fit(self, vectors: Float32, emotions: Int64, *, seed: int) -> None: ...

        def scores(self, vectors: Float32) -> Float32:
            return vectors

    del Broken
    rows = rows_of(None, speech(lively=1.5), tmp_path, "voice-broken", "voice-logistic")
    (broken,) = [r for r in rows if r.attacker == "voice-broken"]
    assert broken.value is None
    assert "no ears" in broken.reason
    assert uar(rows, "voice-logistic", "semi-informed") > 0.8


def test_one_emotion_only_is_no_figure(tmp_path: Path) -> None:
    clips = speech(lively=1.0)
    angry = clips.subset(i for i, c in enumerate(clips.clips) if EMOTIONS.index(c.emotion) == 0)
    (row, *_) = rows_of(None, angry, tmp_path, "voice-forest")
    assert row.value is None
    assert "at least two" in row.reason


def test_same_seed_same_rows_with_one_worker_and_with_two(tmp_path: Path) -> None:
    original, released, names = speech(lively=0.5, speakers=4), speech(lively=0.3, speakers=4), list(EVALUATED)
    once = rows_of(original, released, tmp_path / "a", *names)
    assert rows_of(original, released, tmp_path / "b", *names, workers=2) == once


def test_self_supervised_evaluators_say_what_they_miss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "torchaudio" in str(get_evaluator("hubert-emotion").missing())
    (row,) = rows_of(None, speech(lively=1.0), tmp_path, "hubert-emotion")
    assert row.value is None
    assert "torchaudio" in row.reason


def test_a_self_supervised_evaluator_reads_what_its_network_gives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch
    import torchaudio

    torch.manual_seed(0)
    network = torchaudio.models.wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[(8, 10, 80), (8, 3, 4)],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=2,
        encoder_num_layers=1,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=True,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )
    monkeypatch.setattr(evaluators_module, "EMOTION_LAYER", 1)
    monkeypatch.setattr(HubertEncoder, "load", classmethod(lambda cls: cls(network)))
    found = get_evaluator("hubert-emotion")().vectors(tones())
    assert found.shape == (4, 32)
    assert np.isfinite(found).all()
    assert not np.allclose(found[0], found[2])


def tones() -> ClipSet:
    time = np.arange(8000) / 16_000
    arrays = [(0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32) for hz in (200, 200, 900, 900)]
    meta = [describe(s, n) for s in range(2) for n in range(2)]
    return ClipSet.from_arrays(meta, arrays, modality="voice", form="waveform")


def test_two_evaluators_of_one_name_are_a_defect_and_an_unknown_one_lists_the_known(registry: None) -> None:
    with pytest.raises(ValueError, match="voice-forest"):
        utility_evaluator("voice-forest", modality="voice")(get_evaluator("hubert-emotion"))
    with pytest.raises(AttackersError, match="face-api-expression"):
        get_evaluator("nobody")
