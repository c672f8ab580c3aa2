"""A study over the network is the study of the simulation, and what happens on the way changes no figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from network import Network, StudyRun

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_with_seeded_noise_the_deployment_gives_the_weights_and_figures_of_the_simulation(
    simulated: StudyRun, undisturbed: StudyRun
) -> None:
    assert undisturbed.weights() == simulated.weights()
    one, two = simulated.report(), undisturbed.report()
    for part in ("emotion", "emotion_central", "privacy"):
        assert one[part] == two[part], part
    assert [r["uar"] for r in (one["emotion"]["voice"], two["emotion"]["voice"])] != [None, None]
    figures = [_semi_informed(report) for report in (one, two)]
    assert figures[0]
    assert figures[0] == figures[1]


def _semi_informed(report: Any) -> list[tuple[str, float]]:
    rows = [r for r in report["audit"] if r["scenario"] == "semi-informed" and r["value"] is not None]
    return [(f"{r['attacker']} {r['metric']} {r['subset']} {r['pooled']}", r["value"]) for r in rows]


def test_renewed_certificates_in_the_middle_of_a_round_change_nothing_in_the_result(
    network: Network, simulated: StudyRun, undisturbed: StudyRun
) -> None:
    """`undisturbed` had every site renew while it trained."""
    assert undisturbed.weights() == simulated.weights()
    assert undisturbed.report()["run"]["warnings"] == simulated.report()["run"]["warnings"]
    events = [json.loads(line) for line in (network.home / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {e["site"] for e in events if e["event"] == "renewed"} == {"site-00", "site-01", "site-02"}


def test_the_report_of_a_deployment_says_what_it_is_and_warns_of_seeded_noise(undisturbed: StudyRun) -> None:
    found = undisturbed.report()["run"]
    assert (found["deployment"], found["seeded_noise"]) == (True, True)
    assert [site["site"] for site in found["sites"]] == ["site-00", "site-01", "site-02"]
    assert all(site["missed"] == [] for site in found["sites"])
    page = (undisturbed.out / "report.html").read_text(encoding="utf-8")
    assert "ran over the network with 3 enrolled sites" in page
    assert "No site was lost." in page
    scenarios = {row["scenario"] for row in undisturbed.report()["audit"]}
    assert scenarios == {"semi-informed", "constant"}  # what needs originals cannot be had: they never left the sites


def test_without_the_test_mode_noise_comes_from_the_operating_system_and_no_two_runs_are_alike(
    hostile: StudyRun, shut_out: Any
) -> None:
    """Two studies without a seed at the same site, whose anonymizer and clips are the same."""
    for run in (hostile, shut_out.run):
        assert run.report()["run"]["seeded_noise"] is False
    assert _released(hostile, "open-00") != _released(shut_out.run, "open-00")
    assert next(e for site, number, e in hostile.epsilons() if (site, number) == ("open-00", 1)) is not None


def test_with_the_test_mode_a_site_releases_the_same_for_two_studies(undisturbed: StudyRun, killed: Any) -> None:
    """The other side of the test before: there it was the noise that differed, and nothing else."""
    assert _released(undisturbed) == _released(killed.run)


def _released(run: StudyRun, site: str = "site-00") -> bytes:
    folder: Path = run.out / "server" / "releases" / site
    return (folder / "voice-00000.safetensors").read_bytes()
