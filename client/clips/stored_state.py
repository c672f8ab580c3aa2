"""A stored release is used only while the corpus is as it was, and a record says what has left the site about whom.

A clip that is gone or changed ends the use of a release and of all that was trained on it: it is removed, and the run
that had it gets nothing more of this site. Another run gets a release that is made anew.

The ledger says what was lost; `sent/STUDY.jsonl` says where it is: for which run and server, and about whom, one line
before each response leaves. So a steward can write to a coordinator when a person withdraws.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from moretta.client.accounting.budget import REMOVED_KIND
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.provenance import PROVENANCE_FILE, ChangedError, Provenance, UnclearError, find_changes
from moretta.client.settings import SiteSettings
from moretta.client.training.data import SCALE_FILE, forget_features, held_out
from moretta.shared.core.atomic import append_durably, write_atomic
from moretta.shared.core.errors import HomeError, RefusedError
from moretta.shared.core.labels import in_order
from moretta.shared.release import open_release
from moretta.shared.release.release_format import CLIPS_FILE, CODEBOOK_FILE, STATEMENT_FILE
from moretta.shared.study.schema import Study

What = Literal["release", "code", "voice", "face", "fusion", "counts", "scores"]
"""A release, an update of the code or of a model, counts of the evaluation, or scores of an attack on originals."""
Line = dict[str, Any]
_REMOVED = "removed"
_log = logging.getLogger(__name__)


def check_stored(settings: SiteSettings, study: Study, *, run: int, making: bool = False, whole: bool = False) -> None:
    """Refuse to go on with what was made of other clips than the corpus holds now, and remove it.

    Args:
        run: Flower's number of the run that requests something.
        making: a release, or a part in a code, is requested: where this run has had none before, it can be made anew.
        whole: read every clip again, as the first request of a run for anything that is made does.
    """
    if settings.policy is None:  # a folder of one run, of whoever holds the clips
        return
    short, (before, now) = study.digest()[:16], _before_and_since_removal(settings, study)
    if any(line["run"] == run for line in before if line["what"] != _REMOVED):
        raise ChangedError(f"run {run} got responses from clips that have changed since", fix="start the study again")
    had = any(line["run"] == run for line in now)
    why = _why_unusable(settings, study, whole=whole or (making and not had))
    if why:
        remove_stored(settings, study.digest(), why)
        if had or not making:
            raise ChangedError(f"what was made for the study {short} is used no more: {why}")
    elif before and not now and not making:
        raise ChangedError(f"what was made for the study {short} was removed", fix="start the study again")


def remove_stored(settings: SiteSettings, study: str, why: str) -> None:
    """Remove a study's release, its updates, its audit and everything made of them; the records stay, and say so.

    Killed on the way, it is done again at the next check. `study` is its digest, `why` is for the site's own records.
    """
    _log.warning("%s: the release for the study %s is removed: %s", settings.name, study, why)
    _append(_record(settings, study), {"what": _REMOVED, "why": why})
    folder = settings.releases / study[:16]
    (folder / STATEMENT_FILE).unlink(missing_ok=True)  # from here on it cannot be opened
    for each in (folder, settings.updates / study[:16], settings.audits / study[:16], settings.attacks / study[:16]):
        shutil.rmtree(each, ignore_errors=True)
    for kind in ("voice", "face", "fusion"):  # sessions of secure aggregation, but not which rounds were unmasked
        (settings.home / "secure" / study[:16] / f"{kind}.json").unlink(missing_ok=True)
    forget_features()
    Ledger(settings.ledger).spend(REMOVED_KIND, study=study, why=why)


def stored_provenances(settings: SiteSettings, study: str) -> dict[Path, Provenance | None]:
    """Records of what is stored for a study, by folder: its release, and its part in a code; None for a missing one."""
    marks = {settings.releases / study[:16]: STATEMENT_FILE, settings.updates / study[:16]: PROVENANCE_FILE}
    return {folder: Provenance.load(folder) for folder, mark in marks.items() if (folder / mark).exists()}


def _why_unusable(settings: SiteSettings, study: Study, *, whole: bool) -> str:
    """The reason why stored results must not be used; empty if they may, or if none are stored."""
    short = study.digest()[:16]
    for folder, provenance in stored_provenances(settings, short).items():
        if provenance is None:
            return "there is no record of what it was made of"
        changes = find_changes(provenance, settings, whole=whole)
        if changes.unclear:
            raise UnclearError(
                changes.unclear,
                expected="the clips that were released",
                fix="put back what is missing. If a person has withdrawn: moretta site withdraw SPEAKER. To make "
                f"the release anew from what is there: moretta site withdraw --study {short}",
            )
        if changes:
            return changes.as_text()
        if changes.now is not None and changes.now != provenance:
            changes.now.save(folder)
        if changes.added and whole:
            found = "%s: %d clips came after the release for the study %s was made: they are no part of it"
            _log.warning(found, settings.name, len(changes.added), short)
    return ""


def note_sent(settings: SiteSettings, study: Study, what: What, *, run: int, round_number: int = 0) -> None:
    """Write that a response is about to leave to a run of Flower's, and about whom, unless the same line is there."""
    key, names = settings.pseudonyms(), settings.names(study)
    provenances = stored_provenances(settings, study.digest()).values()
    people = {n: key.speaker(n) for provenance in provenances if provenance is not None for n in provenance.speakers}
    if what not in ("release", "code", "scores"):
        tested = held_out(settings, study)
        people = {n: pseudonym for n, pseudonym in people.items() if (pseudonym in tested) == (what == "counts")}
    line = {
        "what": what,
        "run": run,
        "round": round_number,
        "study": study.digest(),
        "name": study.name,
        "server": settings.server[0],
        "ca_fingerprint": settings.server[1],
        "speakers": {speaker: names.released(people[speaker]) for speaker in in_order(people)},
    }
    if not any(line.items() <= known.items() for known in _before_and_since_removal(settings, study)[1]):
        _append(_record(settings, study.digest()), line)


def all_sent(home: Path) -> list[list[Line]]:
    """The lines of each study, by the site's folder."""
    return [_lines(path) for path in sorted((home / "sent").glob("[!.]*.jsonl"))]


def _record(settings: SiteSettings, study: str) -> Path:
    return settings.home / "sent" / f"{study[:16]}.jsonl"


def _append(path: Path, line: Line) -> None:
    append_durably(path, json.dumps({"at": int(time.time()), **line}))


def _before_and_since_removal(settings: SiteSettings, study: Study) -> tuple[list[Line], list[Line]]:
    """Lines up to and including the last removal, and lines about data that is stored now."""
    lines = _lines(_record(settings, study.digest()))
    start = max((n for n, line in enumerate(lines, start=1) if line["what"] == _REMOVED), default=0)
    return lines[:start], lines[start:]


def _lines(path: Path) -> list[Line]:
    """Lines of the record, oldest first. A last line without its end, of a site that was killed, does not count."""
    try:
        text = path.read_text(encoding="utf-8")
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        if not all(isinstance(line, dict) and isinstance(line.get("what"), str) for line in found):
            raise ValueError("a line that is no record")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise HomeError(
            f"the record of what has left, {path}, cannot be read",
            expected="one line of JSON for each response",
            fix="put it back from a backup, or move it away: what has left can then be seen in the ledger only",
        ) from error
    return found


def take_over_release(source: SiteSettings, made_for: Study, heir: SiteSettings, study: Study) -> bool:
    """Give `heir` the release that `source` made for another study, with all its losses on the heir's ledger.

    Only in simulation, where noise comes from a seed and the same release would be made again, bit by bit. Both studies
    must anonymize alike: what a sweep varies is mostly the training. A real site draws its noise anew for every study.

    Raises RefusedError unless both are one virtual site and the heir, in another run, has no ledger yet. Returns
    whether there was a release to take over.
    """
    same = (source.name, source.simulated_seed, source.speakers) == (heir.name, heir.simulated_seed, heir.speakers)
    if source.simulated_seed is None or not same or heir.ledger.exists():
        raise RefusedError(
            f"a release of {source.name} to be taken over by {heir.name}",
            expected="one virtual site, of one seed, in a new run",
            fix="let the site make its own release",
        )
    folder, target = source.release_of(made_for), heir.release_of(study)
    if not (folder / STATEMENT_FILE).exists():
        return False
    target.mkdir(parents=True)
    patterns = (CLIPS_FILE, CODEBOOK_FILE, SCALE_FILE, "voice-*.safetensors", "face-*.safetensors")
    for path in sorted(folder.iterdir()):
        if any(map(path.match, patterns)):
            try:
                os.link(path, target / path.name)
            except OSError:  # another file system, or one without links
                shutil.copyfile(path, target / path.name)
    ledger = Ledger(heir.ledger)
    for entry in Ledger(source.ledger).all_entries():
        content = {key: value for key, value in entry.items() if key not in ("kind", "at", "salt")}
        if "study" in content:
            content["study"] = study.digest()
        ledger.spend(entry["kind"], **content)
    statement = open_release(folder).statement.model_copy(update={"study": study.digest()})
    write_atomic(target / STATEMENT_FILE, statement.model_dump_json(indent=1))
    return True
