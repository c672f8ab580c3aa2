"""`moretta site`: what runs at a site."""

from __future__ import annotations

import logging
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from moretta.deploy.cli import review, site_audit, steward
from moretta.deploy.cli.budget import ledger
from moretta.deploy.cli.console import AsJson, SiteFolder, listed, show, site_home
from moretta.shared.core.errors import CorpusError, EnrollmentError, ExitCode, StudyError
from moretta.shared.core.printable import set_up_logging

if TYPE_CHECKING:
    from moretta.client.site_home import SiteHome
    from moretta.client.transport.identity import Identity

app = typer.Typer(no_args_is_help=True)
for command in (
    ledger,
    steward.pending,
    review.review,
    site_audit.audit,
    review.approve,
    steward.refuse,
    steward.withdraw,
):
    app.command()(command)
T = TypeVar("T")
_MARKS = {"ok": "ok     ", "warning": "WARNING", "fault": "FAULT  "}


@app.command()
def join(
    string: Annotated[str, typer.Argument(help="The join string; `-` is standard input, `@FILE` a file.")],
    *,
    home: SiteFolder = None,
    corpus: Annotated[Path | None, typer.Option(help="The folder of this site's clips.")] = None,
    speakers: Annotated[str, typer.Option(help="Speakers, with commas between; empty means all.")] = "",
    held_out: Annotated[str, typer.Option(help="Speakers never trained on; empty lets a keyed rule choose.")] = "",
    replace: Annotated[bool, typer.Option(help="Join again in the place of an enrollment that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Enroll this site with a server. Keys are made here and never leave.

    A join string on the command line can be read by others on this machine while the command runs: give it on standard
    input.

    Example: moretta site join - --home clinic-a --corpus /data/clips
    """
    from moretta.client.site_home import SiteFile
    from moretta.client.transport import enrollment
    from moretta.shared.enrollment import parse_join_string

    if corpus is not None and not corpus.is_dir():
        raise CorpusError(f"no folder {corpus}", expected="the clips of this site", fix="correct --corpus")
    settings = None
    if corpus is not None:
        apart = listed(held_out) if held_out else None
        settings = SiteFile(corpus=corpus.absolute(), speakers=listed(speakers), held_out=apart)
    chosen = site_home(home)
    with _held(chosen):
        try:
            given = sys.stdin.read() if string == "-" else string
            text = Path(given[1:]).read_text(encoding="utf-8") if string.startswith("@") else given
        except (OSError, UnicodeDecodeError) as error:
            raise EnrollmentError(f"{string} cannot be read", expected="a file with a join string") from error
        join_string = parse_join_string(text)
        identity = _await(enrollment.join(chosen, join_string, settings, replace=replace))
    lines = [
        f"{identity.site} is enrolled at {identity.address}; its certificate ends {identity.not_after:%F %R} UTC",
        f"Next: read {chosen.policy_file}, then `moretta site doctor` and `moretta site run`",
    ]
    show({"home": str(chosen.root), **_facts(identity)}, lines, as_json=as_json)


@app.command()
def run(*, home: SiteFolder = None) -> None:
    """Serve studies until SIGTERM or Ctrl-C: one process in the foreground, one outbound connection.

    Example: moretta site run --home clinic-a
    """
    from moretta.deploy.site.supervisor import run_site

    set_up_logging(logging.INFO)
    _await(run_site(site_home(home)))


@app.command()
def status(
    *,
    home: SiteFolder = None,
    local: Annotated[bool, typer.Option(help="This machine alone; exits with 7 unless online.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the enrollment, how the server sees it, and what the running site does.

    Example: moretta site status --home clinic-a
    """
    from moretta.client.site_home import read_state
    from moretta.client.transport.identity import Identity

    chosen = site_home(home)
    identity, state = Identity.load(chosen.identity_file), read_state(chosen)
    facts: dict[str, Any] = {**_facts(identity), "running": None if state is None else asdict(state)}
    if not as_json:  # at once: the server may let one wait
        enrolled = f"{identity.site}, enrolled at {identity.address} (authority {identity.ca_fingerprint})"
        show(facts, [enrolled, f"certificate ends {identity.not_after:%F %R} UTC"], as_json=False)
    lines = []
    if not local:
        from moretta.client.transport import enrollment
        from moretta.shared.pb.enrollment_pb2 import StatusReply

        seen = _await(enrollment.status(identity))
        word = StatusReply.State.Name(seen.state).removeprefix("STATE_").lower()
        facts["server_sees"] = {"site": seen.site, "state": word, "last_call": seen.last_call}
        lines.append(f"the server sees it as {word}")
    if state is None:
        lines.append("not running; start it: moretta site run")
    else:
        word = "online" if state.online else "connected, not online yet" if state.connected else "not connected"
        lines.append(f"running as process {state.pid}: {word}; {state.calls} calls, {state.bytes_out} bytes out")
    show(facts, lines, as_json=as_json)
    if local and (state is None or not state.online):
        raise typer.Exit(ExitCode.RUN_FAILED)


@app.command()
def report(
    study: Annotated[str, typer.Argument(metavar="[STUDY]", help="Digest of a study, or its beginning.")] = "",
    *,
    home: SiteFolder = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the report of a finished study that got something from this site, make its page, and show its verdict.

    Without STUDY it lists all of them. Figures of single people are there for this site's own people alone.

    Example: moretta site report 3f9a --home clinic-a
    """
    from moretta.deploy.site import site_report
    from moretta.shared.audit.report import report_file, verdict
    from moretta.shared.audit.report.summary import findings

    chosen = site_home(home)
    sent = [part for part in site_report.studies_sent(chosen) if part[0].startswith(study)]
    if not study:
        facts: list[dict[str, Any]] = [
            {"study": digest, "name": name, "last_sent": at, "kept": site_report.kept_report(chosen, digest).exists()}
            for digest, name, at in sent
        ]
        lines = [f"{f['study'][:16]} {f['name']}: {'report kept' if f['kept'] else 'no report yet'}" for f in facts]
        show({"studies": facts}, lines or "Nothing has left this site", as_json=as_json)
        return
    if len(sent) != 1:
        found = f"{len(sent)} studies got something from this site under {study}"
        raise StudyError(found, expected="the digest of one", fix="`moretta site report` lists them")
    digest, name, _ = sent[0]
    made = _await(site_report.fetch_report(chosen, digest))
    if made is None:
        raise StudyError(f"the server has no report of {name} ({digest[:16]}) for this site yet", fix="try again later")
    page = report_file.write_html(made, site_report.kept_report(chosen, digest))
    facts_of = {"study": digest, "gate": made.gate.model_dump(mode="json"), "report": str(page)}
    lines = [*verdict.lines(made.gate), *findings(made), f"Page: {page}", "This site's ledger: moretta site ledger"]
    show(facts_of, lines, as_json=as_json)


@app.command()
def renew(*, home: SiteFolder = None, as_json: AsJson = False) -> None:
    """Get a new certificate now. A running site takes it over by itself.

    Example: moretta site renew --home clinic-a
    """
    from moretta.client.transport import enrollment

    identity = _await(enrollment.renew(site_home(home)))
    line = f"The certificate of {identity.site} ends {identity.not_after:%F %R} UTC"
    show(_facts(identity), line, as_json=as_json)


@app.command()
def leave(
    *,
    home: SiteFolder = None,
    offline: Annotated[bool, typer.Option(help="Do not inform the server: it must revoke the site.")] = False,
) -> None:
    """Give the enrollment up. Ledger, pseudonyms, releases and policy stay.

    Example: moretta site leave --home clinic-a
    """
    from moretta.client.transport import enrollment

    chosen = site_home(home)
    with _held(chosen):
        _await(enrollment.leave(chosen, offline=offline))
    typer.echo("This site has left; its ledger stays, and counts if it joins again")


@app.command()
def doctor(*, home: SiteFolder = None, as_json: AsJson = False) -> None:
    """Check everything that a site needs, and name the fix of each fault. The first fault gives the exit code.

    Example: moretta site doctor --home clinic-a
    """
    from moretta.deploy.site.doctor import examine, worst

    findings = examine(site_home(home))
    code = worst(findings)
    lines = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.verdict]} {finding.check}: {finding.found}")
        if finding.fix:
            lines.append(f"        to fix it: {finding.fix}")
    show({"findings": [f.to_json() for f in findings], "exit_code": int(code)}, lines, as_json=as_json)
    raise typer.Exit(code)


def _await(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine. asyncio is imported here, so that other commands start without it."""
    import asyncio

    return asyncio.run(work)


def _held(home: SiteHome) -> AbstractContextManager[None]:
    """An enrolled site's folder for this command alone; nothing is written to any other folder."""
    return home.locked() if home.identity_file.exists() else nullcontext()


def _facts(identity: Identity) -> dict[str, Any]:
    return {
        "site": identity.site,
        "server": identity.address,
        "ca_fingerprint": identity.ca_fingerprint,
        "certificate_ends": int(identity.not_after.timestamp()),
    }
