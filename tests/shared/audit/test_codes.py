"""Learned codes under attack: all attackers but the encoders of sound attack them, and at full strength."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from speakers import codes, describe, faces, run_audit, voices

from moretta.shared.audit.attackers import PoolIdentifier, attacker_names, get_attacker
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference import classes, inversion
from moretta.shared.audit.inference.attack_all import attack_clips
from moretta.shared.audit.inference.twelve_networks import NAMES
from moretta.shared.audit.pretrained.face_network import AgeSexReader
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import Modality

ADAPTIVE = tuple(name for name in attacker_names(kind="adaptive") if "+" not in name)
MODALITIES: tuple[Modality, ...] = ("voice", "face")


def originals(modality: Modality) -> ClipSet:
    """Of the same clips as `codes`."""
    return voices() if modality == "voice" else faces(speakers=8, clips=12)


def figures(rows: list[Result], metric: str, scenario: str = "semi-informed") -> dict[str, Result]:
    wanted = (metric, scenario, "all", 1)
    return {r.attacker: r for r in rows if (r.metric, r.scenario, r.subset, r.pooled) == wanted}


@pytest.mark.parametrize("name", [name for name in ADAPTIVE if not issubclass(get_attacker(name), PoolIdentifier)])
def test_every_adaptive_attacker_finds_identity_that_is_in_a_code(name: str) -> None:
    modality = get_attacker(name).modality
    open_data = voices() if modality == "voice" else None  # pictures would take most of the time, and are no codes
    rows = run_audit(open_data, codes(modality=modality), attackers=[name], seed=1, bootstrap=20, workers=1)
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


@pytest.mark.parametrize("modality", MODALITIES)
def test_attackers_that_listen_or_look_are_absent_with_the_reason(modality: Modality) -> None:
    names = [n for n in attacker_names(modality) if n not in ADAPTIVE]
    rows = run_audit(originals(modality), codes(modality=modality), attackers=names, bootstrap=0, workers=1)
    known = {"voice": {"campplus", "ge2e", "campplus+head"}, "face": {"sface", "dlib", "sface+head"}}
    assert {row.attacker for row in rows} == set(names) >= known[modality]
    assert all(row.invalid and "no sound or picture" in row.reason for row in rows)


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_attacker_of_originals_is_not_run_on_codes_and_the_reason_says_so(modality: Modality) -> None:
    names = [f"{modality}-wccn", f"{modality}-logistic"]
    rows = run_audit(originals(modality), codes(modality=modality), attackers=names, bootstrap=0, workers=1)
    for scenario in ("ignorant", "lazy-informed"):
        found = figures(rows, "eer", scenario)
        assert f"{modality}-wccn" in found
        for row in found.values():
            assert row.invalid and "cannot read" in row.reason
    assert not figures(rows, "eer", "unprotected")[f"{modality}-wccn"].invalid


def test_no_picture_is_made_of_a_face_s_code() -> None:
    released = codes(modality="face")
    for look in (released.frames, released.thumbnails, released.movement):
        with pytest.raises(ReleaseError, match="no picture"):
            look(0)


def test_clips_of_another_size_are_left_out_and_counted(tmp_path: Path) -> None:
    plain = codes(speakers=2, clips=2)
    arrays = [plain.arrays[i].read() for i in range(4)]
    arrays[2] = np.zeros(9, np.float32)
    mixed = ClipSet.from_arrays(plain.clips, arrays, modality="voice", form="code").with_views(tmp_path)
    assert len(mixed) == 3
    assert mixed.damaged == {"other-size": 1}


@pytest.mark.parametrize("modality", MODALITIES)
def test_evaluators_read_emotion_in_codes_as_well_as_in_originals(tmp_path: Path, modality: Modality) -> None:
    released = codes(lively=3.0, apart=0.0, modality=modality)
    names = (f"{modality}-forest", f"{modality}-logistic")
    rows = evaluate_utility(originals(modality), released, evaluators=names, draws=20, workers=1, scratch=tmp_path)
    found = {(r.attacker, r.scenario): r for r in rows}
    for name in names:
        row = found[name, "semi-informed"]
        assert row.value is not None and row.value > 0.8
        assert found[name, "unprotected"].value is not None
        across = found[name, "ignorant"]
        assert across.value is None and "cannot read" in across.reason


def test_codes_that_hold_the_voice_are_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code is the mean frame: a decoder restores what of the original it determines."""
    only_inversion(monkeypatch)
    original = voices(speakers=10, clips=12, apart=2.0)
    open_code = [original.mfcc(i).mean(0) for i in range(len(original))]
    nothing = [np.random.default_rng(i).normal(size=13).astype(np.float32) for i in range(len(original))]
    assert decoded_eer(original, open_code) < 0.2
    assert decoded_eer(original, nothing) > 0.35


def test_codes_that_hold_the_face_are_inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    only_inversion(monkeypatch)
    rng = np.random.default_rng(5)
    described = [describe(person, number) for person in range(10) for number in range(8)]
    looks = np.repeat(rng.normal(size=(10, 3)), 8, axis=0) + 0.2 * rng.normal(size=(80, 3))  # three traits of a face
    traits = np.kron(rng.normal(size=(3, 6, 6, 3)), np.ones((1, 8, 8, 1)))
    pictures = 128 + 25 * np.einsum("nt,thwc->nhwc", looks, traits) + 5 * rng.normal(size=(80, 48, 48, 3))
    arrays = [np.clip(picture, 0, 255).astype(np.uint8)[None] for picture in pictures]
    original = ClipSet.from_arrays(described, arrays, modality="face", form="frames")
    turned = (looks @ rng.normal(size=(3, 6))).astype(np.float32)
    nothing = rng.normal(size=(80, 6)).astype(np.float32)
    assert decoded_eer(original, list(turned)) < 0.2
    assert decoded_eer(original, list(nothing)) > 0.35


def only_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither attackers of attributes nor encoders."""
    monkeypatch.setattr(inversion, "ENCODERS", {"voice": (), "face": ()})
    monkeypatch.setattr(classes, "ATTACKERS", {})
    monkeypatch.setattr(classes, "FAMILIES", {})


def decoded_eer(original: ClipSet, arrays: list[np.ndarray]) -> float:
    """Of the best decoder, where both have one."""
    released = ClipSet.from_arrays(original.clips, arrays, modality=original.modality, form="code")
    found = attack_clips(original, released, bootstrap=50)
    eers = [f for f in found if f.attack == "inversion" and f.metric == "eer" and f.scenario == "decoded"]
    assert len(eers) == 2 and not any(f.invalid for f in eers), [f.reason for f in eers]
    return min(f.value for f in eers if f.value is not None)


def test_sex_in_a_face_s_code_is_inferred_by_twelve_networks_and_not_looked_for_in_pictures() -> None:
    plain = codes(speakers=12, apart=0.3, modality="face")
    arrays = [plain.arrays[i].read() + 2 * (clip.sex == "female") for i, clip in enumerate(plain.clips)]
    released = ClipSet.from_arrays(plain.clips, [a.astype(np.float32) for a in arrays], modality="face", form="code")
    found = [f for f in attack_clips(None, released, bootstrap=50) if f.attack == "attribute"]
    sex = {f.attacker: f for f in found if f.target == "sex"}
    assert sex["best of twelve networks"].leaks and set(NAMES) <= sex.keys()
    (looked,) = [f for f in found if f.attacker == AgeSexReader.name and f.target == "sex"]
    assert looked.invalid and "no sound or picture" in looked.reason
