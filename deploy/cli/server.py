"""`moretta server`: the coordinator's side."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from moretta.shared.core.errors import ExitCode
from moretta.shared.core.printable import printable

DEFAULT_HOME = Path("moretta-server")

app = typer.Typer(no_args_is_help=True, help="Run the coordinator's server.")
log_app = typer.Typer(no_args_is_help=True, help="The server's audit log.")
app.add_typer(log_app, name="log", help="Check the server's audit log.")

Home = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the server.")]
HomeOption = Annotated[Path, typer.Option("--server", metavar="DIR", help="Folder of the server.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File whose first line is the passphrase of the certificate authority's key."),
]


@app.command()
def init(
    home: Home = DEFAULT_HOME,
    *,
    name: Annotated[
        list[str],
        typer.Option(help="Name or address that sites dial; repeat for more. The first is handed out."),
    ],
    listen: Annotated[str, typer.Option(metavar="IP", help="Address to open the port on.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The one port that sites reach.")] = 8443,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the folder of a new server: certificate authority, registry, settings.

    Without --passphrase-file the passphrase is asked for on a terminal; elsewhere the authority's key is not encrypted.

    Example: moretta server init --name moretta.example.org --passphrase-file /run/secrets/ca
    """
    from moretta.deploy.server.create import create_home
    from moretta.deploy.server.passphrase import ask_new_passphrase, read_passphrase_file

    passphrase = read_passphrase_file(passphrase_file) or ask_new_passphrase()
    made, authority = create_home(home, names=tuple(name), listen=listen, port=port, passphrase=passphrase)
    if passphrase is None:
        typer.echo(
            "moretta: WARNING: the certificate authority's key is NOT ENCRYPTED. Who reads "
            f"{made.authority / 'ca.key'} can make certificates; give --passphrase-file FILE to encrypt it.",
            err=True,
        )
    facts = {"folder": str(made.root), "address": made.settings.address, "ca_fingerprint": authority.fingerprint}
    if as_json:
        typer.echo(json.dumps({**facts, "encrypted": passphrase is not None}))
        return
    typer.echo(f"A new server in {made.root}\ncertificate authority {authority.fingerprint}")
    typer.echo(f"settings in {made.root / 'server.toml'}; start it with: moretta server up {home}")


@app.command()
def up(home: Home = DEFAULT_HOME, *, passphrase_file: PassphraseFile = None, as_json: AsJson = False) -> None:
    """Run the server until SIGTERM or Ctrl-C. With --json one event a line.

    Example: moretta server up moretta-server
    """
    from moretta.deploy.server.start import run

    def notify(event: str, fields: dict[str, Any]) -> None:
        text = json.dumps({"event": event, **fields}) if as_json else _summary(event, fields)
        typer.echo(text)

    run(home, passphrase_file=passphrase_file, notify=notify)


@app.command()
def token(
    home: HomeOption = DEFAULT_HOME,
    *,
    site: Annotated[str, typer.Option(metavar="NAME", help="The name that the string enrolls.")],
    hours: Annotated[float | None, typer.Option(min=0.01, help="Until it expires; default in server.toml.")] = None,
    reenroll: Annotated[bool, typer.Option(help="Let an enrolled or revoked site come back with new keys.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a join string: it enrolls one site, once. Hand it over on a way that only the site can read.

    Example: moretta server token --site clinic-a
    """
    from moretta.deploy.server.server_admin import opened

    with opened(home) as office:
        join = office.issue_token(site=site, hours=hours, reenroll=reenroll)
    if as_json:
        typer.echo(json.dumps({"site": site, "join": join.encode(), "expires": join.expires, "token": join.token_id}))
    else:
        typer.echo(join.encode())


@app.command()
def sites(home: HomeOption = DEFAULT_HOME, *, as_json: AsJson = False) -> None:
    """List the sites: state, end of certificate, Flower's node id, last call, traffic.

    Example: moretta server sites --json
    """
    from moretta.deploy.server.server_admin import opened, site_facts, site_lines

    with opened(home) as office:
        records = office.registry.sites()
    typer.echo(json.dumps([site_facts(r) for r in records], indent=1) if as_json else "\n".join(site_lines(records)))


@app.command()
def revoke(
    site: Annotated[str, typer.Argument(metavar="NAME", help="The site.")],
    home: HomeOption = DEFAULT_HOME,
    *,
    as_json: AsJson = False,
) -> None:
    """Shut a site out: its certificates stop working at its next call, and its node leaves Flower.

    Example: moretta server revoke clinic-a
    """
    from moretta.deploy.server.server_admin import opened

    with opened(home) as office:
        changed = office.revoke(site)
    if as_json:
        typer.echo(json.dumps({"site": site, "state": "revoked", "changed": changed}))
    else:
        typer.echo(f"{site} is revoked" + ("" if changed else " (it was already)"))


@app.command("reset-ledger")
def reset_ledger(
    site: Annotated[str, typer.Argument(metavar="NAME", help="The site.")],
    home: HomeOption = DEFAULT_HOME,
    *,
    length: Annotated[
        int,
        typer.Option(min=0, help="Entries of the ledger that must be continued; 0 takes any, even an empty one."),
    ],
    as_json: AsJson = False,
) -> None:
    """After a site's keys were stolen: take its privacy ledger back to a length that it truly had.

    The server refuses a ledger that does not continue the last one it countersigned, so a thief with a site's keys can
    shut the site out. Revoke the site and let it join anew first. Until what length its ledger was its own is in the
    audit log (ledger-countersigned). This is written to the log.

    Example: moretta server reset-ledger clinic-a --length 41
    """
    from moretta.deploy.server.server_admin import opened

    with opened(home) as office:
        done = office.reset_ledger(site, length)
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        typer.echo(f"the ledger of {site} goes on from {done.length} entries (it had {done.was_length} countersigned)")


@app.command()
def status(home: HomeOption = DEFAULT_HOME, *, as_json: AsJson = False) -> None:
    """Tell whether the server runs and everything it needs is there. Exits with 0 if so, with 12 if not.

    Example: moretta server status --server moretta-server
    """
    from moretta.deploy.server.status import server_status, status_lines

    found = server_status(home)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(status_lines(found)))
    if not found.healthy:
        raise typer.Exit(ExitCode.UNREACHABLE)


@log_app.command()
def verify(
    home: HomeOption = DEFAULT_HOME,
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
    if as_json:
        typer.echo(json.dumps({"files": verified.files, "lines": verified.lines, "head": verified.head}))
    else:
        typer.echo(f"{verified.lines} lines in {verified.files} files, chain unbroken\nhead {verified.head}")


def _summary(event: str, fields: dict[str, Any]) -> str:
    match event:
        case "listening":
            return (
                f"Listening on {fields['listen']} (sites dial {fields['address']})\n"
                f"certificate authority {fields['ca']}"
            )
        case "ready":
            return f"Ready after {fields['seconds']} s; Flower's SuperLink on 127.0.0.1:{fields['superlink']} only"
        case _:
            more = ", ".join(f"{key} {printable(value)}" for key, value in fields.items() if value is not None)
            return f"{event.replace('-', ' ')}{': ' * bool(more)}{more}"
