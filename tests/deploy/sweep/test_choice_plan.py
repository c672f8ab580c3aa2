"""Unusable choices are refused before anything is computed, and nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta.deploy.sweep.choosing import plan_choice
from moretta.deploy.sweep.jobs import SweepPlan
from moretta.shared.core.errors import StudyError
from moretta.shared.study.schema import Study, load_study


def plan(corpus: Path, **changes: Any) -> SweepPlan:
    requested: dict[str, Any] = {
        "modality": "voice", "max_top1": 0.5, "candidates": None, "study": Study(), "attackers": (), "command": "c",
    }  # fmt: skip
    return plan_choice(corpus, **(requested | changes))


def keep(corpus: Path, pattern: str) -> Path:
    wanted = set((corpus / "AudioWAV").glob(pattern))
    for path in (corpus / "AudioWAV").iterdir():
        if path not in wanted:
            path.unlink()
    return corpus


def test_each_candidate_is_one_release_and_one_audit_by_one_site_and_nothing_is_trained(tiny_corpus: Path) -> None:
    made = plan(tiny_corpus, attackers=("voice-logistic",))
    kinds = [job.kind for job in made.jobs]
    assert kinds.count("release") == kinds.count("audit") == len(made.cells)
    assert "train" not in kinds
    assert all(len(job.plan.sites) == 1 for job in made.jobs)
    assert all(job.plan.study.audit.attackers == ("voice-logistic",) for job in made.jobs if job.kind == "audit")


def test_a_study_gives_its_seed_and_attackers_and_not_its_anonymizer_or_its_sites(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'seed = 7\nsites = 4\n[voice]\nanonymizer = "clip-quantizer"\n[audit]\nattackers = ["voice-wccn"]\n'
        "[train]\nmin_sites = 3\n",
        encoding="utf-8",
    )
    made = plan(tiny_corpus, study=load_study(study))
    assert {c.study.seed for c in made.cells} == {7}
    assert {c.study.audit.attackers for c in made.cells} == {("voice-wccn",)}
    assert [c.release.key for c in made.cells] == [
        c.release.key for c in plan(tiny_corpus, study=load_study(study)).cells
    ]
    assert made.cells[0].study.voice.anonymizer == "emotion-label-rr"


@pytest.mark.parametrize(
    ("pattern", "changes", "found"),
    [
        ("*", {"modality": "face"}, "no clip of the corpus has video"),
        ("*_IEO_ANG_*", {}, "4 people with voice, of whom 0 with two clips or more"),
        ("1001_*", {}, "1 people with voice, of whom 1 with two clips or more"),
        ("*", {"max_top1": 0.2}, "a cap of 0.2 on top-1 among 4 people; expected at least 0.25"),
        ("*_ANG_*", {}, "a corpus of one emotion"),
        ("*", {"attackers": ("face-logistic",)}, "face-logistic named as attackers of voice"),
        ("*", {"attackers": ("nobody",)}, "nobody named as attackers of voice"),
    ],
)
def test_what_cannot_be_chosen_by_is_refused_with_what_is_missing(
    tiny_corpus: Path, pattern: str, changes: dict[str, Any], found: str
) -> None:
    with pytest.raises(StudyError) as refused:
        plan(keep(tiny_corpus, pattern), **changes)
    assert found in refused.value.message


def test_candidates_may_not_bring_a_study_of_their_own(tiny_corpus: Path, tmp_path: Path) -> None:
    grid = tmp_path / "mine.toml"
    grid.write_text("[base]\nsites = 3\n[axes]\nvoice.codebook_size = [16]\n", encoding="utf-8")
    with pytest.raises(StudyError, match="a study, folds or several seeds of their own"):
        plan(tiny_corpus, candidates=grid)
