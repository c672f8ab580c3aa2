"""The steward's decision without a browser: tables, rules, files of names, and JSON for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import enrolled
from requested import POLICY

from moretta.client.accounting.account import Account
from moretta.client.accounting.budget import BudgetLimits
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.provenance import Provenance
from moretta.client.clips.release import make_release
from moretta.client.offers import Offer, Offers
from moretta.client.settings import deployed_site
from moretta.client.site_home import SiteHome
from moretta.deploy.cli.main import run
from moretta.deploy.cli.review import _reviewed
from moretta.deploy.site.review_cost import costs
from moretta.shared.core.errors import ExitCode
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.study.schema import parse_study

PUBLIC = PublicVoice(
    mean=np.zeros(13, np.float32),
    std=np.full(13, 20, np.float32),
    codebook=np.random.default_rng(1).standard_normal((16, 13)).astype(np.float32),
).to_arrays()
STUDY = {"name": "two", "face": {"enabled": False}, "voice": {"options": {"codebook_size": 16}}, "split": {"folds": 2}}


@pytest.fixture
def home(tmp_path: Path, tiny_corpus: Path) -> SiteHome:
    return enrolled(tmp_path / "site", tiny_corpus, policy=POLICY)


@pytest.fixture
def offer(home: SiteHome) -> Offer:
    return Offers(home.root).keep(parse_study(STUDY), PUBLIC)


def site(home: SiteHome, *command: object) -> int:
    return run(["site", *map(str, command), "--home", str(home.root)])


def approved(home: SiteHome, offer: Offer) -> set[str]:
    listed = Provenance.load(home.root / "approvals" / offer.digest)
    assert listed is not None
    return set(listed.clips)


def test_rules_and_names_exclude_and_the_decision_is_json(
    home: SiteHome, offer: Offer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "names").write_text("# by hand\n1003_TIE_SAD_XX\n\n1003_IEO_ANG_XX\n", "utf-8")
    given = ["--exclude", "speaker=1001", "--exclude", "emotion=FEA", "--exclude-clips", tmp_path / "names"]
    assert site(home, "approve", offer.digest[:8], *given, "--yes", "--json") == ExitCode.OK
    decision = json.loads(capsys.readouterr().out)
    assert (decision["decision"], decision["clips"], decision["excluded"]) == ("approved", 28, 20)
    left = approved(home, offer)
    assert len(left) == 28
    assert not any(name.startswith("1001") or "_FEA_" in name for name in left)
    assert not left & {"1003_TIE_SAD_XX", "1003_IEO_ANG_XX"}
    assert site(home, "approve", offer.digest[:8], "--yes") == ExitCode.OK  # all that are there, again
    said = capsys.readouterr().out
    assert "20 of them are not in the approval that there is" in said and "with 48 clips; 0 stay here" in said


@pytest.mark.parametrize(
    ("rule", "left"), [("age<44", 24), ("age > 43", 24), ("seconds>0.5", 0), ("seconds<0.5", 48), ("sex=female", 24)]
)
def test_each_rule_excludes_what_it_says(
    home: SiteHome, offer: Offer, rule: str, left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    table = home.read().corpus / "VideoDemographics.csv"
    table.write_text("ActorID,Age,Sex\n1001,43,Male\n1002,43,Female\n1003,44,Male\n1004,44,Female\n", "utf-8")
    code = site(home, "approve", offer.digest, "--exclude", rule, "--yes")
    if left:
        assert code == ExitCode.OK and len(approved(home, offer)) == left
    else:
        assert code == ExitCode.REFUSED
        assert "the rule min_clips of the policy refuses a release of 0 clips" in capsys.readouterr().err


def test_who_is_of_unknown_age_is_beyond_every_age(home: SiteHome, offer: Offer) -> None:
    table = home.read().corpus / "VideoDemographics.csv"
    table.write_text("ActorID,Age,Sex\n1001,30,Male\n1002,60,Female\n", "utf-8")
    assert site(home, "approve", offer.digest, "--exclude", "age<18", "--yes") == ExitCode.OK
    assert {name[:4] for name in approved(home, offer)} == {"1001", "1002"}


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (["--exclude", "emotion=JOY"], ExitCode.STUDY),
        (["--exclude", "height>2"], ExitCode.STUDY),
        (["--exclude", "age>nan"], ExitCode.STUDY),
        (["--exclude", "age=30"], ExitCode.STUDY),
        (["--exclude-clips", "nowhere"], ExitCode.CORPUS),
    ],
)
def test_what_would_exclude_nothing_by_mistake_is_an_error(
    home: SiteHome, offer: Offer, wrong: list[str], code: ExitCode, tmp_path: Path
) -> None:
    assert site(home, "approve", offer.digest, *wrong, "--yes") == code
    (tmp_path / "names").write_text("1001_IEO_ANG_XX\n1009_IEO_ANG_XX\n", "utf-8")
    assert site(home, "approve", offer.digest, "--exclude-clips", tmp_path / "names", "--yes") == ExitCode.CORPUS
    assert Offers(home.root).decision(offer.digest) is None


def test_clips_and_risks_are_listed_without_a_browser(
    home: SiteHome, offer: Offer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site(home, "approve", offer.digest, "--exclude", "speaker=1002", "--yes") == ExitCode.OK
    capsys.readouterr()
    assert site(home, "review", offer.digest[:8], "--list", "--json") == ExitCode.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {clip["excluded"] for clip in found["clips"] if clip["speaker"] == "1002"} == {True}
    assert len(found["clips"]) == 48 and found["chance"] == 0.25
    assert all(0 <= clip["risk"] <= 1 and 0 <= clip["person_risk"] <= 1 for clip in found["clips"])
    assert {attack["attacker"] for attack in found["attacks"]} == {"voice-logistic", "voice-likeness", "voice-gmm"}
    assert max(clip["risk"] for clip in found["clips"]) > 0  # noise is the system's: how much differs from run to run
    assert site(home, "review", offer.digest[:8], "--list", "--out", "x") == ExitCode.STUDY


def test_a_rule_about_risk_runs_the_attackers_first(home: SiteHome, offer: Offer) -> None:
    with _reviewed(home, offer) as (_, choice):
        most = max(row.risk or 0.0 for row in choice.rows)  # noise is the system's: it differs from run to run
        limit = f"{most / 2:.3f}"
        risky = choice.matching(f"risk>{limit}")
        assert 0 < len(risky) <= 48
        assert risky == {row.clip.name for row in choice.rows if (row.risk or 0.0) > float(limit)}
    assert site(home, "approve", offer.digest, "--exclude", "person-risk>1", "--yes") == ExitCode.OK
    assert len(approved(home, offer)) == 48
    assert not list(home.root.glob(".review*"))


def test_the_costs_on_the_page_are_those_of_the_release(home: SiteHome, offer: Offer) -> None:
    home.policy_file.write_text(POLICY.replace("mfcc-quantizer", "blur") + "server_clip = inf\nserver_speaker = inf\n")
    home.policy_file.write_text(home.policy_file.read_text().replace("[budget]", "max_release_epsilon = inf\n[budget]"))
    with _reviewed(home, offer) as (made, choice):
        before = costs(choice.settings, made, choice.included)
        choice.excluded = {row.clip.name for row in choice.rows if row.clip.speaker == "1001"}
        fewer = costs(choice.settings, made, choice.included)
    assert not before.is_paid and not before.refusal
    settings = deployed_site(home.root)
    make_release(settings, offer.study, PUBLIC)
    account, delta = Account.read(Ledger(settings.ledger)), BudgetLimits().delta
    for line in before.lines:
        if line.audience == "server":
            spent = account.epsilon(line.unit, "server", delta=delta)
            assert line.now == 0 and spent and line.after == pytest.approx(spent)
    assert [line.after for line in fewer.lines if line.audience == "server"] == [
        line.after for line in before.lines if line.audience == "server"
    ]
    after = costs(settings, made, choice.rows)
    assert after.is_paid and all(line.now == line.after for line in after.lines)
    assert Ledger(settings.ledger).entries("release")
