"""kill -9 of everything, one after the other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from network import StudyRun

from moretta.client.accounting.ledger import Ledger

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_kills_of_superlink_and_server_in_the_middle_of_rounds_change_neither_weights_nor_epsilon(
    undisturbed: StudyRun, killed: Any
) -> None:
    assert killed.run.weights() == undisturbed.weights()
    assert killed.run.epsilons() == undisturbed.epsilons()
    assert killed.run.report()["emotion"] == undisturbed.report()["emotion"]
    assert killed.run.outcome()["status"] == "completed"
    assert all(row["sites"] == 3 and row["failed"] == 0 for row in killed.run.report()["run"]["rounds"])


def test_a_study_goes_on_from_its_last_round_after_a_power_cut_at_the_server(
    undisturbed: StudyRun, power_cut: StudyRun
) -> None:
    assert power_cut.weights() == undisturbed.weights()
    assert power_cut.epsilons() == undisturbed.epsilons()
    assert power_cut.report()["emotion"] == undisturbed.report()["emotion"]
    reported = [
        json.loads(line) for line in (power_cut.out / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["stage"] for line in reported if line["state"] == "started"].count("release") == 1
    assert [line["after"] for line in reported if line["state"] == "resumed"] == ["round 1 of training voice"]
    assert [row["round"] for row in power_cut.report()["run"]["rounds"]] == [1, 2]


def test_a_duplicate_update_counts_once(undisturbed: StudyRun, killed: Any) -> None:
    """In `killed` one site sent every answer twice."""
    assert killed.twice.count("\n") >= 2
    assert killed.run.weights() == undisturbed.weights()
    assert [site["rounds"] for site in killed.run.report()["run"]["sites"]] == [2, 2, 2]


def test_a_round_goes_on_without_a_killed_site_where_the_study_says_continue(lost: Any) -> None:
    report = lost.continued.report()
    assert [row["sites"] for row in report["run"]["rounds"]] == [2]
    sites = {site["site"]: site for site in report["run"]["sites"]}
    assert sites["site-02"]["rounds"] == 0
    assert "round 1 of train voice" in sites["site-02"]["missed"]
    assert any(w.startswith("site-02 missed round 1 of training voice: it was lost") for w in report["run"]["warnings"])
    assert "site-02 missed" in (lost.continued.out / "report.html").read_text(encoding="utf-8")


def test_a_round_waits_for_a_killed_site_where_the_study_says_retry(lost: Any) -> None:
    report = lost.retried.report()
    assert [row["sites"] for row in report["run"]["rounds"]] == [3]
    assert report["run"]["sites"][2]["missed"] == []
    assert any("site-02: it was lost" in line and "asked again" in line for line in lost.retried.command.lines)


def test_the_ledger_of_a_killed_site_never_counts_less_than_it_gave_away(lost: Any) -> None:
    ledger = Ledger(lost.site.home / "ledger.jsonl")  # opens only if its chain is whole
    for run in (lost.continued, lost.retried):
        used = next(s["rounds"] for s in run.report()["run"]["sites"] if s["site"] == "site-02")
        assert len(ledger.entries("dp-sgd", study=run.digest())) >= used
        assert len(ledger.entries("release", study=run.digest())) >= 1
