"""What sites answer to the evaluation: counts that hang together are added up, others are left out by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from moretta.server.run import Run, SiteRecord
from moretta.server.stages.evaluate import evaluate
from moretta.shared import wire
from moretta.shared.plan import SimulationPlan
from moretta.shared.reliability import reliability_counts
from moretta.shared.study import Study, parse_study

LEARNED = parse_study({"fusion": {"kind": "learned"}})


def _answer(outputs: tuple[str, ...], speaker: str, clips: int = 12) -> dict[str, Any]:
    """A sound one: the same clips for every output."""
    rng = np.random.default_rng(clips)
    probabilities, labels = rng.dirichlet(np.ones(6), clips), rng.integers(0, 6, clips)
    table = np.zeros((6, 6), np.int64)
    np.add.at(table, (labels, probabilities.argmax(1)), 1)
    bins = reliability_counts(probabilities, labels).tolist()
    return {
        "counts": {output: {speaker: table.tolist()} for output in outputs},
        "reliability": dict.fromkeys(outputs, bins),
    }


def _run(tmp_path: Path, fake_exchange: Any, study: Study, spoil: Any = lambda answer: None) -> Run:
    outputs = ("voice", "face", "fused", *(("learned",) if study.learns_fusion else ()))

    def answer(node: int, message: Any) -> RecordDict:
        told = _answer(outputs, f"{node:016x}")
        if node == 2:
            spoil(told)
        return RecordDict({wire.CONFIG: wire.json_config(site="x", **told)})

    exchange = fake_exchange(answer, nodes=2)
    exchange.nodes = {1: "site-1", 2: "site-2"}
    plan = SimulationPlan(
        corpus_name="c", synthetic=False, study=study, command="c", sites=(), corpus=tmp_path, folds=((),)
    )
    run = Run(folder=tmp_path, plan=plan, connection=exchange)
    for node, site in exchange.nodes.items():
        clips: Any = SimpleNamespace(clips=[SimpleNamespace(speaker=f"{node:016x}")])
        run.releases[site], run.sites[site] = clips, SiteRecord()
    return run


def test_every_output_is_scored_with_its_calibration_over_all_sites(tmp_path: Path, fake_exchange: Any) -> None:
    run = _run(tmp_path, fake_exchange, LEARNED)
    evaluate(run, {})
    assert set(run.emotion) == {"voice", "face", "fused", "learned"}
    assert run.emotion["learned"].clips == 24
    assert run.reliability["learned"][:, 0].sum() == 24
    assert run.emotion["fused"].ece is not None
    assert not run.warnings


def test_a_fusion_that_was_not_asked_for_is_no_missing_result(tmp_path: Path, fake_exchange: Any) -> None:
    run = _run(tmp_path, fake_exchange, Study())
    evaluate(run, {})
    assert set(run.emotion) == {"voice", "face", "fused"}
    assert not run.absent


def _more_clips(told: dict[str, Any]) -> None:
    told["reliability"]["learned"][-1] = [5, 5, 4999]


def _not_counts(told: dict[str, Any]) -> None:
    told["reliability"]["learned"] = "all of them"


def _another_output(told: dict[str, Any]) -> None:
    told["reliability"]["oracle"] = told["reliability"]["voice"]


def _of_no_output(told: dict[str, Any]) -> None:
    del told["counts"]["face"]


def _none_at_all(told: dict[str, Any]) -> None:
    del told["reliability"]


def _halves(told: dict[str, Any]) -> None:
    told["reliability"]["voice"][0] = [0.5, 0.5, 0.5]


def _ragged(told: dict[str, Any]) -> None:
    told["reliability"]["voice"][0] = [1]


@pytest.mark.parametrize(
    "spoil", [_more_clips, _not_counts, _another_output, _of_no_output, _none_at_all, _halves, _ragged]
)
def test_a_site_whose_confidences_do_not_hang_together_is_left_out_whole(
    tmp_path: Path, fake_exchange: Any, spoil: Any
) -> None:
    run = _run(tmp_path, fake_exchange, LEARNED, spoil)
    evaluate(run, {})
    assert [w for w in run.warnings if w.startswith("site-2 did not evaluate")]
    assert run.emotion["voice"].clips == run.emotion["learned"].clips == 12
    assert run.reliability["voice"][:, 0].sum() == 12
