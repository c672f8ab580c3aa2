"""A person withdraws: nothing of theirs is read, made or sent from then on, and the steward gets a list of the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enrolled import enrolled
from requested import CHANGED, POLICY, RequestStage
from speaker_names import names_speaker
from typer.testing import CliRunner

from moretta.client.accounting.ledger import Ledger
from moretta.client.anonymizers.speaker_references import SpeakerReferences, clip_digest, forget_speaker
from moretta.client.settings import deployed_site
from moretta.deploy.cli.site import app
from moretta.deploy.site.doctor import examine
from moretta.deploy.site.review import review_study
from moretta.shared.core.errors import CorpusError, HomeError, RefusedError
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.study.schema import parse_study


@pytest.fixture
def site(tmp_path: Path, tiny_corpus: Path, simulated: Any) -> RequestStage:
    home = enrolled(tmp_path / "site", tiny_corpus, policy=POLICY, held_out=("1001",))
    return RequestStage(home, tiny_corpus, simulated.public)


def withdraw(site: RequestStage, *arguments: object) -> dict[str, Any]:
    outcome = CliRunner().invoke(app, ["withdraw", *map(str, arguments), "--home", str(site.home.root), "--json"])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def as_text(site: RequestStage, *arguments: object) -> str:
    reported = CliRunner().invoke(app, ["withdraw", *map(str, arguments), "--home", str(site.home.root)])
    assert reported.exit_code == 0, reported.output
    return reported.stdout


def test_clips_of_a_person_who_withdrew_are_read_no_more_although_they_are_still_there(site: RequestStage) -> None:
    site.release()
    withdraw(site, "1004", "--yes")
    assert not site.folder.exists()
    assert site.train(1)["failure"] == CHANGED
    site.run = 2
    assert site.count() == (36, 3)
    assert len(site.clips("1004")) == 12


def test_everything_that_was_made_with_the_person_is_removed_and_the_ledger_only_grows(site: RequestStage) -> None:
    site.release()
    site.train(1)
    before = Ledger(site.home.root / "ledger.jsonl").all_entries()
    done = withdraw(site, "1004", "--yes")
    assert (done["files"], done["removed"]) == (12, [site.study.digest()[:16]])
    assert not list((site.home.root / "release").rglob("*"))
    assert not list((site.home.root / "updates").rglob("*.safetensors"))
    ledger = Ledger(site.home.root / "ledger.jsonl")
    assert ledger.all_entries()[: len(before)] == before
    (entry,) = ledger.entries("withdrawn")
    assert entry["speaker"] == deployed_site(site.home.root).pseudonyms().speaker("1004")
    assert not names_speaker(json.dumps(entry["speaker"]), "1004")


def test_the_steward_sees_what_is_still_out_and_where(site: RequestStage) -> None:
    site.release()
    site.train(1)
    site.train(2)
    site.evaluate()
    done = withdraw(site, "1004", "--yes")
    (out,) = done["out"]
    identity = deployed_site(site.home.root)
    assert (out["study"], out["name"]) == (site.study.digest(), site.study.name)
    assert (out["server"], out["ca_fingerprint"]) == identity.server
    assert out["server"] == "127.0.0.1:1"
    assert out["sent"] == {"release": [], "voice": [1, 2]}
    pseudonyms = out["pseudonyms"]
    assert len(pseudonyms) == 1
    (tested,) = withdraw(site, "1001", "--yes")["out"]  # who is held out tests the models and is in no update
    assert tested["sent"] == {"release": [], "counts": []}
    text = as_text(site, "--list")
    assert "Speaker 1004 withdrew on" in text
    assert "updates of the voice model (rounds 1, 2)" in text
    again = as_text(site, "1004", "--yes")
    assert f"pseudonym {pseudonyms[0]}" in again
    assert not names_speaker(again.partition("Text for the coordinators")[2], "1004")


def test_a_person_who_was_never_sent_is_reported_as_such(site: RequestStage) -> None:
    assert withdraw(site, "1004", "--yes")["out"] == []
    assert "Nothing of theirs has left this site" in as_text(site, "1004", "--yes")


def test_what_left_before_there_were_records_comes_from_the_ledger(site: RequestStage) -> None:
    site.release()
    site.train(1)
    shutil.rmtree(site.home.root / "sent")
    (out,) = withdraw(site, "1004", "--yes")["out"]
    assert (out["study"], out["server"], sorted(out["sent"])) == (site.study.digest(), "", ["release", "voice"])


def test_clips_moved_to_another_number_or_put_back_from_a_backup_stay_out(site: RequestStage) -> None:
    withdraw(site, "1004", "--yes")
    for path in site.clips("1004"):
        shutil.copy(path, path.with_name(path.name.replace("1004", "1007")))
    assert site.count() == (36, 3)


def test_clips_that_were_deleted_before_are_known_by_what_was_released_of_them(
    site: RequestStage, tmp_path: Path
) -> None:
    site.release()
    backup = shutil.copytree(site.corpus, tmp_path / "backup")
    site.delete("1004")
    assert withdraw(site, "1004", "--yes")["files"] == 12
    for path in (backup / "AudioWAV").glob("1004*"):
        shutil.copy(path, site.corpus / "AudioWAV" / path.name.replace("1004", "1007"))
    site.run = 2
    assert site.count() == (36, 3)


def test_a_release_that_has_the_clips_under_another_number_is_removed_too(site: RequestStage) -> None:
    for path in site.clips("1004"):
        shutil.copy(path, path.with_name(path.name.replace("1004", "1007")))
    assert site.count() == (60, 5)
    assert withdraw(site, "1007", "--yes")["removed"]
    site.run = 2
    assert site.count() == (36, 3)  # the same recordings, under both numbers


def test_consent_that_is_given_again_is_on_the_ledger_and_the_clips_are_read_again(site: RequestStage) -> None:
    withdraw(site, "1004", "--yes")
    withdraw(site, "--undo", "1004")
    assert site.count() == (48, 4)
    assert len(Ledger(site.home.root / "ledger.jsonl").entries("consent-again")) == 1
    with pytest.raises(HomeError, match="not on the list"):
        withdraw(site, "--undo", "1004")


def test_a_number_that_nobody_has_or_had_is_refused_and_nothing_is_written(site: RequestStage) -> None:
    with pytest.raises(CorpusError, match="no clip of speaker 1044"):
        withdraw(site, "1044", "--yes")
    assert not (site.home.root / "withdrawn.json").exists()


def test_without_yes_the_steward_is_prompted(site: RequestStage) -> None:
    arguments = ["withdraw", "1004", "--home", str(site.home.root)]
    assert CliRunner().invoke(app, arguments, input="n\n").exit_code == 1
    assert not (site.home.root / "withdrawn.json").exists()
    assert CliRunner().invoke(app, arguments, input="y\n").exit_code == 0
    assert (site.home.root / "withdrawn.json").stat().st_mode & 0o777 == 0o600


def test_with_a_list_that_cannot_be_read_there_is_no_response(site: RequestStage) -> None:
    site.release()
    withdraw(site, "1004", "--yes")
    (site.home.root / "withdrawn.json").write_text("{", "utf-8")
    site.run = 2
    for answer in (site.release(), site.train(1), site.fetch()):
        assert answer["failure"] == "HomeError"


def test_everybody_may_withdraw(site: RequestStage) -> None:
    site.release()
    for speaker in ("1001", "1002", "1003", "1004"):
        withdraw(site, speaker, "--yes")
    site.run = 2
    assert site.release()["failure"] == "CorpusError"
    assert not list((site.home.root / "release").rglob("*"))


def test_the_corpus_need_not_be_there(site: RequestStage) -> None:
    site.release()
    site.corpus.rename(site.corpus.with_name("elsewhere"))
    done = withdraw(site, "1004", "--yes")
    assert done["files"] == 12  # known from the release
    assert "withdraw again" in done["note"]
    site.corpus.with_name("elsewhere").rename(site.corpus)
    site.run = 2
    assert site.count() == (36, 3)


def test_a_study_whose_release_the_corpus_contradicts_can_be_made_anew_by_the_steward(site: RequestStage) -> None:
    site.release()
    (site.corpus / "VideoDemographics.csv").unlink()
    site.run = 2
    assert "cannot tell" in site.release()["failure"]
    assert withdraw(site, "--study", site.study.digest()[:8]) == {"study": site.study.digest()}
    assert site.count() == (48, 4)


def test_review_and_doctor_leave_the_person_out(site: RequestStage, tmp_path: Path) -> None:
    site.home.write(
        site.home.read().model_copy(update={"speakers": ("1001", "1002", "1003", "1004"), "held_out": ("1004",)})
    )
    site.release()
    withdraw(site, "1004", "--yes")
    study = parse_study({"sites": 2, "face": {"enabled": False}, "voice": {"codebook_size": 16}})
    assert review_study(site.home, study, tmp_path / "review").release.statement.speakers == 3
    findings = examine(site.home)
    corpus = [f for f in findings if f.check == "corpus"]
    assert corpus[0].found.startswith("36 clips of 3 speakers")
    assert [f.verdict for f in corpus] == ["ok", "warning"]  # no fault, although site.toml still names the person
    assert "everybody who was held out has withdrawn" in corpus[1].found
    assert "1 people have withdrawn" in [f.found for f in findings]


def test_the_doctor_reports_a_release_that_is_not_used_any_more(site: RequestStage) -> None:
    site.release()
    (release,) = [f for f in examine(site.home) if f.check == "release"]
    assert release.verdict == "ok"
    site.delete("1004")
    (release,) = [f for f in examine(site.home) if f.check == "release"]
    assert release.verdict == "warning"
    assert "nothing is left of 1004" in release.found


def test_what_anonymizers_remember_of_the_person_is_removed_and_of_others_kept(tmp_path: Path) -> None:
    width = len(MEASUREMENTS)
    rows = {s: [np.full((1, width), s, np.float32), np.full((1, width), s + 0.5, np.float32)] for s in (1003, 1004)}
    known = SpeakerReferences(tmp_path / "one.safetensors", width)
    known.learn({str(s): [(clip_digest(r), r) for r in each] for s, each in rows.items()}, SeededNoise(1))
    assert forget_speaker(tmp_path, "1004") == 1
    content = (tmp_path / "one.safetensors").read_bytes()
    assert b"1004" not in content
    assert clip_digest(rows[1004][0]) not in content
    assert clip_digest(rows[1003][0]) in content
    again = SpeakerReferences(tmp_path / "one.safetensors", width)
    again.learn({"1003": [(clip_digest(r), r) for r in rows[1003]]}, SeededNoise(2))
    np.testing.assert_array_equal(again["1003"].normals, known["1003"].normals)
    assert forget_speaker(tmp_path, "1004") == 0


def test_the_ledger_can_be_shown_afterwards(site: RequestStage) -> None:
    site.release()
    withdraw(site, "1004", "--yes")
    withdraw(site, "--undo", "1004")
    reported = CliRunner().invoke(app, ["ledger", "--home", str(site.home.root)])
    assert reported.exit_code == 0, reported.output
    assert "the chain is whole" in reported.stdout
    for kind in ("removed", "withdrawn", "consent-again"):
        assert kind in reported.stdout


def test_a_broken_ledger_keeps_no_study_s_release_and_gets_its_entry_once_it_is_put_back(site: RequestStage) -> None:
    folders = []
    for site.run, seed in ((1, 1), (2, 2)):
        site.study = site.study.with_changes(seed=seed)
        site.release()
        folders.append(site.folder)
    ledger = site.home.root / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_text("no ledger\n", "utf-8")
    with pytest.raises(RefusedError):
        withdraw(site, "1004", "--yes")
    assert not any(folder.exists() for folder in folders)
    ledger.write_bytes(whole)
    for _ in range(2):
        withdraw(site, "1004", "--yes")
        assert len(Ledger(ledger).entries("withdrawn")) == 1


def test_damaged_records_keep_no_release_of_the_person(site: RequestStage) -> None:
    site.release()
    (site.folder / "origin.json").write_text("{", "utf-8")
    (site.home.root / "ledger.jsonl").write_text("no ledger\n", "utf-8")
    with pytest.raises(RefusedError):
        withdraw(site, "1004", "--yes")
    assert not site.folder.exists()
    assert deployed_site(site.home.root).withdrawn.speakers == {"1004"}
