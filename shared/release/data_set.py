"""A release as a data set for others: the files in its folder, and the checksums by which it is checked.

Beside the parts of a release the folder has::

    manifest.csv     one line a clip, with its files: a corpus for Moretta, a table for anything else
    media/           releases as wav, mp4 or png by clip pseudonym, where their form can be played or viewed
    audit/           audit.html and audit.json, if an audit was attached
    DATASHEET.md     how it was made, guarantees, measurements, excluded uses
    SHA256SUMS       of every other file, as `sha256sum -c SHA256SUMS` reads them; written last

Pseudonym key and ledger never stand in it. Checksums find damage. An attacker can write them anew, so compare the
digest of `SHA256SUMS` with the one that the maker published elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from moretta.shared.core.atomic import naming, write_atomic
from moretta.shared.core.errors import ReleaseError

CHECKSUMS_FILE = "SHA256SUMS"
MANIFEST_FILE = "manifest.csv"
SHEET_FILE = "DATASHEET.md"
MEDIA_FOLDER, AUDIT_FOLDER = "media", "audit"
MEDIA_ENDINGS = {"audio": ".wav", "video": ".mp4", "picture": ".png"}
"""Endings of media files, by column of the manifest."""
MAX_LIST_BYTES = 512 << 20
"""A million clips, each with sound and video, need half of it."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^\x00-\x1f\\]{1,400})")
_SHOWN = 5


def media_of(folder: Path, clip: str) -> dict[str, Path]:
    """The files in which a clip can be played or viewed, by column of the manifest."""
    paths = {column: folder / MEDIA_FOLDER / f"{clip}{ending}" for column, ending in MEDIA_ENDINGS.items()}
    return {column: path for column, path in paths.items() if path.is_file()}


def write_checksums(folder: Path) -> str:
    """Write the list of all files in a folder, at any depth. Returns its own SHA-256. Raises ReleaseError: a link, a
    hidden file, or a name with a control character or a backslash, stands in the folder."""
    lines = []
    for name in sorted(_files(folder)):
        hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
        plain = (folder / name).is_file() and not (folder / name).is_symlink() and not hidden
        lines.append(f"{_digest(folder / name)}  {name}" if plain else "")
        if _LINE.fullmatch(lines[-1]) is None:
            raise ReleaseError(f"{name!a} in {folder}", expected="plain files with plain names", fix="remove it")
    content = "".join(f"{line}\n" for line in lines).encode()
    write_atomic(folder / CHECKSUMS_FILE, content)
    return hashlib.sha256(content).hexdigest()


def check_files(folder: Path, *, digest: str = "", but: Collection[str] = ()) -> None:
    """Check that a data set is whole: every file is as it was listed, and no other file is there, hidden or not.

    Files that an operating system has left in the folder must be removed: nobody else can know what is in them.

    Args:
        digest: SHA-256 of the list itself, as its maker published it; empty accepts any.
        but: files and folders that are not looked at, because they are about to be written.

    Raises:
        ReleaseError: no list, another list, a file that is missing, changed or not listed. All are counted, and the
            first of each kind are named.
    """
    listed, present = (
        {name: known for name, known in files.items() if name.partition("/")[0] not in but}
        for files in (_listed(folder, digest), dict.fromkeys(_files(folder), ""))
    )
    changed = [name for name in sorted(listed.keys() & present) if not _is_same(folder / name, listed[name])]
    found = {
        "missing": sorted(listed.keys() - present),
        "changed": changed,
        "not listed": sorted(present.keys() - listed),
    }
    problems = [f"{len(names)} files {kind} ({_some(names)})" for kind, names in found.items() if names]
    if problems:
        raise ReleaseError(
            f"a data set in {folder} with {', '.join(problems)}",
            expected=f"the files of {CHECKSUMS_FILE}, unchanged, and no others",
            fix="remove what is not listed, or get the data set again from who made it",
        )


def _listed(folder: Path, digest: str) -> dict[str, str]:
    """The hash of each listed file, by its name."""
    path = folder / CHECKSUMS_FILE
    if not path.is_file() or path.is_symlink():
        raise ReleaseError(
            f"no {CHECKSUMS_FILE} in {folder}",
            expected="a data set that `moretta anonymize` finished",
            fix="name the folder `release` itself; an interrupted command goes on when it is run again",
        )
    with path.open("rb") as file:
        content = file.read(MAX_LIST_BYTES + 1)
    if digest and hashlib.sha256(content).hexdigest() != digest.strip().lower():
        raise ReleaseError(
            f"a {CHECKSUMS_FILE} in {folder} of SHA-256 {hashlib.sha256(content).hexdigest()}",
            expected=digest,
            fix="get the data set again, and the digest from who made it",
        )
    found: dict[str, str] = {}
    *lines, rest = content.decode("utf-8", errors="replace").split("\n")
    for line in [*lines, *([rest] if rest else [])]:
        match = _LINE.fullmatch(line)
        place = PurePosixPath(match[2]) if match else PurePosixPath("..")
        if len(content) > MAX_LIST_BYTES or match is None or place.is_absolute() or ".." in place.parts:
            raise ReleaseError(
                f"a {CHECKSUMS_FILE} in {folder} that breaks the format at {line[:100]!a}",
                expected="lines of a SHA-256, two spaces and a file inside the folder",
                fix="get the data set again from who made it",
            )
        found[match[2]] = match[1]
    return found


def _files(folder: Path) -> Iterator[str]:
    """Names of all files but the list itself, with links, relative to the folder."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or not path.is_dir()) and name != CHECKSUMS_FILE:
            yield name


def _is_same(path: Path, expected: str) -> bool:
    return path.is_file() and not path.is_symlink() and _digest(path) == expected


def _digest(path: Path) -> str:
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(f"{name!a}"[1:-1] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
