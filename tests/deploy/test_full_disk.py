"""A disk that is full or read-only ends every command with a sentence and exit code 13, and leaves what was there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import moretta
from moretta.deploy.cli.main import run
from moretta.shared.core.atomic import storage_error
from moretta.shared.core.errors import ExitCode
from moretta.shared.data.media import write_video

STUDY = 'name = "x"\nsites = 2\n[face]\nenabled = false\n[audit]\nenabled = false\n'
AUDIT = ("--attackers", "voice-logistic", "--no-inference", "--no-utility", "--bootstrap", "0", "--workers", "1")
Notify = Callable[..., tuple[int, str]]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 700 kB of its own."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a file system of its own needs root and mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)], check=False)
    if made.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def reported(capsys: pytest.CaptureFixture[str]) -> Notify:
    def call(*arguments: object) -> tuple[int, str]:
        code = run([str(a) for a in arguments])
        return code, capsys.readouterr().err.strip().splitlines()[-1]

    return call


def fill(disk: Path) -> None:
    with (disk / "fill").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 1024):
                pass
        except OSError:
            return


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


@pytest.mark.parametrize("how", [(fill, "no space"), (read_only, "read-only")])
def test_commands_that_write_say_so(
    disk: Path, study: Path, tiny_corpus: Path, reported: Notify, how: tuple[Callable[[Path], None], str]
) -> None:
    break_, words = how
    break_(disk)
    for line in (
        ("anonymize", "--corpus", tiny_corpus, "--study", study, "--out", disk / "a"),
        ("simulate", "--corpus", tiny_corpus, "--study", study, "--out", disk / "b"),
        ("audit", tiny_corpus, *AUDIT, "--out", disk / "c"),
        ("corpus", "synth", disk / "d", "--speakers", "2", "--clips", "2", "--no-video"),
        ("server", "init", disk / "e", "--name", "localhost"),
        ("train-face", "--out", disk / "f" / "face.safetensors", "--synthetic", "20", "--epochs", "1"),
    ):
        code, message = reported(*line)
        assert code == ExitCode.STORAGE, (line, message)
        assert words in message and "backup" not in message


def test_a_data_set_that_found_no_room_is_finished_when_there_is_some(
    disk: Path, tiny_corpus: Path, reported: Notify, capsys: pytest.CaptureFixture[str]
) -> None:
    """Arrays of 1.8 MB, then sound of 0.9 MB and pictures: each is too large once."""
    line = ("anonymize", "--corpus", tiny_corpus, "--out", disk / "made", "--set", "face.enabled=false")
    line = (*line, "--set", 'voice.anonymizer="mcadams"', "--set", 'voice.form="waveform"')
    for size, left in (("1m", []), ("2400k", ["statement.json"])):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        code, message = reported(*line)
        assert code == ExitCode.STORAGE and "no space is left on the disk of" in message
        assert [path.name for path in (disk / "made" / "release").glob("statement.json")] == left
    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    assert run([str(word) for word in line]) == 0
    assert "48 clips" in capsys.readouterr().out
    assert len(moretta.records(moretta.load_release(disk / "made" / "release"))) == 48


def test_a_video_that_finds_no_room_is_an_error_of_the_disk(disk: Path) -> None:
    fill(disk)
    frames = np.random.default_rng(1).integers(0, 255, (20, 128, 128, 3), np.uint8)
    with pytest.raises(Exception) as raised:
        write_video(disk / "clip.mp4", frames, 5.0, None)
    assert "no space is left" in str(storage_error(raised.value))
    assert [path.name for path in disk.iterdir()] == ["fill"]


@pytest.mark.parametrize("break_", [fill, read_only])
def test_a_server_that_could_write_nothing_is_as_it_was(
    disk: Path, reported: Notify, capsys: pytest.CaptureFixture[str], break_: Callable[[Path], None]
) -> None:
    server = disk / "server"
    assert run(["server", "init", str(server), "--name", "localhost"]) == 0
    before = (server / "audit.jsonl").read_bytes()
    break_(disk)
    code, message = reported("server", "token", "--server", server, "--site", "x")
    assert code == ExitCode.STORAGE and "backup" not in message
    assert _moretta("server", "up", str(server), stdout=None).returncode == ExitCode.STORAGE
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    (disk / "fill").unlink(missing_ok=True)
    assert (server / "audit.jsonl").read_bytes() == before
    assert run(["server", "token", "--server", str(server), "--site", "x"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("moretta-join-")
    assert run(["server", "log", "verify", "--server", str(server)]) == 0


def test_places_that_cannot_be_are_named(tmp_path: Path, study: Path, tiny_corpus: Path, reported: Notify) -> None:
    file = tmp_path / "file"
    file.touch()
    for out in (file / "x", tmp_path / ("n" * 300)):
        code, message = reported("anonymize", "--corpus", tiny_corpus, "--study", study, "--out", out)
        assert code == ExitCode.STORAGE and "Traceback" not in message
    assert reported("audit", tiny_corpus, *AUDIT, "--out", file)[0] == ExitCode.STORAGE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_noticed() -> None:
    with Path("/dev/full").open("w") as full:
        done = _moretta("version", stdout=full)
    assert done.returncode == ExitCode.STORAGE
    assert "Traceback" not in done.stderr and "no space is left" in done.stderr


def test_a_reader_who_stops_reading_is_no_defect() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = _moretta("attackers", "list", stdout=writing)
    os.close(writing)
    assert done.returncode == ExitCode.OUTPUT_CLOSED
    assert done.stderr == ""


def test_a_terminal_without_utf_8_shows_what_it_can(tmp_path: Path) -> None:
    broken = tmp_path / "é–中"
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = _moretta("corpus", "check", str(broken), "--json", stdout=subprocess.PIPE, environment=environment)
    assert done.returncode == ExitCode.CORPUS and "Traceback" not in done.stderr
    assert json.loads(done.stdout)["exit_code"] == ExitCode.CORPUS


def _moretta(
    *arguments: str, stdout: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "moretta.deploy.cli.main", *arguments],
        stdout=stdout,  # type: ignore[call-overload]
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **(environment or {})},
    )
