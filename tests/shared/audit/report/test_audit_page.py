from __future__ import annotations

import re
from types import ModuleType
from typing import Any

from moretta.shared.audit.report.page import render_audit
from moretta.shared.audit.report.report_schema import GatePart

HOSTILE = "<script>alert(1)</script>"


def page(example: ModuleType, **changes: Any) -> str:
    facts = {
        "gate": example.report().gate,
        "name": "releases",
        "seed": 1,
        "command": "moretta audit releases",
    } | changes
    return render_audit(tuple(example.audit()), tuple(example.inference()), tuple(example.utility()), **facts)


def test_the_page_leads_with_the_strongest_attacker_beside_chance_and_unprotected(example: ModuleType) -> None:
    summary = page(example).partition('id="summary"')[2].partition('id="identity"')[0]
    assert "56.2 %" in summary and "≤ 16.7 %" in summary
    assert "would re-identify 6" in summary
    assert "Guessing finds 1; unprotected recordings give away 10." in summary
    assert "voice-forest recognises it in releases" in summary


def test_without_originals_the_page_says_that_nothing_is_shown(example: ModuleType) -> None:
    assert "No originals were given" in page(example, originals=False)
    assert "No originals were given" not in page(example)


def test_what_was_left_out_is_counted(example: ModuleType) -> None:
    assert "voice damaged 3" in page(example, unused=(("voice damaged", 3),))


def test_hostile_text_stays_text_and_nothing_is_loaded(example: ModuleType) -> None:
    made = page(example, name=HOSTILE, command=HOSTILE)
    assert HOSTILE not in made
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", made)


def test_an_audit_without_evaluators_and_findings_is_still_a_page(example: ModuleType) -> None:
    made = render_audit(
        tuple(example.audit()), (), (), gate=GatePart(passed=True), name="releases", seed=1, command="moretta audit"
    )
    assert 'id="inference"' not in made
    assert 'id="utility"' not in made
    assert 'id="identity"' in made


def test_synthetic_people_are_announced_before_anything_else(example: ModuleType) -> None:
    assert "SYNTHETIC INPUT" not in page(example)
    made = page(example, synthetic=True)
    assert made.index("SYNTHETIC INPUT") < made.index("<h1>")
