"""The page of a choice has all candidates on one plot, and which one was chosen and why."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from moretta.deploy.sweep.choice_page import draw_candidates, state_of
from moretta.deploy.sweep.choosing import choose

_spec = importlib.util.spec_from_file_location("choices", Path(__file__).with_name("choices.py"))
assert _spec is not None and _spec.loader is not None
choices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(choices)


def test_every_candidate_with_figures_is_one_numbered_mark_and_a_row() -> None:
    chart = draw_candidates(choose(choices.FIELD, 0.2))
    assert chart is not None
    assert [tip.split(",")[0] for tip in chart.tips.values()] == ["1", "2", "3"]
    page = choices.page()
    assert [int(n) for n in re.findall(r'<tr><td class="num">(\d+)</td><th scope="row">', page)] == [1, 2, 3, 4]
    assert "codes &lt;b&gt;" in page and "codes <b>" not in page
    assert "SYNTHETIC INPUT" in page
    assert "Chosen: labels" in page


def test_each_candidate_has_the_reason_why_it_was_chosen_or_not() -> None:
    choice = choose(choices.FIELD, 0.2)
    assert [state_of(c, choice) for c in choice.candidates] == [
        "chosen",
        "above the cap",
        "keeps the cap, with less emotion",
        "its audit failed",
    ]
    kept = choices.page(cap=0.09)
    assert "No candidate keeps the cap" in kept
    assert "Nearest to the cap of 9.0 % is constant" in kept


def test_a_choice_without_any_figure_has_a_page_without_a_plot() -> None:
    assert draw_candidates(choose(choices.FIELD[3:], 0.2)) is None
