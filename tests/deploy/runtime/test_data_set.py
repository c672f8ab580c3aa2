"""A release is a data set for others: it loads from anywhere, damage is found, and no secret and no clip is in it."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from speaker_names import names_speaker

import moretta
from moretta.deploy.runtime import anonymize_folder
from moretta.deploy.runtime.anonymize_folder import anonymize_corpus, write_media
from moretta.deploy.runtime.audit_folder import audit_folder
from moretta.deploy.runtime.data_set import attach_audit, data_set_in
from moretta.deploy.runtime.data_sheet import NO_AUDIT
from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.data.media import read_audio
from moretta.shared.release import AnonymizerStatement, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.release.data_set import write_checksums
from moretta.shared.study.schema import Study
from tests.conftest import write_tone_corpus

STUDY = Study.model_validate(
    {"voice": {"anonymizer": "mcadams", "form": "waveform"}, "face": {"enabled": False}, "seed": 1}
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tone_corpus(tmp_path_factory.mktemp("corpus") / "tones", speakers=2, seconds=0.3, sentences=("IEO",))


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    anonymize_corpus(corpus, out, STUDY)
    return out


@pytest.fixture
def moved(made: Path, tmp_path: Path) -> Path:
    """The folder alone, elsewhere, under another name."""
    return Path(shutil.copytree(made / "release", tmp_path / "somebody" / "data"))


def test_a_folder_that_was_moved_loads_as_records_and_as_a_torch_dataset(moved: Path) -> None:
    release = moretta.load_release(moved)
    rows = moretta.records(release)
    assert len(rows) == 12
    assert all(row.keys() == rows[0].keys() for row in rows)
    clips = moretta.torch_dataset(moved, "voice")
    assert len(clips) == 12 and set(clips.classes) == {row["emotion"] for row in rows}
    for row, (samples, label), clip in zip(rows, (clips[i] for i in range(12)), clips.clips, strict=True):
        assert (row["clip"], row["emotion"]) == (clip.clip, clips.classes[label])
        assert str(row["audio"]).startswith(str(moved)) and row["video"] is None
        assert np.abs(read_audio(Path(row["audio"])) - samples.numpy()).max() < 1e-4
    with pytest.raises(ReleaseError, match="voice"):
        moretta.torch_dataset(release, "face")


def test_the_manifest_is_a_corpus_and_has_the_labels_of_the_clip_list(moved: Path) -> None:
    found = moretta.load_corpus(moved)
    assert len(found.clips) == 12 and not found.dropped
    rows = {row["clip"]: row for row in csv.DictReader((moved / "manifest.csv").open(encoding="utf-8"))}
    for clip in open_release(moved).clips:
        assert (rows[clip.clip]["label"], rows[clip.clip]["speaker"]) == (clip.emotion, clip.speaker)
        assert (moved / rows[clip.clip]["voice"]).is_file()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="the system has no sha256sum")
def test_sha256sum_checks_the_list_and_the_digest_is_that_of_the_list(moved: Path) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=moved, check=True, capture_output=True)
    assert done.stdout.count(b"OK") == sum(path.is_file() for path in moved.rglob("*")) - 1
    digest = hashlib.sha256((moved / "SHA256SUMS").read_bytes()).hexdigest()
    moretta.load_release(moved, digest=digest.upper())


def test_neither_key_nor_name_nor_clip_of_the_originals_is_in_it(made: Path, moved: Path, corpus: Path) -> None:
    assert (made / "pseudonym.key").is_file()
    assert not (made / "anonymize.json").exists()
    key = (made / "pseudonym.key").read_bytes()
    originals = {path.read_bytes() for path in corpus.rglob("*.wav")}
    stems = {path.stem for path in corpus.rglob("*.wav")}
    for path in moved.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert key not in content and key.hex().encode() not in content and content not in originals
        if path.suffix in (".json", ".jsonl", ".csv", ".md", ""):
            text = content.decode()
            assert not names_speaker(text, "1001") and str(corpus) not in text and "pseudonym.key" not in text
            assert not [stem for stem in stems if stem in text or stem in path.name]
    loudest = {np.abs(read_audio(path)).max() for path in corpus.rglob("*.wav")}
    assert loudest.isdisjoint(np.abs(read_audio(path)).max() for path in (moved / "media").iterdir())


def _without_line(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").write_text("".join(line for line in lines if "manifest.csv" not in line))


def _append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text) and None


def _flip(folder: Path) -> None:
    path = folder / "voice-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _hide(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir()
    (folder / name).write_bytes(b"x")


def _linked(folder: Path) -> None:
    (folder / "clips.jsonl").rename(folder.parent / "clips.jsonl")
    (folder / "clips.jsonl").symlink_to(folder.parent / "clips.jsonl")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip, "1 files changed .voice-00000"),
        (lambda folder: next((folder / "media").iterdir()).unlink(), "1 files missing .media/"),
        (lambda folder: (folder / "clips.jsonl").unlink(), "1 files missing .clips.jsonl"),
        (_append("DATASHEET.md", "better"), "1 files changed .DATASHEET.md"),
        (_without_line, "1 files not listed .manifest.csv"),
        (lambda folder: (folder / "raw.wav").write_bytes(b"x"), "1 files not listed .raw.wav"),
        (lambda folder: (folder / ".raw.wav").write_bytes(b"x"), "1 files not listed .[.]raw.wav"),
        (lambda folder: _hide(folder, "media/.originals/1.wav"), "1 files not listed .media/[.]originals/1.wav"),
        (_linked, "1 files changed .clips.jsonl"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "no SHA256SUMS"),
        (_append("SHA256SUMS", "0" * 64 + "  ../../etc/passwd\n"), "breaks the format"),
        (_append("SHA256SUMS", "0" * 64 + "  /etc/passwd\n"), "breaks the format"),
        (_append("SHA256SUMS", "0" * 64 + "  half"), "missing"),
        (_append("SHA256SUMS", "no hash\n"), "breaks the format"),
    ],
)
def test_damage_is_found_before_anything_is_read(moved: Path, damage: Callable[[Path], object], words: str) -> None:
    moretta.load_release(moved)
    damage(moved)
    with pytest.raises(ReleaseError, match=words):
        moretta.load_release(moved)
    with pytest.raises(ReleaseError):
        moretta.torch_dataset(moved, "voice")


def test_a_hidden_file_is_in_no_list(moved: Path) -> None:
    (moved / ".DS_Store").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"[.]DS_Store.*remove it"):
        write_checksums(moved)


def test_a_list_that_was_written_anew_does_not_have_the_published_digest(moved: Path) -> None:
    digest = hashlib.sha256((moved / "SHA256SUMS").read_bytes()).hexdigest()
    _without_line(moved)
    (moved / "manifest.csv").unlink()
    moretta.load_release(moved)
    with pytest.raises(ReleaseError, match=digest):
        moretta.load_release(moved, digest=digest)


@pytest.mark.parametrize("stopped", ["make_release", "write_media", "write_wav", "write_checksums"])
def test_an_interrupted_call_goes_on_and_leaves_nothing_behind(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    place = {
        "make_release": anonymize_folder,
        "write_media": anonymize_folder,
        "write_wav": anonymize_folder,
        "write_checksums": moretta.deploy.runtime.data_set,
    }[stopped]
    whole, calls = getattr(place, stopped), []

    def once(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        if len(calls) == (6 if stopped == "write_wav" else 1):
            (tmp_path / "out" / "release" / "media").mkdir(parents=True, exist_ok=True)
            (tmp_path / "out" / "release" / "media" / ".half.wav").write_bytes(b"RIFF")
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(place, stopped, once)
    with pytest.raises(KeyboardInterrupt):
        anonymize_corpus(corpus, tmp_path / "out", STUDY)
    with pytest.raises(ReleaseError, match="SHA256SUMS"):
        moretta.load_release(tmp_path / "out" / "release")
    with pytest.raises(StudyError, match="media differ"):
        anonymize_corpus(corpus, tmp_path / "out", STUDY, media=True)
    anonymize_corpus(corpus, tmp_path / "out", STUDY)
    assert len(moretta.records(moretta.load_release(tmp_path / "out" / "release"))) == 12
    assert len(list((tmp_path / "out" / "release" / "media").iterdir())) == 12
    with pytest.raises(StudyError, match="not an empty folder"):
        anonymize_corpus(corpus, tmp_path / "out", STUDY)


def test_an_audit_is_attached_without_figures_of_single_people(
    moved: Path, corpus: Path, made: Path, tmp_path: Path
) -> None:
    assert NO_AUDIT in (moved / "DATASHEET.md").read_text()
    out = tmp_path / "audited"
    options = {"attackers": ["voice-logistic"], "bootstrap": 0, "workers": 1, "inference": False, "utility": False}
    found = audit_folder(moved, corpus=corpus, key=made / "pseudonym.key", out=out, **options)  # type: ignore[arg-type]
    pseudonyms = {clip.speaker for clip in open_release(moved).clips}
    assert any(name in (out / "audit.json").read_text() for name in pseudonyms)
    assert data_set_in(moved.parent, out) == moved
    for inside in (moved / "audit", moved.parent / "x" / ".." / moved.name / "more"):
        with pytest.raises(ReleaseError, match="inside the data set"):
            data_set_in(moved, inside)
    elsewhere = tmp_path / "web"
    elsewhere.mkdir()
    (moved / "audit").symlink_to(elsewhere)  # by whoever made the data set
    digest = attach_audit(moved, out, found)
    assert not list(elsewhere.iterdir()) and not (moved / "audit").is_symlink()
    moretta.load_release(moved, digest=digest)
    sheet, attached = (moved / "DATASHEET.md").read_text(), (moved / "audit" / "audit.json").read_text()
    assert NO_AUDIT not in sheet and f"Verdict: {found.gate.verdict}" in sheet
    assert json.loads(attached)["headline"] == found.headline_json()
    for text in (sheet, attached, (moved / "audit" / "audit.html").read_text()):
        assert not [name for name in pseudonyms if name in text]
    (moved / "audit" / "audit.json").unlink()  # ended in the middle: it can be attached again
    (moved / "audit" / "forged.html").write_text("nobody is recognised")
    assert attach_audit(data_set_in(moved, out), out, found) == digest
    _flip(moved)
    with pytest.raises(ReleaseError, match="changed"):
        data_set_in(moved, out)
    (moved / "SHA256SUMS").unlink()
    with pytest.raises(ReleaseError, match="0 data sets"):
        data_set_in(moved, out)


def test_pictures_are_png_where_a_clip_has_one_frame_and_video_where_it_has_more(tmp_path: Path) -> None:
    writer = ReleaseWriter(tmp_path / "release", forms={"face": "frames"})
    frames = np.random.default_rng(1).integers(0, 255, (5, 32, 32, 3), np.uint8)
    for number, count in enumerate((1, 5)):
        clip = ReleasedClip(clip=f"{number:016x}", speaker="0" * 16, emotion="NEU", sentence="", level="")
        writer.add(clip, {"face": frames[:count]})
    about = AnonymizerStatement(modality="face", name="blur", version="1", form="frames", parameters={}, noise="none")
    writer.finish(site="s", study="", anonymizers=(about,))
    release = open_release(tmp_path / "release")
    write_media(release, release.folder / "media", fps=5.0)
    rows = moretta.records(release)
    assert [row["video"] is not None for row in rows] == [False, True]
    import cv2

    assert (cv2.imread(str(rows[0]["picture"]))[:, :, ::-1] == frames[0]).all()
