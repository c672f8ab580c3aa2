from __future__ import annotations

import re
from types import ModuleType

from moretta.shared.audit.report.page import render_html


def _lines(page: str) -> dict[str, list[str]]:
    """Figures of each evaluator's line, by name."""
    section = re.search(r'<section id="emotion">.*?</section>', page, re.DOTALL)
    assert section is not None
    table = section.group().partition("by utility evaluators")[2]
    found = {}
    for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL):
        name = re.search(r'<th scope="row">([\w-]+)', row)
        if name is not None:
            found[name.group(1)] = re.findall(r'<td[^>]*>(?:<span class="value">)?([^<]+)', row)
    return found


def test_every_evaluator_has_a_line_of_originals_releases_and_transfer(example: ModuleType) -> None:
    lines = _lines(render_html(example.report()))
    assert [text.strip() for text in lines["voice-forest"]] == ["41.2", "34.4", "18.7", "16.7"]
    assert [text.strip() for text in lines["face-api-expression"]] == ["67.1", "29.8", "–", "16.7"]


def test_an_absent_evaluator_states_how_to_get_it_and_is_no_zero(example: ModuleType) -> None:
    (cell,) = _lines(render_html(example.report()))["hubert-emotion"]
    assert "Absent: no weights" in cell


def test_words_melody_and_landmarks_stand_in_a_table_of_their_own_beside_originals(example: ModuleType) -> None:
    page = render_html(example.report())
    section = page.partition("Remaining content")[2].partition("</table>")[0]
    rows = re.findall(r"<tr><th scope=.row.*?</tr>", section, re.DOTALL)
    assert len(rows) == 3
    assert re.findall(r'class="value">([^<]+)', rows[0]) == ["3.1 %", "62.0 %"]
    assert "fewer than half of 48 clips have pitch" in rows[1] and 'class="value"' not in rows[1]
    assert "Landmark error" in rows[2] and re.findall(r'class="value">([^<]+)', rows[2]) == ["0.021"]
    assert "everybody gets one face" in section and "pocketsphinx" not in _lines(page)
    emotion_alone = [row for row in example.utility() if row.target == "emotion"]
    assert "Remaining content" not in render_html(example.report(utility=tuple(emotion_alone)))


def test_without_evaluators_there_is_no_table(example: ModuleType) -> None:
    assert "by utility evaluators" not in render_html(example.report(utility=()))
