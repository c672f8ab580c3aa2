from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import MetricRecord, RecordDict

from moretta.server.aggregation.checked_strategy import CheckedStrategy
from moretta.server.aggregation.strategies import make_strategy
from moretta.shared.messages import wire
from moretta.shared.study.schema import Study

START = {"w": np.full(3, 5.0, np.float32)}


def content(value: float) -> RecordDict:
    arrays = wire.arrays_to_record({"w": np.full(3, value, np.float32)})
    config = wire.json_config(site="x", round=4)
    return RecordDict({wire.ARRAYS: arrays, wire.METRICS: MetricRecord({"num-examples": 4}), wire.CONFIG: config})


def test_every_sound_update_is_handed_over_as_a_change_with_its_site_and_round(
    fake_site_grid: Any, hello: Any, hellos: Any
) -> None:
    site_grid = hellos(fake_site_grid(lambda node, message: hello(node), nodes=3), 3)
    values = {1: 7.0, 2: float("nan"), 3: 4.0}
    site_grid.grid.response = lambda node, message: content(values[node])
    reported: dict[tuple[int, str], list[float]] = {}
    strategy = CheckedStrategy(
        strategy=make_strategy("FedAvg", {}),
        grid=site_grid,
        sites=site_grid.sites,
        call=wire.TRAIN["voice"],
        study=Study(),
        min_sites=1,
        on_round=lambda _: None,
        on_update=lambda number, site, change: reported.setdefault((number, site), change()["w"].tolist()),
    )
    strategy.round(4, START)
    assert reported == {(4, site_grid.nodes[1]): [2.0] * 3, (4, site_grid.nodes[3]): [-1.0] * 3}
