"""Decisions of a data steward at a site: `moretta site pending`, `refuse` and `withdraw`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.deploy.cli.console import AsJson, SiteFolder, Yes, show, site_home
from moretta.shared.core.errors import HomeError, StudyError

if TYPE_CHECKING:
    from moretta.client.clips.withdrawal import StillOut, Withdrawal
    from moretta.client.settings import SiteSettings

Digest = Annotated[str, typer.Argument(help="Of the offer, or an unmistakable beginning of it.")]
_SENT = {
    "release": "the released clips",
    "code": "updates of the code",
    "voice": "updates of the voice model",
    "face": "updates of the face model",
    "fusion": "updates of the fusion",
    "counts": "counts of the evaluation",
    "scores": "scores of attacks on the originals",
}


def pending(
    *,
    home: SiteFolder = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that were decided, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the studies that wait for approval: what they are, and whether this site gets the same public arrays.

    Example: moretta site pending --home clinic-a
    """
    from moretta.client.offers import Offers
    from moretta.deploy.site.approvals import offer_facts, offer_lines

    chosen = site_home(home)
    offers = Offers(chosen.root)
    found = [offer_facts(chosen, offer) for offer in (offers.all() if everything else offers.pending())]
    lines = [line for facts in found for line in offer_lines(facts)]
    show({"offers": found}, lines or "No study waits", as_json=as_json)


def refuse(digest: Digest, *, home: SiteFolder = None) -> None:
    """Refuse a study: the coordinator is informed, and its arrays are removed here.

    Example: moretta site refuse 3f9a --home clinic-a
    """
    from moretta.client.offers import Offers
    from moretta.deploy.site.approvals import find_offer

    chosen = site_home(home)
    offer = find_offer(chosen, digest)
    Offers(chosen.root).decide(offer, "refused", "steward")
    typer.echo(f"Refused: {offer.digest}")


def withdraw(
    speaker: Annotated[str | None, typer.Argument(help="The person, as the corpus calls them, such as 1004.")] = None,
    *,
    home: SiteFolder = None,
    yes: Yes = False,
    show_all: Annotated[bool, typer.Option("--list", help="List withdrawals, and data that has left.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="They consented again: read their clips.")] = False,
    study: Annotated[str | None, typer.Option(metavar="DIGEST", help="Remove what is kept of this study.")] = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw a person: never read their clips again, remove what was made with them, and list what has left.

    The site may be running. The ledger keeps what was lost. Data that a server has cannot be called back from here:
    send its coordinator the text that is printed.

    Example: moretta site withdraw 1004 --home clinic-a
    """
    from moretta.client.clips import withdrawal
    from moretta.client.clips.stored_state import remove_stored
    from moretta.client.settings import of_folder
    from moretta.client.transport.identity import Identity

    chosen = site_home(home)
    chosen.read()
    try:
        name = Identity.load(chosen.identity_file).site
    except HomeError:  # it has left its server, and people may withdraw nevertheless
        name = "this site"
    settings = of_folder(chosen, name=name, policy=None)
    if sum((show_all, study is not None, speaker is not None)) != 1 or (undo and speaker is None):
        raise typer.BadParameter("expected one speaker, or --list, or --study DIGEST")
    if show_all:
        rows, lines = [], []
        for person in settings.withdrawn.people:
            out, files = tuple(withdrawal.still_out(settings, person.speaker)), len(person.files)
            kept = [asdict(each) for each in out]
            rows.append({"speaker": person.speaker, "at": person.at, "files": files, "out": kept})
            lines.append(f"Speaker {person.speaker} withdrew on {_day(person.at)}; {files} files are known by content")
            lines += _still_out_lines(out)
        show({"withdrawn": rows}, lines or "Nobody has withdrawn", as_json=as_json)
    elif study is not None:
        found = _stored_study(settings, study)
        remove_stored(settings, found, "the steward removed it")
        show({"study": found}, f"All data kept of the study {found} is removed", as_json=as_json)
    elif speaker is not None and undo:
        withdrawal.give_back(settings, speaker)
        line = f"The clips of speaker {speaker} are read again from now on"
        show({"speaker": speaker, "withdrawn": False}, line, as_json=as_json)
    elif speaker is not None:
        question = f"Remove what was made with the clips of speaker {speaker}, and never read them again?"
        if not yes:
            typer.confirm(question, abort=True)
        done = withdrawal.withdraw(settings, speaker)
        show(asdict(done), _withdrawal_lines(name, done), as_json=as_json)


def _stored_study(settings: SiteSettings, start: str) -> str:
    """The digest of a study of which something is kept, by its first digits."""
    from moretta.client.clips.stored_state import stored_provenances
    from moretta.client.clips.withdrawal import stored_studies

    matching = [short for short in stored_studies(settings) if len(start) >= 4 and short.startswith(start[:16])]
    if len(matching) != 1:
        found = f"{len(matching)} studies that begin with {start!r}, of which this site keeps anything"
        raise StudyError(found, expected=f"one of {', '.join(stored_studies(settings)) or 'none'}")
    provenances = stored_provenances(settings, matching[0]).values()
    return next((provenance.study for provenance in provenances if provenance is not None), matching[0])


def _withdrawal_lines(site: str, done: Withdrawal) -> list[str]:
    lines = [
        f"Speaker {done.speaker} has withdrawn: no clip of theirs is read again ({done.files} files known by content)",
        f"Removed here, of studies: {', '.join(done.removed) or 'nothing, for nothing with their clips was kept'}",
    ]
    if done.note:
        lines.append(f"WARNING: {done.note}")
    lines += _still_out_lines(done.out)
    if not done.out:
        return lines
    lines += [  # identifies no person: pseudonyms are the server's own
        "",
        "Text for the coordinators:",
        "",
        f"  A person whose clips {site} released has withdrawn their consent. Please",
        "  delete their part of these studies, and inform everybody who has copies or the models:",
    ]
    for each in done.out:
        pseudonyms = " or ".join(each.pseudonyms)
        lines.append(f"  - study {each.name} {each.study}, pseudonym {pseudonyms}: {_sent(each)}, {_days(each)}")
        lines += [f"    at the server: moretta study withdraw RUN --site {site} --speaker {p}" for p in each.pseudonyms]
    return lines


def _still_out_lines(out: Sequence[StillOut]) -> list[str]:
    if not out:
        return ["Nothing of theirs has left this site, as far as its records go"]
    lines = ["Still out, and out of this site's reach:"]
    for each in out:
        lines += [
            f"  study {each.name or '(name not recorded)'} {each.study}",
            f"    at {each.server or '(server not recorded)'}, authority {each.ca_fingerprint or '(not recorded)'}",
            f"    {_days(each)}: {_sent(each)}",
        ]
    return lines


def _sent(out: StillOut) -> str:
    parts = []
    for kind, rounds in out.sent.items():
        numbers = f" (rounds {', '.join(map(str, rounds))})" if rounds else ""
        parts.append(f"{_SENT.get(kind, kind)}{numbers}")
    return ", ".join(parts)


def _days(out: StillOut) -> str:
    return f"{_day(out.first)} to {_day(out.last)}"


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
