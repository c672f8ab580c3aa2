"""The whole audit of a site's own release, by its steward: nothing leaves, nothing is spent, nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import enrolled
from requested import POLICY, RequestStage
from speaker_names import names_speaker

from moretta.client.offers import Offer, Offers
from moretta.client.site_home import SiteFile, SiteHome
from moretta.deploy.cli.main import run
from moretta.shared.core.errors import ExitCode
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.study.schema import parse_study

PUBLIC = PublicVoice(
    mean=np.zeros(13, np.float32),
    std=np.full(13, 20, np.float32),
    codebook=np.random.default_rng(1).standard_normal((16, 13)).astype(np.float32),
).to_arrays()
STUDY = parse_study(
    {"sites": 2, "face": {"enabled": False}, "train": {"rounds": 3}, "voice": {"codebook_size": 16}, "name": "two"}
)
WRITTEN = [f"audits/{STUDY.digest()[:16]}/{name}" for name in ("audit.html", "audit.json", "scores.npz")]
WRITTEN.append(f"audits/{STUDY.digest()[:16]}/trials-voice.json")
QUICK = [
    "--attackers",
    "voice-logistic,voice-wccn",
    "--bootstrap",
    "20",
    "--no-inference",
    "--no-utility",
    "--workers",
    "1",
]


@pytest.fixture
def home(tmp_path: Path, tiny_corpus: Path) -> SiteHome:
    return enrolled(tmp_path / "site", tiny_corpus, policy=POLICY)


@pytest.fixture
def offer(home: SiteHome) -> Offer:
    return Offers(home.root).keep(STUDY, PUBLIC)


@pytest.fixture
def no_network(home: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> Any:
        raise AssertionError("a connection was opened")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)


def audit(home: SiteHome, offer: Offer, *more: str) -> int:
    return run(["site", "audit", offer.digest[:8], "--home", str(home.root), *QUICK, *more])


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("no_network")
def test_before_an_approval_the_release_that_would_be_made_is_attacked_and_nothing_is_spent(
    home: SiteHome, offer: Offer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(home.root)
    assert audit(home, offer, "--json") == ExitCode.OK
    made = json.loads(capsys.readouterr().out)
    assert (made["has_left"], made["clips"], made["speakers"]) == (False, 48, 4)
    folder = home.root / "audits" / STUDY.digest()[:16]
    after = files(home.root)
    added = {name for name in after if after[name] != before.get(name)}
    assert added == {"pseudonym.key", *WRITTEN}  # no ledger, no record of what was sent, no release
    figures = json.loads((folder / "audit.json").read_text("utf-8"))
    kinds = {(row["attacker"], row["scenario"]) for row in figures["audit"]}
    assert {(a, "ignorant") for a in ("voice-logistic", "voice-wccn")} <= kinds
    assert {("voice-logistic", "semi-informed"), ("voice-wccn", "lazy-informed")} <= kinds
    assert figures["utility"] == figures["inference"] == []
    closed = [home.root / "audits", folder, *folder.iterdir()]
    assert [oct(path.stat().st_mode & 0o077) for path in closed] == ["0o0"] * len(closed)
    page = (folder / "audit.html").read_text("utf-8")
    assert "two, as this site would release it" in page
    assert not names_speaker(page, "1001")


@pytest.mark.usefixtures("no_network")
def test_after_the_release_what_left_is_attacked_and_the_steward_sees_whom_it_reveals(
    home: SiteHome, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = RequestStage(home, tiny_corpus, PUBLIC, study=STUDY)
    assert stage.release()["statement"]["clips"] == 48
    before = files(home.root)
    (offer,) = Offers(home.root).all()
    assert audit(home, offer, "--json") == ExitCode.OK
    made = json.loads(capsys.readouterr().out)
    assert (made["has_left"], made["clips"]) == (True, 48)
    assert {n for n, data in files(home.root).items() if data != before.get(n)} == set(WRITTEN)
    assert {person["speaker"] for person in made["people"]} == {"1001", "1002", "1003", "1004"}
    shares = [person["top1"] for person in made["people"]]
    assert shares == sorted(shares, reverse=True)
    # Pseudonyms of the figures are those that the server has: what is found can be held against its report
    released = {json.loads(line)["speaker"] for line in (stage.folder / "clips.jsonl").read_text("utf-8").splitlines()}
    rows = json.loads((home.root / "audits" / stage.folder.name / "audit.json").read_text("utf-8"))["audit"]
    assert released <= {row["subset"] for row in rows}


@pytest.mark.slow
def test_a_study_file_is_audited_whole_in_processes_of_a_pool(
    home: SiteHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.toml"
    path.write_text("[face]\nenabled = false\n[voice]\ncodebook_size = 16\n", "utf-8")
    given = ["--home", str(home.root), "--attackers", "voice-logistic", "--bootstrap", "20", "--workers", "2"]
    assert run(["site", "audit", str(path), *given]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "Preliminary: made with arrays of this machine" in said and "nothing has left" in said
    (figures,) = (json.loads(found.read_text("utf-8")) for found in (home.root / "audits").glob("*/audit.json"))
    assert {row["scenario"] for row in figures["utility"]} >= {"ignorant", "semi-informed", "unprotected"}
    assert {row["attack"] for row in figures["inference"]} >= {"attribute", "inversion"}
    assert not list(home.root.glob(".review-*"))


def test_only_approved_clips_are_attacked(home: SiteHome, offer: Offer, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["approve", offer.digest, "--home", str(home.root), "--exclude", "speaker=1004", "--yes"]
    assert run(["site", *given]) == ExitCode.OK
    capsys.readouterr()
    assert audit(home, offer, "--json") == ExitCode.OK
    made = json.loads(capsys.readouterr().out)
    assert (made["has_left"], made["clips"], made["speakers"]) == (False, 36, 3)
    assert "1004" not in {person["speaker"] for person in made["people"]}


def test_a_release_whose_clips_have_changed_is_made_anew(
    home: SiteHome, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = RequestStage(home, tiny_corpus, PUBLIC, study=STUDY)
    stage.release()
    stage.delete("1004")
    (offer,) = Offers(home.root).all()
    assert audit(home, offer, "--json") == ExitCode.OK
    made = json.loads(capsys.readouterr().out)
    assert (made["has_left"], made["clips"]) == (False, 36)
    assert stage.folder.is_dir()  # to remove it is for the next request


def test_what_cannot_be_audited_is_refused_by_its_code_and_leaves_nothing(
    home: SiteHome, offer: Offer, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def left() -> list[str]:
        return [path.name for path in home.root.glob(".review-*")] + [p.name for p in (home.root / "audits").glob("*")]

    policy = home.policy_file.read_text("utf-8")
    home.policy_file.write_text(f"max_training_epsilon = 1.0\n{policy.split(chr(10), 1)[1]}", "utf-8")
    assert audit(home, offer) == ExitCode.REFUSED
    assert "max_training_epsilon" in capsys.readouterr().err
    home.policy_file.write_text(policy, "utf-8")
    away = tiny_corpus.with_name("away")
    tiny_corpus.rename(away)
    assert audit(home, offer) == ExitCode.CORPUS
    assert str(tiny_corpus) in capsys.readouterr().err
    away.rename(tiny_corpus)
    assert run(["site", "audit", "0" * 16, "--home", str(home.root), *QUICK]) == ExitCode.HOME
    assert run(["site", "audit", offer.digest, "--home", str(home.root), "--attackers", "x"]) == ExitCode.ATTACKERS
    assert run(["site", "refuse", offer.digest, "--home", str(home.root)]) == ExitCode.OK
    assert audit(home, offer) == ExitCode.HOME
    assert left() == []


def test_one_speaker_gives_invalid_rows_and_no_verdict_of_privacy(
    home: SiteHome, offer: Offer, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.write(SiteFile(corpus=tiny_corpus, speakers=("1001",)))
    assert audit(home, offer, "--json") == ExitCode.OK
    made = json.loads(capsys.readouterr().out)
    assert made["verdict"]["verdict"] == "inconclusive"
    assert made["headline"] == [] and made["people"] == []
    rows = json.loads((home.root / "audits" / STUDY.digest()[:16] / "audit.json").read_text("utf-8"))["audit"]
    assert rows and all(row["invalid"] for row in rows)
    assert any("at least 2 are needed" in row["reason"] for row in rows)


def test_withdrawing_a_person_removes_the_audits(home: SiteHome, offer: Offer) -> None:
    assert audit(home, offer) == ExitCode.OK
    assert list((home.root / "audits").iterdir())
    assert run(["site", "withdraw", "1003", "--home", str(home.root), "--yes"]) == ExitCode.OK
    assert not (home.root / "audits").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "cleans"), [(signal.SIGTERM, True), (signal.SIGKILL, False)])
def test_a_kill_leaves_one_folder_at_most_and_none_of_the_clips_elsewhere(
    home: SiteHome, offer: Offer, tmp_path: Path, number: signal.Signals, cleans: bool
) -> None:
    elsewhere, cache = tmp_path / "elsewhere", tmp_path / "cache"
    elsewhere.mkdir()
    environment = {**os.environ, "TMPDIR": str(elsewhere), "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    before = files(home.root)
    command = [sys.executable, "-m", "moretta.deploy.cli.main", "site", "audit", offer.digest, "--home", str(home.root)]
    process = subprocess.Popen([*command, *QUICK], env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:  # the attacks have begun: views of originals are on disk
        if "attackers done" in line:
            break
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (ExitCode.INTERRUPTED if cleans else -signal.SIGKILL)
    left = list(home.root.glob(".review-*"))
    assert len(left) == (0 if cleans else 1)
    assert (
        not list(elsewhere.rglob("*.bin"))
        and not list(elsewhere.glob("moretta-*"))
        and not list(cache.rglob("embeddings"))
    )
    for folder in left:
        assert list(folder.rglob("*.bin"))
        assert folder.stat().st_mode & 0o077 == 0
        shutil.rmtree(folder)
    after = files(home.root)
    assert {name for name in after if after[name] != before.get(name)} <= {"pseudonym.key"}
    assert audit(home, offer) == ExitCode.OK  # and the same command goes through afterwards
