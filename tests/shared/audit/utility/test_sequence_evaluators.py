"""Evaluators on sequences: they read order in time, run only where they are named, and say when they have failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speakers import codes, describe
from torch import nn

from moretta.deploy.runtime.audit_sets import audit_sets
from moretta.deploy.runtime.planning import check_names
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility import sequence_evaluators
from moretta.shared.audit.utility.evaluators import evaluate_utility, evaluator_names
from moretta.shared.core.errors import AttackersError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.models import sequence_net
from moretta.shared.models.emotion import emotion_model
from moretta.shared.study.schema import Study

NAMES = ["face-sequence", "voice-crnn"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_evaluators._OfSequences, "epochs", 10)


def rows_of(original: ClipSet | None, released: ClipSet, scratch: Path, *names: str, workers: int = 1) -> list[Result]:
    return evaluate_utility(original, released, evaluators=names, seed=1, draws=20, workers=workers, scratch=scratch)


def of_two(sequence: Any, modality: Any, form: Any, *, speakers: int = 5, clips: int = 24) -> ClipSet:
    """Clips of two emotions; `sequence` makes an array of whether it is the second, and a generator."""
    meta = [
        describe(s, n).model_copy(update={"emotion": EMOTIONS[n % 2], "voice": None, "face": None, modality: n})
        for s in range(speakers)
        for n in range(clips)
    ]
    rng = np.random.default_rng(1)
    arrays = [sequence(bool(EMOTIONS.index(m.emotion)), rng) for m in meta]
    return ClipSet.from_arrays(meta, arrays, modality=modality, form=form)


def saw(second: bool, rng: np.random.Generator) -> np.ndarray:
    """[60, 13] that rises slowly and falls at once, or the same backwards."""
    tooth = np.roll(np.arange(60) % 10 / 10.0, rng.integers(10))[:, None] * rng.uniform(1, 2, 13)
    return ((tooth[::-1] if second else tooth) + 0.1 * rng.normal(size=(60, 13))).astype(np.float32)


def moving(second: bool, rng: np.random.Generator) -> np.ndarray:
    """[16, 48, 48, 3]: a bright bar that goes right, or left."""
    frames = rng.integers(0, 30, (16, 48, 48, 3), np.uint8)
    for step in range(16):
        place = 3 * ((step if second else 15 - step) % 16)
        frames[step, :, place : place + 4] += 150
    return frames


def siren(second: bool, rng: np.random.Generator) -> np.ndarray:
    """Samples of 0.8 s: a tone that rises slowly and falls at once, again and again, or the same backwards."""
    pitch = 300 + 2_000 * ((np.arange(12_800) / 3_200 + rng.random()) % 1.0)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
    return (0.3 * (tone[::-1] if second else tone) + 0.01 * rng.normal(size=12_800)).astype(np.float32)


def value(rows: list[Result], scenario: str) -> float:
    (row,) = [r for r in rows if r.scenario == scenario]
    assert row.value is not None, row.reason
    return row.value


@pytest.mark.usefixtures("quick")
def test_order_in_time_is_read_that_statistics_cannot_see(tmp_path: Path) -> None:
    clips = of_two(saw, "face", "code-sequence")
    assert value(rows_of(None, clips, tmp_path / "a", "face-sequence"), "semi-informed") > 0.9
    assert value(rows_of(None, clips, tmp_path / "b", "face-forest"), "semi-informed") < 0.7


def test_spectra_of_sound_are_read_in_their_order_and_no_codes(tmp_path: Path) -> None:
    clips = of_two(siren, "voice", "waveform", speakers=2, clips=24)
    assert value(rows_of(None, clips, tmp_path / "a", "voice-crnn"), "semi-informed") > 0.9
    (row,) = rows_of(None, codes(speakers=4), tmp_path / "b", "voice-crnn")
    assert row.invalid and row.value is None and "code" in row.reason


@pytest.mark.usefixtures("quick")
def test_the_evaluator_of_spectra_pools_and_drops_where_the_federated_network_strides() -> None:
    evaluator = sequence_evaluators.VoiceRecurrent()._model()
    federated = emotion_model("voice", "crnn")
    made = [model.build((48, 256)) for model in (evaluator, federated)]
    assert [sum(isinstance(part, nn.MaxPool2d) for part in network.modules()) for network in made] == [3, 0]
    assert [sum(isinstance(part, nn.Dropout) for part in network.modules()) for network in made] == [1, 0]
    assert len({sum(weights.numel() for weights in network.parameters()) for network in made}) == 1


def test_how_a_face_moves_is_read(tmp_path: Path) -> None:
    clips = of_two(moving, "face", "frames", speakers=3, clips=16)
    assert value(rows_of(None, clips, tmp_path, "face-sequence"), "semi-informed") > 0.9


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("form", ["code", "code-sequence"])
def test_codes_are_read_too(form: Any, tmp_path: Path) -> None:
    released = codes(lively=3.0, apart=0.0, modality="face", form=form, speakers=4)
    assert value(rows_of(None, released, tmp_path, "face-sequence"), "semi-informed") > 0.5


def test_same_seed_same_rows_with_one_worker_and_with_two(tmp_path: Path) -> None:
    clips = of_two(saw, "face", "code-sequence", speakers=2, clips=4)
    once = rows_of(clips, clips, tmp_path / "a", "face-sequence")
    assert rows_of(clips, clips, tmp_path / "b", "face-sequence", workers=2) == once


@pytest.mark.usefixtures("quick")
def test_they_run_only_where_they_are_named_and_beside_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from moretta.shared.audit.utility import evaluators

    assert evaluator_names(only_named=True) == NAMES
    monkeypatch.setattr(evaluators, "METERS", {})
    clips = of_two(saw, "voice", "code-sequence", speakers=2, clips=4)
    options: Any = {"seed": 1, "draws": 0, "workers": 1}
    usual = {r.attacker for r in evaluate_utility(None, clips, scratch=tmp_path / "a", **options)}
    more = {r.attacker for r in evaluate_utility(None, clips, more=NAMES, scratch=tmp_path / "b", **options)}
    assert usual == set(evaluator_names("voice", only_named=False))
    assert more == usual | {"voice-crnn"}


def test_one_that_fits_only_examples_as_they_are_is_trained_longer_and_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There is nothing to read, and one epoch is too few: then clips are learned by heart, and chance is found."""
    clips = of_two(lambda _, rng: rng.normal(size=(60, 13)).astype(np.float32), "face", "code-sequence", speakers=2)
    monkeypatch.setattr(sequence_evaluators._OfSequences, "epochs", 1)
    monkeypatch.setattr(sequence_evaluators, "LONGER", 16)
    assert 0.3 < value(rows_of(None, clips, tmp_path, "face-sequence"), "semi-informed") < 0.7


def test_a_name_that_no_evaluator_has_is_an_error_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"audit\.evaluators names voice-crowd.*face-sequence"):
        check_names(Study().with_changes(audit__evaluators=("voice-crowd", "face-sequence")))
    with pytest.raises(AttackersError, match="face-sequence"):
        audit_sets({}, tmp_path / "out", released=(), name="", synthetic=True, evaluators=["voice-crowd"])
    assert not (tmp_path / "out").exists()


def test_one_that_did_not_converge_is_invalid_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sequence_net, "train_centrally", lambda *_, **__: None)
    (row,) = rows_of(None, of_two(saw, "face", "code-sequence"), tmp_path, "face-sequence")
    assert row.invalid and row.value is None
    assert "did not converge" in row.reason
