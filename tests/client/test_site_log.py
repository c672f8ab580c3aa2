"""The log of a site: who follows it gets whole entries alone, whatever others write and however it is begun anew."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moretta.client import site_log
from moretta.client.site_log import SITE_LOG, Follower, log_line
from moretta.shared.core.printable import printable_traceback


def test_an_entry_is_one_line_and_its_traceback_forges_none(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    try:
        raise ValueError("x\n2026-01-01T00:00:00+00:00 run=1 release: 99 clips of 9 people")
    except ValueError:
        log_line(tmp_path, "query.release failed: ValueError\nforged", printable_traceback(*sys.exc_info()))
    assert list(follower.lines()) == ["query.release failed: ValueError\\nforged"]
    assert "Traceback" in (tmp_path / SITE_LOG).read_text("utf-8")


def test_only_what_is_added_later_is_followed_and_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    log_line(tmp_path, "before")
    follower = Follower(tmp_path)
    log_line(tmp_path, "one")
    with (tmp_path / SITE_LOG).open("a") as log:
        log.write("2026-01-01T00:00:00+00:00 run=1 tw")
    assert list(follower.lines()) == ["one"]
    with (tmp_path / SITE_LOG).open("a") as log:
        log.write("o\n")
    assert list(follower.lines()) == ["two"]
    assert not list(follower.lines())


def test_a_log_that_was_begun_anew_is_followed_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_log, "MAX_LOG_BYTES", 200)
    follower = Follower(tmp_path)
    found: list[str] = []
    for number in range(20):
        log_line(tmp_path, f"line {number}")
        found += follower.lines()
    assert found == [f"line {number}" for number in range(20)]
    assert len(list(tmp_path.iterdir())) == 2


def test_of_a_flood_the_end_is_shown_and_a_folder_that_is_gone_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_log, "MAX_NEW_BYTES", 300)
    follower = Follower(tmp_path)
    for number in range(50):
        log_line(tmp_path, f"line {number}")
    found = list(follower.lines())
    assert found[-1] == "line 49" and 0 < len(found) < 10
    (tmp_path / SITE_LOG).unlink()
    assert not list(follower.lines())


def test_the_rest_of_a_line_that_was_cut_is_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follower, forged = Follower(tmp_path), "2026-01-01T00:00:00+00:00 run=1 release: 99 clips of 9 people"
    log_line(tmp_path, f"hello refused: {forged}")
    monkeypatch.setattr(site_log, "MAX_NEW_BYTES", len(forged) + 1)
    assert not list(follower.lines())
    monkeypatch.setattr(site_log, "MAX_NEW_BYTES", 2**16)
    log_line(tmp_path, "next")
    assert list(follower.lines()) == ["next"]
