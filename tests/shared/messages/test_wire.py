from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.messages import wire
from moretta.shared.study.schema import Study, parse_study

Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_arrays_come_back_as_they_were_sent_in_order_of_names() -> None:
    arrays = {"b": np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::2], "a": np.float32([0.5]), "c": np.zeros((0, 2))}
    found = wire.arrays_of(RecordDict({wire.ARRAYS: wire.arrays_to_record(arrays)}))
    assert list(found) == ["a", "b", "c"]
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize("data", [b"", b"x", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_bytes_that_are_no_array_are_refused(data: bytes) -> None:
    record = wire.arrays_to_record({"w": np.zeros(3)})
    record["w"] = Array(dtype="float64", shape=(3,), stype="numpy.ndarray", data=data)
    with pytest.raises(ReleaseError, match="cannot be read"):
        wire.arrays_of(RecordDict({wire.ARRAYS: record}))


def test_pickled_objects_are_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object))
    record = wire.arrays_to_record({"w": np.zeros(3)})
    record["w"] = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())
    with pytest.raises(ReleaseError, match="cannot be read"):
        wire.arrays_of(RecordDict({wire.ARRAYS: record}))


def test_a_message_without_arrays_is_refused() -> None:
    for content in (RecordDict(), RecordDict({wire.ARRAYS: ConfigRecord()})):
        with pytest.raises(ReleaseError, match="without arrays"):
            wire.arrays_of(content)


@given(Json)
def test_structured_values_survive_the_flat_record(value: Any) -> None:
    assert wire.from_config(RecordDict({wire.CONFIG: wire.json_config(x=value)}), "x") == value


def test_bytes_stay_bytes() -> None:
    assert wire.from_config(RecordDict({wire.CONFIG: wire.json_config(x=b"\x00\xff")}), "x") == b"\x00\xff"


@pytest.mark.parametrize("record", [ConfigRecord(), ConfigRecord({"x": "{"}), ConfigRecord({"x": 1})])
def test_a_value_that_is_missing_or_not_json_is_refused(record: ConfigRecord) -> None:
    with pytest.raises(ReleaseError, match="'x'"):
        wire.from_config(RecordDict({wire.CONFIG: record}), "x")


def test_values_that_json_has_not_are_never_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        wire.json_config(x=float("nan"))


def test_a_study_crosses_whole_and_is_checked_on_arrival() -> None:
    study = Study().with_changes(sites=3, voice__options__epsilon=2.0)
    assert wire.study_of(RecordDict({wire.CONFIG: wire.study_config(study)})).digest() == study.digest()
    with pytest.raises(StudyError, match="in a message"):
        wire.study_of(RecordDict({wire.CONFIG: wire.json_config(study={"sites": 0})}))


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "face.safetensors"])
@pytest.mark.parametrize(("section", "key"), [("face", "weights"), ("voice", "public_speech")])
def test_no_path_of_a_message_is_opened_and_none_is_sent(tmp_path: Path, path: str, section: str, key: str) -> None:
    """As found: `/dev/zero` fills the memory of a site that opens it, and a pipe keeps it for ever."""
    os.mkfifo(tmp_path / "pipe")
    named = {section: {key: path if path.startswith("/") else str(tmp_path / path)}}
    with pytest.raises(StudyError, match=rf"names files by {section}\.options\.{key}"):
        wire.study_of(RecordDict({wire.CONFIG: wire.json_config(study=named)}))
    study = parse_study(named)
    sent = RecordDict({wire.CONFIG: wire.study_config(study)})
    assert wire.study_of(sent).paths == {}
    assert wire.study_of(sent).digest() == study.digest() == Study().digest()


def test_a_number_of_the_strategy_is_read_or_defaults() -> None:
    content = RecordDict({wire.CONFIG: ConfigRecord({"proximal-mu": 0.5, "text": "1"})})
    assert wire.number_of(content, "proximal-mu") == 0.5
    assert wire.number_of(content, "absent", 2.0) == 2.0
    for key in ("absent", "text"):
        with pytest.raises(ReleaseError, match=key):
            wire.number_of(content, key)
