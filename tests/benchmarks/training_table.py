"""Costs of secure aggregation, as a table: `python tests/benchmarks/training_table.py`.

Times are of one process on one thread. Secure aggregation is timed at the functions that respond to the four requests,
with keys on disk as ever, and without training and Flower's messages.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS / "deploy"))


def secure_table() -> None:
    """Milliseconds and bytes of a round, by numbers of sites and values."""
    import test_secure_aggregation as secure
    from flwr.supercore.task_identity import TaskIdentity

    from moretta.client.training import masked_rounds as steps
    from moretta.client.training.rounds import StoredResponse

    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)
    print("| sites | values | a site: keys | shares | masks | unmasking | the server | bytes that a site sends |")
    print("|---|---|---|---|---|---|---|---|")
    for sites, values in ((3, 474), (8, 474), (32, 474), (4, 500_000)):
        response = StoredResponse({"2.weight": np.random.default_rng(1).integers(0, 1000, values).astype(np.int32)}, {})
        steps.train_round = lambda *_, given=response, **__: given
        with tempfile.TemporaryDirectory() as folder:
            network = secure.Network(Path(folder), secure.secure_study(), [f"site-{n:03d}" for n in range(sites)])
            spent = _timed(network)
            strategy = secure.strategy(network)
            strategy.trained = frozenset({"2.weight"})
            start = time.perf_counter()
            strategy.round(1, {"2.weight": np.zeros(values, np.float32)})
            server = time.perf_counter() - start - sum(spent.values())
            reported = sum(len(secure._everything(content)) for content in network.heard) // sites
        each = " | ".join(f"{1000 * seconds / sites:.0f} ms" for seconds in spent.values())
        print(f"| {sites} | {values:,} | {each} | {1000 * server:.0f} ms | {reported:,} |", flush=True)


def _timed(network: Any) -> dict[str, float]:
    spent: dict[str, float] = {}
    responded = network.responded

    def timed(call: str, content: Any, name: str) -> Any:
        start = time.perf_counter()
        response = responded(call, content, name)
        spent[call] = spent.get(call, 0.0) + time.perf_counter() - start
        return response

    network.responded = timed
    return spent


if __name__ == "__main__":
    import logging

    from moretta.shared.core.workers import limit_threads

    limit_threads(1)
    logging.disable(logging.CRITICAL)
    secure_table()
