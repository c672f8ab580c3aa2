"""The leaderboard of a zoo: sorted by every order, the front marked, filtered without a script, and escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from moretta.shared.audit.report.zoo_page import ORDERS, board_figure, on_front, ordered, render_zoo
from moretta.shared.audit.report.zoo_rows import COLUMNS, MEAN, ZooFigure, ZooReport, ZooRow


def row(system: str, *, failed: str = "", half: str = MEAN, **values: float) -> ZooRow:
    figures = {n: ZooFigure(value=values.get(n), why="" if n in values else "no sound") for n in COLUMNS}
    return ZooRow(system=system, setting="s", half=half, figures=figures, failed=failed)


ROWS = (
    row("loud", uar=0.6, top1_ignorant=0.1, top1_semi=0.9, eer_lazy=0.3, eer_semi=0.1, wer=0.1, sex=0.9),
    row("quiet", uar=0.4, top1_ignorant=0.2, top1_semi=0.1, eer_lazy=0.5, eer_semi=0.4, wer=0.8, sex=0.5),
    row("worse", uar=0.3, top1_semi=0.2, eer_semi=0.3, sex=0.7),
    row("blind", uar=0.5),
    row("<b>broken</b>", failed="the disk & all"),
    row("loud", half="first half", uar=0.1, top1_semi=0.0),
)
BOARD = ROWS[:5]


def page(rows: tuple[ZooRow, ...] = ROWS) -> str:
    about = {"name": "zoo", "synthetic": False, "people": ("12 people.",), "command": "moretta zoo", "finished": "2026"}
    return render_zoo(ZooReport.model_validate({**about, "rows": rows, "versions": {"moretta": "0"}, "seconds": 1.0}))


def test_the_strongest_attacker_of_any_scenario_counts() -> None:
    assert board_figure(ROWS[0], "top1").value == 0.9 and board_figure(ROWS[0], "eer").value == 0.1
    assert board_figure(ROWS[1], "top1").value == 0.2
    assert board_figure(ROWS[3], "top1").why == "no sound"


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("re-identified least (top-1)", ["quiet", "worse", "loud"]),
        ("re-identified least (EER)", ["quiet", "worse", "loud"]),
        ("most emotion", ["loud", "blind", "quiet", "worse"]),
        ("fewest word errors", ["loud", "quiet"]),
        ("sex inferred least", ["quiet", "worse", "loud"]),
    ],
)
def test_each_order_has_the_best_first_and_missing_figures_and_failures_last(order: str, names: list[str]) -> None:
    found = [r.system for r in ordered(BOARD[::-1], *ORDERS[order])]
    assert found[: len(names)] == names
    assert set(found) == {r.system for r in BOARD} and found[-1] == "<b>broken</b>"


def test_the_front_is_of_rows_that_no_other_beats_in_both() -> None:
    assert [r.system for r in on_front(BOARD)] == ["loud", "quiet"]


class _Tables(HTMLParser):
    """Rows and classes of the tables of the leaderboard, and the inputs of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: list[tuple[str, list[str]]] = []
        self.inputs: list[dict[str, str | None]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "div":
            self.inside = "order" in str(given.get("class")).split()
            if self.inside:
                self.orders.append((str(given["class"]), []))
        if tag == "tr" and self.inside and given.get("class"):
            self.orders[-1][1].append(str(given["class"]))
        if tag == "input":
            self.inputs.append(given)


def test_the_page_is_sorted_and_filtered_by_its_style_alone_under_its_own_policy() -> None:
    text = page()
    read = _Tables()
    read.feed(text)
    assert [name.split()[-1] for name, _ in read.orders] == [f"o{n}" for n in range(len(ORDERS))]
    numbers = {system: n for n, system in enumerate(("loud", "quiet", "worse", "blind", "<b>broken</b>"))}
    for (_, rows), by in zip(read.orders, ORDERS.values(), strict=True):
        assert [c.split()[0] for c in rows] == [f"y{numbers[r.system]}" for r in ordered(BOARD, *by)]
        assert sum("best" in c for c in rows) == 2
    ids = {str(given["id"]) for given in read.inputs}
    assert len(ids) == len(read.inputs) == len(ORDERS) + len(numbers) + 1
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    for name in ids - {"o0"}:
        assert re.search(rf"main:has\(#{name}:(checked|not\(:checked\))\)", style), name
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src &#39;sha256-{digest}&#39;" in text and "default-src &#39;none&#39;" in text
    assert not re.search(r"<script|src=|url\(|@import|https?:(?!//www\.w3)", text)
    assert "<b>" not in text and "&lt;b&gt;broken&lt;/b&gt;" in text and "the disk &amp; all" in text


def test_what_has_no_figure_has_no_rank() -> None:
    text = page((row("a", failed="no"),))
    assert "failed, see below" in text and '<td class="num">1</td>' not in text
    assert page().count('<td class="num">1</td>') == len(ORDERS) - 2  # nobody has 10 clips, or the same expression
