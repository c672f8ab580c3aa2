"""Any content that is no message of its kind is refused with one kind of error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from unicodedata import category

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.shared.core.errors import MessageError
from moretta.shared.core.printable import printable
from moretta.shared.messages import wire
from moretta.shared.messages.calls import REQUESTS, RESPONSES, Announced, Evaluated, Hello, failure_of
from moretta.shared.messages.message import MAX_DEPTH, Message, depth_of, parse_json, read
from moretta.shared.study.schema import Study

STUDY = Study().model_dump(mode="json")
STATEMENT = {
    "site": "a",
    "study": "d",
    "clips": 1,
    "speakers": 1,
    "anonymizers": [
        {"modality": "voice", "name": "n", "version": "1", "form": "mfcc", "parameters": {"x": 1}, "noise": "none"}
    ],
}
TABLE = [[1] * 6] * 6
VALUES: dict[str, dict[str, Any]] = {
    "Hello": {"versions": {"python": "3.11"}, "digest": "0" * 64},
    "Announced": {
        "files": {"clips.jsonl": 3},
        "statement": STATEMENT,
        "training": {"voice": 2},
        "held_out": ["0" * 16],
    },
    "Fetched": {"chunk": b"123", "sha256": "0" * 64},
    "Update": {"round": 1},
    "Evaluated": {"counts": {"voice": {"0" * 16: TABLE}}, "reliability": {"voice": [[0, 0, 0]] * 15}},
    "PublicKeys": {"keys": ["00", "01"]},
    "Shares": {"shares": {"b": "00"}},
    "HelloRequest": {"version": 1},
    "OfferMade": {"study": STUDY, "approval": "0" * 64},
    "Offered": {"site": "site-1", "state": "pending"},
    "ReleaseWanted": {"study": STUDY},
    "PartsWanted": {"study": STUDY, "parts": [["clips.jsonl", 0, 3]]},
    "TrainingWanted": {"study": STUDY, "server-round": 1},
    "EvaluationWanted": {"study": STUDY},
    "AttackWanted": {"study": STUDY, "attacker": "campplus", "approval": "0" * 64},
    "Attacked": {"speakers": 3, "unprotected": [[1] * 101] * 2, "ignorant": [[1] * 101] * 2},
    "KeysWanted": {"study": STUDY, "session": "s", "modality": "voice", "round": 1},
    "SharesWanted": {"study": STUDY, "session": "s", "modality": "voice", "keys": {"a": ["00", "01"]}},
    "UnmaskingWanted": {"study": STUDY, "session": "s", "modality": "voice", "survivors": ["a"]},
}
KINDS: list[type[Message]] = sorted({*RESPONSES.values(), *REQUESTS.values()}, key=lambda kind: kind.__name__)
SOUND = [kind for kind in KINDS if kind.__name__ in VALUES]


def sound(kind: type[Message]) -> dict[str, Any]:
    site = {"site": "a"} if "site" in kind.model_fields else {}
    return {**site, **VALUES[kind.__name__]}


def content_of(kind: type[Message], values: Mapping[str, Any]) -> RecordDict:
    content = RecordDict({wire.CONFIG: wire.json_config(**values)})
    for name in kind.arrays:
        content[name] = wire.arrays_to_record({"w": np.zeros(3, np.float32)})
    if "metrics" in kind.model_fields:
        content[wire.METRICS] = MetricRecord({"num-examples": 3, "loss": 0.5})
    return content


def refused(kind: type[Message], content: RecordDict) -> str:
    """The refusal's text. Any other error fails the test."""
    with pytest.raises(MessageError) as error:
        read(kind, content)
    assert len(error.value.message) < 1000
    assert is_shown(error.value.message)
    return error.value.message


def test_every_kind_has_an_example_here() -> None:
    """A kind that is added is tested like the others."""
    assert {kind.__name__ for kind in KINDS} == VALUES.keys()


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_message_is_read(kind: type[Message]) -> None:
    assert isinstance(read(kind, content_of(kind, sound(kind))), kind)


DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = {
    "null": "null",
    "a list": "[]",
    "an object": "{}",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "not a number": "NaN",
    "beyond float64": "1e999",
    "deep": DEEP,
    "deep objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
    "a huge number": "9" * 5000,
    "a count that wraps": str(2**63),
    "a negative one": "-1",
    "a fraction": "0.5",
    "a truth": "true",
    "a key twice": '{"a": 1, "a": 2}',
    "no JSON": "{",
    "nothing": "",
    "half a character": '"\\ud800"',
    "an escape": '"\\u001b[2J"',
}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_what_no_field_can_be_is_refused_in_every_field(kind: type[Message], text: str) -> None:
    taken = set()
    for name in sound(kind):
        content = content_of(kind, sound(kind))
        config: Any = content[wire.CONFIG]
        config[name] = text
        try:
            read(kind, content)
            taken.add(name)
        except MessageError as error:
            assert is_shown(error.message)
    if text == "{}":  # no file can be none, but a study, counts of nobody, versions and shares of nobody can
        taken -= {"study", "counts", "reliability", "versions", "training", "shares", "keys"}
    if text == "null":
        taken -= {"round"}  # an update need not say of which it is: its message does
    if text == "[]":
        taken -= {"held_out", "survivors"}
    if text == '{"a": 1, "a": 2}':
        assert "study" not in taken
    assert not taken


RECORDS = {
    "arrays in place of text": ArrayRecord({"w": Array(np.zeros(2, np.float32))}),
    "numbers in place of text": MetricRecord({"n": 1}),
}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
def test_records_of_another_type_are_refused(kind: type[Message], record: Any) -> None:
    content = content_of(kind, sound(kind))
    content[wire.CONFIG] = record
    refused(kind, content)
    for name in kind.arrays:
        content = content_of(kind, sound(kind))
        content[name] = ConfigRecord({"w": b"\x80\x04N."})
        refused(kind, content)
    assert "a record 'other'" in refused(kind, RecordDict({**content_of(kind, sound(kind)), "other": record}))
    refused(kind, RecordDict())


@pytest.mark.parametrize("kind", SOUND)
def test_a_field_too_many_too_few_or_as_bytes_is_refused(kind: type[Message]) -> None:
    refused(kind, content_of(kind, {**sound(kind), "more": 1}))
    for name in sound(kind):
        refused(kind, content_of(kind, {**sound(kind), name: b"\x80" if name not in kind.blobs else "text"}))
        if name in kind.blobs or (name in kind.model_fields and kind.model_fields[name].is_required()):
            refused(kind, content_of(kind, {k: v for k, v in sound(kind).items() if k != name}))
    content = content_of(kind, sound(kind))
    config: Any = content[wire.CONFIG]
    config["more"] = [1, 2]
    refused(kind, content)


@pytest.mark.parametrize("metrics", [{"loss": float("nan")}, {"loss": float("inf")}, {"num-examples": 10**12}])
def test_numbers_beside_an_update_are_finite_and_bounded(metrics: dict[str, Any]) -> None:
    kind = RESPONSES[wire.TRAIN["voice"]]
    content = content_of(kind, sound(kind))
    content[wire.METRICS] = MetricRecord({"num-examples": 3, **metrics})
    assert next(iter(metrics)) in refused(kind, content)


def test_a_message_that_is_too_large_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*_: Any, **__: Any) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(json, "loads", parsed)
    content = RecordDict({wire.CONFIG: ConfigRecord({"digest": "0" * (Hello.max_text_bytes + 1)})})
    assert "characters of text" in refused(Hello, content)


def test_512_mib_in_a_greeting_are_more_than_is_fetched() -> None:
    assert Hello.max_bytes() < 2 << 20
    assert Announced.max_bytes() < 6 << 20
    assert Evaluated.max_bytes() < 18 << 20


def test_arrays_beyond_what_an_update_may_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = RESPONSES[wire.TRAIN["voice"]]
    monkeypatch.setattr(kind, "max_array_bytes", 100)
    content = content_of(kind, sound(kind))
    content[wire.ARRAYS] = wire.arrays_to_record({"w": np.zeros(100, np.float32)})
    assert "at most 100 are taken" in refused(kind, content)


def test_a_failure_is_one_visible_line() -> None:
    reported = failure_of(RecordDict({wire.CONFIG: wire.json_config(site="a", failure="no\n\x1b[2Jforged", code=6)}))
    assert reported == r"no\n\x1b[2Jforged"
    spoilt = RecordDict({wire.CONFIG: wire.json_config(site="a", failure=["x"], code=6)})
    assert "no Failed" in (failure_of(spoilt) or "")
    assert failure_of(RecordDict()) is None


def is_shown(text: str) -> bool:
    """One line of visible characters and spaces."""
    return all(c.isprintable() or category(c) == "Zs" for c in text)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_what_is_shown_is_one_line_of_bounded_length(text: str) -> None:
    shown = printable(text, most=50)
    assert is_shown(shown)
    assert len(shown) <= 53


HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["voice", "clips.jsonl", "0" * 16, "0" * 64]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _places(inner, (*path, index))


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, dict):
        return {k: _changed(v, path[1:], new) if k == path[0] else v for k, v in value.items()}
    return [_changed(v, path[1:], new) if i == path[0] else v for i, v in enumerate(value)]


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_message_with_anything_anywhere_is_read_or_refused(kind: type[Message], data: st.DataObject) -> None:
    values = sound(kind)
    blobs = {k: v for k, v in values.items() if isinstance(v, bytes)}
    places = [p for p in _places({k: v for k, v in values.items() if k not in blobs}) if p]
    place = data.draw(st.sampled_from(places))
    changed = {**_changed(values, place, data.draw(HOSTILE)), **blobs}
    texts = {k: v if isinstance(v, bytes) else json.dumps(v) for k, v in changed.items()}
    content = content_of(kind, values)
    content[wire.CONFIG] = ConfigRecord(texts)
    try:
        assert isinstance(read(kind, content), kind)
    except MessageError as error:
        assert is_shown(error.message)


@pytest.mark.parametrize("kind", SOUND)
@settings(max_examples=20, deadline=None)
@given(texts=st.dictionaries(st.text(max_size=12), st.text(max_size=60) | st.binary(max_size=20), max_size=5))
def test_a_message_of_any_texts_is_read_or_refused(kind: type[Message], texts: dict[str, Any]) -> None:
    try:
        read(kind, RecordDict({wire.CONFIG: ConfigRecord(texts)}))
    except MessageError as error:
        assert is_shown(error.message)


@settings(max_examples=60, deadline=None)
@given(HOSTILE)
def test_depth_is_found_without_parsing(value: Any) -> None:
    def depth(inner: Any) -> int:
        if isinstance(inner, dict):
            return 1 + max(map(depth, inner.values()), default=0)
        return 1 + max(map(depth, inner), default=0) if isinstance(inner, list) else 0

    assert depth_of(json.dumps(value)) == depth(value)
    if depth(value) <= MAX_DEPTH and "Infinity" not in json.dumps(value) and "NaN" not in json.dumps(value):
        try:
            assert parse_json(json.dumps(value), what="value") == value
        except MessageError as error:
            assert "digits" in error.message
