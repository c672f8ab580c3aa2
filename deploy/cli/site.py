"""`moretta site`: what runs at a site."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moretta.deploy.cli.approval import approve, pending, refuse
from moretta.deploy.cli.ledger import ledger
from moretta.deploy.cli.withdraw import withdraw
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.printable import printable

if TYPE_CHECKING:
    from moretta.client.site_home import SiteHome
    from moretta.client.transport.identity import Identity

app = typer.Typer(no_args_is_help=True)
app.command()(ledger)
for command in (pending, approve, refuse):
    app.command()(command)
app.command()(withdraw)
Home = Annotated[
    Path | None,
    typer.Option(help="The site's folder; default $MORETTA_SITE, else ~/.moretta/site.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_MARKS = {"ok": "ok     ", "warning": "WARNING", "fault": "FAULT  "}


@app.command()
def join(
    string: Annotated[
        str, typer.Argument(help="The join string; `-` reads it from standard input, `@FILE` from a file.")
    ],
    *,
    home: Home = None,
    corpus: Annotated[Path | None, typer.Option(help="The folder of this site's clips.")] = None,
    speakers: Annotated[
        str, typer.Option(help="This site's speakers, with commas between them; empty means all.")
    ] = "",
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
    from moretta.shared.core.errors import CorpusError
    from moretta.shared.enrollment.join_string import parse_join_string

    if corpus is not None and not corpus.is_dir():
        raise CorpusError(f"no folder {corpus}", expected="the clips of this site", fix="correct --corpus")
    said = None
    if corpus is not None:
        said = SiteFile(
            corpus=corpus.absolute(), speakers=_listed(speakers), held_out=_listed(held_out) if held_out else None
        )
    chosen = _home(home)
    with _held(chosen):
        identity = asyncio.run(enrollment.join(chosen, parse_join_string(_read_string(string)), said, replace=replace))
    if as_json:
        typer.echo(json.dumps({"home": str(chosen.root), **_facts(identity)}))
        return
    typer.echo(
        f"{identity.site} is enrolled at {identity.address}; its certificate ends {identity.not_after:%F %R} UTC"
    )
    typer.echo(f"Next: read {chosen.policy_file}, then `moretta site doctor` and `moretta site run`")


@app.command()
def run(*, home: Home = None) -> None:
    """Serve studies until SIGTERM or Ctrl-C: one process in the foreground, one outbound connection.

    Example: moretta site run --home clinic-a
    """
    from moretta.deploy.site.supervisor import run_site

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("uvicorn", "uvicorn.error", "httpx", "flwr"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asyncio.run(run_site(_home(home)))


@app.command()
def status(
    *,
    home: Home = None,
    local: Annotated[
        bool, typer.Option(help="Ask this machine alone; exits with 7 unless the site is online.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the enrollment, how the server sees it, and what the running site does.

    Example: moretta site status --home clinic-a
    """
    from dataclasses import asdict

    from moretta.client.transport import enrollment
    from moretta.client.transport.identity import Identity
    from moretta.deploy.site.supervisor import read_state

    chosen = _home(home)
    identity, state = Identity.load(chosen.identity_file), read_state(chosen)
    facts: dict[str, Any] = {**_facts(identity), "running": None if state is None else asdict(state)}
    if not local:
        seen = asyncio.run(enrollment.status(identity))
        facts["server_sees"] = {"site": seen.site, "state": _state_word(seen.state), "last_call": seen.last_call}
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        _print_status(facts)
    if local and (state is None or not state.online):
        raise typer.Exit(ExitCode.RUN_FAILED)


@app.command()
def renew(*, home: Home = None, as_json: AsJson = False) -> None:
    """Get a new certificate now. A running site takes it over by itself.

    Example: moretta site renew --home clinic-a
    """
    from moretta.client.transport import enrollment

    identity = asyncio.run(enrollment.renew(_home(home)))
    if as_json:
        typer.echo(json.dumps(_facts(identity)))
    else:
        typer.echo(f"The certificate of {identity.site} ends {identity.not_after:%Y-%m-%d %H:%M} UTC")


@app.command()
def leave(
    *,
    home: Home = None,
    offline: Annotated[
        bool, typer.Option(help="Forget the keys without telling the server, which must then revoke the site.")
    ] = False,
) -> None:
    """Give the enrollment up. Ledger, pseudonyms, releases and policy stay.

    Example: moretta site leave --home clinic-a
    """
    from moretta.client.transport import enrollment

    chosen = _home(home)
    with _held(chosen):
        asyncio.run(enrollment.leave(chosen, offline=offline))
    typer.echo("This site has left; its ledger stays, and counts if it joins again")


@app.command()
def doctor(*, home: Home = None, as_json: AsJson = False) -> None:
    """Look at everything a site needs, and say for each fault how it is put right. The first fault gives the exit code.

    Example: moretta site doctor --home clinic-a
    """
    from moretta.deploy.site.doctor import examine, worst

    findings = examine(_home(home))
    code = worst(findings)
    if as_json:
        typer.echo(json.dumps({"findings": [f.to_json() for f in findings], "exit_code": int(code)}))
    else:
        for finding in findings:
            typer.echo(f"{_MARKS[finding.verdict]} {finding.check}: {printable(finding.found)}")
            if finding.fix:
                typer.echo(f"        to fix it: {printable(finding.fix)}")
    raise typer.Exit(code)


@app.command()
def review(
    study: Annotated[
        Path, typer.Argument(help="Digest of an offer, or the beginning of it; or a study file, before it is offered.")
    ],
    *,
    home: Home = None,
    out: Annotated[Path, typer.Option(help="New or empty folder; keep it as closed as the clips.")] = Path("review"),
    clips: Annotated[int, typer.Option(min=0, help="How many clips the page shows.")] = 6,
    as_json: AsJson = False,
) -> None:
    """Make what would be released for a study, here, to see and hear it. Nothing leaves and nothing is spent.

    Of an offer it uses the very arrays that were offered. Of a study file it makes arrays of its own: what it shows is
    preliminary, since the coordinator's may be others.

    Example: moretta site review study.toml --home clinic-a --out review
    """
    from moretta.deploy.cli.progress import ProgressOfClips, line_on_stderr
    from moretta.deploy.site.approvals import offer_named
    from moretta.deploy.site.review import PAGE, review_study
    from moretta.shared.study.schema import load_study

    offer = None if study.exists() else offer_named(_home(home), str(study))
    chosen = load_study(study) if offer is None else offer.study
    arrays = None if offer is None else offer.arrays()
    with ProgressOfClips("Anonymizing") as step:
        made = review_study(_home(home), chosen, out, arrays=arrays, shown=clips, step=step, notify=line_on_stderr)
    statement = made.release.statement
    if as_json:
        typer.echo(json.dumps({"study": chosen.digest(), "statement": statement.model_dump(mode="json")}))
        return
    typer.echo(f"{statement.clips} clips of {statement.speakers} speakers would be released for {chosen.digest()}")
    if offer is None:
        typer.echo("Preliminary: made with arrays of this machine. Review the offer before you approve it")
    typer.echo(f"Look at {out / PAGE}, and listen to {out / 'media'}")


def _home(folder: Path | None) -> SiteHome:
    from moretta.client.site_home import SiteHome, default_home

    return SiteHome(default_home() if folder is None else folder)


def _held(home: SiteHome) -> AbstractContextManager[None]:
    """An enrolled site's folder for this command alone; nothing is written to any other folder."""
    return home.locked() if home.identity_file.exists() else nullcontext()


def _read_string(given: str) -> str:
    from moretta.shared.core.errors import EnrollmentError

    if given == "-":
        return sys.stdin.read()
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnrollmentError(f"the file {given[1:]} cannot be read", expected="a file with a join string") from error


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _facts(identity: Identity) -> dict[str, Any]:
    return {
        "site": identity.site,
        "server": identity.address,
        "ca_fingerprint": identity.ca_fingerprint,
        "certificate_ends": int(identity.not_after.timestamp()),
    }


def _state_word(state: int) -> str:
    from moretta.shared.pb.enrollment_pb2 import StatusReply

    return StatusReply.State.Name(state).removeprefix("STATE_").lower()


def _print_status(facts: dict[str, Any]) -> None:
    from datetime import UTC, datetime

    ends = datetime.fromtimestamp(facts["certificate_ends"], tz=UTC)
    typer.echo(f"{facts['site']}, enrolled at {facts['server']} (authority {facts['ca_fingerprint']})")
    typer.echo(f"certificate ends {ends:%Y-%m-%d %H:%M} UTC")
    if "server_sees" in facts:
        typer.echo(f"the server sees it as {facts['server_sees']['state']}")
    state = facts["running"]
    if state is None:
        typer.echo("not running; start it: moretta site run")
    else:
        word = "online" if state["online"] else "connected, not online yet" if state["connected"] else "not connected"
        typer.echo(f"running as process {state['pid']}: {word}; {state['calls']} calls, {state['bytes_out']} bytes out")
