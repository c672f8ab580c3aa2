from __future__ import annotations

import pytest

from moretta.shared.core.workers import Pace, in_lines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("total", [1, 7, 10, 1000])
def test_the_start_and_the_end_are_reported_and_no_more_than_each_tenth(total: int) -> None:
    reported: list[tuple[str, int, int]] = []
    pace = Pace(lambda *event: reported.append(event), "reading", total, clock=Clock())
    for _ in range(total):
        pace.step()
    assert reported[0][1] == 0 and reported[-1] == ("reading", total, total)
    assert len(reported) <= 11


def test_slow_steps_are_reported_one_by_one_with_the_time_that_is_left() -> None:
    lines: list[str] = []
    clock = Clock()
    pace = Pace(in_lines(lines.append), "training the face autoencoder", 200, clock=clock)
    for _ in range(3):
        clock.now += 15.0
        pace.step()
    assert lines[0] == "training the face autoencoder: 0/200"
    assert lines[-1] == "training the face autoencoder: 3/200, about 2955 s left"
    assert len(lines) == 4


def test_nothing_to_do_and_nobody_who_listens_are_silent() -> None:
    reported: list[object] = []
    Pace(lambda *event: reported.append(event), "reading", 0)
    Pace(None, "reading", 3).step()
    assert reported == []
