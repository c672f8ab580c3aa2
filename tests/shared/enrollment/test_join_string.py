from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.core.errors import EnrollmentError
from moretta.shared.enrollment import (
    PREFIX,
    JoinString,
    _base64,
    _canonical,
    _sealed,
    new_secret,
    new_token_id,
    parse_join_string,
)

EXAMPLE = JoinString(
    address="moretta.example.org:8443",
    site="clinic-a",
    token_id="0011223344556677",  # noqa: S106 - public
    secret=bytes(range(32)),
    ca_fingerprint="ab" * 32,
    expires=1_800_000_000,
)
CONTENT = {
    "address": EXAMPLE.address,
    "ca": EXAMPLE.ca_fingerprint,
    "expires": EXAMPLE.expires,
    "secret": _base64(EXAMPLE.secret),
    "site": EXAMPLE.site,
    "token": EXAMPLE.token_id,
}
_lower = string.ascii_lowercase + string.digits
_strings = st.builds(
    JoinString,
    address=st.builds("{}:{}".format, st.text(_lower, min_size=1, max_size=60), st.integers(1, 65_535)),
    site=st.text(_lower, min_size=1, max_size=63),
    token_id=st.text("0123456789abcdef", min_size=16, max_size=16),
    secret=st.binary(min_size=32, max_size=32),
    ca_fingerprint=st.text("0123456789abcdef", min_size=64, max_size=64),
    expires=st.integers(1, 253_402_300_799),
)


def _encoded(data: bytes) -> str:
    return _sealed(f"{PREFIX}.{_base64(data)}")


@given(_strings)
def test_what_is_written_is_what_is_read(join: JoinString) -> None:
    assert parse_join_string(f"  {join.encode()}\n") == join


@given(st.data())
def test_a_string_changed_in_any_one_character_is_refused(data: st.DataObject) -> None:
    text = EXAMPLE.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(exclude_characters=text[at]))
    with pytest.raises(EnrollmentError):
        parse_join_string(text[:at] + other + text[at + 1 :] if not other.isspace() else text[:at] + text[at + 1 :])


def test_a_string_with_a_byte_that_is_no_text_is_refused() -> None:
    """A terminal hands it on as half of a character, which nothing can encode."""
    text = EXAMPLE.encode()
    with pytest.raises(EnrollmentError, match="cut or changed"):
        parse_join_string(text[:20] + b"\xff".decode("utf-8", "surrogateescape") + text[21:])


@given(st.integers(0, len(EXAMPLE.encode()) - 1))
def test_a_string_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(EnrollmentError):
        parse_join_string(EXAMPLE.encode()[:length])


@given(st.text() | st.binary().map(_encoded) | st.text().map(lambda text: f"{PREFIX}.{text}"))
def test_no_text_gives_anything_but_a_join_string_or_a_refusal(text: str) -> None:
    with pytest.raises(EnrollmentError):
        parse_join_string(text)


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3)


@given(st.sampled_from(sorted(CONTENT)), _json)
def test_a_field_of_another_kind_or_value_is_refused_or_read_as_it_stands(name: str, value: object) -> None:
    text = _encoded(_canonical({**CONTENT, name: value}))
    try:
        join = parse_join_string(text)
    except EnrollmentError:
        return
    assert join.encode() == text


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"no json", "without content"),
        (b"[]", "without content"),
        (b"[" * 1500, "without content"),
        (b"{}", "without address, ca, expires, secret, site, token"),
        (_canonical({k: v for k, v in CONTENT.items() if k != "ca"}), "without ca"),
        (_canonical({**CONTENT, "admin": True}), "fields of another version"),
        (_canonical({**CONTENT, "expires": True}), "expires is a bool"),
        (_canonical({**CONTENT, "expires": 0}), "an end at 0"),
        (_canonical({**CONTENT, "address": "host"}), "as an address"),
        (_canonical({**CONTENT, "site": "Clinic A"}), "as the name of a site"),
        (_canonical({**CONTENT, "secret": _base64(b"short")}), "a secret of 5 bytes"),
        (_canonical({**CONTENT, "ca": ""}), "a fingerprint of another form"),
        (_canonical(CONTENT).replace(b",", b", "), "another spelling"),
    ],
)
def test_a_string_with_a_wrong_field_says_which(content: bytes, reported: str) -> None:
    with pytest.raises(EnrollmentError, match=reported):
        parse_join_string(_encoded(content))


def test_another_version_and_a_lost_part_are_distinguished() -> None:
    with pytest.raises(EnrollmentError, match="no join string of this version"):
        parse_join_string(EXAMPLE.encode().replace(PREFIX, "moretta-join-2"))
    with pytest.raises(EnrollmentError, match="cut or changed on the way"):
        parse_join_string(EXAMPLE.encode()[:-1])


def test_no_text_about_a_join_string_shows_its_secret() -> None:
    secret = EXAMPLE.encode()
    for text in (repr(EXAMPLE), str(EXAMPLE), f"{EXAMPLE}"):
        for part in (CONTENT["secret"], EXAMPLE.secret.hex(), repr(EXAMPLE.secret), secret.split(".")[1]):
            assert str(part) not in text


def test_a_refusal_never_repeats_the_string() -> None:
    payload = EXAMPLE.encode().split(".")[1]
    with pytest.raises(EnrollmentError) as refused:
        parse_join_string(f"{PREFIX}.{payload}.00000000")
    assert payload not in str(refused.value)


def test_ids_and_secrets_are_new_each_time() -> None:
    assert len({new_token_id() for _ in range(100)} | {new_secret().hex() for _ in range(100)}) == 200
