"""Sites' statements on their releases equal those that the server computes again, of voice and of faces."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from moretta.client.clips.release import make_release
from moretta.client.settings import simulated_site
from moretta.server.stages.run import Run, RunContext
from moretta.server.stages.statement_checks import check_statement, recomputed_rows, recomputed_statement
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import PrivacyStatement
from moretta.shared.models.unlearnt_gender import UnlearntEmbedding
from moretta.shared.release.anonymizer import get_anonymizer, prepare_public
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
    assert recomputed_rows(run.context, run.public, "site-00", release) == {}
    assert not run.context.progress.warnings
    check_statement(study, release)
    again = {
        (row.mechanism, row.unit): row.epsilon for row in recomputed_statement(study, public, release, "voice").privacy
    }
    assert again == {(row.mechanism, row.unit): row.epsilon for row in release.anonymizer("voice").privacy}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("row", "reported"),
    [
        ({"epsilon": 0.1}, True),
        ({"delta": 0.0}, True),  # the same epsilon at no delta is a stronger guarantee
        (None, True),
        ({}, False),
        ({"epsilon": None}, False),
        ({"epsilon": 9.0, "delta": 1e-3}, False),
    ],
)
def test_what_a_site_states_of_training_its_faces_is_computed_again(row: dict[str, Any] | None, reported: bool) -> None:
    """Nothing of voice is in this study: the statement of faces is all there is of the training."""
    options = {"code_training": "federated", "code_epsilon": 4.0, "code_unit": "speaker"}
    study = parse_study(
        {"sites": 2, "voice": {"enabled": False}, "face": {"anonymizer": "unlearnt-gender", "options": options}}
    )
    rules, found = UnlearntEmbedding.rules("face"), list[str]()
    public = {
        name: np.ones([n if isinstance(n, int) else 1 for n in rule.shape], rule.dtype) for name, rule in rules.items()
    }
    honest = get_anonymizer("face", "unlearnt-gender").from_study(study, public).statement({"a": [1, 1]}, "system")
    (training,) = (p for p in honest.privacy if p.unit == "speaker" and p.epsilon is not None)
    others = tuple(p for p in honest.privacy if p != training)
    own = () if row is None else (PrivacyStatement(**training.model_dump() | row),)
    clips = [(SimpleNamespace(speaker="a"), np.zeros(32, np.float32))] * 2
    release: Any = SimpleNamespace(
        statement=SimpleNamespace(anonymizers=[honest.model_copy(update={"privacy": others + own})]),
        arrays=lambda _: clips,
    )
    context: Any = SimpleNamespace(study=study, warn=found.append)
    rows = recomputed_rows(context, public, "site-00", release)
    assert rows == ({f"face/{training.mechanism}/speaker": training} if reported else {})
    assert len(found) == reported


def test_no_site_is_silent_about_a_modality_whose_code_it_trained() -> None:
    """Of voice and face together the loss stands with voice: a release of faces alone would state none of it."""
    made = {"anonymizer": "unlearnt-gender", "options": {"code_training": "federated"}}
    study = parse_study({"sites": 2, "voice": made, "face": made})
    release: Any = SimpleNamespace(statement=SimpleNamespace(anonymizers=[SimpleNamespace(modality="face")]), clips=())
    with pytest.raises(ReleaseError, match="no statement of voice"):
        check_statement(study, release)
