"""Evaluators of emotion: they read what is there, nothing where nothing is, and never people they were trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from speakers import describe

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.utility import (
    UtilityEvaluator,
    evaluate_utility,
    evaluator_names,
    evaluator_registry,
    pretrained,
    utility_evaluator,
)
from moretta.shared.audit.utility.evaluate_utility import EmotionRow
from moretta.shared.audit.utility.evaluator_registry import Floats, Ints
from moretta.shared.audit.utility.pretrained import Hubert
from moretta.shared.core.errors import AttackersError

CHANCE = 1 / 6


def speech(*, lively: float, seed: int = 0, speakers: int = 6, clips: int = 12) -> ClipSet:
    """Every emotion has a place among the frames, `lively` deviations from the others."""
    rng = np.random.default_rng(3)
    places = rng.normal(size=(6, 13))
    rng = np.random.default_rng(seed)
    meta = [describe(s, n) for s in range(speakers) for n in range(clips)]
    arrays = [(lively * places[m.emotion.class_index] + rng.normal(size=(30, 13))).astype(np.float32) for m in meta]
    return ClipSet.from_arrays(meta, arrays, modality="voice", form="mfcc")


def rows_of(
    original: ClipSet | None, released: ClipSet, scratch: Path, *evaluators: str, workers: int = 1
) -> list[EmotionRow]:
    names = evaluators or ("voice-forest", "voice-logistic")
    return evaluate_utility(original, released, evaluators=names, seed=1, draws=50, workers=workers, scratch=scratch)


def uar(rows: list[EmotionRow], evaluator: str, trained_on: str, evaluated_on: str) -> float:
    (row,) = [r for r in rows if (r.evaluator, r.trained_on, r.evaluated_on) == (evaluator, trained_on, evaluated_on)]
    assert row.uar is not None
    return row.uar


@pytest.fixture
def registry() -> Iterator[None]:
    evaluator_names()
    before = dict(evaluator_registry._REGISTRY)
    yield
    evaluator_registry._REGISTRY.clear()
    evaluator_registry._REGISTRY.update(before)


@pytest.mark.parametrize("name", ["voice-forest", "voice-logistic"])
def test_emotion_that_is_there_is_read_and_emotion_that_is_gone_is_not(name: str, tmp_path: Path) -> None:
    rows = rows_of(speech(lively=1.5), speech(lively=0.0, seed=4), tmp_path, name)
    assert uar(rows, name, "original", "original") > 0.8
    assert uar(rows, name, "released", "released") < 0.35
    assert uar(rows, name, "original", "released") < 0.35


def test_a_judge_of_open_data_is_asked_about_releases_too(tmp_path: Path) -> None:
    rows = rows_of(speech(lively=1.5), speech(lively=1.5, seed=4), tmp_path)
    assert {(r.trained_on, r.evaluated_on) for r in rows} == {
        ("original", "original"),
        ("released", "released"),
        ("original", "released"),
    }
    assert uar(rows, "voice-logistic", "original", "released") > 0.8


def test_without_originals_only_releases_are_judged(tmp_path: Path) -> None:
    rows = rows_of(None, speech(lively=1.5), tmp_path)
    assert {(r.trained_on, r.evaluated_on) for r in rows} == {("released", "released")}


def test_who_is_judged_was_never_trained_on(registry: None, tmp_path: Path) -> None:
    @utility_evaluator("voice-memory", modality="voice")
    class Memory(UtilityEvaluator):
        """Sees who speaks, and remembers whom it was trained on."""

        def vectors(self, clips: ClipSet) -> Floats:
            return clips.labels.astype(np.float32)[:, None]

        def fit(self, vectors: Floats, emotions: Ints, *, seed: int) -> None:
            self.known = set(vectors[:, 0])

        def scores(self, vectors: Floats) -> Floats:
            assert self.known
            assert not self.known & set(vectors[:, 0])
            return np.eye(6, dtype=np.float32)[[0] * len(vectors)]

    del Memory
    rows = rows_of(None, speech(lively=1.0), tmp_path, "voice-memory")
    assert uar(rows, "voice-memory", "released", "released") == pytest.approx(CHANCE)


def test_a_judge_that_fails_is_a_row_with_the_reason_and_the_others_go_on(registry: None, tmp_path: Path) -> None:
    @utility_evaluator("voice-broken", modality="voice")
    class Broken(UtilityEvaluator):
        def vectors(self, clips: ClipSet) -> Floats:
            raise ValueError("no ears")

        def fit(self, vectors: Floats, emotions: Ints, *, seed: int) -> None: ...

        def scores(self, vectors: Floats) -> Floats:
            return vectors

    del Broken
    rows = rows_of(None, speech(lively=1.5), tmp_path, "voice-broken", "voice-logistic")
    (broken,) = [r for r in rows if r.evaluator == "voice-broken"]
    assert broken.uar is None
    assert "no ears" in broken.reason
    assert uar(rows, "voice-logistic", "released", "released") > 0.8


def test_one_emotion_only_is_no_figure(tmp_path: Path) -> None:
    clips = speech(lively=1.0)
    angry = clips.subset(i for i, c in enumerate(clips.clips) if c.emotion.class_index == 0)
    (row, *_) = rows_of(None, angry, tmp_path, "voice-forest")
    assert row.uar is None
    assert "at least two" in row.reason


def test_same_seed_same_rows_with_one_worker_and_with_two(tmp_path: Path) -> None:
    once = rows_of(speech(lively=0.5), speech(lively=0.3), tmp_path / "a")
    assert rows_of(speech(lively=0.5), speech(lively=0.3), tmp_path / "b", workers=2) == once


def test_self_supervised_judges_say_what_they_miss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "torchaudio" in str(Hubert.missing())
    (row,) = rows_of(None, speech(lively=1.0), tmp_path, "hubert-emotion")
    assert row.uar is None
    assert "torchaudio" in row.reason


def test_a_self_supervised_judge_reads_what_its_network_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    monkeypatch.setattr(pretrained, "EMOTION_LAYER", 1)
    monkeypatch.setattr(Hubert.encoder, "load", classmethod(lambda cls: cls(network)))
    found = Hubert().vectors(tones())
    assert found.shape == (4, 32)
    assert np.isfinite(found).all()
    assert not np.allclose(found[0], found[2])


def tones() -> ClipSet:
    time = np.arange(8000) / 16_000
    arrays = [(0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32) for hz in (200, 200, 900, 900)]
    meta = [describe(s, n) for s in range(2) for n in range(2)]
    return ClipSet.from_arrays(meta, arrays, modality="voice", form="waveform")


def test_two_judges_of_one_name_are_a_defect_and_an_unknown_one_lists_the_known(registry: None) -> None:
    with pytest.raises(ValueError, match="voice-forest"):
        utility_evaluator("voice-forest", modality="voice")(Hubert)
    with pytest.raises(AttackersError, match="face-api-expression"):
        evaluator_registry.get_evaluator("nobody")
