"""Sites' responses to the evaluation: consistent counts are added up, others are left out by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict
from staging import do, warnings_of

from moretta.server.stages.run import Run, RunContext, SiteFacts
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.messages import wire
from moretta.shared.models.reliability import reliability_counts
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite
from moretta.shared.study.schema import Study, parse_study

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


def _run(tmp_path: Path, fake_site_grid: Any, study: Study, spoil: Any = lambda response: None) -> Run:
    outputs = ("voice", "face", "fused", *(("learned",) if study.learns_fusion else ()))

    def response(node: int, message: Any) -> RecordDict:
        reported = _answer(outputs, f"{node:016x}")
        if node == 2:
            spoil(reported)
        return RecordDict({wire.CONFIG: wire.json_config(site="x", **reported)})

    site_grid = fake_site_grid(response, nodes=2)
    site_grid.nodes = {1: "site-1", 2: "site-2"}
    sites = tuple(EnrolledSite(name=site, node=node) for node, site in site_grid.nodes.items())
    plan = DeploymentPlan(corpus_name="c", synthetic=False, study=study, command="c", sites=sites, server_home=tmp_path)
    run = Run(RunContext(tmp_path, plan), site_grid=site_grid)
    for node, site in site_grid.nodes.items():
        run.releases.kept[site] = _released(f"{node:016x}")
        run.releases.facts[site] = SiteFacts(held_out=(f"{node:016x}",))
    run.models = {"voice": {}, "face": {}}
    return run


def _released(speaker: str, clips: int = 12) -> Any:
    """The clips that `_answer` counts."""
    found = [SimpleNamespace(speaker=speaker, emotion=EMOTIONS[i], voice=0, face=0) for i in _labels(clips)]
    return SimpleNamespace(clips=found)


def _labels(clips: int) -> Any:
    rng = np.random.default_rng(clips)
    rng.dirichlet(np.ones(6), clips)
    return rng.integers(0, 6, clips)


def test_every_output_is_scored_with_its_calibration_over_all_sites(tmp_path: Path, fake_site_grid: Any) -> None:
    run = _run(tmp_path, fake_site_grid, LEARNED)
    do(run, "evaluate")
    assert set(run.evaluation.emotion) == {"voice", "face", "fused", "learned"}
    assert run.evaluation.emotion["learned"].clips == 24
    assert run.evaluation.reliability["learned"][:, 0].sum() == 24
    fused = run.evaluation.emotion["fused"]
    apart = sum(abs(b.right - b.confidence * b.clips) for b in fused.reliability)
    assert fused.ece == pytest.approx(apart / fused.clips)
    assert not warnings_of(run)


def test_a_fusion_that_was_not_requested_is_no_missing_result(tmp_path: Path, fake_site_grid: Any) -> None:
    run = _run(tmp_path, fake_site_grid, Study())
    do(run, "evaluate")
    assert set(run.evaluation.emotion) == {"voice", "face", "fused"}
    assert not run.absent


def _more_clips(reported: dict[str, Any]) -> None:
    reported["reliability"]["learned"][-1] = [5, 5, 4999]


def _not_counts(reported: dict[str, Any]) -> None:
    reported["reliability"]["learned"] = "all of them"


def _another_output(reported: dict[str, Any]) -> None:
    reported["reliability"]["oracle"] = reported["reliability"]["voice"]


def _of_no_output(reported: dict[str, Any]) -> None:
    del reported["counts"]["face"]


def _none_at_all(reported: dict[str, Any]) -> None:
    del reported["reliability"]


def _halves(reported: dict[str, Any]) -> None:
    reported["reliability"]["voice"][0] = [0.5, 0.5, 0.5]


def _ragged(reported: dict[str, Any]) -> None:
    reported["reliability"]["voice"][0] = [1]


@pytest.mark.parametrize(
    "spoil", [_more_clips, _not_counts, _another_output, _of_no_output, _none_at_all, _halves, _ragged]
)
def test_a_site_whose_confidences_do_not_hang_together_is_left_out_whole(
    tmp_path: Path, fake_site_grid: Any, spoil: Any
) -> None:
    run = _run(tmp_path, fake_site_grid, LEARNED, spoil)
    do(run, "evaluate")
    assert [w for w in warnings_of(run) if w.startswith("site-2 did not evaluate")]
    assert run.evaluation.emotion["voice"].clips == run.evaluation.emotion["learned"].clips == 12
    assert run.evaluation.reliability["voice"][:, 0].sum() == 12


def _times(factor: int) -> Any:
    """The same table, many times."""

    def spoil(reported: dict[str, Any]) -> None:
        for output, tables in reported["counts"].items():
            reported["counts"][output] = {s: [[factor * n for n in row] for row in t] for s, t in tables.items()}
            reported["reliability"][output] = [[factor * n for n in row] for row in reported["reliability"][output]]

    return spoil


def _one_more(reported: dict[str, Any]) -> None:
    """One clip of another emotion than was released, decided right."""
    for output, tables in reported["counts"].items():
        (table,) = tables.values()
        row = next(i for i in range(6) if table[i][i])
        table[row][row] -= 1
        table[(row + 1) % 6][(row + 1) % 6] += 1
        del output


@pytest.mark.parametrize("spoil", [_times(2), _times(500_000), _one_more], ids=["twice", "6 million", "other emotion"])
def test_counts_of_more_clips_than_were_released_write_no_headline(
    tmp_path: Path, fake_site_grid: Any, spoil: Any
) -> None:
    run = _run(tmp_path, fake_site_grid, LEARNED, spoil)
    do(run, "evaluate")
    assert run.evaluation.emotion["voice"].clips == 12
    assert [
        w for w in warnings_of(run) if w.startswith("site-2 did not evaluate") and "those that were released, 12" in w
    ]


def test_counts_of_speakers_who_were_trained_on_are_refused(tmp_path: Path, fake_site_grid: Any) -> None:
    run = _run(tmp_path, fake_site_grid, LEARNED)
    run.releases.facts["site-2"].held_out = ()
    do(run, "evaluate")
    assert run.evaluation.emotion["voice"].clips == 12
    assert any("whom this site does not hold out" in w for w in warnings_of(run))


def test_a_site_that_leaves_clips_out_of_the_test_is_named_with_their_number(
    tmp_path: Path, fake_site_grid: Any
) -> None:
    def wrong_ones(reported: dict[str, Any]) -> None:
        """Only what the models got right."""
        for output in reported["counts"]:
            (table,) = reported["counts"][output].values()
            reported["counts"][output] = {
                f"{2:016x}": [[n * (i == j) for j, n in enumerate(r)] for i, r in enumerate(table)]
            }
        reported["reliability"] = {}

    run = _run(tmp_path, fake_site_grid, Study(), wrong_ones)
    do(run, "evaluate")
    named = [w for w in warnings_of(run) if w.startswith("site-2 left ")]
    assert len(named) == 3
    assert all("of its held-out clips out of the test of" in w for w in named)
