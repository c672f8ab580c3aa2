"""Site-level noise as it is really added: canaries prove less than is claimed, and broken mechanisms are caught.

Every canary is a site whose update has one value of its own, so that its noise is its own: each canary is a trial.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from privacy_auditing import CanaryTrials, gaussian_lower_bound

from moretta.server.aggregation import site_level_mean
from moretta.server.aggregation.checked_strategy import CheckedStrategy
from moretta.server.aggregation.site_level_mean import SiteLevelMean
from moretta.server.aggregation.strategies import make_strategy
from moretta.shared.core.array_types import Float64
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.privacy.site_updates import SitePlan
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import AVERAGING

CANARIES, DELTA, CONFIDENCE, SIZE = 400, 1e-5, 0.999, 30.0
PLAN = SitePlan(noise_multiplier=1.5, clipping_norm=1.0, min_sites=2, curious_sites=0, rounds=1)
CLAIM = PLAN.loss(1).epsilon(DELTA) or 0.0
SENT: dict[str, Any] = {"w": np.zeros(CANARIES, np.float32), "0.mean": np.ones(2, np.float32)}


def seeded(seed: int) -> Callable[[int], SeededNoise]:
    return lambda number: SeededNoise(seed, number)


def made(plan: SitePlan = PLAN, noise: Any = None, seed: int = 1) -> SiteLevelMean:
    return SiteLevelMean(make_strategy("FedAvg", {}), plan, frozenset({"w"}), seeded(seed) if noise is None else noise)


def canary(site: int) -> dict[str, Any]:
    update = np.zeros(CANARIES, np.float32)
    update[site] = SIZE
    return {"w": update, "0.mean": np.ones(2, np.float32)}


def audited(mean: Callable[[int], Any], *, runs: int = 5) -> CanaryTrials:
    """Trials of some runs, in each of which a fair coin decides over every canary. Scores are in clipping norms."""
    present, absent = [], []
    for run in range(runs):
        included = np.random.default_rng(run).random(CANARIES) < 0.5
        updates = {f"site-{n:04d}": canary(n) for n in np.flatnonzero(included)}
        scores = np.asarray(mean(run)(1, SENT, updates)["w"], np.float64) * len(updates)
        present.append(scores[included])
        absent.append(scores[~included])
    return CanaryTrials(np.concatenate(present), np.concatenate(absent))


def proven(trials: CanaryTrials) -> float:
    return gaussian_lower_bound(trials, delta=DELTA, cut=0.5, confidence=CONFIDENCE)


def test_what_canaries_prove_lies_under_the_claim_and_near_it() -> None:
    trials = audited(lambda run: made(seed=run).mean)
    assert trials.present.mean() == pytest.approx(1.0, abs=0.2)
    assert trials.absent.std() == pytest.approx(1.5, rel=0.1)
    assert 0.4 * CLAIM < proven(trials) <= CLAIM


@dataclass
class Halved:
    source: SeededNoise

    def private_normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        return self.source.private_normal(scale / 2, shape)


def test_half_the_noise_is_caught() -> None:
    assert proven(audited(lambda run: made(noise=lambda number: Halved(SeededNoise(run, number))).mean)) > CLAIM


def test_a_clipping_that_was_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = site_level_mean.clipped_change
    monkeypatch.setattr(site_level_mean, "clipped_change", lambda *a, norm, **o: real(*a, norm=1e9, **o))
    assert proven(audited(lambda run: made(seed=run).mean)) > CLAIM


def test_weights_by_numbers_of_clips_under_noise_for_equal_ones_are_caught() -> None:
    """Canaries of four times as many clips as the others: the noise of a uniform mean is too little for them."""

    def weighted(run: int) -> Any:
        def mean(number: int, sent: Any, updates: Any) -> Any:
            found = made(seed=run).mean(number, sent, updates)
            more = made(noise=lambda _: Nothing()).mean(number, sent, updates)
            return {"w": found["w"] + 3 * more["w"]}

        return mean

    assert proven(audited(weighted)) > CLAIM


class Nothing:
    def private_normal(self, scale: float, shape: tuple[int, ...]) -> Float64:
        return np.zeros(shape)


def test_noise_from_a_known_seed_is_caught() -> None:
    drawn = SeededNoise(1, 1).private_normal(1.5, (CANARIES,))
    trials = audited(lambda run: lambda n, s, u: {"w": made(seed=1).mean(n, s, u)["w"] - (drawn / len(u))})
    assert proven(trials) > CLAIM


def test_shares_of_all_sites_together_keep_the_claim_and_fewer_sites_would_not() -> None:
    shared = replace(PLAN, min_sites=150, curious_sites=30)  # about 200 are in every run

    def site_noise(run: int, divisor: float = 1.0) -> Any:
        def mean(number: int, sent: Any, updates: Any) -> Any:
            added = {}
            for site, update in updates.items():
                cut = update["w"] / SIZE + SeededNoise(run, site).private_normal(shared.share / divisor, (CANARIES,))
                added[site] = {**update, "w": cut}
            return SiteLevelMean(make_strategy("FedAvg", {}), shared, frozenset({"w"}), None).mean(number, sent, added)

        return mean

    assert 0 < proven(audited(site_noise, runs=2)) <= CLAIM
    assert proven(audited(lambda run: site_noise(run, divisor=3.0), runs=2)) > CLAIM


def test_a_round_of_too_few_sites_is_refused() -> None:
    plan = replace(PLAN, min_sites=3)
    with pytest.raises(RunError, match=r"2 updates in round 4.*at least 3.*invalid"):
        made(plan).mean(4, SENT, {"a": canary(1), "b": canary(2)})


def test_what_training_does_not_change_stays_as_it_was_sent_whatever_sites_say() -> None:
    lying = {f"s{n}": {**canary(n), "0.mean": np.full(2, 9.0, np.float32)} for n in range(3)}
    assert np.array_equal(made().mean(1, SENT, lying)["0.mean"], SENT["0.mean"])


def test_the_order_of_sites_changes_no_bit() -> None:
    updates = {f"s{n}": {"w": np.random.default_rng(n).random(CANARIES).astype(np.float32)} for n in range(5)}
    backwards = dict(reversed(updates.items()))
    assert made().mean(1, SENT, updates)["w"].tobytes() == made().mean(1, SENT, backwards)["w"].tobytes()


def _reply(array: Any, clips: int = 1) -> Message:
    content = RecordDict({"arrays": ArrayRecord({"w": Array(array)}), "metrics": MetricRecord({"num-examples": clips})})
    return Message(content, dst_node_id=1, message_type="train")


def _flower(kind: str, *arguments: Any, **options: Any) -> Any:
    import flwr.serverapp.strategy as flower

    logging.getLogger("flwr").disabled = True
    made: Any = getattr(flower, f"DifferentialPrivacyServerSide{kind}Clipping")(flower.FedAvg(), *arguments, **options)
    made.current_arrays = ArrayRecord({"w": Array(np.zeros(4, np.float32))})
    return made


@pytest.fixture(autouse=True)
def _flower_may_speak_again() -> Any:
    yield
    logging.getLogger("flwr").disabled = False


def test_without_noise_it_is_flowers_own_mean_of_clipped_updates() -> None:
    updates = [np.random.default_rng(n).normal(0, 3, 4).astype(np.float32) for n in range(5)]
    theirs = _flower("Fixed", 0.0, 1.0, 5).aggregate_train(1, [_reply(u.copy()) for u in updates])[0]["w"].numpy()
    ours = made(noise=lambda _: Nothing()).mean(
        1, {"w": np.zeros(4, np.float32)}, {f"s{n}": {"w": u} for n, u in enumerate(updates)}
    )["w"]
    assert np.allclose(ours, theirs, atol=2.0**-12)  # the grid that noisy sums are rounded to


def test_why_flowers_own_is_not_used() -> None:
    """Each is seen with Flower 1.41; if one fails, Flower has changed, and so must the docstring of the module."""
    ones = np.ones(4, np.float32)
    with pytest.raises(ZeroDivisionError):
        _flower("Fixed", 0.0, 1.0, 2).aggregate_train(1, [_reply(np.zeros(4, np.float32)), _reply(ones)])
    weighted = _flower("Fixed", 0.0, 1.0, 2).aggregate_train(1, [_reply(ones, 90), _reply(-ones, 10)])[0]["w"].numpy()
    assert np.allclose(weighted, 0.8 * 0.5)  # one site moves the mean by 0.9, the noise is for 0.5
    fewer = _flower("Fixed", 1.0, 1.0, 1000).aggregate_train(1, [_reply(ones)])[0]["w"].numpy()
    assert np.abs(fewer - 0.5).max() < 0.01  # one response of a thousand: a thousandth of the noise it needs
    adaptive = _flower("Adaptive", 0.0, 4, initial_clipping_norm=1.0)
    for number in range(5):
        adaptive.aggregate_train(number, [_reply(100 * ones) for _ in range(4)])
    assert adaptive.clipping_norm < 0.7  # every update is clipped, so the norm should grow (Andrew et al. 2021)


@pytest.mark.parametrize("name", AVERAGING)
def test_every_averaging_strategy_goes_on_with_the_private_mean(
    fake_site_grid: Any, hello: Any, hellos: Any, name: str
) -> None:
    site_grid = hellos(fake_site_grid(lambda node, message: hello(node), nodes=3), 3)

    def response(node: int, message: Message) -> RecordDict:
        arrays = {n: a + np.float32(node) for n, a in wire.arrays_of(message.content).items()}
        metrics = MetricRecord({"num-examples": 10**node})
        return RecordDict(
            {wire.ARRAYS: wire.arrays_to_record(arrays), wire.METRICS: metrics, wire.CONFIG: wire.json_config(site="x")}
        )

    site_grid.grid.response = response
    strategy = CheckedStrategy(
        strategy=SiteLevelMean(
            make_strategy(name, {"proximal_mu": 0.1} if name == "FedProx" else {}),
            PLAN,
            frozenset({"w"}),
            lambda _: Nothing(),
        ),
        grid=site_grid,
        sites=site_grid.sites,
        call=wire.TRAIN["voice"],
        study=Study(),
        min_sites=2,
        on_round=lambda _: None,
        find_outlying=False,
    )
    assert isinstance(strategy, Strategy)
    assert isinstance(strategy.strategy, Strategy)
    assert isinstance(site_grid, Grid)
    found = strategy.round(1, SENT)
    assert np.array_equal(found["0.mean"], SENT["0.mean"])
    if name in ("FedAvg", "FedProx"):
        assert np.linalg.norm(found["w"]) == pytest.approx(1.0, rel=1e-2)  # three parallel updates, each cut to 1
    assert not np.array_equal(found["w"], SENT["w"])
