"""Names that others read from report.json: a change here breaks them."""

from __future__ import annotations

import json
import shutil
import tomllib
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from moretta.shared.audit.report.report_file import (
    SCHEMA_JSON,
    ReportError,
    load_report,
    report_json_schema,
    write_report,
)
from moretta.shared.audit.report.report_schema import EmotionResults, Report
from moretta.shared.audit.report.summary import headlines
from moretta.shared.audit.result import Result, of_emotion
from moretta.shared.core.errors import ExitCode, MorettaError
from moretta.shared.core.printable import to_toml
from moretta.shared.study.schema import Study

EMOTION = {"accuracy", "uar", "classes", "per_class", "confusion", "clips", "speakers", "three_class"}
AUDIT = {"modality", "attacker", "kind", "scenario", "metric", "value", "low", "high", "chance", "speakers", "invalid"}
PRIVACY = {"site", "mechanism", "unit", "epsilon", "delta", "nominal"}
CORPUS = {"name", "synthetic", "clips", "speakers", "dropped"}
RUN = {"seed", "versions", "command", "seconds"}


def test_contract_of_names(example: ModuleType, tmp_path: Path) -> None:
    write_report(example.report(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["format"] == 2
    for modality in ("voice", "face", "fused"):
        assert content["emotion"][modality].keys() >= EMOTION
    assert content["audit"] and all(row.keys() >= AUDIT for row in content["audit"])
    assert content["privacy"] and all(row.keys() >= PRIVACY for row in content["privacy"])
    assert content["corpus"].keys() >= CORPUS
    assert content["run"].keys() >= RUN
    assert content["gate"].keys() >= {"passed", "broken"}


def test_what_is_written_is_read_back_the_same(example: ModuleType, tmp_path: Path) -> None:
    report = example.report()
    write_report(report, tmp_path)
    assert load_report(tmp_path) == report
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_never_reaches_the_json(example: ModuleType, value: float) -> None:
    row = next(example.audit())
    with pytest.raises(ValidationError):
        Result.model_validate(row.model_dump() | {"value": value})
    study = Study().model_dump(mode="json") | {"odd": value}
    with pytest.raises(ValueError, match="JSON"):
        Report.model_validate(example.report().model_dump() | {"run": example.run(study=study).model_dump()})


@pytest.mark.parametrize("version", [0, 3, "1", None, True])
def test_another_format_is_refused_by_name(example: ModuleType, tmp_path: Path, version: object) -> None:
    content = json.loads(example.report().model_dump_json()) | {"format": version}
    (tmp_path / "report.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ReportError, match="format"):
        load_report(tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"format": 1}', b'{"format": NaN}', b"[" * 100_000],
    ids=["empty", "cut", "list", "not-utf8", "nothing", "nan", "deep"],
)
def test_damaged_report_is_a_clear_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(MorettaError, match=r"report\.json") as caught:
        load_report(tmp_path)
    assert caught.value.exit_code == ExitCode.RELEASE
    assert caught.value.fix


def test_missing_report_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        load_report(tmp_path)


def test_absent_modality_needs_a_reason(example: ModuleType) -> None:
    with pytest.raises(ValidationError, match="reason"):
        EmotionResults(voice=example.emotion(1, 0.4))


def test_headline_is_the_strongest_that_is_not_invalid(example: ModuleType) -> None:
    voice, face = example.report().headline
    top1, eer = voice.figures
    assert (top1.attacker, top1.scenario, top1.value, top1.unprotected) == (
        "logistic-regression", "semi-informed", 0.562, 0.97,
    )  # fmt: skip
    assert eer.attacker == "logistic-regression"  # the invalid one with an EER of 2 % is not
    assert face.figures[0].attacker == "small-resnet"


def test_all_invalid_leaves_no_headline_figure(example: ModuleType) -> None:
    rows = [row.model_copy(update={"invalid": True}) for row in example.audit(("face",))]
    (face,) = headlines(rows, EmotionResults(absent=dict.fromkeys(("voice", "face", "fused"), "no")))
    assert face.figures == ()


def test_study_file_of_the_report_defines_the_same_study() -> None:
    study = Study(name="Pilot 2", gate={"max_top1": 0.5}, train={"strategy_options": {"tau": 1e-9, "on": True}})
    content = tomllib.loads(to_toml(study.model_dump(mode="json")))
    assert Study.model_validate(content) == study


@pytest.mark.parametrize("text", ['a"b', "a\\b", "tab\tline\n", "\x7f\x00", "Ω 𝄞", "]\n[gate]\nmax_top1 = 1"])
def test_odd_text_survives_toml(text: str) -> None:
    assert tomllib.loads(to_toml({"a": {text: text, "list": [text, 1]}})) == {"a": {text: text, "list": [text, 1]}}


NEW = ("attack", "target", "note", "layer", "p_value")
"""Keys that rows on identity had not in format 1."""


def former_row(row: dict[str, Any]) -> dict[str, Any]:
    absent = (*NEW, "invalid", "candidate")
    return {key: value for key, value in row.items() if key not in absent} | {"void": row["invalid"]}


def former_finding(row: dict[str, Any]) -> dict[str, Any]:
    former = {"unprotected": "original", "semi-informed": "released", "ignorant": "released"}
    kept = {key: row[key] for key in ("modality", "attacker", "metric", "value", "low", "high", "chance", "clips")}
    kept |= {key: row[key] for key in (*NEW, "reason")} | {"people": row["speakers"], "void": row["invalid"]}
    return kept | {"source": former.get(row["scenario"], row["scenario"])}


def former_utility(row: dict[str, Any]) -> dict[str, Any]:
    sides = {"unprotected": ("original", "original"), "semi-informed": ("released", "released")}
    trained, tested = sides.get(row["scenario"], ("original", "released"))
    kept = {key: row[key] for key in ("modality", "kind", "low", "high", "chance", "speakers", "clips", "reason")}
    trained = "public" if row["kind"] == "pretrained" else trained
    return kept | {"judge": row["attacker"], "uar": row["value"], "trained_on": trained, "judged_on": tested}


def test_a_report_of_format_1_is_read_and_said_to_be_one(
    example: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = example.report(utility=tuple(of_emotion(example.utility())))  # nothing else was measured then
    content = json.loads(report.model_dump_json()) | {"format": 1}
    former = [former_row(row) for row in content["audit"]]
    content |= {"audit": former, "beyond": [former_finding(row) for row in content.pop("inference")]}
    content["judged"] = [former_utility(row) for row in content.pop("utility")]
    (tmp_path / "report.json").write_text(json.dumps(content), encoding="utf-8")
    caplog.set_level("WARNING", logger="moretta")
    assert load_report(tmp_path) == report
    assert "format 1" in caplog.text


def test_a_report_that_an_earlier_version_wrote_is_read_and_said_to_be_of_format_1(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(Path(__file__).with_name("format-1.json"), tmp_path / "report.json")
    caplog.set_level("WARNING", logger="moretta")
    report = load_report(tmp_path)
    assert [record.message for record in caplog.records if "report format 1" in record.message]
    assert len(caplog.records) == 1
    (voice,) = report.headline
    assert (voice.figures[0].attacker, voice.figures[0].value) == ("logistic-regression", 0.562)
    assert [r.attacker for r in report.audit if r.invalid and r.value is not None] == ["mlp-3", "mlp-3"]
    assert {r.attack for r in report.inference} == {"attribute", "inversion", "cross-modal", "membership", "updates"}
    assert [r.value for r in report.utility if r.attacker == "voice-forest"] == [0.412, 0.344, 0.187]
    write_report(report, tmp_path)
    assert load_report(tmp_path) == report


def test_the_published_schema_is_that_of_the_records_and_holds_of_a_report(example: ModuleType, tmp_path: Path) -> None:
    published = (files("moretta.shared.audit.report") / SCHEMA_JSON).read_text(encoding="utf-8")
    assert published == report_json_schema(), f"write it again: moretta report --schema > {SCHEMA_JSON}"
    validator = Draft202012Validator(json.loads(published))
    write_report(example.report(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert not list(validator.iter_errors(content))
    assert list(validator.iter_errors(content | {"format": 1}))
    assert list(validator.iter_errors(content | {"surprise": 1}))
