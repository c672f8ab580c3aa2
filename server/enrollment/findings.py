"""A finished study's report, for the sites that took part in it.

A site gets the whole report but for figures of single people, of whom it gets its own alone. A group in which only one
person is another site's counts as a single person, and so does the worst-off one. Which studies there are is said to
nobody else: to others, and before the end, the response is empty.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moretta.server.enrollment.database import KnownCertificate
from moretta.server.port.guard import MakeRoom, Method
from moretta.server.port.refusals import Refusal
from moretta.shared.audit.report.report_file import load_report
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.audit.report.tables import PSEUDONYM
from moretta.shared.audit.result import Result
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import MorettaError
from moretta.shared.pb import enrollment_pb2 as pb
from moretta.shared.release import open_release

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FEWEST_OTHERS = 2
"""People of other sites in a group whose figures a site may see."""


def offer_findings(findings: Path, folder: Path, *, study: str, sites: Collection[str]) -> None:
    """Let these sites have the report of a run, once it is there; the newest run of a study counts.

    Args:
        findings: the server's folder of these records.
        folder: of the run.
        study: digest of its study.
    """
    content = {"folder": str(folder.resolve()), "sites": sorted(sites)}
    write_atomic(_record(findings, study), json.dumps(content) + "\n", mode=0o600)


@dataclass(frozen=True, slots=True)
class FindingsService:
    """See the module."""

    findings: Path
    """The server's folder of records."""
    longest: int
    """Bytes of a report."""

    def methods(self) -> Sequence[Method]:
        """All of it, for the port."""
        return [Method("Findings", pb.FindingsRequest, self._findings)]

    async def _findings(
        self, site: KnownCertificate, request: pb.FindingsRequest, make_room: MakeRoom
    ) -> pb.FindingsReply:
        text = await asyncio.to_thread(report_for, self.findings, request.study, site.site)
        if len(text) > self.longest:
            raise Refusal("RESOURCE_EXHAUSTED", "too-large", f"the report has {len(text)} bytes")
        await make_room(len(text))
        return pb.FindingsReply(report_json=text)


def report_for(findings: Path, study: str, site: str) -> bytes:
    """The report of a study as one site may see it; empty where there is none for it."""
    if not _DIGEST.fullmatch(study):
        return b""
    try:
        record: dict[str, Any] = json.loads(_record(findings, study).read_text(encoding="utf-8"))
        if site not in record["sites"]:
            return b""
        folder = Path(record["folder"])
        report = load_report(folder)
        kept = folder / "server" / "releases" / site
        clips = open_release(kept).clips if kept.exists() else ()
        own = {clip.speaker: {group for group in (clip.sex, clip.age_group) if group} for clip in clips}
    except (OSError, ValueError, KeyError, TypeError, MorettaError):
        return b""  # not there yet, or not any more: to a site this is the same
    return seen_by(report, own).model_dump_json().encode()


def seen_by(report: Report, own: Mapping[str, Collection[str]]) -> Report:
    """A report without figures of single people of other sites.

    Args:
        own: the groups, such as `female`, of each person of the site, by pseudonym. The site knows the figures of
            these people, so it could subtract them from those of a group.
    """
    in_group = Counter(group for groups in own.values() for group in groups)

    def is_kept(row: Result) -> bool:
        if row.subset == "all" or row.subset in own:
            return True
        is_one = row.subset == "worst" or PSEUDONYM.fullmatch(row.subset)
        return not is_one and row.speakers - in_group[row.subset] >= _FEWEST_OTHERS

    def kept(rows: Sequence[Result]) -> tuple[Result, ...]:
        return tuple(
            row.model_copy(update={"by_speaker": {name: v for name, v in row.by_speaker.items() if name in own}})
            for row in filter(is_kept, rows)
        )

    rows = {"audit": kept(report.audit), "inference": kept(report.inference), "utility": kept(report.utility)}
    return report.model_copy(update=rows)


def _record(findings: Path, study: str) -> Path:
    return findings / f"{study}.json"
