from __future__ import annotations

import json
import warnings
from typing import Any, get_args

import numpy as np
import pytest

from moretta.shared.core.errors import ReleaseError
from moretta.shared.privacy.dp_sgd import SampledGaussian
from moretta.shared.privacy.gaussian import Gaussian
from moretta.shared.privacy.local_mechanisms import LaplaceVector, RandomizedResponse
from moretta.shared.privacy.mechanism import (
    _KINDS,
    ORDERS,
    Mechanism,
    Pure,
    Relation,
    Unbounded,
    epsilon_of,
    from_record,
    mechanism,
)
from moretta.shared.privacy.site_updates import SiteGaussian

EXAMPLES: list[Mechanism] = [
    LaplaceVector(value_epsilon=0.1, values=13, unit="frame"),
    Gaussian(sigma=2.0, distance=1.5),
    RandomizedResponse(choices=16, token_epsilon=2.0, tokens=4),
    SampledGaussian(noise_multiplier=1.3, rate=0.2, steps=10, unit="speaker"),
    SiteGaussian(noise_multiplier=5.0, rounds=10),
    Unbounded(why="no bound"),
    Pure(total=0.5),
]
BAD: list[tuple[Any, dict[str, Any]]] = [
    (LaplaceVector, {"value_epsilon": 0.0, "values": 1}),
    (LaplaceVector, {"value_epsilon": 1.0, "values": 0}),
    (Gaussian, {"sigma": -1.0, "distance": 1.0}),
    (Gaussian, {"sigma": 1.0, "distance": float("nan")}),
    (RandomizedResponse, {"choices": 1, "token_epsilon": 1.0}),
    (RandomizedResponse, {"choices": 4, "token_epsilon": float("inf")}),
    (SampledGaussian, {"noise_multiplier": 0.0, "rate": 0.1, "steps": 1}),
    (SampledGaussian, {"noise_multiplier": 1.0, "rate": 1.1, "steps": 1}),
    (SampledGaussian, {"noise_multiplier": 1.0, "rate": 0.0, "steps": 1}),
    (SampledGaussian, {"noise_multiplier": 1.0, "rate": 0.5, "steps": 1, "group": 2, "moves": True}),
    (SiteGaussian, {"noise_multiplier": 1.0, "rounds": 0}),
    (Pure, {"total": -1.0}),
]


def test_every_mechanism_there_is_has_an_example_here() -> None:
    assert {e.kind for e in EXAMPLES} == set(_KINDS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.kind)
def test_every_mechanism_states_its_neighbours_its_sensitivity_and_what_invalidates_it(example: Mechanism) -> None:
    assert example.relation in get_args(Relation)
    assert example.sensitivity.value > 0
    assert example.invalidated_by or isinstance(example, Unbounded)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.kind)
def test_a_mechanism_survives_the_ledger(example: Mechanism) -> None:
    assert from_record(json.loads(json.dumps(example.record(), allow_nan=False))) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.kind)
def test_a_group_of_one_loses_as_much_and_larger_groups_lose_more(example: Mechanism) -> None:
    one, three = example.for_group(1), example.for_group(3)
    assert three.unit == ("site" if example.unit == "site" else "speaker")
    np.testing.assert_allclose(one.renyi(), example.renyi())
    assert (three.renyi() >= one.renyi()).all()
    if not isinstance(example, Unbounded):
        assert (three.epsilon(1e-5) or 0) > (one.epsilon(1e-5) or 0)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.kind)
def test_renyi_divergence_grows_with_the_order_and_epsilon_falls_with_delta(example: Mechanism) -> None:
    curve = example.renyi()
    assert (np.diff(curve[np.isfinite(curve)]) >= -1e-9).all()
    if not isinstance(example, Unbounded):
        found = [example.epsilon(delta) or 0 for delta in (1e-9, 1e-6, 1e-3, 1e-1)]
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("kind", "values"), BAD)
def test_numbers_that_cannot_be_are_refused_with_the_number(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d|nan|inf"):
        kind(**values)


def test_what_is_not_bounded_has_no_epsilon_at_any_delta() -> None:
    assert Unbounded(why="no bound").epsilon(1e-3) is None
    assert Unbounded(why="no bound").epsilon(0.0) is None


def test_a_ledger_line_of_an_unknown_or_impossible_mechanism_is_refused() -> None:
    with pytest.raises(ReleaseError, match="wishful"):
        from_record({"kind": "wishful"})
    with pytest.raises(ReleaseError, match="laplace"):
        from_record({"kind": "laplace", "values": 3})
    with pytest.raises(ReleaseError, match="rate"):
        from_record({"kind": "sampled-gaussian", "noise_multiplier": 1.0, "rate": 2.0, "steps": 1})


def test_what_a_federated_codebook_cost_stays_spent_though_there_is_none_any_more() -> None:
    record = {"kind": "dp-lloyd", "unit": "speaker", "noise_multiplier": 8.0, "iterations": 4, "group": 3}
    assert from_record(record) == Gaussian(sigma=8.0, distance=6.0, unit="speaker")
    with pytest.raises(ReleaseError, match="dp-lloyd"):
        from_record({**record, "iterations": 0})


def test_two_mechanisms_of_one_name_are_a_defect() -> None:
    with pytest.raises(ValueError, match="laplace"):
        mechanism("laplace")(Gaussian)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.kind)
def test_epsilon_is_to_the_bit_what_opacus_converts_a_curve_to(example: Mechanism, delta: float) -> None:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    if not np.isfinite(curve := example.renyi()).any():
        assert epsilon_of(curve, delta=delta) is None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the best order may be the first or the last
        opacus, _ = get_privacy_spent(orders=list(ORDERS), rdp=curve, delta=delta)
    assert epsilon_of(curve, delta=delta) == max(float(opacus), 0.0)
