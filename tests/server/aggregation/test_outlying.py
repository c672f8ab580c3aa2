"""A site whose update lies far outside those of the others is named; a site with other people is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moretta.server.aggregation.checked_strategy import outlying

SITES = 6


def honest(seed: int = 0, *, noise: float = 1.0) -> dict[str, Any]:
    """The same direction for all, with noise of its own for each."""
    rng = np.random.default_rng(seed)
    way = rng.standard_normal((20, 10))
    return {f"site-{n}": {"w": way + noise * rng.standard_normal((20, 10)), "b": np.zeros(3)} for n in range(SITES)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0, 100.0])
def test_sites_that_say_much_the_same_are_not_named(seed: int, noise: float) -> None:
    assert not outlying(honest(seed, noise=noise).items())


@pytest.mark.parametrize("factor", [20.0, 1e6, 1e-3, 0.0])
def test_an_update_of_another_length_is_named(factor: float) -> None:
    changes = honest()
    changes["site-2"] = {name: factor * array for name, array in changes["site-2"].items()}
    assert list(found := outlying(changes.items())) == ["site-2"]
    assert found["site-2"].startswith("of length")


def test_an_update_against_all_others_is_named() -> None:
    changes = honest(noise=0.5)
    changes["site-4"] = {name: -array for name, array in changes["site-4"].items()}
    assert list(found := outlying(changes.items())) == ["site-4"]
    assert "cosine -" in found["site-4"]


def test_of_two_nobody_can_say_who_is_outside() -> None:
    changes = honest()
    changes["site-1"] = {name: 1e6 * array for name, array in changes["site-1"].items()}
    assert not outlying(list(changes.items())[:2])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5), st.integers(3, 6))
def test_any_finite_updates_can_be_compared(values: list[float], sites: int) -> None:
    changes = {f"s{n}": {"w": np.array(values, np.float32) * (n % 3 - 1)} for n in range(sites)}
    assert set(outlying(changes.items())) <= set(changes)
