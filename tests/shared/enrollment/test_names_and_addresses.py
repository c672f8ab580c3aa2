from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.core.errors import EnrollmentError
from moretta.shared.enrollment import (
    check_site_name,
    fingerprint,
    has_fingerprint,
    is_fingerprint,
    join_address,
    split_address,
)


@pytest.mark.parametrize("name", ["a", "7", "clinic-a", "st-mary-2", "x" * 63])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_site_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", "clinic a", "-a", "a-", "../x", "a.b", "clinic-а", "a\n", "x" * 64, "token:1"]
)
def test_a_name_that_could_be_taken_for_another_is_refused(name: str) -> None:
    with pytest.raises(EnrollmentError, match="as the name of a site"):
        check_site_name(name)


@given(st.text())
def test_every_name_that_is_taken_is_safe_in_a_path_and_a_log(name: str) -> None:
    try:
        check_site_name(name)
    except EnrollmentError:
        return
    assert name.isascii()
    assert name == name.lower().strip("-")
    assert not set("/.:\n ") & set(name)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("moretta.example.org:8443", "moretta.example.org", 8443),
        ("192.0.2.7:1", "192.0.2.7", 1),
        ("[2001:db8::7]:65535", "2001:db8::7", 65_535),
        ("site_server:443", "site_server", 443),
    ],
)
def test_an_address_is_split_and_joined_again(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "host",
            "host:",
            ":8443",
            "host:0",
            "host:65536",
            "host:08",
            "host:٣",
            "a b:1",
            "2001:db8::7:1",
            "[::1:2",
        ),
        *("[host]:1", "https://host:1", "host:1/x", "-h:1", "[fe80::1%eth0]:1", "h" * 254 + ":1", "host:1\n"),
    ],
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(EnrollmentError, match="as an address"):
        split_address(address)


def test_a_fingerprint_is_sha256_of_der_and_only_its_own_form_is_taken() -> None:
    assert fingerprint(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert has_fingerprint(b"", fingerprint(b""))
    for other in ("", fingerprint(b"x"), fingerprint(b"").upper(), fingerprint(b"")[:-1], "é" * 64):
        assert not has_fingerprint(b"", other)
    assert is_fingerprint(fingerprint(b"x"))
    assert not any(map(is_fingerprint, ("", "AB" * 32, "ab" * 31, "ab" * 32 + "\n", "g" * 64)))
