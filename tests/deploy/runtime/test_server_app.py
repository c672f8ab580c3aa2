"""What sites state of their releases is what the server computes again, for every voice anonymizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta.client.clips.release import make_release
from moretta.client.settings import simulated_site
from moretta.deploy.runtime.server_app import recomputed_voice_statement
from moretta.server.stages.context import RunContext
from moretta.server.stages.statement_checks import check_statement, recomputed_epsilons
from moretta.shared.models.public_arrays import public_arrays
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import parse_study

VOICES: dict[str, dict[str, Any]] = {
    "bounded": {},
    "original": {"preset": "original"},
    "local words": {"preset": "original", "codebook": "local"},
    "tokens": {"form": "tokens"},
    "a budget for clips": {"preset": "dp-clip"},
    "a budget for speakers": {"preset": "dp-speaker", "anonymizer": "clip-quantizer", "budget_epsilon": 40},
    "a code": {"anonymizer": "speaker-normalized"},
    "words": {"anonymizer": "emotion-label-rr", "labels_from": "public"},
    "nothing": {"anonymizer": "none"},
    "the same for all": {"anonymizer": "constant"},
}


@pytest.mark.parametrize("voice", VOICES.values(), ids=VOICES.keys())
def test_an_honest_statement_is_not_found_fault_with(tmp_path: Path, tiny_corpus: Path, voice: dict[str, Any]) -> None:
    study = parse_study(
        {"sites": 2, "face": {"enabled": False}, "split": {"folds": 2}, "voice": {"codebook_size": 16, **voice}}
    )
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
    public = public_arrays(study)
    release = make_release(simulated_site(tmp_path / "run", 0), study, public)
    context = RunContext(tmp_path / "run", plan)
    assert recomputed_epsilons(context, public, "site-00", release) == {}
    assert not context.progress.warnings
    check_statement(study, release)
    again = {
        (row.mechanism, row.unit): row.epsilon for row in recomputed_voice_statement(study, public, release).privacy
    }
    assert again == {(row.mechanism, row.unit): row.epsilon for row in release.anonymizer("voice").privacy}  # type: ignore[union-attr]
