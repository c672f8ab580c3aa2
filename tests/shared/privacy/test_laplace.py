import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.privacy.local_mechanisms import LaplaceValues, values_per_unit

positive = st.floats(0.01, 100)


def test_the_original_mechanism_composes_to_2704_over_a_clip():
    """ANCHORS.md: 13 coefficients, 260 frames, 0.8 a value."""
    original = LaplaceValues(epsilon=0.8, sensitivity=0.5, bound=None)
    clip = original.statements({"a": [260, 100]}, 13, mechanism="m", note="")[2]
    assert clip.unit == "clip"
    assert clip.nominal == pytest.approx(2704)
    assert clip.epsilon is None


@given(
    positive, positive, positive, st.lists(st.lists(st.integers(1, 500), min_size=1), min_size=1), st.integers(1, 40)
)
def test_figures_are_the_worst_clip_and_speaker_by_basic_composition(epsilon, sensitivity, bound, speakers, width):
    laplace = LaplaceValues(epsilon=epsilon, sensitivity=sensitivity, bound=bound)
    rows = laplace.statements({str(i): s for i, s in enumerate(speakers)}, width, mechanism="m", note="")
    per_value = 2 * bound * epsilon / sensitivity
    values = {
        "value": 1,
        "frame": width,
        "clip": width * max(max(s) for s in speakers),
        "speaker": width * max(sum(s) for s in speakers),
    }
    assert [row.unit for row in rows] == list(values)
    for row in rows:
        assert row.epsilon == pytest.approx(per_value * values[row.unit])
        assert row.nominal == pytest.approx(epsilon * values[row.unit])


def test_guarantee_is_the_largest_log_ratio_of_densities_and_is_reached():
    """The definition itself: densities of the noisy vector for the two clips that differ most."""
    laplace = LaplaceValues(epsilon=0.8, sensitivity=0.5, bound=3.0)
    low, high, scale = np.full(5, -3.0), np.full(5, 3.0), laplace.scale
    outputs = np.random.default_rng(1).normal(0, 10, (2000, 5))
    outputs[0] = 4.0
    ratio = (np.abs(outputs - low) - np.abs(outputs - high)).sum(axis=1) / scale
    assert ratio.max() == pytest.approx(laplace.guaranteed(5))


def test_noise_drawn_twice_costs_twice():
    once = LaplaceValues(epsilon=1.0, sensitivity=1.0, bound=1.0)
    twice = LaplaceValues(epsilon=1.0, sensitivity=1.0, bound=1.0, uses=2)
    assert twice.guaranteed(7) == 2 * once.guaranteed(7)
    assert twice.nominal(7) == 2 * once.nominal(7)


def test_nothing_released_costs_nothing():
    assert values_per_unit({}, 13)["speaker"] == 0
    assert values_per_unit({"a": []}, 13)["clip"] == 0
