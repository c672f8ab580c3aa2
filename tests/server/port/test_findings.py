"""A finished study's report reaches the sites that took part, over the real port, and nobody else."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from ports import RunningPort, SiteKeys

from moretta.client.site_home import SiteHome
from moretta.client.transport import enrollment
from moretta.deploy.site import site_report
from moretta.server.enrollment.findings import offer_findings, seen_by
from moretta.shared.audit.report.report_file import write_report
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.core.errors import EnrollmentError, ReleaseError
from moretta.shared.pb.enrollment_pb2 import FindingsRequest
from moretta.shared.study.schema import parse_study

OWN, OTHER = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[RunningPort]:
    (tmp_path / "server").mkdir()
    port = RunningPort(tmp_path / "server", None)
    yield port
    port.close()


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "shared" / "audit" / "report" / "example.py"
    spec = importlib.util.spec_from_file_location("findings_example", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def report(example: ModuleType) -> Report:
    made: Report = example.report()
    whole = next(r for r in made.audit if r.metric == "top1" and r.subset == "all" and r.value is not None)
    people = [whole.model_copy(update={"subset": name}) for name in (OWN, OTHER)]
    whole = whole.model_copy(update={"by_speaker": {OWN: 0.5, OTHER: 0.25}})
    return made.model_copy(update={"audit": (*made.audit, whole, *people)})


def _digest(report: Report) -> str:
    return parse_study(report.run.study).digest()


@pytest.fixture
def offered(port: RunningPort, report: Report, tmp_path: Path) -> Path:
    """The folder of a run over clinic-a; its report is not there yet."""
    folder = tmp_path / "run"
    folder.mkdir()
    offer_findings(port.findings, folder, study=_digest(report), sites=["clinic-a"])
    return folder


def _asked(port: RunningPort, site: SiteKeys, study: str) -> bytes:
    return bytes(port.run(enrollment.findings(port.identity(site), study)))


def test_a_site_that_took_part_gets_the_report_when_it_is_there_and_others_get_nothing(
    port: RunningPort, report: Report, offered: Path
) -> None:
    site, stranger, study = port.enrolled(), port.enrolled("clinic-b"), _digest(report)
    assert _asked(port, site, study) == b""
    write_report(report, offered)
    assert json.loads(_asked(port, site, study))["gate"]["verdict"] == report.gate.verdict
    assert _asked(port, stranger, study) == b""
    for other in ("0" * 64, "", "../run/report", study[:63], study + "\n"):
        assert _asked(port, site, other) == b""
    (offered / "report.json").write_text("{")
    assert _asked(port, site, study) == b""


def test_a_revoked_site_gets_nothing(port: RunningPort, report: Report, offered: Path) -> None:
    site = port.enrolled()
    write_report(report, offered)
    port.office.registry.end_site("clinic-a", "revoked")
    with pytest.raises(EnrollmentError):
        _asked(port, site, _digest(report))


def test_a_caller_with_only_a_join_string_is_refused(port: RunningPort, report: Report, offered: Path) -> None:
    write_report(report, offered)
    guest = port.with_token(port.office.join("clinic-c"))
    with pytest.raises(grpc.RpcError) as error:
        guest.enrollment.Findings(FindingsRequest(study=_digest(report)), timeout=20)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_figures_of_single_people_are_for_their_own_site_alone(report: Report) -> None:
    seen = seen_by(report, {OWN: ()})
    assert OWN in seen.model_dump_json() and OTHER not in seen.model_dump_json()
    alone = [row for row in report.audit if row.subset in ("worst", OTHER)]
    assert len(seen.audit) == len(report.audit) - len(alone)
    assert seen.headline == report.headline


def test_a_group_of_one_other_person_is_a_single_person(report: Report) -> None:
    whole = next(row for row in report.audit if row.subset == "all")
    groups = {"female": 1, "male": 2, "18-29": 3, "30-39": 4, "worst": 1}
    rows = tuple(whole.model_copy(update={"subset": name, "speakers": n}) for name, n in groups.items())
    seen = seen_by(report.model_copy(update={"audit": (whole, *rows)}), {OWN: ("male", "18-29")})
    assert [row.subset for row in seen.audit] == ["all", "18-29", "30-39"]


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    (tmp_path / "site").mkdir()
    return SiteHome(tmp_path / "site")


def test_a_site_keeps_a_report_of_the_study_it_asked_for_alone(home: SiteHome, report: Report) -> None:
    study = _digest(report)
    for content, what in ((b"{", "not valid JSON"), (b'{"format": 2}', "breaks the report format")):
        with pytest.raises(ReleaseError, match=what):
            site_report.keep_report(home, study, content)
    with pytest.raises(ReleaseError, match="a report of another study"):
        site_report.keep_report(home, "0" * 64, report.model_dump_json().encode())
    assert list((home.root / "reports").iterdir()) == []
    kept = site_report.keep_report(home, study, report.model_dump_json().encode())
    assert kept == report
    folder = site_report.kept_report(home, study)
    assert [path.name for path in folder.iterdir()] == ["report.json"]
    assert (folder / "report.json").stat().st_mode & 0o777 == 0o600
    site_report.keep_report(home, study, report.model_dump_json().encode())


def _with_part(report: Report, text: str, **changes: Any) -> bytes:
    """The report's JSON with parts that no record would take; `"@"` in them stands for the text."""
    return json.dumps(json.loads(report.model_dump_json()) | changes).replace('"@"', text).encode()


def test_a_hostile_server_ends_no_site_and_fills_no_log(home: SiteHome, report: Report) -> None:
    run = json.loads(report.model_dump_json())["run"]
    most = sys.getrecursionlimit() - len(inspect.stack(0))
    deep = [_with_part(report, "[" * n + "]" * n, run=run | {"study": {"x": "@"}}) for n in range(most - 40, most)]
    former = [_with_part(report, "[1]", format=1, judged=[{"trained_on": "@"}])]
    long = [_with_part(report, "", format="x" * 10**5), _with_part(report, "", **{"x" * 10**5: "\x1b[2J"})]
    for content in (*deep, *former, *long):
        with pytest.raises(ReleaseError) as error:
            site_report.keep_report(home, _digest(report), content)
        assert len(str(error.value)) < 1_000


def test_a_study_that_ran_again_has_its_newer_report_fetched(home: SiteHome, report: Report) -> None:
    study = _digest(report)
    assert not site_report.is_kept(home, study, 0)
    site_report.keep_report(home, study, report.model_dump_json().encode())
    now = int(time.time())
    assert site_report.is_kept(home, study, now - 60) and not site_report.is_kept(home, study, now + 60)


def test_a_report_without_end_is_refused(home: SiteHome, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_report, "MAX_REPORT_BYTES", 100)
    with pytest.raises(ReleaseError, match="at most 100"):
        site_report.keep_report(home, _digest(report), report.model_dump_json().encode())


def test_the_studies_that_got_something_are_listed_with_the_last_thing_that_left(home: SiteHome) -> None:
    sent = home.root / "sent"
    sent.mkdir()
    lines: list[dict[str, Any]] = [{"at": at, "what": "voice", "study": "a" * 64, "name": "pilot"} for at in (3, 5)]
    (sent / "aaaaaaaaaaaaaaaa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(site_report.studies_sent(home)) == [("a" * 64, "pilot", 5)]
