"""Sites attack their own originals over a network: those whose policy allows it; the report says whose word it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import AUDIT, STUDY
from network import Network, Site, chosen

from tests.conftest import write_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_two_of_three_sites_score_their_originals_and_the_report_has_it(
    network: Network, open_sites: list[Site], tmp_path: Path
) -> None:
    public = write_tone_corpus(tmp_path / "public", speakers=6)
    for site in open_sites[:2]:
        policy = site.home / "policy.toml"
        text = policy.read_text("utf-8").replace("allow_attacks = false", "allow_attacks = true")
        policy.write_text(text.replace("min_attacked_speakers = 10", "min_attacked_speakers = 2"), "utf-8")
    at_sites = f'at_sites = ["voice-wccn"]\npublic = "{public}"\n'
    run = network.study("attacks", STUDY + AUDIT + at_sites, *chosen(*(site.name for site in open_sites))).wait()
    report = run.report()
    [row] = [r for r in report["audit"] if (r["scenario"], r["metric"]) == ("ignorant", "eer")]
    assert (row["attacker"], row["speakers"]) == ("voice-wccn", 4)
    assert "scored at the sites" in row["note"]
    warnings = " ".join(report["run"]["warnings"])
    assert "open-02 did not run the attacker voice-wccn" in warnings and "allow_attacks" in warnings
    assert str(public) not in json.dumps({**report, "run": {**report["run"], "study": {}}})
    digest = run.digest()
    for site, times in zip(open_sites, (1, 1, 0), strict=True):
        assert len(site.ledger("scores", digest)) == times
        assert len(list((site.home / "attacks").rglob("voice-wccn-*.json"))) == times
        sent = (site.home / "sent" / f"{digest[:16]}.jsonl").read_text("utf-8")
        assert sent.count('"what": "scores"') == times
