"""The rule: never above the cap, never dominated, ties settled, nothing chosen of which nothing is known."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moretta.deploy.sweep.choosing import Candidate, choose

STEPS = st.integers(0, 8).map(lambda n: n / 8)  # coarse, so that ties are common
EXCLUDED = st.sampled_from(["", "", "", "every attacker is invalid"])


def candidate(name: str, uar: float | None, upper: float | None, top1: float | None = None, **more: Any) -> Candidate:
    point = upper if top1 is None else top1
    return Candidate(name=name, modality="voice", section={}, uar=uar, top1_upper=upper, top1=point, **more)


@st.composite
def fields(draw: st.DrawFn) -> list[Candidate]:
    return [
        candidate(str(n), draw(st.none() | STEPS), draw(st.none() | STEPS), excluded=draw(EXCLUDED))
        for n in range(draw(st.integers(0, 6)))
    ]


@given(fields(), STEPS)
def test_what_is_chosen_keeps_the_cap_and_nothing_that_keeps_it_is_better(field: list[Candidate], cap: float) -> None:
    choice = choose(field, cap)
    able = [c for c in field if not c.excluded and c.uar is not None and c.top1_upper is not None]
    keeping = [c for c in able if c.top1_upper is not None and c.top1_upper <= cap]
    assert (choice.chosen is None) == (not keeping)
    assert (choice.nearest is None) == (bool(keeping) or not able)
    if choice.chosen is not None:
        best = choice.chosen
        assert best in keeping
        assert not any(dominates(other, best) for other in keeping)
        assert (best.uar or 0.0) == max(other.uar or 0.0 for other in keeping)
    if choice.nearest is not None:
        assert choice.nearest.top1_upper == min(other.top1_upper or 0.0 for other in able)


def dominates(one: Candidate, other: Candidate) -> bool:
    assert None not in (one.uar, other.uar, one.top1_upper, other.top1_upper)
    better = (one.uar or 0.0) - (other.uar or 0.0), (other.top1_upper or 0.0) - (one.top1_upper or 0.0)
    return min(better) >= 0 and max(better) > 0


def test_equal_emotion_goes_to_the_smaller_upper_end_then_top1_then_to_the_first() -> None:
    field = [candidate("a", 0.5, 0.20), candidate("b", 0.5, 0.15, 0.12), candidate("c", 0.5, 0.15, 0.1)]
    again = candidate("d", 0.5, 0.15, 0.1)
    chosen = choose([*field, again], 0.2).chosen
    assert chosen is not None
    assert chosen.name == "c"


def test_the_upper_end_and_not_the_figure_is_held_against_the_cap() -> None:
    choice = choose([candidate("wide", 0.6, 0.3, 0.1), candidate("narrow", 0.4, 0.15, 0.14)], 0.2)
    assert choice.chosen is not None
    assert choice.chosen.name == "narrow"
