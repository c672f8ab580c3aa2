"""Small arrays travel as one record of bytes, and whoever reads them trusts none of these bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from moretta.shared.core.errors import ReleaseError
from moretta.shared.messages import wire

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float32)}


def content(arrays: dict[str, Any]) -> RecordDict:
    return RecordDict({wire.ARRAYS: wire.arrays_to_record(arrays), wire.CONFIG: wire.json_config(site="x")})


def test_small_arrays_come_back_as_they_were_from_one_record_of_bytes() -> None:
    sent = wire.packed(content(ARRAYS))
    assert isinstance(sent[wire.ARRAYS], ConfigRecord)
    given = wire.unpacked(sent)
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in wire.arrays_of(given).items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in ARRAYS.items()
    }
    assert given[wire.CONFIG] == sent[wire.CONFIG]


def test_large_arrays_stay_what_flower_sends_in_pieces() -> None:
    large = {"w": np.zeros(wire.MAX_PACKED_BYTES, np.uint8)}
    sent = wire.packed(content(large))
    assert isinstance(sent[wire.ARRAYS], ArrayRecord)
    assert np.array_equal(wire.arrays_of(wire.unpacked(sent))["w"], large["w"])


@pytest.mark.parametrize("bad", [b"", b"\x80\x04cos\nsystem\n", b"\x93NUMPY\x01\x00", "text", 7, [1.0], np.save])
def test_a_record_that_is_no_array_is_refused(bad: Any) -> None:
    if callable(bad):  # an object array, which NumPy would unpickle
        from io import BytesIO

        file = BytesIO()
        bad(file, np.array([{}], object), allow_pickle=True)
        bad = file.getvalue()
    with pytest.raises(ReleaseError, match="cannot be read"):
        wire.unpacked(RecordDict({wire.ARRAYS: ConfigRecord({"w": bad})}))


def test_a_record_of_more_or_larger_arrays_than_are_packed_is_refused_before_any_is_read() -> None:
    broken = dict.fromkeys(map(str, range(wire.MAX_ARRAYS + 1)), b"")  # reading the first would find another fault
    for arrays in (broken, {"w": bytes(wire.MAX_PACKED_BYTES + 1)}):
        with pytest.raises(ReleaseError, match="too many, or too large"):
            wire.unpacked(RecordDict({wire.ARRAYS: ConfigRecord(arrays)}))


def test_many_arrays_travel_unpacked_and_a_record_of_another_name_is_left_alone() -> None:
    many = {str(n): np.zeros(1, np.float32) for n in range(wire.MAX_ARRAYS + 1)}
    assert isinstance(wire.packed(content(many))[wire.ARRAYS], ArrayRecord)
    odd = RecordDict({f"{wire.ARRAYS}-of-nothing": ConfigRecord({"w": b""})})
    assert wire.unpacked(odd) == odd
