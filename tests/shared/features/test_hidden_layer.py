from __future__ import annotations

import numpy as np
import pytest

from moretta.shared.core.errors import StudyError
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.features.speaker_code import HiddenLayer, SpeakerCode

WIDTH = len(MEASUREMENTS)
WEIGHT, BIAS = "voice/speaker/hidden-weight", "voice/speaker/hidden-bias"


def test_units_add_up_and_are_cut_at_nothing() -> None:
    units = HiddenLayer(
        np.array([[1.0, -1.0], [0.5, 0.5], [0.0, 2.0]], np.float32), np.array([0.25, -0.25], dtype=np.float32)
    )
    np.testing.assert_allclose(units(np.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 0.0]])), [[2.25, 5.75], [0.0, 0.75]])


def code() -> SpeakerCode:
    rng = np.random.default_rng(1)
    hidden = HiddenLayer(rng.normal(size=(WIDTH, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32))
    return SpeakerCode(np.ones(WIDTH, np.float32), np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 0, hidden)


def test_what_is_sent_is_what_arrives() -> None:
    sent, again = code().hidden, SpeakerCode.from_arrays(code().to_arrays()).hidden
    assert sent is not None and again is not None
    np.testing.assert_array_equal(again.weight, sent.weight)
    np.testing.assert_array_equal(again.bias, sent.bias)


@pytest.mark.parametrize(
    "changed",
    [
        {WEIGHT: np.zeros((WIDTH, 4), np.float32)},
        {WEIGHT: np.full((WIDTH, 2), np.inf, np.float32)},
        {WEIGHT: np.full((WIDTH, 2), 3.4e38, np.float32)},
        {WEIGHT: np.zeros((WIDTH, 2))},
        {WEIGHT: None},
        {BIAS: None},
        {BIAS: np.zeros((2, 1), np.float32)},
        {BIAS: np.full(2, np.nan, np.float32)},
        {WEIGHT: np.zeros((WIDTH, 0), np.float32), BIAS: np.zeros(0, np.float32)},
    ],
)
def test_units_that_cannot_be_are_refused(changed: dict[str, np.ndarray | None]) -> None:
    sent = {name: array for name, array in (code().to_arrays() | changed).items() if array is not None}
    with pytest.raises(StudyError, match="hidden-"):
        SpeakerCode.from_arrays(sent)
