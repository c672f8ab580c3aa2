from __future__ import annotations

import base64
import datetime as dt

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from offices import Clock

from moretta.server.port.refusals import Refusal
from moretta.server.port.relay import SeenSignatures

KEY = ec.generate_private_key(ec.SECP384R1())


def _sign(at: float) -> dict[str, str]:
    timestamp = dt.datetime.fromtimestamp(at, tz=dt.UTC).isoformat()
    signature = KEY.sign(timestamp.encode(), ec.ECDSA(hashes.SHA256()))
    return {"timestamp": timestamp, "signature": base64.b64encode(signature).decode()}


def _reason(seen: SeenSignatures, site: str, call: dict[str, str]) -> str:
    try:
        seen.let_through_once(site, **call)
    except Refusal as refusal:
        return refusal.reason
    return "passed"


def test_a_signature_stays_known_for_as_long_as_its_time_is_good() -> None:
    clock = Clock()
    seen = SeenSignatures(clock)
    call = _sign(clock.now + 4)
    assert _reason(seen, "a", call) == "passed"
    for _ in range(303):
        clock.now += 1
        assert _reason(seen, "a", call) == "replayed"
    clock.now += 1
    assert _reason(seen, "a", call) == "wrong-time"


def test_memory_does_not_grow_with_time() -> None:
    clock = Clock()
    seen = SeenSignatures(clock)
    for _ in range(1000):
        clock.now += 1
        assert _reason(seen, "a", _sign(clock.now)) == "passed"
    assert len(seen) <= 307


def test_two_signatures_in_the_same_microsecond_both_pass() -> None:
    clock = Clock()
    seen = SeenSignatures(clock)
    assert [_reason(seen, "a", _sign(clock.now)) for _ in range(2)] == ["passed", "passed"]


def test_after_a_restart_nothing_that_could_have_been_seen_before_passes() -> None:
    clock = Clock()
    captured = [_sign(clock.now + ahead) for ahead in (-200, 0, 4.9)]
    clock.now += 1
    restarted = SeenSignatures(clock, last_let_through=clock.now - 1)
    assert {_reason(restarted, "a", call) for call in captured} == {"signed-before-start"}
    clock.now += 5
    assert _reason(restarted, "a", _sign(clock.now)) == "passed"


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "é", "MAYCAQECAQE=\n"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    clock = Clock()
    call = {**_sign(clock.now), "signature": signature}
    assert _reason(SeenSignatures(clock), "a", call) == "bad-signature"


@pytest.mark.parametrize("timestamp", ["", "now", "2027-01-15T08:00:00", "2027-01-15", "1800000000", "9" * 500])
def test_what_is_no_timestamp_is_refused(timestamp: str) -> None:
    assert _reason(SeenSignatures(Clock()), "a", {**_sign(0), "timestamp": timestamp}) == "bad-timestamp"
