"""`moretta server`: the coordinator's side."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from moretta.deploy.cli.console import AsJson, CommandGroup, complain, show, show_table
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.printable import printable

DEFAULT_HOME = Path("moretta-server")

app = typer.Typer(no_args_is_help=True, help="Run the coordinator's server.")
log_app = typer.Typer(no_args_is_help=True, help="The server's audit log.")
app.add_typer(log_app, cls=CommandGroup, name="log", help="Check the server's audit log.")

ServerFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]
ServerOption = Annotated[Path, typer.Option("--server", metavar="DIR", help="Folder of the server.")]
SiteName = Annotated[str, typer.Argument(metavar="NAME", help="The site.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File whose first line is the passphrase of the certificate authority's key."),
]


@app.command()
def init(
    home: ServerFolder = DEFAULT_HOME,
    *,
    name: Annotated[list[str], typer.Option(help="Name or address that sites dial (repeat); the first is given out.")],
    listen: Annotated[str, typer.Option(metavar="IP", help="Address to open the port on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The one port that sites reach.")] = 8443,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the folder of a new server: certificate authority, registry, settings.

    Without --passphrase-file the passphrase is asked for on a terminal; elsewhere the authority's key is not encrypted.

    Example: moretta server init --name moretta.example.org --passphrase-file /run/secrets/ca
    """
    from moretta.deploy.server.start import ask_new_passphrase, create_home, read_passphrase_file

    passphrase = read_passphrase_file(passphrase_file) or ask_new_passphrase()
    made, authority = create_home(home, names=tuple(name), listen=listen, port=port, passphrase=passphrase)
    if passphrase is None:
        complain(
            "moretta: WARNING: the certificate authority's key is NOT ENCRYPTED. Anybody who reads "
            f"{made.authority / 'ca.key'} can make certificates; give --passphrase-file FILE to encrypt it."
        )
    facts = {"folder": str(made.root), "address": made.settings.address, "ca_fingerprint": authority.fingerprint}
    lines = [
        f"A new server in {made.root}",
        f"certificate authority {authority.fingerprint}",
        f"settings in {made.root / 'server.toml'}; start it with: moretta server up {home}",
    ]
    show({**facts, "encrypted": passphrase is not None}, lines, as_json=as_json)


@app.command()
def up(home: ServerFolder = DEFAULT_HOME, *, passphrase_file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """Run the server until SIGTERM or Ctrl-C. With --json one event a line.

    Example: moretta server up moretta-server
    """
    from moretta.deploy.server.start import run

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if as_json:
            text = json.dumps({"event": event, **fields})
        elif event == "listening":
            text = "Listening on {listen} (sites dial {address})\ncertificate authority {ca}".format(**fields)
        elif event == "ready":
            text = "Ready after {seconds} s; Flower's SuperLink on 127.0.0.1:{superlink} only".format(**fields)
        else:
            more = ", ".join(f"{key} {printable(value)}" for key, value in fields.items() if value is not None)
            text = f"{event.replace('-', ' ')}{': ' * bool(more)}{more}"
        typer.echo(text)

    run(home, passphrase_file=passphrase_file, on_event=on_event)


@app.command()
def token(
    home: ServerOption = DEFAULT_HOME,
    *,
    site: Annotated[str, typer.Option(metavar="NAME", help="The name that the string enrolls.")],
    hours: Annotated[float | None, typer.Option(min=0.01, help="Until it expires; default in server.toml.")] = None,
    reenroll: Annotated[bool, typer.Option(help="Let an enrolled or revoked site come back with new keys.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a join string: it enrolls one site, once. Hand it over on a way that only the site can read.

    Example: moretta server token --site clinic-a
    """
    from moretta.deploy.server.server_admin import administer

    with administer(home) as admin:
        join = admin.issue_token(site=site, hours=hours, reenroll=reenroll)
    facts = {"site": site, "join": join.encode(), "expires": join.expires, "token": join.token_id}
    show(facts, join.encode(), as_json=as_json)


@app.command()
def sites(home: ServerOption = DEFAULT_HOME, *, as_json: AsJson = False) -> None:
    """List the sites: state, end of certificate, Flower's node id, last call, traffic.

    Example: moretta server sites --json
    """
    from moretta.deploy.server.server_admin import administer

    with administer(home) as admin:
        records = admin.registry.sites()
    if as_json or not records:
        # The node id as text: it is more than JSON's numbers hold everywhere
        facts = [{**asdict(r), "node_id": None if r.node_id is None else str(r.node_id)} for r in records]
        show(facts, "no site is enrolled", as_json=as_json, indent=1)
        return
    rows = []
    for r in records:
        until, last = (
            f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%d %H:%M:%SZ}" if seconds else "-"
            for seconds in (r.not_after, r.last_call)
        )
        rows.append((r.name, r.state, until, last, r.calls, f"{r.bytes_from / 1e6:.1f}", f"{r.bytes_to / 1e6:.1f}"))
    show_table(("site", "state", "certificate until", "last call", "calls", "MB from", "MB to"), rows)


@app.command()
def revoke(site: SiteName, home: ServerOption = DEFAULT_HOME, *, as_json: AsJson = False) -> None:
    """Shut a site out: its certificates stop working at its next call, and its node leaves Flower.

    Example: moretta server revoke clinic-a
    """
    from moretta.deploy.server.server_admin import administer

    with administer(home) as admin:
        changed = admin.revoke(site)
    facts = {"site": site, "state": "revoked", "changed": changed}
    show(facts, f"{site} is revoked" + ("" if changed else " (it was already)"), as_json=as_json)


@app.command("reset-ledger")
def reset_ledger(
    site: SiteName,
    home: ServerOption = DEFAULT_HOME,
    *,
    length: Annotated[int, typer.Option(min=0, help="Entries that must be continued; 0 takes any ledger.")],
    as_json: AsJson = False,
) -> None:
    """After a site's keys were stolen: take its privacy ledger back to a length that it truly had.

    The server refuses a ledger that does not continue the last one it countersigned, so a thief with a site's keys can
    shut the site out. Revoke the site and let it join anew first. The audit log (ledger-countersigned) shows up to
    which length the ledger was the site's own. This is written to the log.

    Example: moretta server reset-ledger clinic-a --length 41
    """
    from moretta.deploy.server.server_admin import administer

    with administer(home) as admin:
        done = admin.reset_ledger(site, length)
    line = f"the ledger of {site} goes on from {done.length} entries (it had {done.was_length} countersigned)"
    show(asdict(done), line, as_json=as_json)


@app.command()
def status(home: ServerOption = DEFAULT_HOME, *, as_json: AsJson = False) -> None:
    """Show whether the server runs and everything it needs is there. Exits with 0 if so, with 12 if not.

    Example: moretta server status --server moretta-server
    """
    from moretta.deploy.server.server_admin import server_status

    found = server_status(home)
    show(found.to_json(), found.lines(), as_json=as_json, indent=1)
    if not found.healthy:
        raise typer.Exit(ExitCode.UNREACHABLE)


@log_app.command()
def verify(
    home: ServerOption = DEFAULT_HOME,
    *,
    head: Annotated[str | None, typer.Option(metavar="HASH", help="A head noted earlier, which must be in it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow the audit log's chain of hashes. Note the head it prints: only that shows when lines are cut off the end.

    Example: moretta server log verify --server moretta-server
    """
    from moretta.server.audit_log import verify_log
    from moretta.server.home import ServerHome

    verified = verify_log(ServerHome.open(home).audit_log, noted_head=head)
    facts = {"files": verified.files, "lines": verified.lines, "head": verified.head}
    text = [f"{verified.lines} lines in {verified.files} files, chain unbroken", f"head {verified.head}"]
    show(facts, text, as_json=as_json)
