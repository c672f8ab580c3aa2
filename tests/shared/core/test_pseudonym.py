from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.core.errors import ReleaseError
from moretta.shared.release import PseudonymKey


def test_pseudonyms_are_stable_and_differ_by_key_and_by_kind() -> None:
    one, two = PseudonymKey(bytes(32)), PseudonymKey(bytes(31) + b"\1")
    assert one.speaker("1001") == PseudonymKey(bytes(32)).speaker("1001")
    assert len({one.speaker("1001"), two.speaker("1001"), one.clip("1001"), one.speaker("1002")}) == 4


@given(st.integers(0, 9999))
def test_a_pseudonym_is_16_hexadecimal_digits(speaker: int) -> None:
    pseudonym = PseudonymKey(bytes(32)).speaker(speaker)
    assert len(pseudonym) == 16
    assert set(pseudonym) <= set("0123456789abcdef")


def test_seeded_keys_repeat_and_differ_by_seed_and_site() -> None:
    keys = [PseudonymKey.seeded(1, "a"), PseudonymKey.seeded(1, "b"), PseudonymKey.seeded(2, "a")]
    assert PseudonymKey.seeded(1, "a").speaker(7) == keys[0].speaker(7)
    assert len({key.speaker(7) for key in keys}) == 3


def test_no_text_about_a_key_shows_it() -> None:
    secret = bytes(range(32))
    key = PseudonymKey(secret)
    for text in (repr(key), str(key), f"{key}"):
        assert text == "PseudonymKey(<secret>)"
    assert not hasattr(key, "__dict__")


def test_a_key_file_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "home" / "pseudonym.key"
    old = os.umask(0)
    try:
        first = PseudonymKey.load_or_create(path).speaker(1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PseudonymKey.load_or_create(path).speaker(1) == first
    assert PseudonymKey.load_or_create(tmp_path / "other.key").speaker(1) != first


def test_a_key_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(b"short")
    with pytest.raises(ReleaseError, match="expected 32 bytes"):
        PseudonymKey.load_or_create(tmp_path / "k")


def test_names_in_a_study_are_those_that_a_site_gives_its_own_names_there() -> None:
    key = PseudonymKey.seeded(1, "a")
    there, elsewhere = key.in_study("0" * 64), key.in_study("1" * 64)
    assert there.speaker("1001") == key.renamed(key.speaker("1001"), "0" * 64) != key.speaker("1001")
    assert there.clip("1001_IEO_ANG_HI") == key.renamed(key.clip("1001_IEO_ANG_HI"), "0" * 64)
    assert there.speaker("1001") != elsewhere.speaker("1001")
