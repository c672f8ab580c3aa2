"""What sites state of their releases is what the server computes again, for every voice anonymizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta.client.clips.release import make_release
from moretta.client.settings import simulated_site
from moretta.server.stages.run import Run, RunContext
from moretta.server.stages.statement_checks import check_statement, recomputed_epsilons, recomputed_statement
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import parse_study

VOICES: dict[str, dict[str, Any]] = {
    "bounded": {"options": {"codebook_size": 16}},
    "original": {"options": {"codebook_size": 16, "preset": "original"}},
    "local codewords": {"options": {"codebook_size": 16, "codebook": "local"}},
    "tokens": {"form": "tokens", "options": {"codebook_size": 16}},
    "a budget for clips": {"anonymizer": "clip-quantizer"},
    "a budget for speakers": {
        "anonymizer": "clip-quantizer",
        "options": {"preset": "dp-speaker", "budget_epsilon": 40, "codebook_size": 16},
    },
    "a code": {"anonymizer": "speaker-normalized", "options": {"codebook_size": 16}},
    "labels": {"anonymizer": "emotion-label-rr", "options": {"labels_from": "public"}},
    "nothing": {"anonymizer": "none"},
    "the same for all": {"anonymizer": "constant"},
}


@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES.keys())
def test_an_honest_statement_is_not_found_fault_with(tmp_path: Path, tiny_corpus: Path, voice: dict[str, Any]) -> None:
    study = parse_study({"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": voice})
    plan = SimulationPlan(
        corpus=tiny_corpus,
        corpus_name="tones",
        synthetic=False,
        study=study,
        sites=(PlannedSite(name="site-00", speakers=("1001", "1002")),),
        folds=(("1001",), ("1002",)),
        command="moretta simulate",
    )
    plan.save(tmp_path / "run")
    public = prepare_public(study)
    release = make_release(simulated_site(tmp_path / "run", 0), study, public)
    run = Run(RunContext(tmp_path / "run", plan), public=public)
    assert recomputed_epsilons(run.context, run.public, "site-00", release) == {}
    assert not run.context.progress.warnings
    check_statement(study, release)
    again = {
        (row.mechanism, row.unit): row.epsilon for row in recomputed_statement(study, public, release, "voice").privacy
    }
    assert again == {(row.mechanism, row.unit): row.epsilon for row in release.anonymizer("voice").privacy}  # type: ignore[union-attr]
