from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from moretta.shared.core.atomic import _TEXTS, atomic_path, disk_failed, storage_error, write_atomic
from moretta.shared.core.errors import HomeError, StorageError, StudyError


@pytest.mark.parametrize("number", sorted(_TEXTS))
def test_every_known_failure_of_a_disk_is_a_sentence_with_the_place_and_what_to_do(number: int) -> None:
    reported = storage_error(OSError(number, os.strerror(number), "/data/out/report.json"))
    assert isinstance(reported, StorageError) and reported.exit_code == 13
    assert "/data/out/report.json" in reported.message and reported.fix


def test_other_failures_of_files_have_the_systems_text() -> None:
    reported = storage_error(OSError(errno.EXDEV, "Invalid cross-device link", "/a"))
    assert reported is not None and "/a cannot be used: Invalid cross-device link" in reported.message


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "refused"), TimeoutError(), ValueError("x"), OSError()])
def test_what_is_no_failure_of_storage_is_not_called_one(error: Exception) -> None:
    assert storage_error(error) is None


def test_a_full_disk_behind_another_error_is_reported_and_not_that_something_is_damaged() -> None:
    wrapped = HomeError("registry.sqlite cannot be opened", fix="restore it from the backup")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    reported = storage_error(wrapped)
    assert reported is not None and "no space" in reported.message and "backup" not in reported.message
    other = StudyError("the study file cannot be read")
    other.__cause__ = PermissionError(errno.EACCES, "Permission denied", "study.toml")
    assert storage_error(other) is None, "its own message says more"


def _sqlite_error(code: int) -> OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    return OperationalError("INSERT", {}, error)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "no space"),
        (sqlite3.SQLITE_READONLY, "read-only"),
        (sqlite3.SQLITE_READONLY | (5 << 8), "read-only"),
        (sqlite3.SQLITE_IOERR, "could not be read or written"),
    ],
)
def test_what_sqlite_says_of_the_disk_is_understood(code: int, words: str) -> None:
    reported = storage_error(_sqlite_error(code))
    assert reported is not None and words in reported.message
    assert storage_error(_sqlite_error(sqlite3.SQLITE_CORRUPT)) is None


def test_libraries_that_lose_the_number_are_understood_by_their_words() -> None:
    assert disk_failed(OSError("100 requested and 0 written"))
    assert disk_failed(RuntimeError("[enforce fail at inline_container.cc] . No space left on device"))
    assert not disk_failed(ValueError("No space left on device"))


def test_safetensors_that_cannot_write_are_understood(tmp_path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with pytest.raises(SafetensorError, match="os error 2") as raised:
        save_file({"a": np.zeros(10)}, tmp_path / "nowhere" / "a.safetensors")
    full = SafetensorError(str(raised.value).replace("os error 2", "os error 28"))
    assert disk_failed(full) and not disk_failed(raised.value)


def test_atomic_writes_name_the_file_that_was_meant_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        write_atomic(path, "new")
    assert raised.value.filename == str(path)
    with pytest.raises(OSError) as raised, atomic_path(path) as temporary:
        raise OSError(errno.EIO, "Input/output error", str(temporary))
    assert raised.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_names_can_be_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250 + ".json")
    write_atomic(path, "x")
    assert path.read_text() == "x"
    with pytest.raises(OSError) as raised:
        write_atomic(tmp_path / ("n" * 300), "x")
    reported = storage_error(raised.value)
    assert reported is not None and "longer" in reported.message
