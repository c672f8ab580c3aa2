from __future__ import annotations

import numpy as np
import pytest

from moretta.shared.errors import StudyError
from moretta.shared.features.hidden_units import MAX_UNITS, HiddenUnits

UNITS = HiddenUnits(
    np.array([[1.0, -1.0], [0.5, 0.5], [0.0, 2.0]], np.float32), np.array([0.25, -0.25], dtype=np.float32)
)


def test_units_add_up_and_are_cut_at_nothing() -> None:
    np.testing.assert_allclose(UNITS(np.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 0.0]])), [[2.25, 5.75], [0.0, 0.75]])


def test_what_is_sent_is_what_arrives() -> None:
    again = HiddenUnits.from_arrays(UNITS.to_arrays("a/"), "a/", width=3)
    assert again is not None
    np.testing.assert_array_equal(again.weight, UNITS.weight)
    np.testing.assert_array_equal(again.bias, UNITS.bias)
    assert HiddenUnits.from_arrays(UNITS.to_arrays("a/"), "b/", width=3) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"a/hidden-weight": np.zeros((3, 4))},
        {"a/hidden-weight": np.full((3, 2), np.inf)},
        {"a/hidden-weight": None},
        {"a/hidden-bias": None},
        {"a/hidden-bias": np.zeros((2, 1))},
        {"a/hidden-bias": np.full(2, np.nan)},
        {"a/hidden-weight": np.zeros((3, MAX_UNITS + 1)), "a/hidden-bias": np.zeros(MAX_UNITS + 1)},
        {"a/hidden-weight": np.zeros((3, 0)), "a/hidden-bias": np.zeros(0)},
    ],
)
def test_units_that_cannot_be_are_refused(changed: dict[str, np.ndarray | None]) -> None:
    sent = {name: array for name, array in (UNITS.to_arrays("a/") | changed).items() if array is not None}
    with pytest.raises(StudyError, match="hidden units"):
        HiddenUnits.from_arrays(sent, "a/", width=3)
