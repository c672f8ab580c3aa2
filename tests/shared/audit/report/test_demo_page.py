"""The page of the demonstration says what its two reports say, claims no more, and loads nothing."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from moretta.shared.audit.report.demo_page import (
    ComparedStudy,
    Figure,
    ShownClip,
    ShownForm,
    emotion_figures,
    emotion_state,
    figure_lines,
    identity_figures,
    identity_state,
    render_demo,
)
from moretta.shared.audit.report.wording import interval, percent
from moretta.shared.study.schema import parse_study

DATA = "data:audio/wav;base64,UklGRg=="
AT_CHANCE = "not distinguishable from guessing"
UNKNOWN = ("too few people to tell", "inconclusive")
PICTURE = "data:image/png;base64,iVBORw0KGgo="


def studies(example: Any) -> list[ComparedStudy]:
    """Two studies of the same people; of the second no attacker of voice is left."""
    report = example.report()
    protecting = parse_study(
        {"voice": {"anonymizer": "speaker-normalized"}, "face": {"anonymizer": "expression-track"}}
    )
    content = {**report.run.study, **{m: protecting.model_dump(mode="json")[m] for m in ("voice", "face")}}
    run = report.run.model_copy(update={"study": content})
    faces = tuple(row for row in report.audit if row.modality == "face")
    emotion = report.emotion.model_copy(update={"fused": example.emotion(9, 0.9)})
    other = example.report(run=run, audit=faces, emotion=emotion)
    return [ComparedStudy("First", "first", report), ComparedStudy("Second <b>", "second", other)]


def rendered(example: Any) -> str:
    """The page on them, with one clip to see, and to hear or to read."""
    original, read = ShownForm(DATA, (), (PICTURE,) * 3), ShownForm("", (0.5, -1.25), (PICTURE,))
    return render_demo(studies(example), [ShownClip("A speaker", original, (original, read))], command="moretta demo")


@pytest.fixture
def compared(example: Any) -> list[ComparedStudy]:
    return studies(example)


@pytest.fixture
def page(example: Any) -> str:
    return rendered(example)


def test_each_figure_stands_beside_chance_and_interval(page: str, compared: list[ComparedStudy]) -> None:
    cells = re.findall(r'<td class="(?:fails|passes|inconclusive)">.*?</td>', page)
    figures = [emotion_figures(s.report)["fused"] for s in compared]
    figures += [f for s in compared for f in identity_figures(s.report).values()]
    assert len(cells) == len(figures) == 5
    for figure in figures:
        wanted = (percent(figure.value), interval(figure.low, figure.high), f"guessing: {percent(figure.chance)}")
        assert any(all(part in cell for part in wanted) for cell in cells), figure
    assert page.count("<td>–</td>") == 1  # the second study's voice


@pytest.mark.parametrize(
    ("figure", "identity", "emotion"),
    [
        ((0.9, 0.8, 0.95), ("people are re-identified", "fails"), ("7.2 times guessing", "passes")),
        ((0.2, 0.13, 0.3), ("little above guessing", "inconclusive"), ("1.6 times guessing", "passes")),
        ((0.2, 0.1, 0.24), (AT_CHANCE, "passes"), (AT_CHANCE, "fails")),
        ((0.2, 0.1, 0.26), (AT_CHANCE, "inconclusive"), (AT_CHANCE, "fails")),  # reaches beyond twice chance
        ((0.9, None, None), UNKNOWN, UNKNOWN),
    ],
)
def test_words_follow_from_the_interval(figure: tuple[float, Any, Any], identity: Any, emotion: Any) -> None:
    found = Figure(*figure, 0.125, "an attacker")
    assert identity_state(found) == identity
    assert emotion_state(found) == emotion


def test_page_is_marked_synthetic_loads_nothing_and_leads_to_the_reports(page: str) -> None:
    assert "SYNTHETIC INPUT" in page.partition("<main>")[0]
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {a for a in addresses if not a.startswith(("#", "data:"))} == {"first/report.html", "second/report.html"}
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', html.unescape(page))
    assert policy[0].startswith("default-src 'none'") and policy[0].endswith("img-src data:; media-src data:")
    assert "<b>" not in page and page.count("<audio") == 2 and "+0.50 -1.25" in page


def test_lines_of_text_have_the_same_figures_and_words(compared: list[ComparedStudy]) -> None:
    first, second = map(figure_lines, compared)
    assert first[0] == "First (mfcc-quantizer, autoencoder)"
    assert [line.partition(":")[0] for line in first[1:]] == ["  emotion", "  person, by voice", "  person, by face"]
    figure = identity_figures(compared[0].report)["voice"]
    known = f"{percent(figure.value)} {interval(figure.low, figure.high)}, guessing {percent(figure.chance)}"
    assert first[2] == f"  person, by voice: {known}: {identity_state(figure)[0]}"
    assert len(second) == 3


def test_without_clips_to_show_the_figures_are_there(compared: list[ComparedStudy]) -> None:
    page = render_demo(compared, [], command="moretta demo")
    assert "Person re-identified" in page and "<img" not in page
