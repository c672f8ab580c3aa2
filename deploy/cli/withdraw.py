"""`moretta site withdraw`: a person takes their consent back."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moretta.client.clips.withdrawal import StillOut, Withdrawal
    from moretta.client.settings import SiteSettings

_SENT = {
    "release": "the released clips",
    "code": "updates of the code",
    "voice": "updates of the voice model",
    "face": "updates of the face model",
    "fusion": "updates of the fusion",
    "counts": "counts of the evaluation",
}


def withdraw(
    speaker: Annotated[str | None, typer.Argument(help="The person, as the corpus calls them, such as 1004.")] = None,
    *,
    home: Annotated[
        Path | None,
        typer.Option(help="The site's folder; default $MORETTA_SITE, else ~/.moretta/site.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Show who has withdrawn, and what of them has left the site.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="The person has consented again: read their clips again.")
    ] = False,
    study: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Instead of a person: remove what is kept of this study, to make it anew."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Withdraw a person: never read their clips again, remove what was made with them, and list what has left.

    The site may be running. The ledger keeps what was lost. What a server has cannot be called back from here: send its
    coordinator the text that is printed.

    Example: moretta site withdraw 1004 --home clinic-a
    """
    from moretta.client.clips import withdrawal
    from moretta.client.clips.stored_state import remove_stored

    settings = _settings(home)
    if sum((show, study is not None, speaker is not None)) != 1 or (undo and speaker is None):
        raise typer.BadParameter("expected one speaker, or --list, or --study DIGEST")
    if show:
        _print_all(settings, as_json=as_json)
    elif study is not None:
        found = _stored_study(settings, study)
        remove_stored(settings, found, "the steward removed it")
        typer.echo(json.dumps({"study": found}) if as_json else f"What was kept of the study {found} is removed")
    elif speaker is not None and undo:
        withdrawal.give_back(settings, speaker)
        outcome = {"speaker": speaker, "withdrawn": False}
        typer.echo(json.dumps(outcome) if as_json else f"The clips of speaker {speaker} are read again from now on")
    elif speaker is not None:
        if not yes:
            typer.confirm(
                f"Remove what was made with the clips of speaker {speaker}, and never read them again?", abort=True
            )
        done = withdrawal.withdraw(settings, speaker)
        typer.echo(json.dumps(asdict(done)) if as_json else "\n".join(_lines(settings, done)))


def _settings(folder: Path | None) -> SiteSettings:
    from moretta.client.settings import of_folder
    from moretta.client.site_home import SiteHome, default_home
    from moretta.client.transport.identity import Identity
    from moretta.shared.core.errors import HomeError

    home = SiteHome(folder or default_home())
    home.read()
    try:
        name = Identity.load(home.identity_file).site
    except HomeError:  # it has left its server, and people may withdraw nevertheless
        name = "this site"
    return of_folder(home, name=name, policy=None)


def _stored_study(settings: SiteSettings, start: str) -> str:
    """The digest of a study of which something is kept, by its first digits."""
    from moretta.client.clips.stored_state import stored_provenances
    from moretta.client.clips.withdrawal import stored_studies
    from moretta.shared.core.errors import StudyError

    matching = [short for short in stored_studies(settings) if len(start) >= 4 and short.startswith(start[:16])]
    if len(matching) != 1:
        raise StudyError(
            f"{len(matching)} studies that begin with {start!r}, of which this site keeps anything",
            expected=f"one of {', '.join(stored_studies(settings)) or 'none'}",
        )
    provenances = stored_provenances(settings, matching[0]).values()
    return next((provenance.study for provenance in provenances if provenance is not None), matching[0])


def _print_all(settings: SiteSettings, *, as_json: bool) -> None:
    from moretta.client.clips.withdrawal import still_out

    people = [(person, tuple(still_out(settings, person.speaker))) for person in settings.withdrawn.people]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"speaker": p.speaker, "at": p.at, "files": len(p.files), "out": [asdict(each) for each in out]}
            for p, out in people
        ]
        typer.echo(json.dumps({"withdrawn": rows}))
        return
    if not people:
        typer.echo("Nobody has withdrawn")
    for person, out in people:
        typer.echo(
            f"Speaker {person.speaker} withdrew on {_day(person.at)}; {len(person.files)} files are known by content"
        )
        typer.echo("\n".join(_still_out(out)))


def _lines(settings: SiteSettings, done: Withdrawal) -> list[str]:
    lines = [
        f"Speaker {done.speaker} has withdrawn: no clip of theirs is read again ({done.files} files known by content)",
        f"Removed here, of studies: {', '.join(done.removed) or 'nothing, for nothing with their clips was kept'}",
    ]
    if done.note:
        lines.append(f"WARNING: {done.note}")
    lines += _still_out(done.out)
    return [*lines, "", *_letter(settings.name, done.out)] if done.out else lines


def _still_out(out: Sequence[StillOut]) -> list[str]:
    if not out:
        return ["Nothing of theirs has left this site, as far as its records go"]
    lines = ["Still out, and out of this site's reach:"]
    for each in out:
        lines.append(f"  study {each.name or '(name not recorded)'} {each.study}")
        lines.append(
            f"    at {each.server or '(server not recorded)'}, authority {each.ca_fingerprint or '(not recorded)'}"
        )
        lines.append(f"    {_day(each.first)} to {_day(each.last)}: {_what(each)}")
    return lines


def _letter(site: str, out: Sequence[StillOut]) -> list[str]:
    """What the steward sends to a coordinator. It names no person: pseudonyms are the server's own."""
    lines = [
        "Text for the coordinators:",
        "",
        f"  A person whose clips {site} released has withdrawn their consent. Please",
    ]
    lines += ["  delete their part of these studies, and tell whoever has copies or the models:"]
    for each in out:
        named = " or ".join(each.pseudonyms)
        when = f"{_day(each.first)} to {_day(each.last)}"
        lines.append(f"  - study {each.name} {each.study}, pseudonym {named}: {_what(each)}, {when}")
        for pseudonym in each.pseudonyms:
            lines.append(f"    at the server: moretta study withdraw RUN --site {site} --speaker {pseudonym}")
    return lines


def _what(out: StillOut) -> str:
    parts = []
    for what, rounds in out.sent.items():
        numbers = f" (rounds {', '.join(map(str, rounds))})" if rounds else ""
        parts.append(f"{_SENT.get(what, what)}{numbers}")
    return ", ".join(parts)


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
