"""Learned codes under attack: all attackers but the encoders of sound attack them, and at full strength."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from speakers import codes, run_audit, voices

from moretta.shared.audit.attackers import attacker_names
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference import inversion
from moretta.shared.audit.inference.attack_all import attack_clips
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility.evaluators import evaluate_utility

ADAPTIVE = tuple(name for name in attacker_names("voice", "adaptive") if "+" not in name)


def figures(rows: list[Result], metric: str, scenario: str = "semi-informed") -> dict[str, Result]:
    wanted = (metric, scenario, "all", 1)
    return {r.attacker: r for r in rows if (r.metric, r.scenario, r.subset, r.pooled) == wanted}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_every_adaptive_attacker_finds_identity_that_is_in_a_code(name: str) -> None:
    rows = run_audit(voices(), codes(), attackers=[name], seed=1, bootstrap=20, workers=1)
    for metric in ("top1", "eer"):
        (row,) = figures(rows, metric).values()
        assert not row.invalid, row.reason
    found = figures(rows, "top1")[name].value
    assert found is not None and found > 0.5


@pytest.mark.parametrize("form", ["code-sequence", "code-tokens"])
def test_sequences_and_tokens_of_codes_are_attacked_too(form: str) -> None:
    names = ("voice-logistic", "voice-wccn", "voice-bigrams", "voice-gmm")
    rows = run_audit(voices(), codes(form=form), attackers=names, seed=1, bootstrap=20, workers=1)  # type: ignore[arg-type]
    for row in figures(rows, "top1").values():
        assert not row.invalid and row.value is not None and row.value > 0.6, row


def test_codes_without_identity_are_at_chance() -> None:
    rows = run_audit(voices(), codes(apart=0.0), attackers=["voice-logistic", "voice-wccn"], bootstrap=20, workers=1)
    for row in figures(rows, "eer").values():
        assert not row.invalid and row.value is not None and 0.38 < row.value < 0.62


def test_how_codes_move_together_is_seen_by_a_linear_attacker() -> None:
    """Two kinds of speakers, alike in mean and spread of every value: only the sign of a correlation differs."""
    rng = np.random.default_rng(2)
    plain = codes(form="code-sequence", speakers=4, apart=0.0)
    arrays = []
    for label in plain.labels:
        first = rng.normal(size=(60, 1))
        other = (1 if label % 2 else -1) * first + 0.3 * rng.normal(size=(60, 1))
        arrays.append(np.hstack([first, other]).astype(np.float32))
    released = ClipSet.from_arrays(plain.clips, arrays, modality="voice", form="code-sequence")
    rows = run_audit(None, released, attackers=["voice-logistic"], bootstrap=20, workers=1)
    found = figures(rows, "top1")["voice-logistic"].value
    assert found is not None and found > 0.4  # chance is 0.25; the sign alone gives 0.5


def test_attackers_that_listen_are_absent_with_the_reason() -> None:
    names = [n for n in attacker_names("voice") if n not in ADAPTIVE]
    rows = run_audit(voices(), codes(), attackers=names, bootstrap=0, workers=1)
    assert {row.attacker for row in rows} == set(names) >= {"campplus", "ge2e", "campplus+head"}
    assert all(row.invalid and "no sound" in row.reason for row in rows)


def test_an_attacker_trained_on_sound_is_not_run_on_codes_and_the_reason_says_so() -> None:
    rows = run_audit(voices(), codes(), attackers=["voice-wccn", "voice-logistic"], bootstrap=0, workers=1)
    for scenario in ("ignorant", "lazy-informed"):
        for row in figures(rows, "eer", scenario).values():
            assert row.invalid and "cannot read" in row.reason
    assert not figures(rows, "eer", "unprotected")["voice-wccn"].invalid


def test_clips_of_another_size_are_left_out_and_counted(tmp_path: Path) -> None:
    plain = codes(speakers=2, clips=2)
    arrays = [plain.arrays[i].read() for i in range(4)]
    arrays[2] = np.zeros(9, np.float32)
    mixed = ClipSet.from_arrays(plain.clips, arrays, modality="voice", form="code").with_views(tmp_path)
    assert len(mixed) == 3
    assert mixed.damaged == {"other-size": 1}


def test_evaluators_read_emotion_in_codes_as_well_as_in_originals(tmp_path: Path) -> None:
    released = codes(lively=3.0, apart=0.0)
    names = ("voice-forest", "voice-logistic")
    rows = evaluate_utility(voices(), released, evaluators=names, draws=20, workers=1, scratch=tmp_path)
    found = {(r.attacker, r.scenario): r for r in rows}
    for name in names:
        row = found[name, "semi-informed"]
        assert row.value is not None and row.value > 0.8
        assert found[name, "unprotected"].value is not None
        across = found[name, "ignorant"]
        assert across.value is None and "cannot read" in across.reason


def test_codes_that_hold_the_voice_are_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is the mean frame: a decoder restores what of the original it determines."""
    monkeypatch.setattr(inversion, "ENCODERS", {"voice": (), "face": ()})
    original = voices(speakers=10, clips=12, apart=2.0)
    open_code = [original.mfcc(i).mean(0) for i in range(len(original))]
    nothing = [np.random.default_rng(i).normal(size=13).astype(np.float32) for i in range(len(original))]
    decoded = {}
    for name, arrays in (("open", open_code), ("nothing", nothing)):
        released = ClipSet.from_arrays(original.clips, arrays, modality="voice", form="code")
        found = attack_clips(original, released, bootstrap=50)
        eers = [f for f in found if f.attack == "inversion" and f.metric == "eer" and f.scenario == "decoded"]
        assert len(eers) == 2 and not any(f.invalid for f in eers), [f.reason for f in eers]
        decoded[name] = min(f.value for f in eers if f.value is not None)
    assert decoded["open"] < 0.2
    assert decoded["nothing"] > 0.35
