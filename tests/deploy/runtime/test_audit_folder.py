from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from speaker_names import names_speaker

import moretta.deploy.runtime.audit_folder as audit_folder_module
from moretta.deploy.runtime.audit_folder import _files, _load, _parallel, audit_folder
from moretta.shared.audit.execute import Inputs, Unit, run_unit
from moretta.shared.audit.metrics.scores import METRICS
from moretta.shared.audit.report.verdict import NOT_ATTACKED
from moretta.shared.audit.result import Result, failure
from moretta.shared.audit.run_attacks import keeping, run_all
from moretta.shared.audit.score_files import load_scores
from moretta.shared.core.errors import Interrupted, ReleaseError, StudyError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.terms import MODALITIES
from moretta.shared.core.workers import Workers
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.data.media import read_audio
from moretta.shared.data.reader import read_corpus
from moretta.shared.features.mfcc import mfcc
from moretta.shared.release import AnonymizerStatement, PseudonymKey, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.study.schema import Study, parse_study
from tests.conftest import write_tone_corpus


def write_release(corpus: Path, folder: Path, key: PseudonymKey, *, speakers: tuple[int, ...] = ()) -> None:
    writer = ReleaseWriter(folder, forms={"voice": "mfcc"})
    found = read_corpus(corpus)
    for clip in found.of(speakers) if speakers else found.clips:
        assert clip.audio is not None
        meta = ReleasedClip(
            clip=key.clip(clip.name),
            speaker=key.speaker(clip.speaker),
            emotion=clip.label,
            sentence=clip.sentence,
            level=clip.level,
        )
        writer.add(meta, {"voice": mfcc(read_audio(clip.audio)).astype(np.float32)})
    statement = AnonymizerStatement(
        modality="voice", name="none", version="1", form="mfcc", parameters={}, noise="none"
    )
    writer.finish(site="here", study="", anonymizers=(statement,))


@pytest.fixture
def anonymized(tiny_corpus: Path, tmp_path: Path) -> Path:
    key = tmp_path / "anonymized" / "pseudonym.key"
    write_release(tiny_corpus, tmp_path / "anonymized" / "release", PseudonymKey.load_or_create(key))
    return tmp_path / "anonymized"


def test_a_release_is_audited_against_its_originals_by_the_key_beside_it(
    anonymized: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    found = audit_folder(
        anonymized, corpus=tiny_corpus, key=None, out=out, attackers=["voice-logistic"], bootstrap=0, workers=1
    )
    written = json.loads((out / "audit.json").read_text())
    assert len(written["audit"]) == len(found.rows)
    assert {row["scenario"] for row in written["audit"]} == {"unprotected", "ignorant", "semi-informed", "constant"}
    top1 = {r.scenario: r.value for r in found.rows if (r.metric, r.subset, r.pooled) == ("top1", "all", 1)}
    assert top1["unprotected"] == top1["semi-informed"] == top1["ignorant"]  # released as they are, and matched right
    assert "<h1>anonymized</h1>" in (out / "audit.html").read_text()
    assert written["verdict"] == found.gate.model_dump(mode="json")
    eer = {r.scenario: r.value for r in found.rows if (r.metric, r.subset, r.pooled) == ("eer", "all", 1)}
    scores = load_scores(out)
    assert {key[1] for key in scores} == {"unprotected", "ignorant", "semi-informed"}
    for (_, scenario, _), trials in scores.items():
        assert METRICS.get("eer").function(trials) == pytest.approx(eer[scenario])
    assert not names_speaker((out / "trials-voice.json").read_text(), "1001")  # pseudonyms only


def test_parallel_speech_is_matched_with_a_release_and_with_files_of_another_tool(
    anonymized: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    released = {clip.clip for clip in open_release(anonymized / "release").clips}
    assert {clip.clip for clip in _parallel(anonymized, tiny_corpus, None, 0).clips} == released
    files = tiny_corpus / "AudioWAV"
    _, sets = _load(files, None, None, 3)
    assert {c.clip for c in _parallel(files, tiny_corpus, None, 3).clips} == {c.clip for c in sets["voice"][1].clips}
    PseudonymKey.load_or_create(tmp_path / "other.key")
    with pytest.raises(ReleaseError, match="--key"):
        _parallel(anonymized, tiny_corpus, tmp_path / "other.key", 0)


def test_a_foreign_key_is_refused(anonymized: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    PseudonymKey.load_or_create(other)
    with pytest.raises(ReleaseError, match="--key"):
        audit_folder(anonymized, corpus=tiny_corpus, key=other, out=tmp_path / "out")


def test_another_tools_wav_folder_with_a_corrupt_file_finishes_and_counts_it(tiny_corpus: Path, tmp_path: Path) -> None:
    flat = tiny_corpus / "AudioWAV"
    (flat / "1002_TIE_SAD_XX.wav").write_bytes(b"not a sound")
    (flat / "holiday.wav").write_bytes(b"not a clip")
    (flat / "1002_TIE_ANG_XX.wav").rename(tmp_path / "private.wav")
    (flat / "1002_TIE_ANG_XX.wav").symlink_to(tmp_path / "private.wav")
    found = audit_folder(
        flat, corpus=None, key=None, out=tmp_path / "out", attackers=["voice-logistic"], bootstrap=0, workers=1
    )
    assert found.unused["voice"] == {"bad-name": 1, "unreadable": 1, "outside": 1}
    assert not next(r for r in found.rows if r.scenario == "semi-informed" and r.metric == "top1").invalid


def test_a_release_with_a_clip_of_nan_finishes_and_counts_it(anonymized: Path, tmp_path: Path) -> None:
    (shard,) = (anonymized / "release").glob("voice-*.safetensors")
    arrays = load_file(shard)
    arrays[min(arrays)] = np.full_like(arrays[min(arrays)], np.nan)
    save_file(arrays, shard)
    found = audit_folder(
        anonymized, corpus=None, key=None, out=tmp_path / "out", attackers=["voice-logistic"], bootstrap=0, workers=1
    )
    assert found.unused["voice"] == {"voice-damaged": 1}
    assert not next(r for r in found.rows if r.scenario == "semi-informed" and r.metric == "top1").invalid


def test_a_truncated_file_of_one_site_is_counted_and_the_other_sites_are_attacked(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    for site, speakers in (("a", ("1001", "1002")), ("b", ("1003", "1004"))):
        key = PseudonymKey.load_or_create(tmp_path / site / "pseudonym.key")
        write_release(tiny_corpus, tmp_path / site / "release", key, speakers=speakers)
    (shard,) = (tmp_path / "b" / "release").glob("voice-*.safetensors")
    lost = len(load_file(shard))
    shard.write_bytes(shard.read_bytes()[:200])
    found = audit_folder(
        tmp_path, corpus=None, key=None, out=tmp_path / "out", attackers=["voice-logistic"], bootstrap=0, workers=1
    )
    assert found.unused["voice"] == {"voice-damaged": lost}
    top1 = next(r for r in found.rows if r.scenario == "semi-informed" and r.metric == "top1")
    assert not top1.invalid
    assert top1.speakers == 2


def test_a_folder_with_nothing_to_attack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="named as the originals"):
        audit_folder(tmp_path, corpus=None, key=None, out=tmp_path / "out")


def test_an_audit_that_was_interrupted_goes_on_and_ends_with_the_same_figures(
    anonymized: Path, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked: list[str] = []

    def counted(inputs: Inputs, unit: Unit) -> list[Result]:
        attacked.append(f"{unit.attacker} {unit.name}")
        return run_unit(inputs, unit)

    def audited(out: Path, *, stop_after: int | None = None, seed: int = 0) -> str:
        attacked.clear()

        def progress(what: str, done: int, total: int) -> None:
            if done == stop_after and what.startswith("voice-"):
                raise Interrupted("by a test")

        audit_folder(
            anonymized,
            corpus=tiny_corpus,
            key=None,
            out=out,
            seed=seed,
            attackers=["voice-logistic", "voice-wccn"],
            bootstrap=10,
            workers=1,
            inference=False,
            utility=False,
            name="a",
            progress=progress,
        )
        return (out / "audit.json").read_text("utf-8")

    monkeypatch.setattr("moretta.shared.audit.runner.run_unit", counted)
    whole = audited(tmp_path / "whole")
    everything = sorted(attacked)
    with pytest.raises(Interrupted):
        audited(tmp_path / "stopped", stop_after=4)
    before = list(attacked)
    assert len(before) == 4
    assert audited(tmp_path / "stopped") == whole
    assert sorted(before + attacked) == everything and not set(before) & set(attacked)
    assert not (tmp_path / "stopped" / ".attacks").exists()
    with pytest.raises(Interrupted):
        audited(tmp_path / "stopped", stop_after=4)
    audited(tmp_path / "stopped", seed=1)
    assert sorted(attacked) == everything, "another seed is another audit"
    assert not (tmp_path / "stopped" / ".attacks").exists()


def test_a_modality_that_was_released_and_not_attacked_does_not_pass(tmp_path: Path) -> None:
    key = PseudonymKey.seeded(0, "here")
    writer = ReleaseWriter(tmp_path / "r", forms={"voice": "code", "face": "code"})
    for number in range(8):
        about = {"clip": key.clip(str(number)), "speaker": key.speaker(str(number % 2)), "emotion": EMOTIONS[0]}
        code = np.full(3, number, np.float32)
        writer.add(ReleasedClip(**about, sentence="IEO", level=Level.XX), {"voice": code, "face": code})
    how: dict[str, Any] = {"name": "n", "version": "1", "form": "code", "parameters": {}, "noise": "none"}
    made = tuple(AnonymizerStatement(modality=m, **how) for m in MODALITIES)
    writer.finish(site="here", study="", anonymizers=made)
    options: dict[str, Any] = {"attackers": ["voice-logistic"], "bootstrap": 0, "workers": 1}
    found = audit_folder(
        tmp_path / "r", corpus=None, key=None, out=tmp_path / "out", inference=False, utility=False, **options
    )
    assert {row.modality for row in found.rows} == {"voice"}
    assert {c.why for c in found.gate.criteria if c.of == "face"} == {NOT_ATTACKED}


def test_the_end_of_an_audit_removes_only_what_audits_kept(tmp_path: Path) -> None:
    (tmp_path / "attacks-of-mine").mkdir()
    with suppress(Interrupted), keeping(tmp_path, "a") as stopped:
        stopped.mkdir()
        raise Interrupted("by a test")
    assert stopped.exists()
    with keeping(tmp_path, "b") as kept:
        kept.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["attacks-of-mine"]


def test_an_attacker_that_can_run_since_makes_another_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with keeping(tmp_path) as before:
        monkeypatch.setattr("moretta.shared.audit.run_attacks.instruments", lambda: "fetched since")
    with keeping(tmp_path) as after:
        assert before != after


def test_the_same_array_shard_with_another_content_is_another_file(tmp_path: Path) -> None:
    shard = tmp_path / "voice-00000.safetensors"
    seen = []
    for content in (b"one", b"two"):
        shard.write_bytes(content)
        os.utime(shard, ns=(0, 0))
        seen.append(_files(tmp_path))
    assert seen[0] != seen[1]


def test_an_attack_that_failed_is_tried_again(tmp_path: Path) -> None:
    about = Result(modality="voice", attacker="a", scenario="ignorant", metric="top1")
    calls: list[str] = []

    def attack(name: str) -> list[Result]:
        calls.append(name)
        return [about.invalidated(failure(MemoryError()))] if name == "b" else [about.with_value(0.1)]

    def run() -> list[Result]:
        with keeping(tmp_path / "done"), Workers(1) as pool:
            found = run_all(attack, [("a",), ("b",)], ["a", "b"], what="w", pool=pool, progress=None)
            if len(calls) < 3:
                raise Interrupted("by a test")
            return found

    with pytest.raises(Interrupted):
        run()
    assert [row.value for row in run()] == [0.1, None]
    assert calls == ["a", "b", "b"]


def test_public_people_of_the_study_that_made_a_release_reach_its_audit(
    anonymized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tone_corpus(tmp_path / "public", speakers=9)
    given: list[Any] = []
    monkeypatch.setattr(audit_folder_module, "audit_sets", lambda *_, **how: given.append(how["public"]))

    def study(form: str, public: Path | None = folder) -> Study:
        voice = {"anonymizer": "none", "form": form}
        return parse_study({"face": {"enabled": False}, "voice": voice, "audit": {"public": public}})

    audit_folder(anonymized, corpus=None, key=None, out=tmp_path / "out", study=study("mfcc"))
    assert len(given[0]["released"].speakers) == 9
    with pytest.raises(StudyError, match="a study of none as waveform, and a release of none as mfcc"):
        audit_folder(anonymized, corpus=None, key=None, out=tmp_path / "out", study=study("waveform"))
    with pytest.raises(StudyError, match="people in both"):
        audit_folder(anonymized, corpus=folder, key=None, out=tmp_path / "out", study=study("mfcc"))
