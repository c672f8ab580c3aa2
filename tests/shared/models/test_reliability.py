from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moretta.shared.core.errors import ReleaseError
from moretta.shared.models.reliability import (
    BINS,
    check_reliability,
    expected_calibration_error,
    fit_temperature,
    reliability_counts,
    surprise,
    tempered,
)


def _drawn(rng: np.random.Generator, clips: int, *, boast: float) -> tuple[Any, Any]:
    """Two classes; right as often as sure, but for what the model boasts."""
    honest = rng.uniform(0.5, 0.95, clips)
    labels = np.where(rng.random(clips) < honest, 0, 1)
    reported = np.minimum(honest + boast, 1.0)
    return np.stack([reported, 1 - reported], axis=1), labels


def test_a_model_that_is_right_as_often_as_it_is_sure_has_next_to_no_error(rng: np.random.Generator) -> None:
    counts = reliability_counts(*_drawn(rng, 20_000, boast=0.0))
    assert expected_calibration_error(counts) == pytest.approx(0, abs=0.015)


def test_the_error_is_how_far_confidence_lies_from_the_share_of_right_clips(rng: np.random.Generator) -> None:
    probabilities, labels = _drawn(rng, 20_000, boast=0.05)
    found = expected_calibration_error(reliability_counts(probabilities, labels))
    assert found == pytest.approx(0.05, abs=0.015)
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(right[bins == b].sum() - sure[bins == b].sum()) for b in range(BINS)]
    assert found == pytest.approx(sum(gaps) / len(labels), abs=2e-3)  # as defined, without the rounding


def test_no_clip_has_no_error() -> None:
    assert expected_calibration_error(reliability_counts(np.zeros((0, 6)), np.zeros(0, np.int64))) is None


def test_counts_pass_the_check_that_they_are_made_for(rng: np.random.Generator) -> None:
    for clips in (0, 1, 500):
        probabilities, labels = _drawn(rng, clips, boast=0.05)
        counts = reliability_counts(probabilities, labels)
        right = int((probabilities.argmax(1) == labels).sum()) if clips else 0
        assert np.array_equal(check_reliability(np.asarray(counts.tolist()), clips=clips, right=right), counts)
    edges = np.arange(501, 1001) / 1000
    rows = np.stack([edges, 1 - edges], axis=1)
    check_reliability(reliability_counts(rows, np.zeros(500, np.int64)), clips=500, right=500)


def _spoiled(counts: Any, how: str) -> Any:
    full = int(np.flatnonzero(counts[:, 0] > 1)[0])
    changed = counts.copy()
    match how:
        case "negative":
            changed[full] *= -1
        case "more right than there":
            changed[full, 1] = changed[full, 0] + 1
        case "other clips":
            changed[full] += [1, 0, changed[full, 2] // changed[full, 0]]
        case "outside its bin":
            changed[full, 2] = 1000 * changed[full, 0] + 1
        case "of another bin":
            changed[[0, full]] = changed[[full, 0]]
        case "other right ones":
            changed[full, 1] -= 1
        case "no whole numbers":
            return changed.astype(float)
        case "too many bins":
            return np.concatenate([changed, changed[:1]])
        case "huge":
            changed[full, 2] = 2**62
    return changed


@pytest.mark.parametrize(
    "how",
    [
        "negative",
        "more right than there",
        "other clips",
        "outside its bin",
        "of another bin",
        "other right ones",
        "no whole numbers",
        "too many bins",
        "huge",
    ],
)
def test_counts_that_do_not_hang_together_are_refused(rng: np.random.Generator, how: str) -> None:
    probabilities, labels = _drawn(rng, 300, boast=0.0)
    counts = reliability_counts(probabilities, labels)
    right = int((probabilities.argmax(1) == labels).sum())
    with pytest.raises(ReleaseError, match="confidences"):
        check_reliability(_spoiled(counts, how), clips=300, right=right)


def test_a_temperature_makes_a_model_that_is_too_sure_as_sure_as_it_is_right(rng: np.random.Generator) -> None:
    honest = rng.dirichlet(np.ones(6), 4000)
    labels = np.array([rng.choice(6, p=row) for row in honest])
    too_sure = tempered(honest, 0.4)
    temperature = fit_temperature(too_sure, labels)
    assert temperature == pytest.approx(1 / 0.4, rel=0.1)
    again = tempered(too_sure, temperature)
    assert surprise(again, labels) < surprise(too_sure, labels) - 0.1
    assert (again.argmax(axis=1) == too_sure.argmax(axis=1)).all()
    assert np.allclose(again.sum(axis=1), 1)
    errors = [expected_calibration_error(reliability_counts(rows, labels)) for rows in (too_sure, again)]
    assert errors[1] is not None and errors[0] is not None and errors[1] < errors[0] / 4


def test_a_temperature_of_certain_and_impossible_classes_is_finite() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(tempered(rows, fit_temperature(rows, np.array([0, 0])))).all()
