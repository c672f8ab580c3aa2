"""A coordinator that wants scores of originals gets few, rounded, nameless ones, once, and only if a policy says so."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import approve, enrolled
from flwr.app import RecordDict
from killing import Action, Killed, kill_at_every_write
from requested import POLICY, RequestStage

from moretta.client import attacks
from moretta.client.accounting.ledger import Ledger
from moretta.client.attacks import SCORES_KIND, respond_to_attack
from moretta.client.clips.stored_state import all_sent
from moretta.client.clips.withdrawal import withdraw
from moretta.client.offers import Offers, respond_to_offer
from moretta.client.settings import deployed_site
from moretta.client.site_home import SiteHome
from moretta.deploy.cli.main import run
from moretta.shared.audit import site_attacks
from moretta.shared.core.errors import ExitCode, MorettaError, RefusedError, StudyError
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.messages import wire
from moretta.shared.messages.calls import Attacked
from moretta.shared.messages.message import read
from moretta.shared.study.public_arrays import OF_ATTACKER, approval_digest, described
from moretta.shared.study.schema import Study, parse_study
from tests.conftest import write_tone_corpus

ALLOWED = f"allow_attacks = true\n{POLICY}"
VOICE = PublicVoice(
    mean=np.zeros(13, np.float32),
    std=np.full(13, 20, np.float32),
    codebook=np.random.default_rng(1).standard_normal((16, 13)).astype(np.float32),
).to_arrays()
STUDY = parse_study(
    {
        "sites": 2,
        "face": {"enabled": False},
        "train": {"rounds": 3},
        "voice": {"codebook_size": 16},
        "audit": {"at_sites": ["voice-wccn"]},
    }
)


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_tone_corpus(tmp_path_factory.mktemp("public") / "tones", speakers=6)
    audit = STUDY.audit.model_copy(update={"public": folder})
    return site_attacks.learn(STUDY.model_copy(update={"audit": audit}))


class Coordinator(RequestStage):
    def attack(self, attacker: str = "voice-wccn", *, study: Study | None = None, **more: Any) -> dict[str, Any]:
        study = study or self.study
        digest = more.pop("approval", approval_digest(study, described(self.public)))
        content = RecordDict({wire.CONFIG: wire.study_config(study, attacker=attacker, approval=digest)})
        for name, arrays in more.items():
            content[name] = wire.arrays_to_record(arrays)
        return self.call(wire.ATTACK, content)

    @property
    def scores(self) -> list[dict[str, Any]]:
        return Ledger(self.home.root / "ledger.jsonl").entries(SCORES_KIND)


def coordinator(root: Path, learned: dict[str, Any], policy: str = ALLOWED, speakers: int = 11) -> Coordinator:
    corpus = write_tone_corpus(root / "tones", speakers=speakers, seconds=0.3)
    return Coordinator(enrolled(root / "site", corpus, policy=policy), corpus, VOICE | learned, study=STUDY)


@pytest.fixture
def asked(tmp_path: Path, learned: dict[str, Any]) -> Coordinator:
    made = coordinator(tmp_path, learned)
    made.release()
    return made


def test_a_policy_says_no_unless_it_says_yes(tmp_path: Path, learned: dict[str, Any]) -> None:
    asked = coordinator(tmp_path, learned, POLICY)
    assert asked.release()["statement"]["clips"] == 132  # the rest of the study goes on
    assert asked.attack()["failure"] == "refused by the rule allow_attacks of the site's policy"
    assert not asked.scores and not (asked.home.root / "attacks").exists()


def test_counts_leave_after_they_are_on_the_ledger_and_name_nobody(asked: Coordinator) -> None:
    found = asked.attack()
    response = read(Attacked, RecordDict({wire.CONFIG: wire.json_config(**found)}))
    assert response.speakers == 11
    sizes = [sum(part) for each in (response.unprotected, response.ignorant) for part in each]
    assert all(0 < size <= wire.MAX_TRIALS for size in sizes) and sizes[:2] == sizes[2:]
    assert found.keys() == {"site", "speakers", "unprotected", "ignorant"}  # counts, and no name
    (entry,) = asked.scores
    assert (entry["scores"], entry["model"], entry["guarantee"]) == (sum(sizes), "voice-wccn", "none")
    lines = [line for line in all_sent(asked.home.root)[0] if line["what"] == "scores"]
    assert len(lines) == 1 and len(lines[0]["speakers"]) == 11
    assert "scores of the attack voice-wccn" in (asked.home.root / "site.log").read_text("utf-8")


def test_what_an_attack_leaves_at_the_site_is_for_its_owner_alone(
    tmp_path: Path, learned: dict[str, Any], lax_umask: None
) -> None:
    asked = coordinator(tmp_path, learned)
    asked.release()
    asked.attack()
    files = [asked.home.root / "attacks", *(asked.home.root / "attacks").rglob("*")]
    assert {path.suffix for path in files} >= {"", ".json", ".lock"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []


@pytest.fixture
def lax_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_request_that_is_repeated_gets_the_same_response_and_reveals_no_more(asked: Coordinator) -> None:
    first = asked.attack()
    asked.run = 2
    assert asked.attack() == asked.attack() == first
    assert len(asked.scores) == 1


def test_only_what_was_approved_attacks(asked: Coordinator, learned: dict[str, Any]) -> None:
    """As a hostile coordinator would: weights made after it saw the release, another attacker, another study."""
    assert "no AttackWanted" in asked.attack(arrays=learned)["failure"]
    assert asked.attack("voice-logistic")["failure"] == "RefusedError"
    assert asked.attack("../../keys")["failure"].startswith("a message that is no AttackWanted")
    other = {name: array * np.float32(2) for name, array in learned.items()}
    crafted = approval_digest(STUDY, described(VOICE | other))
    assert "has not approved" in asked.attack(approval=crafted)["failure"]
    Offers(asked.home.root).keep(STUDY, VOICE | other)  # it was offered, and nobody has approved it
    assert "has not approved" in asked.attack(approval=crafted)["failure"]
    wider = parse_study(STUDY.model_dump(mode="json") | {"audit": {"at_sites": ["voice-wccn", "ge2e"]}})
    assert "has not approved" in asked.attack(study=wider)["failure"]
    assert not asked.scores


def test_an_offer_with_impossible_arrays_is_refused_before_a_clip_is_read(
    asked: Coordinator, learned: dict[str, Any]
) -> None:
    settings, name = deployed_site(asked.home.root), f"{OF_ATTACKER}voice-wccn/map"
    wide = np.tile(learned[name], 2)[:, : len(learned[name]) + 1]  # as many columns as fit an offer: gigabytes here
    for array in (learned[name] * np.float32(np.nan), learned[name][:-1], learned[name][None], wide):
        arrays = VOICE | learned | {name: array}
        with pytest.raises((StudyError, RefusedError)):
            respond_to_offer(settings, STUDY, approval_digest(STUDY, described(arrays)), arrays)
    for arrays in (VOICE, VOICE | learned | {f"{OF_ATTACKER}x/map": learned[name]}):
        with pytest.raises(StudyError):
            respond_to_offer(settings, STUDY, approval_digest(STUDY, described(arrays)), arrays)


def test_few_people_many_scores_and_no_release_are_refused_and_nothing_is_counted(
    tmp_path: Path, learned: dict[str, Any]
) -> None:
    few = coordinator(tmp_path / "few", learned, speakers=9)
    few.release()
    assert "min_attacked_speakers" in few.attack()["failure"]
    assert not few.scores and not list((few.home.root / "attacks").rglob("*.json"))
    most = few.home.policy_file.read_text("utf-8")
    few.home.policy_file.write_text(f"min_attacked_speakers = 9\nmax_attack_scores = 10\n{most}", "utf-8")
    assert "max_attack_scores" in few.attack()["failure"]
    assert not few.scores
    early = coordinator(tmp_path / "early", learned)
    approve(early.home, STUDY, early.public)
    assert early.attack()["failure"] == "ReleaseError"


def test_scores_of_all_attackers_and_releases_of_a_study_count_together(
    asked: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = asked.home.policy_file.read_text("utf-8")
    asked.attack()
    (entry,) = asked.scores
    asked.home.policy_file.write_text(f"max_attack_scores = {entry['scores'] + 1}\n{policy}", "utf-8")
    asked.delete("1001")  # the release is made anew, and so would the scores be
    asked.run = 2
    asked.release()
    assert not list((asked.home.root / "attacks").rglob("*.json"))
    assert "max_attack_scores" in asked.attack()["failure"]
    assert len(asked.scores) == 1


def test_a_study_under_another_name_gets_no_scores_of_its_own(asked: Coordinator) -> None:
    policy = asked.home.policy_file.read_text("utf-8")
    asked.attack()
    (entry,) = asked.scores
    asked.home.policy_file.write_text(f"max_attack_scores = {entry['scores'] + 1}\n{policy}", "utf-8")
    asked.study, asked.run = STUDY.with_changes(name="another", seed=7), 2
    asked.release()
    assert "max_attack_scores" in asked.attack()["failure"]
    assert len(asked.scores) == 1


def test_whoever_withdraws_is_in_no_scores_any_more(asked: Coordinator) -> None:
    asked.attack()
    done = withdraw(deployed_site(asked.home.root), "1003")
    assert any("scores" in each.sent for each in done.out)
    assert not list((asked.home.root / "attacks").rglob("*.json"))
    assert asked.attack()["failure"] == "the site's clips have changed since its release"


def test_a_crafted_linear_map_learns_no_more_than_the_bound(tmp_path: Path) -> None:
    """A map onto one direction makes each score one bit; the response has as many as any other."""
    size = 273
    direction = np.zeros((size, 1), np.float32)
    direction[0] = 1
    crafted = {
        f"{OF_ATTACKER}voice-wccn/middle": np.zeros(size, np.float32),
        f"{OF_ATTACKER}voice-wccn/map": direction,
    }
    asked = coordinator(tmp_path, crafted)
    asked.release()
    found = asked.attack()
    used = {level for part in found["ignorant"] for level, count in enumerate(part) if count}
    assert used <= {0, wire.LEVELS - 1}
    assert sum(map(sum, found["ignorant"])) <= 2 * wire.MAX_TRIALS


def test_a_kill_at_any_moment_leaves_no_scores_without_an_entry(
    tmp_path: Path, learned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = coordinator(tmp_path, learned)
    asked.release()
    counts = site_attacks.SiteScores((3, *[0] * 100), (*[0] * 100, 5))
    made = ({"unprotected": counts, "ignorant": counts}, frozenset(map(str, range(11))))
    monkeypatch.setattr(site_attacks, "score", lambda *_, **__: made)
    digest = approval_digest(STUDY, described(asked.public))
    entries = 0

    def prepare() -> tuple[Action, Any]:
        for path in (asked.home.root / "attacks").rglob("*.json"):
            path.unlink()

        def action(leaves: Any) -> None:
            respond_to_attack(deployed_site(asked.home.root), STUDY, "voice-wccn", digest)
            leaves()

        def check(killed: Killed) -> None:
            nonlocal entries
            before, entries = entries, len(asked.scores)
            there = list((asked.home.root / "attacks").rglob("[!.]*.json"))
            if killed.done or there:
                assert entries == before + 1

        return action, check

    assert kill_at_every_write(prepare) > 5


def test_the_steward_reads_what_is_requested_and_what_the_policy_says(
    tmp_path: Path, learned: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = coordinator(tmp_path, learned, POLICY)
    offer = Offers(asked.home.root).keep(STUDY, asked.public)
    assert run(["site", "pending", "--home", str(asked.home.root)]) == ExitCode.OK
    said = capsys.readouterr().out
    for words in ("attacks its own originals with voice-wccn", "no epsilon covers them", "refuses this part"):
        assert words in said
    assert f"{OF_ATTACKER}voice-wccn/map" in said and "cannot be made here" in said
    assert run(["site", "review", offer.digest, "--home", str(asked.home.root), "--out", str(tmp_path / "r")]) == 0
    assert "attacks its own originals with voice-wccn" in (tmp_path / "r" / "review.html").read_text("utf-8")


def test_a_simulated_site_has_no_originals_to_hide(tmp_path: Path, tiny_corpus: Path) -> None:
    from dataclasses import replace

    home = SiteHome(enrolled(tmp_path / "site", tiny_corpus, policy=ALLOWED).root)
    with pytest.raises(MorettaError, match="in a simulation"):
        respond_to_attack(replace(deployed_site(home.root), policy=None), STUDY, "voice-wccn", "0" * 64)
    assert attacks.SCORES_KIND == "scores" and json.dumps(STUDY.for_sites())
