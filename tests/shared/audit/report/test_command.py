from __future__ import annotations

import csv
import io
import json
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from moretta.deploy.cli.report import app
from moretta.shared.audit.report.compare import compare
from moretta.shared.audit.report.page import render_html
from moretta.shared.audit.report.plain_words import identity_sentence, untested
from moretta.shared.audit.report.privacy_card import CARD_SCHEMA_JSON, privacy_card
from moretta.shared.audit.report.report_file import ReportError, write_report
from moretta.shared.audit.report.report_schema import GatePart, Report
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.report.tables import latest, people_by_risk
from moretta.shared.audit.result import Result


def test_page_is_rendered_again_and_the_headline_printed(example: ModuleType, tmp_path: Path) -> None:
    write_report(example.report(), tmp_path)
    (tmp_path / "report.html").unlink()
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 0
    assert (tmp_path / "report.html").is_file()
    assert result.output.startswith("SYNTHETIC INPUT")
    assert "Verdict: fails" in result.output
    assert "would re-identify 6 from one clip" in result.output


def test_json_headline(example: ModuleType, tmp_path: Path) -> None:
    write_report(example.report(), tmp_path)
    content = json.loads(CliRunner().invoke(app, [str(tmp_path), "--json"]).output)
    assert content["synthetic"] is True
    assert content["gate"]["verdict"] == "fails"
    assert [part["modality"] for part in content["headline"]] == ["voice", "face"]
    assert content["headline"][0]["figures"][0]["value"] == 0.562


def test_folder_without_report_is_a_clear_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert isinstance(result.exception, ReportError)
    with pytest.raises(ReportError, match="finished study"):
        raise result.exception


def test_the_schema_is_printed_without_a_folder() -> None:
    printed = json.loads(CliRunner().invoke(app, ["--schema"]).output)
    assert printed["properties"]["format"]["const"] == 2
    assert CliRunner().invoke(app, []).exit_code == 2


def test_every_figure_is_a_line_of_the_csv(example: ModuleType, tmp_path: Path) -> None:
    made = example.report()
    write_report(made, tmp_path)
    lines = list(csv.DictReader(io.StringIO(CliRunner().invoke(app, [str(tmp_path), "--csv"]).output)))
    rows = [*made.audit, *made.inference, *made.utility]
    assert [line["value"] for line in lines] == ["" if row.value is None else str(row.value) for row in rows]
    assert [line["invalid"] for line in lines] == [str(row.invalid) for row in rows]


def test_the_markdown_has_the_verdict_and_no_markup_of_others(example: ModuleType, tmp_path: Path) -> None:
    rows = [row.model_copy(update={"attacker": "a|b\n# c", "scenario": "<b>"}) for row in example.audit()]
    write_report(example.report(audit=tuple(rows)), tmp_path)
    text = CliRunner().invoke(app, [str(tmp_path), "--markdown"]).output
    assert "**Verdict: fails.**" in text and text.startswith("**SYNTHETIC INPUT")
    assert "<b>" not in text and "\n# c" not in text


def test_attackers_of_a_study_that_are_no_list_are_not_counted(example: ModuleType) -> None:
    made = example.report()
    for attackers, said in ((5, False), ("ge2e", False), (["ge2e", "sface"], True)):
        run = made.run.model_copy(update={"study": {"audit": {"attackers": attackers}}})
        text = " ".join(untested(made.model_copy(update={"run": run})))
        assert ("Other attackers than the 2 that" in text) == said == ("Other attackers" in text)


def test_an_attacker_failed_if_it_is_valid_in_no_scenario_of_releases(example: ModuleType) -> None:
    rows = [row for row in example.audit(("voice",)) if row.subset == "all" and row.pooled == 1]
    name = next(row.attacker for row in rows if row.scenario == "semi-informed" and not row.invalid)
    for scenarios, failed in ((("ignorant",), False), (("ignorant", "lazy-informed", "semi-informed"), True)):
        made = [
            row.model_copy(update={"invalid": True, "value": None, "reason": "codes were released"})
            if row.attacker == name and row.scenario in scenarios
            else row
            for row in rows
        ]
        text = " ".join(untested(example.report(audit=tuple(made))))
        invalid = text.partition("their figures are invalid: ")[2].partition(".")[0].split(", ")
        assert (name in invalid) == failed


def of_pools(row: Result, pooled: int, value: float | None, reason: str = "") -> Result:
    """The row of an attacker of pools in place of this one."""
    about = {"attacker": "pools", "pooled": pooled, "value": value, "invalid": bool(reason), "reason": reason}
    return row.model_copy(update=about)


def test_an_attacker_of_pools_failed_by_its_pools_and_not_where_nobody_has_clips_enough(example: ModuleType) -> None:
    rows = example.audit(("voice",))
    best = next(r for r in rows if (r.scenario, r.metric, r.subset) == ("semi-informed", "top1", "all"))
    few = of_pools(best, 30, None, "no speaker has 30 trial clips")
    broken = of_pools(best, 3, 0.1, "it cannot break unprotected data")
    for made, failed in (([few], False), ([of_pools(best, 3, 0.9), few], False), ([broken, few], True)):
        text = " ".join(untested(example.report(audit=(*rows, *made))))
        invalid = text.partition("their figures are invalid: ")[2].partition(".")[0].split(", ")
        assert ("pools" in invalid) == failed


def test_the_strongest_attacker_of_each_number_of_pooled_clips_is_shown(example: ModuleType) -> None:
    rows = list(example.audit(("voice",)))
    best = next(r for r in rows if (r.scenario, r.metric, r.subset) == ("semi-informed", "top1", "all"))
    invalid = of_pools(best, 3, 0.99, "it cannot break unprotected data")
    shown = people_by_risk([*rows, invalid, of_pools(best, 10, 0.99)])
    assert shown is not None
    groups = {name: row.value for name, row in shown["groups"] if "clips" in name}
    assert groups == {
        "3 clips of a person, by logistic-regression (semi-informed)": 0.71,
        "10 clips of a person, by pools (semi-informed)": 0.99,
    }


def test_pools_alone_are_shown_where_no_attacker_of_single_clips_counts(example: ModuleType) -> None:
    rows = example.audit(("voice",))
    best = next(r for r in rows if (r.scenario, r.metric, r.subset) == ("semi-informed", "top1", "all"))
    pools = [of_pools(best, 3, 0.71), of_pools(best, 10, 0.99)]
    broken = [row.invalidated("it cannot break unprotected data") for row in rows]
    for audit in (pools, [*broken, *pools]):
        shown = people_by_risk(audit)
        assert shown is not None and [row.value for _, row in shown["groups"]] == [0.71, 0.99]
        (part,) = headlines(audit, None)
        said = identity_sentence(part, audit)
        assert "From 10 clips of each person: 10" in said and "Nothing is known" not in said
        page = " ".join(render_html(example.report(audit=tuple(audit), headline=(part,))).split())
        assert page.count(">pools, 3 clips<") == 1  # in the tables, not in the heat map
        assert ">pools, 10 clips<" not in page
        assert "10 clips of a person, by pools" in page and "very attacker is invalid or absent" not in page
    assert "Nothing is known" in identity_sentence(part, broken)
    assert people_by_risk(broken) is None


def people(example: ModuleType, shares: dict[str, float]) -> Report:
    """A report whose strongest attacker of voices has these figures of single people."""
    rows = list(example.audit(("voice",)))
    best = next(row for row in rows if row.scenario == "semi-informed" and row.metric == "top1")
    single = [best.model_copy(update={"subset": name, "value": share}) for name, share in shares.items()]
    made: Report = example.report(audit=(*rows, *single))
    return made


def test_two_reports_are_compared_over_the_same_people(example: ModuleType, tmp_path: Path) -> None:
    names = [f"{number:016x}" for number in range(8)]
    ease = np.linspace(0.1, 0.8, 8)  # people differ by far more than the two reports do
    first = people(example, dict(zip(names, ease.tolist(), strict=True)))
    second = people(example, dict(zip(names[1:], (ease[1:] + 0.1).tolist(), strict=True)))
    for folder, made in (("a", first), ("b", second)):
        (tmp_path / folder).mkdir()
        write_report(made, tmp_path / folder)
    top1, eer = compare(first, second)
    assert (top1.people, top1.difference, top1.low, top1.high) == (7, *[pytest.approx(0.1)] * 3)
    assert top1.meaning == "the second leaks more" and compare(second, first)[0].meaning == "the second leaks less"
    assert eer.people == 0 and eer.difference is None
    output = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")]).output
    assert "Over the same 7 people: +10.0 points [10.0, 10.0]" in output


def test_people_who_change_both_ways_show_no_difference(example: ModuleType) -> None:
    names = [f"{number:016x}" for number in range(6)]
    second = people(example, {name: 0.5 + 0.2 * (-1) ** number for number, name in enumerate(names)})
    top1, _ = compare(people(example, dict.fromkeys(names, 0.5)), second)
    assert top1.low is not None and top1.low < 0 < (top1.high or 0.0)
    assert top1.meaning == "no difference that these people could show"


def test_the_card_has_the_weakest_guarantee_the_strongest_attackers_and_its_published_schema(
    example: ModuleType, tmp_path: Path
) -> None:
    made = example.report()
    write_report(made, tmp_path)
    card = json.loads(CliRunner().invoke(app, [str(tmp_path), "--card"]).output)
    schema = json.loads(CliRunner().invoke(app, ["--card", "--schema"]).output)
    assert schema == json.loads((files("moretta.shared.audit.report") / CARD_SCHEMA_JSON).read_text(encoding="utf-8"))
    validator = Draft202012Validator(schema)
    assert not list(validator.iter_errors(card))
    assert list(validator.iter_errors({**card, "verdict": "private"}))
    assert (card["synthetic"], card["verdict"]) == (True, made.gate.verdict)
    assert card["re_identification"] == [part.model_dump(mode="json") for part in made.headline]
    for guarantee in card["guarantees"]:
        rows = [r for r in latest(made.privacy) if (r.mechanism, r.unit) == (guarantee["mechanism"], guarantee["unit"])]
        unbounded = any(row.epsilon is None for row in rows)
        assert guarantee["epsilon"] == (None if unbounded else max(row.epsilon for row in rows))
    assert len(card["guarantees"]) == len({(row.mechanism, row.unit) for row in made.privacy}) > 1
    valid = [r for r in made.inference if r.is_whole and not r.is_anchor and r.attack == "attribute"]
    found = [f for f in card["inferred"] if f["attack"] == "attribute"]
    assert {(f["target"], f["modality"], f["metric"]) for f in found} == {
        (r.target, r.modality, r.metric) for r in valid
    }
    for f in found:
        same = [r for r in valid if (r.target, r.modality, r.metric) == (f["target"], f["modality"], f["metric"])]
        assert f["value"] == max(r.value for r in same)


def test_a_card_of_a_study_with_nothing_says_so(example: ModuleType) -> None:
    card = privacy_card(example.report(audit=(), inference=(), privacy=(), headline=(), gate=GatePart(passed=True)))
    assert (card.verdict, card.guarantees, card.re_identification, card.inferred) == ("inconclusive", (), (), ())
    assert card.untested
