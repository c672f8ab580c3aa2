"""Files that the check calls usable are released, refused ones are dropped, and none ends a command in a traceback."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent.parent / "shared" / "data"))
from videos import corners, encode

from moretta.deploy.cli.main import run
from moretta.deploy.runtime.anonymize_folder import anonymize_corpus
from moretta.shared.core.errors import ExitCode
from moretta.shared.data.check import CheckReport, check_corpus
from moretta.shared.data.media import write_video, write_wav
from moretta.shared.release import Release
from moretta.shared.study.schema import parse_study


def tone(seconds: float, hertz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers with whole clips, and one clip for each kind of damage."""
    root = tmp_path_factory.mktemp("damaged")
    audio, video = root / "AudioWAV", root / "VideoFlash"
    noise = [np.random.default_rng(k).integers(0, 255, (48, 64, 3)).astype(np.uint8) for k in range(12)]
    for speaker in ("1001", "1002"):
        for number, emotion in enumerate(("ANG", "HAP", "SAD")):
            hertz = 120 + 40 * number + 17 * (int(speaker) - 1000)
            write_wav(audio / f"{speaker}_IEO_{emotion}_MD.wav", tone(1, hertz))
            write_video(
                video / f"{speaker}_IEO_{emotion}_MD.flv", [frame // 2 + 5 * number for frame in noise], 12, None
            )
    write_video(video / "1001_TIE_ANG_XX.mp4", [frame // 3 for frame in noise], 12, tone(1, 400))
    for emotion, subtype in (("DIS", "GSM610"), ("FEA", "G721_32"), ("HAP", "NMS_ADPCM_16")):
        soundfile.write(audio / f"1001_TIE_{emotion}_XX.wav", tone(1, 150), 16_000, subtype=subtype)
    write_wav(audio / "1001_TIE_NEU_XX.wav", tone(1, 150))
    halve(audio / "1001_TIE_NEU_XX.wav")
    write_wav(audio / "1001_TIE_SAD_XX.wav", np.full(16_000, 0.5, np.float32))
    parts = [encode(root / f"{size}.h264", [corners(size, 2 * size)] * 8, container="h264") for size in (64, 32)]
    (video / "1002_TIE_ANG_XX.mp4").write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    write_video(video / "1002_TIE_DIS_XX.flv", noise, 12, None)
    halve(video / "1002_TIE_DIS_XX.flv")
    write_wav(audio / "1002_TIE_FEA_XX.wav", tone(1, 500))
    write_video(video / "1002_TIE_FEA_XX.flv", noise * 4, 12, None)
    (video / "1002_TIE_HAP_XX.mp4").write_bytes(b"")
    (video / "1002_TIE_NEU_XX.mov").write_bytes(os.urandom(4_000))
    (root / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n1001,50,M\n1002,20,F\n")
    return root


@pytest.fixture(scope="module")
def report(corpus: Path) -> CheckReport:
    return check_corpus(corpus, workers=1)


@pytest.fixture(scope="module")
def release(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    study = parse_study({"voice": {"codebook_size": 8}, "face": {"anonymizer": "pixelate", "preset": "small"}})
    return anonymize_corpus(corpus, tmp_path_factory.mktemp("made") / "out", study)


def test_every_damaged_file_is_named_with_its_reason(report: CheckReport) -> None:
    assert {Path(drop.file).stem: drop.reason for drop in report.unusable} == {
        "1001_TIE_DIS_XX": "unreadable",
        "1001_TIE_FEA_XX": "unreadable",
        "1001_TIE_HAP_XX": "unreadable",
        "1001_TIE_NEU_XX": "truncated",
        "1001_TIE_SAD_XX": "silent",
        "1002_TIE_ANG_XX": "size-changes",
        "1002_TIE_DIS_XX": "truncated",
        "1002_TIE_FEA_XX": "other-length",
        "1002_TIE_HAP_XX": "empty",
        "1002_TIE_NEU_XX": "unreadable",
    }
    assert all(Path(drop.file).name in drop.detail for drop in report.unusable)


def test_what_the_check_calls_usable_is_released_and_nothing_else(report: CheckReport, release: Release) -> None:
    assert report.audio is not None and report.video is not None
    assert sum(1 for _ in release.arrays("voice")) == report.audio.files == 8
    assert sum(1 for _ in release.arrays("face")) == report.video.files == 7
    assert len(release.clips) == report.clips == 8
    refused = Counter(drop.reason for drop in report.unusable)
    dropped = release.statement.dropped
    assert {
        reason: dropped.get(f"voice-{reason}", 0) + dropped.get(f"face-{reason}", 0) for reason in refused
    } == refused


def test_no_command_ends_in_a_traceback_over_a_damaged_file(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["corpus", "check", str(corpus)]) == ExitCode.CORPUS
    audit = ["audit", str(corpus), "--no-inference", "--no-utility", "--bootstrap", "5", "--workers", "1"]
    for attacker in ("voice-logistic", "face-knn"):
        assert run([*audit, "--attackers", attacker, "--out", str(tmp_path / attacker)]) == ExitCode.OK
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_modality_that_no_clip_has_is_reported(corpus: Path, tmp_path: Path) -> None:
    for name in ("1001_IEO_ANG_MD", "1002_IEO_SAD_MD"):
        target = tmp_path / "mute" / "VideoFlash" / f"{name}.flv"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((corpus / "VideoFlash" / target.name).read_bytes())
    notes: list[str] = []
    study = parse_study({"face": {"anonymizer": "pixelate", "preset": "small"}})
    anonymize_corpus(tmp_path / "mute", tmp_path / "out", study, notify=notes.append)
    assert "no voice is released: no clip of the corpus has sound" in notes
