from __future__ import annotations

import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.cli.main import run
from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.runtime.run_folder import interruptible, passing_folder, reproduce_command
from moretta.shared.core.errors import Interrupted, StudyError
from moretta.shared.data.reader import read_corpus
from moretta.shared.study.run_plan import SimulationPlan
from moretta.shared.study.schema import Study, parse_study

STUDY = parse_study({"sites": 2, "split": {"folds": 2}})


def plan(corpus: Path, study: Study = STUDY) -> SimulationPlan:
    return plan_simulation(read_corpus(corpus), study, "moretta simulate")


def test_every_speaker_has_one_site_and_one_fold(tiny_corpus: Path) -> None:
    made = plan(tiny_corpus)
    everyone = ["1001", "1002", "1003", "1004"]
    assert sorted(n for site in made.sites for n in site.speakers) == everyone
    assert sorted(n for fold in made.folds for n in fold) == everyone
    assert [site.name for site in made.sites] == ["site-00", "site-01"]
    assert made.test_speakers == frozenset(made.folds[0])


def test_the_plan_follows_from_the_seed(tiny_corpus: Path) -> None:
    assert plan(tiny_corpus) == plan(tiny_corpus)
    seeds = {
        plan(tiny_corpus, STUDY.with_changes(seed=s)).model_dump_json(include={"sites", "folds"}) for s in range(8)
    }
    assert len(seeds) > 1


def test_a_modality_that_the_corpus_has_not_is_switched_off_with_the_reason(tiny_corpus: Path) -> None:
    made = plan(tiny_corpus)
    assert made.absent == {"face": "no clip of the corpus has video"}
    assert made.study.modalities == ("voice",)
    with pytest.raises(StudyError, match="no clip of the corpus has video"):
        plan(tiny_corpus, STUDY.with_changes(voice__enabled=False))


def test_folds_are_lowered_to_the_number_of_speakers_with_a_warning(tiny_corpus: Path) -> None:
    made = plan(tiny_corpus, STUDY.with_changes(split__folds=7, split__test_fold=6))
    assert len(made.folds) == 4
    assert made.study.split.test_fold == 3
    assert any("folds lowered from 7 to 4" in warning for warning in made.warnings)


def test_files_of_no_speaker_are_counted_once_and_those_of_a_site_are_left_to_it(tiny_corpus: Path) -> None:
    (tiny_corpus / "AudioWAV" / "holiday.wav").write_bytes(b"")
    (tiny_corpus / "AudioWAV" / "notes.txt").write_bytes(b"")
    (tiny_corpus / "AudioWAV" / "1001_ieo_ang_xx.WAV").write_bytes(b"a second file of one name")
    assert plan(tiny_corpus).dropped == {"bad-name": 1, "wrong-kind": 1}


def test_a_plan_names_speakers_so_only_its_owner_reads_it(tiny_corpus: Path, tmp_path: Path) -> None:
    made = plan(tiny_corpus)
    made.save(tmp_path)
    assert stat.S_IMODE((tmp_path / "plan.json").stat().st_mode) == 0o600
    assert SimulationPlan.load(tmp_path) == made


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(StudyError, match="moretta simulate"):
        SimulationPlan.load(tmp_path)


def test_the_command_to_reproduce_can_be_pasted_into_a_shell() -> None:
    assert reproduce_command(["simulate", "--out", "my run"]) == "moretta simulate --out 'my run'"


@pytest.mark.parametrize("typed", ["/home/ann/ward", "/home/ann/ward/", "/home/ann//ward", "/home/ann/./ward/"])
def test_a_command_that_others_read_names_no_path_however_it_was_typed(typed: str) -> None:
    names = {Path(typed): "ORIGINALS", None: "KEY", Path(): "release"}
    said = reproduce_command(["audit", ".", "--corpus", typed, f"--corpus={typed}", "--attach"], names)
    assert said == "moretta audit release --corpus ORIGINALS --corpus=ORIGINALS --attach"


def test_a_second_ctrl_c_leaves_nothing_of_a_folder_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = shutil.rmtree

    def slowly(*arguments: Any, **more: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        removed(*arguments, **more)

    monkeypatch.setattr(shutil, "rmtree", slowly)
    with pytest.raises(KeyboardInterrupt, match="first"), passing_folder(".review-", tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "raw.wav").write_bytes(b"x")
        raise KeyboardInterrupt("first")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_not_stop_the_cleaning_up(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    cleaned = False
    with pytest.raises(Interrupted, match=number.name), interruptible():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned = True
    assert cleaned
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("stage", ["release", "train", "evaluate"])
def test_a_stage_that_needs_more_sites_than_there_are_is_refused_before_anything_is_made(
    tiny_corpus: Path, stage: str
) -> None:
    with pytest.raises(StudyError, match=rf"2 sites take part, and stages\.{stage}\.min_sites is 3"):
        plan(tiny_corpus, STUDY.with_changes(**{f"stages__{stage}": {"min_sites": 3}}))


def test_contradicting_limits_end_a_simulation_before_its_corpus_is_made(tmp_path: Path) -> None:
    study, out = tmp_path / "study.toml", tmp_path / "out"
    study.write_text("sites = 2\n[stages]\nevaluate = { min_sites = 3 }\n")
    assert run(["simulate", "--study", str(study), "--out", str(out)]) == 3
    assert not out.exists()


def test_a_gate_on_a_modality_that_no_attacker_looks_at_is_refused(tiny_corpus: Path) -> None:
    study = parse_study({"gate": {"max_top1": 0.5}, "audit": {"attackers": ["voice-logistic"]}})
    with pytest.raises(StudyError, match=r"audit\.attackers names none of face"):
        plan(tiny_corpus, study)
