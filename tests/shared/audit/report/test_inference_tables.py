from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from moretta.shared.audit.report import summary
from moretta.shared.audit.report.page import render_html
from moretta.shared.audit.report.report_file import write_report
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.audit.report.tables import MEANINGS, inference_sentence, inference_tables
from moretta.shared.audit.report.wording import INVALID
from moretta.shared.audit.result import Result

HOSTILE = "<script>alert(1)</script>{{ 7*7 }}"


@pytest.fixture(scope="module")
def section(example: ModuleType) -> str:
    page = render_html(example.report())
    found = re.search(r'<section id="inference">.*?</section>', page, re.DOTALL)
    assert found is not None and '<a href="#inference">' in page
    return found.group()


def rows(section: str) -> list[str]:
    return re.findall(r"<tr.*?</tr>", section, re.DOTALL)


def test_every_figure_stands_beside_its_chance(section: str, example: ModuleType) -> None:
    shown = [row for row in rows(section) if "<td" in row and "colspan" not in row]
    assert len(shown) == len(tuple(example.inference()))
    for row in shown:
        value, chance = re.findall(r'<td class="num(?: invalid)?">(?:<span class="value[^>]*>)?([^<]*)', row)[:2]
        assert ("%" in value or value == "0.633") == (value != "–") and (value == "–" or chance != "–")


def test_invalid_figures_are_marked_in_their_cells_and_say_why(section: str) -> None:
    invalid = [row for row in rows(section) if '<td class="num invalid">' in row]
    reasons = [row for row in rows(section) if row.startswith('<tr class="reason">')]
    assert len(invalid) == len(reasons) == 2
    assert all(INVALID in row for row in (*invalid, *reasons))
    assert any("12 middle" in row for row in reasons) and any("1000 are needed" in row for row in reasons)


def test_every_attack_is_put_into_a_plain_sentence(section: str, example: ModuleType) -> None:
    tables = inference_tables(tuple(example.inference()))
    assert [t["attack"] for t in tables] == ["attribute", "inversion", "cross-modal", "membership", "updates"]
    assert all(MEANINGS[t["attack"]].endswith((".", "?")) for t in tables)
    assert all(MEANINGS[t["attack"]].replace("'", "&#39;") in section for t in tables)
    verdicts = {t["attack"]: t["verdicts"] for t in tables}
    assert verdicts["attribute"][0].endswith("Leaks.") and "88.3 %" in verdicts["attribute"][0]
    assert "no evidence of privacy" in verdicts["attribute"][1]
    assert "guessing" in verdicts["inversion"][0] and "41.7 %" in verdicts["inversion"][0]
    assert "guessing" in verdicts["membership"][0]  # its interval lies above chance, but so would one of chosen people


def test_anchors_and_invalid_figures_are_never_shown_as_leaks(section: str) -> None:
    alarmed = [row for row in rows(section) if "alarm" in row]
    assert len(alarmed) == 1 and "released clips" in alarmed[0]


def test_the_summary_names_what_leaks(example: ModuleType) -> None:
    sentence = next(s for s in summary.findings(example.report()) if s.startswith("Beyond identity"))
    assert "sex" in sentence and "chance 50.0 %" in sentence and "membership" not in sentence
    harmless = [f for f in example.inference() if not f.leaks]
    assert "none of" in (inference_sentence(harmless) or "")
    invalid = [f for f in example.inference() if f.invalid]
    assert "not evidence of privacy" in (inference_sentence(invalid) or "")
    assert inference_sentence(()) is None


def test_texts_of_findings_are_escaped(example: ModuleType) -> None:
    odd = [
        f.model_copy(
            update={"attacker": HOSTILE, "target": HOSTILE, "reason": HOSTILE, "note": HOSTILE, "layer": HOSTILE}
        )
        for f in example.inference()
    ]
    page = render_html(example.report(inference=tuple(odd)))
    assert "<script" not in page and "{{ 7*7 }}" in page


def test_a_report_without_the_attacks_has_no_section(example: ModuleType) -> None:
    assert 'id="inference"' not in render_html(example.report(inference=()))


def test_findings_survive_the_json(example: ModuleType, tmp_path: Path) -> None:
    made = example.report()
    write_report(made, tmp_path)
    again = Report.model_validate_json((tmp_path / "report.json").read_bytes())
    assert again.inference == made.inference and isinstance(again.inference[0], Result)
