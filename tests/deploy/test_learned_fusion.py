"""A whole small study with both modalities, over virtual sites in this process: three models, and a report with both
ways of fusing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.accounting.account import UNITS, Account
from moretta.client.accounting.budget import DP_SGD_KIND, spent
from moretta.client.accounting.ledger import Ledger
from moretta.client.accounting.planning import estimate_cost
from moretta.client.clips.stored_state import take_over_release
from moretta.client.settings import SiteSettings, simulated_site
from moretta.client.training.data import fusion_set, training_clips, training_set
from moretta.client.training.local_training import PLAIN_KIND
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.deploy.runtime.simulation import connect_locally
from moretta.server.stages.run import Run
from moretta.server.stages.state import RESUME_FILE, load_progress, save_state
from moretta.server.study import CENTRAL_STAGES, SITE_STAGES, Stage, run_stages
from moretta.shared.core.errors import RefusedError
from moretta.shared.models.fusion_gate import first_gate
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.study.schema import Study, parse_study
from tests.two_modalities import corpus_of_two_modalities, started


@dataclass(frozen=True)
class Ground:
    """Where a study can be run as often as asked, on one corpus and, but for other sites, on one release."""

    corpus: Path
    made: Run
    out: Path

    def run(self, name: str = "run", *, until: str = "evaluate", **changes: Any) -> Run:
        study = study_of(**changes)
        run = started(self.corpus, study, self.out / name)
        if study.sites == self.made.context.study.sites and study.modalities == self.made.context.study.modalities:
            for old, new in zip(_sites(self.made), _sites(run), strict=True):
                take_over_release(old, self.made.context.study, new, run.context.study)
        run_stages(run, _stages(until))
        return run


def _stages(until: str) -> list[Stage]:
    return SITE_STAGES[: [stage.name for stage in SITE_STAGES].index(until) + 1]


def study_of(**changes: Any) -> Study:
    content: dict[str, Any] = {
        "sites": 2,
        "voice": {"codebook_size": 16, "epsilon": 50.0},
        "face": {"anonymizer": "none"},
        "train": {"rounds": 2},
        "split": {"folds": 2},
        "fusion": {"kind": "learned", "held_back": 0.4},
        "audit": {"enabled": False},
    }
    return parse_study(content).with_changes(**changes)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("two-modalities")
    corpus = corpus_of_two_modalities(folder / "corpus")
    run = started(corpus, study_of(), folder / "made")
    run_stages(run, _stages("release"))
    return corpus, run


@pytest.fixture
def ground(released: tuple[Path, Run], tmp_path: Path) -> Ground:
    return Ground(*released, tmp_path / "runs")


def _sites(run: Run) -> list[SiteSettings]:
    return [simulated_site(run.context.folder, number) for number, _ in enumerate(run.context.plan.sites)]


def _models(run: Run) -> Any:
    return {modality: run.models[modality] for modality in ("voice", "face")}


def _gate() -> dict[str, Any]:
    return {name: np.asarray(tensor) for name, tensor in first_gate(0.6).items()}


def test_the_report_has_the_vote_and_the_learned_fusion_with_intervals_and_calibration(ground: Ground) -> None:
    run = ground.run()
    run_stages(run, CENTRAL_STAGES[-1:])
    content = json.loads((run.context.folder / "report.json").read_text(encoding="utf-8"))
    emotion = content["emotion"]
    assert emotion["absent"] == {}
    for output in ("voice", "face", "fused", "learned"):
        row = emotion[output]
        assert row["speakers"] == 2
        assert row["uar_low"] <= row["uar"] <= row["uar_high"]
        assert 0 <= row["ece"] <= 1
        assert row["three_class"]["clips"] > 0
    assert emotion["learned"]["clips"] == emotion["fused"]["clips"] == 24
    assert emotion["learned"]["model"].startswith("gate")
    assert [row["stage"] for row in content["run"]["rounds"]] == [
        *["train voice"] * 2,
        *["train face"] * 2,
        *["train fusion"] * 2,
    ]
    page = (run.context.folder / "report.html").read_text(encoding="utf-8")
    assert "Voice and face, learned fusion" in page
    assert "ECE" in page
    notes = {row["note"] for row in content["privacy"] if row["mechanism"] == "dp-sgd" and row["round"]}
    assert notes == {"voice and face model together; or the fusion, on clips that they did not see, if that is more"}


def test_a_study_that_says_nothing_has_no_third_model_and_no_row(ground: Ground) -> None:
    run = ground.run(fusion__kind="vote")
    run_stages(run, CENTRAL_STAGES[-1:])
    content = json.loads((run.context.folder / "report.json").read_text(encoding="utf-8"))
    assert content["emotion"]["learned"] is None
    assert content["emotion"]["absent"] == {}
    assert "train fusion" not in [stage["name"] for stage in content["run"]["stages"]]
    assert "learned fusion" not in (run.context.folder / "report.html").read_text(encoding="utf-8")


def test_with_one_modality_alone_the_row_says_why_it_is_not_there(ground: Ground) -> None:
    run = ground.run(face__enabled=False)
    run_stages(run, CENTRAL_STAGES[-1:])
    emotion = json.loads((run.context.folder / "report.json").read_text(encoding="utf-8"))["emotion"]
    assert emotion["learned"] is None
    assert emotion["absent"]["learned"] == "fusion needs both modalities; absent: face"
    assert run.training.trained == ("voice",)


def test_a_run_is_the_same_again_and_goes_on_after_a_crash_as_if_there_had_been_none(ground: Ground) -> None:
    whole = ground.run()
    before = {name: array.tobytes() for name, array in whole.models["fusion"].items()}
    table = whole.evaluation.emotion["learned"]
    stopped = ground.run(until="train face")
    save_state(stopped, RESUME_FILE)
    again = load_progress(stopped.context.folder)
    assert again is not None
    connect_locally(again, 2)
    run_stages(again, SITE_STAGES)
    assert {name: array.tobytes() for name, array in again.models["fusion"].items()} == before
    assert again.evaluation.emotion["learned"] == table


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_the_fusion_learns_on_clips_of_its_own_of_nobody_who_is_held_out(ground: Ground, unit: str) -> None:
    run = ground.run(until="train face", privacy__dp_sgd=False, privacy__unit=unit, split__folds=4)
    column = 1 if unit == "clip" else 0
    reported = 0
    for site in _sites(run):
        theirs = fusion_set(site, run.context.study, _models(run), SeededNoise(1))
        others = [training_set(site, run.context.study, modality) for modality in ("voice", "face")]  # type: ignore[arg-type]
        seen = {(s, c)[column] for each in others for s, c in zip(each.speakers, each.clips, strict=True)}
        own = {(s, c)[column] for s, c in zip(theirs.speakers, theirs.clips, strict=True)}
        assert not own & seen
        assert not {*theirs.speakers} & run.releases.held_out(run.context.plan)
        assert not {*others[0].speakers, *others[1].speakers} & run.releases.held_out(run.context.plan)
        assert training_clips(site, run.context.study) == {
            "voice": len(others[0]),
            "face": len(others[1]),
            "fusion": len(theirs),
        }
        reported += len(theirs)
    assert reported > 0


def _all_rounds(run: Run) -> SiteSettings:
    """Of the fusion, at a site that has trained the others."""
    site = _sites(run)[0]
    for number in (1, 2):
        train_round(site, RoundRequest(run.context.study, "fusion", number, _gate(), models=_models(run)))
    return site


@pytest.mark.parametrize("held_back", [0.0, 0.4])
def test_dp_sgd_of_all_three_models_ends_at_the_target_and_the_ledger_has_it(ground: Ground, held_back: float) -> None:
    run = ground.run(until="train face", fusion__held_back=held_back, privacy__epsilon=4.0)
    site = _all_rounds(run)
    ledger = Ledger(site.ledger)
    entries = ledger.entries(DP_SGD_KIND, study=run.context.study.digest())
    assert [e["model"].split("/")[0] for e in entries] == ["voice"] * 2 + ["face"] * 2 + ["fusion"] * 2
    assert 3.8 < spent(ledger, run.context.study) <= 4.05
    per_clip = Account.read(ledger).epsilon("clip", "model", delta=run.context.study.privacy.delta)
    assert per_clip is not None
    assert 3.3 < per_clip <= 4.05  # composed over all that a clip was in: none was in both parts


@pytest.mark.parametrize("held_back", [0.0, 0.4])
@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_the_forecast_is_what_the_ledger_charges(ground: Ground, held_back: float, unit: str) -> None:
    """Of what the guarantee is for; of the other unit too where it is known before who is held back."""
    run = ground.run(until="train face", fusion__held_back=held_back, privacy__unit=unit, split__folds=4)
    site = _all_rounds(run)
    account = Account.read(Ledger(site.ledger))
    data = [
        training_set(site, run.context.study, "voice"),
        fusion_set(site, run.context.study, _models(run), SeededNoise(1)),
    ]
    people = {s: 0 for each in data for s in each.speakers}
    pairs = {pair for each in data for pair in zip(each.speakers, each.clips, strict=True)}
    planned = estimate_cost(run.context.study, [sum(s == who for s, _ in pairs) for who in people], seconds=0.6)
    for level in UNITS if held_back == 0 else (unit,):
        reported = account.epsilon(level, "model", delta=run.context.study.privacy.delta)
        expected = planned.composed()["model"][level]
        assert reported == pytest.approx(expected, rel=0.03)


def test_without_dp_sgd_the_fusion_costs_nothing_beyond_the_two_releases(ground: Ground) -> None:
    run = ground.run(until="train face", privacy__dp_sgd=False)
    site = _sites(run)[0]
    before = [e["model"] for e in Ledger(site.ledger).entries(PLAIN_KIND)]
    _all_rounds(run)
    assert (
        before
        == [e["model"] for e in Ledger(site.ledger).entries(PLAIN_KIND)]
        == ["voice/statistics", "face/gradients"]
    )


def test_a_round_that_is_requested_again_gets_the_same_response_and_is_paid_once(ground: Ground) -> None:
    run = ground.run(until="train face")
    site = _sites(run)[0]
    first, second = (
        train_round(site, RoundRequest(run.context.study, "fusion", 1, _gate(), models=_models(run))) for _ in range(2)
    )
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)
    fusion = [e for e in Ledger(site.ledger).entries(DP_SGD_KIND) if e["model"] == "fusion/gate"]
    assert len(fusion) == 1
    other = {m: {n: a + np.float32(0.1) for n, a in w.items()} for m, w in _models(run).items()}
    changed = train_round(site, RoundRequest(run.context.study, "fusion", 1, _gate(), models=other))
    assert any(not np.array_equal(first.arrays[name], changed.arrays[name]) for name in first.arrays)
    assert len([e for e in Ledger(site.ledger).entries(DP_SGD_KIND) if e["model"] == "fusion/gate"]) == 2


def test_a_fusion_without_the_models_that_it_weighs_is_refused_and_costs_nothing(ground: Ground) -> None:
    run = ground.run(until="train face")
    site = _sites(run)[0]
    before = len(Ledger(site.ledger).entries(DP_SGD_KIND))
    with pytest.raises(RefusedError, match="without the models"):
        train_round(site, RoundRequest(run.context.study, "fusion", 1, _gate(), models={"voice": run.models["voice"]}))
    assert len(Ledger(site.ledger).entries(DP_SGD_KIND)) == before


def test_under_site_level_noise_and_secure_aggregation_the_fusion_is_trained_like_the_others(ground: Ground) -> None:
    run = ground.run(
        "secure",
        sites=4,
        aggregation={"secure": True, "dp": "distributed", "min_sites": 3},
        audit__updates=False,
        split__folds=4,
        fusion__held_back=0.5,
    )
    assert run.training.trained == ("voice", "face", "fusion")
    assert {row.sites for row in run.training.rounds} == {3}
    assert all(row.loss is None for row in run.training.rounds)
    assert run.evaluation.emotion["learned"].clips > 0
