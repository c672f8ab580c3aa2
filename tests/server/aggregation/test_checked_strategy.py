from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from moretta.server.aggregation.checked_strategy import MAX_NORM, CheckedStrategy, RoundOutcome, checked_update
from moretta.server.aggregation.strategies import STRATEGIES, make_strategy
from moretta.shared.core.errors import RunError, StudyError
from moretta.shared.messages import wire
from moretta.shared.study.schema import Study

START = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}
Arrays = dict[str, Any]


def update(seed: int, **changes: Any) -> Arrays:
    generator = np.random.default_rng(seed)
    return {n: generator.standard_normal(a.shape).astype(np.float32) for n, a in START.items()} | changes


def content(arrays: Arrays, **metrics: Any) -> RecordDict:
    return RecordDict(
        {
            wire.ARRAYS: wire.arrays_to_record(arrays),
            wire.METRICS: MetricRecord({"num-examples": 10, **metrics}),
            wire.CONFIG: wire.json_config(site="x", round=1),
        }
    )


class Round:
    """Runs rounds of a strategy over fake sites and keeps what happened."""

    def __init__(self, site_grid: Any, name: str = "FedAvg", *, min_sites: int = 1, **options: Any) -> None:
        self.outcomes: list[RoundOutcome] = []
        self.strategy = CheckedStrategy(
            strategy=make_strategy(name, options),
            grid=site_grid,
            sites=site_grid.sites,
            call=wire.TRAIN["voice"],
            study=Study(),
            min_sites=min_sites,
            on_round=self.outcomes.append,
        )
        self.site_grid = site_grid

    def run(self, replies: list[Message], weights: Arrays | None = None, number: int = 1) -> Arrays:
        """One round, in which the nodes give these replies, in this order."""
        by_node: dict[int, list[Message]] = {}
        for each in replies:
            by_node.setdefault(each.metadata.src_node_id, []).append(each)
        grid = self.site_grid.grid
        grid.response = lambda node, message: by_node.get(node, [])
        grid.order = lambda pulled: sorted(pulled, key=lambda m: replies.index(m) if m in replies else 0)
        before = len(grid.sent)
        try:
            return self.strategy.round(number, START if weights is None else weights)
        finally:
            self.sent = grid.sent[before:]


@pytest.fixture
def site_grid(fake_site_grid: Any, hello: Any, hellos: Any) -> Any:
    return hellos(fake_site_grid(lambda node, message: hello(node), nodes=4), 4)


def test_a_round_is_addressed_to_every_site_with_the_weights_and_its_number(site_grid: Any, reply: Any) -> None:
    rounds = Round(site_grid)
    rounds.run([reply(n, content(update(n))) for n in (1, 2, 3, 4)], number=7)
    assert [m.metadata.dst_node_id for m in rounds.sent] == [1, 2, 3, 4]
    assert {m.metadata.message_type for m in rounds.sent} == {"train.voice"}
    assert all(wire.number_of(m.content, "server-round") == 7 for m in rounds.sent)
    assert all(np.array_equal(wire.arrays_of(m.content)["w"], START["w"]) for m in rounds.sent)


def test_the_grid_and_the_checks_are_flowers_own_kinds_and_a_round_goes_through_them(site_grid: Any) -> None:
    strategy = Round(site_grid).strategy
    assert isinstance(site_grid, Grid)
    assert isinstance(strategy, Strategy)
    assert site_grid.get_node_ids() == [1, 2, 3, 4]
    site_grid.grid.response = lambda node, message: content(update(node))
    sent = strategy.configure_train(3, wire.arrays_to_record(START), wire.study_config(Study()), site_grid)
    new, _ = strategy.aggregate_train(3, site_grid.send_and_receive(sent))
    expected = strategy.round(3, START)
    assert {name: packed.numpy().tobytes() for name, packed in new.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


def test_fedavg_weighs_by_clips(site_grid: Any, reply: Any) -> None:
    ones = {n: np.ones_like(a) for n, a in START.items()}
    found = Round(site_grid).run([reply(1, content(START)), reply(2, content(ones, **{"num-examples": 30}))])
    assert np.allclose(found["w"], 0.75)


def test_the_order_of_responses_changes_no_bit(site_grid: Any, reply: Any) -> None:
    def aggregated(order: list[int]) -> bytes:
        replies = [reply(n, content(update(n), **{"num-examples": 7 * n})) for n in order]
        return Round(site_grid).run(replies)["w"].tobytes()

    assert len({aggregated(order) for order in ([1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2])}) == 1


def _packed(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (2, 3)) -> RecordDict:
    """An update whose first tensor has these bytes."""
    from flwr.app import Array, ArrayRecord

    made = content(update(2))
    arrays = {n: Array(a) for n, a in update(2).items()}
    made[wire.ARRAYS] = ArrayRecord({**arrays, "w": Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)})
    return made


def _npy(array: Any) -> bytes:
    from io import BytesIO

    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _pickled(name: str) -> Any:
    from flwr.app import Array, ArrayRecord

    bad = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=b"\x80\x04]\x94.")
    good = {n: Array(a) for n, a in update(2).items()}
    return ArrayRecord({**good, name: bad})


BAD: dict[str, Any] = {
    "NaN": content(update(2, w=np.full((2, 3), np.nan, np.float32))),
    "infinite": content(update(2, b=np.array([np.inf, 0], np.float32))),
    "wrong shape": content(update(2, w=np.zeros((3, 2), np.float32))),
    "wrong dtype": content(update(2, w=np.zeros((2, 3), np.float64))),
    "extra tensor": content(update(2, more=np.zeros(1, np.float32))),
    "missing tensor": content({"w": START["w"]}),
    "huge": content(update(2, w=np.full((2, 3), MAX_NORM, np.float32))),
    "beyond float64": content(update(2, w=np.full((2, 3), 3e38, np.float32))),
    "truncated": _packed(_npy(update(2)["w"])[:-5]),
    "empty": _packed(b""),
    "oversized": _packed(_npy(update(2)["w"]) + bytes(10_000)),
    "a header that claims more than there is": _packed(
        _npy(update(2)["w"]).replace(b"(2, 3), }" + b" " * 16, b"(99999999, 99999999), }  ")
    ),
    "no arrays": RecordDict({wire.METRICS: MetricRecord({"num-examples": 1}), wire.CONFIG: wire.json_config(site="x")}),
    "no config": RecordDict({wire.ARRAYS: wire.arrays_to_record(update(2))}),
    "no weight": RecordDict({wire.ARRAYS: wire.arrays_to_record(update(2)), wire.CONFIG: wire.json_config(site="x")}),
    "weight of nothing": content(update(2), **{"num-examples": 0}),
    "negative weight": content(update(2), **{"num-examples": -10}),
    "infinite weight": content(update(2), **{"num-examples": float("inf")}),
    "list of weights": content(update(2), **{"num-examples": [1, 2]}),
    "epsilon that is no number": content(update(2), epsilon=float("nan")),
    "a failure": RecordDict({wire.CONFIG: wire.json_config(site="x", failure="RunError", code=7)}),
    "an error of Flower": "died",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_update_is_left_out_and_the_others_are_aggregated(site_grid: Any, reply: Any, bad: Any) -> None:
    good = [reply(n, content(update(n))) for n in (1, 3, 4)]
    rounds = Round(site_grid)
    found = rounds.run([good[0], reply(2, bad), *good[1:]])
    assert set(rounds.outcomes[0].used) == {"site-1", "site-3", "site-4"}
    assert set(rounds.outcomes[0].refused) == {"site-2"}
    assert rounds.outcomes[0].refused["site-2"]
    assert np.allclose(found["w"], np.mean([update(n)["w"] for n in (1, 3, 4)], axis=0), atol=1e-6)


def test_bytes_that_are_no_array_cost_one_site_only(site_grid: Any, reply: Any) -> None:
    bad = content(update(2))
    bad[wire.ARRAYS] = _pickled("w")
    rounds = Round(site_grid)
    rounds.run([reply(1, content(update(1))), reply(2, bad)])
    assert "cannot be read" in rounds.outcomes[0].refused["site-2"]


def test_metrics_that_no_update_has_cost_that_site_alone(site_grid: Any, reply: Any) -> None:
    rounds = Round(site_grid)
    odd = content(update(2), epsilon=1.5, surprise=[1.0, 2.0])
    more = content(update(3))
    more["second"] = MetricRecord({"more": 1})
    rounds.run([reply(1, content(update(1), loss=0.5)), reply(2, odd), reply(3, more), reply(4, content(update(4)))])
    assert rounds.outcomes[0].used == {"site-1": {"num-examples": 10.0, "loss": 0.5}, "site-4": {"num-examples": 10.0}}
    assert sorted(rounds.outcomes[0].refused) == ["site-2", "site-3"]


def test_a_site_that_responds_twice_counts_once_and_a_stranger_not_at_all(site_grid: Any, reply: Any) -> None:
    found = Round(site_grid).run(
        [reply(1, content(update(1))), reply(1, content(update(2))), reply(99, content(update(3)))]
    )
    assert np.allclose(found["w"], update(1)["w"])


def test_an_oversized_update_is_refused_by_its_size_before_it_is_unpacked(site_grid: Any, reply: Any) -> None:
    rounds = Round(site_grid)
    rounds.run([reply(1, content(update(1))), reply(2, BAD["oversized"])])
    assert "at most 4120 were expected" in rounds.outcomes[0].refused["site-2"]


def test_the_study_sets_the_norm_that_an_update_may_have(site_grid: Any, reply: Any) -> None:
    rounds = Round(site_grid)
    rounds.strategy.max_norm = 1.0
    small = {n: np.full_like(a, 0.1) for n, a in START.items()}
    rounds.run([reply(1, content(small)), reply(2, content(update(2)))])
    assert set(rounds.outcomes[0].used) == {"site-1"}
    assert "above 1" in rounds.outcomes[0].refused["site-2"]


def test_a_site_that_is_away_is_distinguished_from_one_whose_update_was_refused(site_grid: Any, reply: Any) -> None:
    rounds = Round(site_grid)
    site_grid.grid.away = {3}
    rounds.run([reply(1, content(update(1))), reply(2, BAD["NaN"]), reply(4, content(update(4)))])
    assert set(rounds.outcomes[0].refused) == {"site-2"}
    assert set(rounds.outcomes[0].lost) == {"site-3"}


def test_no_site_there_at_all_ends_the_run_rather_than_wait_for_ever(site_grid: Any) -> None:
    site_grid.grid.away = {1, 2, 3, 4}
    with pytest.raises(RunError, match=r"0 usable updates in round 1 .*it was lost"):
        Round(site_grid).run([])
    assert site_grid.clock() < 5.0


def test_too_few_updates_end_the_run_and_name_the_causes(site_grid: Any, reply: Any) -> None:
    rounds = Round(site_grid, min_sites=2)
    replies = [reply(1, content(update(1))), reply(2, BAD["NaN"]), reply(3, BAD["a failure"])]
    with pytest.raises(RunError, match=r"1 usable updates in round 1 .*not finite.*RunError.*at least 2") as caught:
        rounds.run(replies)
    assert "site-4: no response" in caught.value.message
    assert not rounds.outcomes


OPTIONS: dict[str, dict[str, Any]] = {"FedTrimmedAvg": {"beta": 0.2}, "FedProx": {"proximal_mu": 0.1}}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_aggregates_over_rounds_in_the_types_that_sites_expect(
    site_grid: Any, reply: Any, name: str
) -> None:
    rounds = Round(site_grid, name, **OPTIONS.get(name, {}))
    weights: Arrays = START
    for number in (1, 2, 3):
        moved = {n: {name: weights[name] + step for name, step in update(n).items()} for n in (1, 2, 3, 4)}
        replies = [reply(n, content(arrays)) for n, arrays in moved.items()]
        before, weights = weights, rounds.run(replies, weights, number)
        assert {n: (a.dtype, a.shape) for n, a in weights.items()} == {n: (a.dtype, a.shape) for n, a in START.items()}
        assert all(np.isfinite(a).all() for a in weights.values())
        assert not np.array_equal(before["w"], weights["w"])
    assert len(rounds.outcomes) == 3
    assert all(len(o.used) == 4 for o in rounds.outcomes)


def test_a_strategy_with_too_few_sites_ends_the_run_rather_than_stand_still(site_grid: Any, reply: Any) -> None:
    rounds = Round(site_grid, "Bulyan", num_malicious_nodes=1)
    with pytest.raises(RunError, match="Bulyan cannot aggregate 4 updates"):
        rounds.run([reply(n, content(update(n))) for n in (1, 2, 3, 4)])


def test_an_unknown_strategy_or_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StudyError, match="FedAvg, FedAvgM"):
        make_strategy("FedMagic", {})
    with pytest.raises(StudyError, match="options that Flower's FedAvg takes"):
        make_strategy("FedAvg", {"momentum": 0.9})


@pytest.mark.parametrize("option", ["fraction_train", "min_available_nodes", "min_train_nodes", "weighted_by_key"])
def test_options_that_would_let_flower_wait_for_ever_or_do_nothing_are_refused(option: str) -> None:
    with pytest.raises(StudyError, match="min_sites"):
        make_strategy("FedAvg", {option: 1})


def test_a_sound_update_has_no_problem_and_integers_are_no_exception() -> None:
    start = {"n": np.zeros(1, np.int64), **START}
    sound = {"n": np.array([3]), **update(1)}
    found = checked_update(start, RecordDict({wire.ARRAYS: wire.arrays_to_record(sound)}))
    assert all(np.array_equal(found[name], sound[name]) for name in sound)
