"""A study's report at a site that took part in it: fetched from the server, checked, and kept in `reports/`.

The coordinator is not trusted. The received file must be a report of the requested study, and the site's own code makes
the page from it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc.aio

from moretta.client.clips.stored_state import all_sent
from moretta.client.site_home import SiteHome
from moretta.client.transport import enrollment
from moretta.client.transport.identity import Identity
from moretta.shared.audit.report.report_file import REPORT_JSON, load_report
from moretta.shared.audit.report.report_schema import Report
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import MorettaError, ReleaseError
from moretta.shared.study.schema import parse_study

MAX_REPORT_BYTES = 64 * 2**20


def kept_report(home: SiteHome, study: str) -> Path:
    """The folder of the report of a study, by its digest, whether or not it is there."""
    return home.root / "reports" / study[:16]


def is_kept(home: SiteHome, study: str, since: int) -> bool:
    """Whether there is a report of a study that came after `since`, in seconds since 1970: a study may run again."""
    path = kept_report(home, study) / REPORT_JSON
    return path.exists() and path.stat().st_mtime >= since


def studies_sent(home: SiteHome) -> Iterator[tuple[str, str, int]]:
    """Digest, name and time, in seconds since 1970, of the last thing that left, of each study that got anything."""
    for lines in all_sent(home.root):
        last = max((line for line in lines if "study" in line), key=lambda line: int(line["at"]), default=None)
        if last is not None:
            yield str(last["study"]), str(last["name"]), int(last["at"])


async def fetch_report(home: SiteHome, study: str, channel: grpc.aio.Channel | None = None) -> Report | None:
    """The report of a study, kept at the site from now on; None while the server has none for this site.

    Args:
        study: digest.
        channel: an open channel under the present certificate; None opens one.

    Raises:
        ReleaseError: what came is no report of this study.
        HomeError, EnrollmentError, UnreachableError: the site is not enrolled, is refused, or gets no response.
    """
    content = await enrollment.findings(Identity.load(home.identity_file), study, channel)
    if not content:
        return None
    return await asyncio.to_thread(keep_report, home, study, content)  # a long one takes seconds to check


def keep_report(home: SiteHome, study: str, content: bytes) -> Report:
    """Check a report that a server sent, and keep it. Errors: see `fetch_report`."""
    if len(content) > MAX_REPORT_BYTES:
        raise ReleaseError(f"a report of {len(content)} bytes", expected=f"at most {MAX_REPORT_BYTES}")
    folder = kept_report(home, study)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as scratch:
        made = Path(scratch) / "report"
        made.mkdir(mode=0o700)
        write_atomic(made / REPORT_JSON, content, mode=0o600)
        report = load_report(made)
        if _digest(report) != study:
            raise ReleaseError("a report of another study", expected=f"that of {study[:16]}")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return report


def _digest(report: Report) -> str:
    try:
        return parse_study(report.run.study).digest()
    except MorettaError:
        return ""
