from __future__ import annotations

import numpy as np
import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.features.hidden_layer import HiddenLayer
from moretta.shared.study.public_arrays import named

UNITS = HiddenLayer(
    np.array([[1.0, -1.0], [0.5, 0.5], [0.0, 2.0]], np.float32), np.array([0.25, -0.25], dtype=np.float32)
)


def test_units_add_up_and_are_cut_at_nothing() -> None:
    np.testing.assert_allclose(UNITS(np.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 0.0]])), [[2.25, 5.75], [0.0, 0.75]])


def received(sent: dict[str, np.ndarray]) -> HiddenLayer:
    return HiddenLayer.of(named(sent, HiddenLayer.rules("a/", width=3)), "a/")


def test_what_is_sent_is_what_arrives() -> None:
    again = received(UNITS.to_arrays("a/"))
    np.testing.assert_array_equal(again.weight, UNITS.weight)
    np.testing.assert_array_equal(again.bias, UNITS.bias)


@pytest.mark.parametrize(
    "changed",
    [
        {"a/hidden-weight": np.zeros((3, 4), np.float32)},
        {"a/hidden-weight": np.full((3, 2), np.inf, np.float32)},
        {"a/hidden-weight": np.full((3, 2), 3.4e38, np.float32)},
        {"a/hidden-weight": np.zeros((3, 2))},
        {"a/hidden-weight": None},
        {"a/hidden-bias": None},
        {"a/hidden-bias": np.zeros((2, 1), np.float32)},
        {"a/hidden-bias": np.full(2, np.nan, np.float32)},
        {"a/hidden-weight": np.zeros((3, 0), np.float32), "a/hidden-bias": np.zeros(0, np.float32)},
    ],
)
def test_units_that_cannot_be_are_refused(changed: dict[str, np.ndarray | None]) -> None:
    sent = {name: array for name, array in (UNITS.to_arrays("a/") | changed).items() if array is not None}
    with pytest.raises(StudyError, match="hidden-"):
        received(sent)
