"""Results of attackers are used again only for the same data, plan and code; a damaged cache costs time alone."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from speakers import codes, run_audit, voices

from moretta.shared.audit import runner
from moretta.shared.audit.attackers import get_attacker
from moretta.shared.audit.execute import Inputs, Unit, run_unit
from moretta.shared.audit.result import FAILED, Result, failure
from moretta.shared.core.errors import ClipError

OPTIONS: dict[str, Any] = {"attackers": ["voice-logistic", "voice-wccn"], "bootstrap": 20, "workers": 1}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[Unit]:
    """Units that were run, not read."""
    units: list[Unit] = []

    def counted(inputs: Inputs, unit: Unit) -> list[Result]:
        units.append(unit)
        return run_unit(inputs, unit)

    monkeypatch.setattr(runner, "run_unit", counted)
    return units


def test_the_same_audit_runs_no_attacker_twice_and_finds_the_same(run: list[Unit], tmp_path: Path) -> None:
    first = run_audit(voices(), codes(), seed=1, units_dir=tmp_path, **OPTIONS)
    assert len(run) == 6
    assert run_audit(voices(), codes(), seed=1, units_dir=tmp_path, **OPTIONS) == first
    assert len(run) == 6
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*.json"))


def test_originals_are_attacked_once_beside_several_releases(run: list[Unit], tmp_path: Path) -> None:
    for lively in (0.0, 1.0):
        run_audit(voices(), codes(lively=lively), seed=1, units_dir=tmp_path, **OPTIONS)
    trained = [unit.train for unit in run]
    assert (trained.count("original"), trained.count("released")) == (2, 4)


@pytest.mark.parametrize("change", [{"seed": 2}, {"bootstrap": 30}])
def test_another_seed_or_more_resamples_are_attacked_anew(change: Any, run: list[Unit], tmp_path: Path) -> None:
    for changed in ({"seed": 1}, {"seed": 1} | change):
        run_audit(voices(), codes(), units_dir=tmp_path, **OPTIONS | changed)
    assert len(run) == 12


def test_one_clip_that_differs_is_attacked_anew(run: list[Unit], tmp_path: Path) -> None:
    for seed in (0, 1):
        run_audit(voices(seed=seed), voices(), seed=1, units_dir=tmp_path, **OPTIONS)
    trained = [unit.train for unit in run]
    assert (trained.count("original"), trained.count("released")) == (4, 2)


def test_public_people_who_are_counted_otherwise_are_learned_from_anew(run: list[Unit], tmp_path: Path) -> None:
    public = voices(seed=7)
    others = [clip.model_copy(update={"speaker": public.clips[i - 1].speaker}) for i, clip in enumerate(public.clips)]
    for clips in (public, public, replace(public, clips=tuple(others))):
        run_audit(voices(), codes(), seed=1, units_dir=tmp_path, public={"original": clips}, **OPTIONS)
    assert [unit.train for unit in run].count("original") == 4


def test_what_is_damaged_is_run_again(run: list[Unit], tmp_path: Path) -> None:
    first = run_audit(voices(), codes(), seed=1, units_dir=tmp_path, **OPTIONS)
    for path in tmp_path.rglob("*.json"):
        path.write_bytes(path.read_bytes()[:-9])
    assert run_audit(voices(), codes(), seed=1, units_dir=tmp_path, **OPTIONS) == first
    assert len(run) == 12


def test_an_attack_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def short_of_memory(inputs: Inputs, unit: Unit) -> list[Result]:
        about = Result(modality="voice", attacker=unit.attacker, scenario="semi-informed", metric="top1")
        return [about.invalidated(f"{FAILED}MemoryError: ")]

    monkeypatch.setattr(runner, "run_unit", short_of_memory)
    run_audit(voices(), codes(), seed=1, units_dir=tmp_path, **OPTIONS)
    assert not list(tmp_path.rglob("*.json"))


def test_an_attacker_that_is_not_moretta_s_own_is_always_run(
    run: list[Unit], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = get_attacker("voice-logistic")
    monkeypatch.setattr(own, "__module__", "visiting_package.attacker")
    for _ in range(2):
        run_audit(voices(), codes(), seed=1, units_dir=tmp_path, **OPTIONS | {"attackers": ["voice-logistic"]})
    assert len(run) == 6


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/home/ann/ward/1001_IEO.wav"),
            "FileNotFoundError: No such file",
        ),
        (ClipError("no-audio", "1001_IEO.wav has no sound"), "ClipError: no-audio"),
        (ValueError("two\nlines"), "ValueError: two"),
    ],
)
def test_why_an_attack_failed_names_no_original(error: Exception, reason: str) -> None:
    """Reasons stand in pages that others get; file names of originals name people."""
    assert failure(error) == f"{FAILED} {reason}"
