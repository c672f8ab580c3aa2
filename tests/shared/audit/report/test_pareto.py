"""The front against what it means, spelled out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moretta.shared.audit.report.sweep_rows import pareto_front

COORDINATE = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]) | st.floats(-1, 1)


def by_brute_force(points: list[tuple[float, float]]) -> list[bool]:
    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] >= other[0] and one[1] >= other[1] and one != other

    return [not any(beats(other, point) for other in points) for point in points]


@given(st.lists(st.tuples(COORDINATE, COORDINATE), max_size=30))
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    assert pareto_front(points) == by_brute_force(points)


def test_of_equal_points_all_stay() -> None:
    assert pareto_front([(1.0, 1.0), (1.0, 1.0), (1.0, 0.5)]) == [True, True, False]
