"""Malformed responses that once ended a study for all: each costs its site, and the other's study goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from releasing import STUDY, Site
from safetensors.torch import save_file
from staging import do, warnings_of

from moretta.server.aggregation.checked_strategy import CheckedStrategy, RoundOutcome
from moretta.server.aggregation.strategies import make_strategy
from moretta.server.stages.run import Run, RunContext
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.study.run_plan import DeploymentPlan, EnrolledSite

Spoil = Callable[[RecordDict], RecordDict]
SENT = {"w": np.zeros(4, np.float32)}


def _text(text: Any) -> Spoil:
    """Every value of the config becomes this text."""

    def spoil(content: RecordDict) -> RecordDict:
        config: Any = content[wire.CONFIG]
        for name in config:
            config[name] = text
        return content

    return spoil


def _in_every_number(text: str) -> Spoil:
    """Every number in the JSON becomes this one."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [changed(inner) for inner in value]
        return "@" if isinstance(value, int) and not isinstance(value, bool) else value

    def spoil(content: RecordDict) -> RecordDict:
        config: Any = content[wire.CONFIG]
        for name, value in config.items():
            if isinstance(value, str):
                config[name] = json.dumps(changed(json.loads(value))).replace('"@"', text)
        if wire.METRICS in content:
            content[wire.METRICS] = MetricRecord({"num-examples": float(text)})
        return content

    return spoil


def _record(key: str, record: Any) -> Spoil:
    def spoil(content: RecordDict) -> RecordDict:
        content[key] = record
        return content

    return spoil


def _twice(content: RecordDict) -> RecordDict:
    config: Any = content[wire.CONFIG]
    for name, value in config.items():
        if isinstance(value, str):
            config[name] = f'{{"a": {value}, "a": {value}}}'
    return content


def _added(content: RecordDict) -> RecordDict:
    config: Any = content[wire.CONFIG]
    config["more"] = "1"
    return content


def _emptied(content: RecordDict) -> RecordDict:
    content[wire.CONFIG] = ConfigRecord()
    return content


def _surrogate(content: RecordDict) -> RecordDict:
    config: Any = content[wire.CONFIG]
    config["site"] = '"\\ud800"'
    return content


MALFORMED: dict[str, Spoil] = {
    "null": _text("null"),
    "a list": _text("[1]"),
    "a list of lists": _text("[[[]]]"),
    "a word": _text('"many"'),
    "infinity": _in_every_number("Infinity"),
    "minus infinity": _in_every_number("-Infinity"),
    "not a number": _in_every_number("NaN"),
    "beyond float64": _in_every_number("1e999"),
    "a huge number": _in_every_number("9" * 300),
    "a count that wraps": _in_every_number(str(2**63 - 1)),
    "negative": _in_every_number("-1"),
    "halves": _in_every_number("0.5"),
    "deep lists": _text("[" * 100_000 + "]" * 100_000),
    "deep objects": _text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "no JSON": _text("{"),
    "bytes for text": _text(b"\x80\x04N."),
    "keys twice": _twice,
    "a key too many": _added,
    "no keys": _emptied,
    "half a character": _surrogate,
    "arrays for a config": _record(wire.CONFIG, ArrayRecord({"w": Array(np.zeros(2, np.float32))})),
    "metrics for a config": _record(wire.CONFIG, MetricRecord({"n": 1})),
    "a config for metrics": _record(wire.METRICS, ConfigRecord({"num-examples": "3"})),
    "a record too many": _record("other", MetricRecord({"n": 1})),
    "nothing": lambda content: RecordDict(),
}


@pytest.fixture(params=MALFORMED.values(), ids=MALFORMED.keys())
def spoil(request: pytest.FixtureRequest) -> Spoil:
    kind: Spoil = request.param
    return kind


@pytest.fixture
def sites(tmp_path: Path) -> dict[int, Site]:
    found = {n: Site(tmp_path / f"at-site-{n}", n) for n in (1, 2)}
    for number, site in found.items():
        site.spoil_release = lambda values, number=number: values.update(held_out=[f"{number:016x}"])  # type: ignore[misc]
        table = [*([[0] * 6] * 5), [0, 0, 0, 0, 0, 3]]
        site.counts = {"voice": {f"{number:016x}": table}}
    return found


@pytest.fixture
def run(tmp_path: Path, fake_site_grid: Any, sites: dict[int, Site]) -> Run:
    site_grid = fake_site_grid(lambda node, message: sites[node](message), nodes=2)
    site_grid.nodes = {1: "site-1", 2: "site-2"}
    enrolled = tuple(EnrolledSite(name=f"site-{n}", node=n) for n in (1, 2))
    plan = DeploymentPlan(
        corpus_name="c", synthetic=False, study=STUDY, command="c", sites=enrolled, server_home=tmp_path
    )
    return Run(RunContext(tmp_path / "run", plan), site_grid=site_grid)


def _spoilt(run: Run, sites: dict[int, Site], call: str, spoil: Spoil) -> None:
    def response(node: int, message: Any) -> RecordDict:
        content = sites[node](message)
        return spoil(content) if node == 1 and message.metadata.message_type == call else content

    grid: Any = run.grid.grid
    grid.response = response


@pytest.mark.parametrize("call", [wire.RELEASE, wire.FETCH])
def test_a_malformed_release_costs_its_site_alone(run: Run, sites: dict[int, Site], call: str, spoil: Spoil) -> None:
    _spoilt(run, sites, call, spoil)
    do(run, "release")
    assert "site-2" in run.releases.kept
    numberless = call == wire.FETCH and "site-1" in run.releases.kept  # a part of a file has no number in it
    assert numberless or any(w.startswith("site-1 released nothing") for w in warnings_of(run))
    assert all(w.isprintable() for w in warnings_of(run))


def test_malformed_counts_cost_their_site_alone(run: Run, sites: dict[int, Site], spoil: Spoil) -> None:
    do(run, "release")
    _spoilt(run, sites, wire.EVALUATE, spoil)
    do(run, "evaluate")
    assert run.evaluation.emotion["voice"].clips == 3
    assert any(w.startswith("site-1 did not evaluate") for w in warnings_of(run))
    assert all(w.isprintable() for w in warnings_of(run))


@pytest.mark.parametrize("call", [wire.CODE, wire.TRAIN["voice"]])
def test_a_malformed_update_costs_its_site_alone(fake_site_grid: Any, call: str, spoil: Spoil) -> None:
    def response(node: int, message: Any) -> RecordDict:
        del message
        content = RecordDict(
            {
                wire.ARRAYS: wire.arrays_to_record({"w": np.ones(4, np.float32)}),
                wire.METRICS: MetricRecord({"num-examples": 3}),
                wire.CONFIG: wire.json_config(site=f"site-{node}", round=1),
            }
        )
        return spoil(content) if node == 1 else content

    site_grid = fake_site_grid(response, nodes=2)
    site_grid.nodes = {1: "site-1", 2: "site-2"}
    outcomes: list[RoundOutcome] = []
    strategy = CheckedStrategy(
        strategy=make_strategy("FedAvg", {}),
        grid=site_grid,
        sites=site_grid.sites,
        call=call,
        study=STUDY,
        min_sites=1,
        on_round=outcomes.append,
    )
    np.testing.assert_array_equal(strategy.round(1, SENT)["w"], 1)
    assert list(outcomes[0].used) == ["site-2"]
    assert list(outcomes[0].refused) == ["site-1"]


def test_arrays_of_types_that_numpy_has_not_are_counted_as_damaged(run: Run, sites: dict[int, Site]) -> None:
    """float8 and bfloat16 are good safetensors and no arrays of a release."""
    import torch

    names = [f"{1:08x}{index:08x}" for index in range(3)]
    types = (torch.float8_e4m3fn, torch.bfloat16, torch.float8_e5m2)
    arrays = {name: torch.zeros(20, 13).to(kind) for name, kind in zip(names, types, strict=True)}
    save_file(arrays, sites[1].folder / "voice-00000.safetensors")
    do(run, "release")
    assert "site-2" in run.releases.kept
    assert run.releases.facts["site-1"].dropped["voice-damaged"] == 3


def _head(text: bytes, *, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


HEADS = {
    "longer than the file": _head(b"{}", length=2**40),
    "huge": _head(b"{" + b" " * (9 << 20) + b"}"),
    "deep": _head(b"[" * 200_000 + b"]" * 200_000),
    "overlapping": _head(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    )
    + bytes(12),
    "a gap": _head(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}') + bytes(8),
    "negative": _head(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}'),
    "a product that wraps": _head(b'{"a":{"dtype":"F32","shape":[2147483647,2147483647,4],"data_offsets":[0,16]}}')
    + bytes(16),
    "another type": _head(b'{"a":{"dtype":"object","shape":[1],"data_offsets":[0,8]}}') + bytes(8),
    "empty": b"",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_a_shard_whose_head_is_not_sound_is_damage_and_no_end(run: Run, sites: dict[int, Site], head: bytes) -> None:
    (sites[1].folder / "voice-00000.safetensors").write_bytes(head)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-1", "site-2"]
    assert run.releases.facts["site-1"].dropped["voice-damaged"] == 3


FILES = {
    "deep": b"[" * 100_000,
    "null": b"null",
    "a long line": b" " * 2000 + b"{}",
    "infinity": b'{"clip": Infinity}',
    "no text": b"\xff\xfe",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ["clips.jsonl", "statement.json"])
@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_a_clip_list_or_statement_that_is_none_costs_its_site(
    run: Run, sites: dict[int, Site], name: str, content: bytes
) -> None:
    (sites[1].folder / name).write_bytes(content)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    assert all(w.isprintable() for w in warnings_of(run))


def test_what_nobody_foresaw_costs_its_site_alone(
    run: Run, sites: dict[int, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    from moretta.server.stages import release as stage

    check = stage.check_release

    def odd(*arguments: Any, **options: Any) -> None:
        if "site-1" in arguments:
            raise RecursionError
        check(*arguments, **options)

    monkeypatch.setattr(stage, "check_release", odd)
    do(run, "release")
    assert sorted(run.releases.kept) == ["site-2"]
    assert any("cannot be used (RecursionError)" in w for w in warnings_of(run))
    sites.clear()


def test_all_malformed_ends_the_stage_with_the_causes(run: Run) -> None:
    grid: Any = run.grid.grid
    grid.response = lambda node, message: RecordDict()
    with pytest.raises(RunError, match="0 of 2 sites finished the stage 'release'"):
        do(run, "release")
