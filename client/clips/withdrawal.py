"""A person withdraws: their clips are not read again, what was made with them is removed, and the records say so.

What has left cannot be called back from here; `still_out` lists where it is.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moretta.client.accounting.account import cohorts_of
from moretta.client.accounting.ledger import Ledger
from moretta.client.anonymizers.speaker_references import forget_speaker
from moretta.client.clips.provenance import Provenance
from moretta.client.clips.sent_log import Line, about, all_sent
from moretta.client.clips.site_clips import (
    Withdrawn,
    WithdrawnFile,
    add_withdrawn,
    content_digest,
    remove_withdrawn,
)
from moretta.client.clips.stored_state import remove_stored, stored_provenances
from moretta.client.settings import SiteSettings
from moretta.shared.core.errors import CorpusError, HomeError, MorettaError, RefusedError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.release.release_format import STATEMENT_FILE

WITHDRAWN_KIND = "withdrawn"
CONSENT_KIND = "consent-again"
"""Ledger entries that name a person by pseudonym. They have no loss: what was lost stays lost."""


@dataclass(frozen=True)
class StillOut:
    """The data about one person that left for one study, as far as this site knows."""

    study: str
    """Digest."""
    name: str = ""
    """Name of the study; empty if it was not recorded."""
    server: str = ""
    """Address; empty if that was not recorded."""
    ca_fingerprint: str = ""
    pseudonyms: tuple[str, ...] = ()
    """Of the person, as the server has them."""
    first: int = 0
    """Seconds since 1970, of the first and the last response."""
    last: int = 0
    sent: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Kind of data -> its rounds; none where there are no rounds."""


@dataclass(frozen=True)
class Withdrawal:
    """The outcome for one person."""

    speaker: SpeakerId
    files: int
    """Known by their content from now on."""
    removed: tuple[str, ...]
    """Studies whose release or updates were removed, by the start of their digest."""
    forgotten: int
    """Files of anonymizers that the person was in."""
    note: str
    """Failures; empty if there were none."""
    out: tuple[StillOut, ...]


def withdraw(settings: SiteSettings, speaker: SpeakerId) -> Withdrawal:
    """Do everything for a person who withdraws. Killed on the way, it is done again by the same call.

    Args:
        settings: of the site, which may be running.
        speaker: as the corpus calls the person.
    """
    files, note = _files_now(settings, speaker)
    provenances = {short: _kept(settings, short) for short in stored_studies(settings)}
    for kept in provenances.values():
        for provenance in kept.values():
            files |= provenance.files_of(speaker) if provenance is not None else frozenset()
    known = speaker in settings.withdrawn.speakers or files or _cohorts(settings, Ledger(settings.ledger), speaker)
    if not known and not any(about(sent.lines(), speaker) for sent in all_sent(settings)):
        raise CorpusError(
            f"no clip of speaker {speaker} in this site's corpus, and no record of one",
            expected="a person whose clips this site has or had",
            fix="see who is on record: moretta site doctor, and the names of the files",
        )
    listed = add_withdrawn(settings.home, settings.pseudonyms(), speaker, files)
    removed = tuple(short for short, kept in provenances.items() if _concerns(settings, short, kept, listed))
    broken: RefusedError | None = None
    for short in removed:
        study = next((provenance.study for provenance in provenances[short].values() if provenance is not None), short)
        try:
            remove_stored(settings, study, "a person has withdrawn")
        except RefusedError as error:  # of the ledger, which is written last: other studies are removed all the same
            broken = error
    forgotten = forget_speaker(settings.remembered, speaker)
    if broken is not None:
        raise broken
    _note_withdrawn(Ledger(settings.ledger), settings.pseudonyms().speaker(speaker))
    return Withdrawal(speaker, len(files), removed, forgotten, note, tuple(still_out(settings, speaker)))


def give_back(settings: SiteSettings, speaker: SpeakerId) -> None:
    """A person has consented again: their clips are read again from the next release on."""
    remove_withdrawn(settings.home, settings.pseudonyms(), speaker)
    Ledger(settings.ledger).spend(CONSENT_KIND, speaker=settings.pseudonyms().speaker(speaker))


def still_out(settings: SiteSettings, speaker: SpeakerId) -> Iterator[StillOut]:
    """The data about a person that left, by study and server; of earlier versions as far as the ledger shows."""
    recorded: set[str] = set()
    for sent in all_sent(settings):
        by_server: dict[tuple[str, str], list[Line]] = defaultdict(list)
        for line in about(sent.lines(), speaker):
            by_server[line["server"], line["ca_fingerprint"]].append(line)
        for lines in by_server.values():
            first, last, rounds = lines[0], lines[-1], defaultdict[str, set[int]](set)
            for line in lines:
                rounds[line["what"]] |= {line["round"]} - {0}
            recorded.add(first["study"])
            yield StillOut(
                first["study"],
                first["name"],
                first["server"],
                first["ca_fingerprint"],
                pseudonyms=tuple(dict.fromkeys(line["speakers"][speaker] for line in lines)),
                first=first["at"],
                last=last["at"],
                sent={what: tuple(sorted(numbers)) for what, numbers in rounds.items()},
            )
    ledger = Ledger(settings.ledger)
    older: dict[str, list[dict[str, Any]]] = defaultdict(list)
    cohorts = _cohorts(settings, ledger, speaker)
    for entry in ledger.all_entries():
        if entry.get("cohort") in cohorts and entry.get("study") and entry["study"] not in recorded:
            older[entry["study"]].append(entry)
    key = settings.pseudonyms()
    own = key.speaker(speaker)  # earlier versions released it as it is
    for study, entries in older.items():
        yield StillOut(
            study,
            pseudonyms=(own, key.renamed(own, study)),
            first=entries[0]["at"],
            last=entries[-1]["at"],
            sent={str(e.get("model") or e["kind"]).partition("/")[0]: () for e in entries},
        )


def _note_withdrawn(ledger: Ledger, speaker: str) -> None:
    """Once for each withdrawal, also where the command was killed over it or the ledger was broken."""
    kinds = (WITHDRAWN_KIND, CONSENT_KIND)
    before = [e["kind"] for e in ledger.all_entries() if e["kind"] in kinds and e.get("speaker") == speaker]
    if before[-1:] != [WITHDRAWN_KIND]:
        ledger.spend(WITHDRAWN_KIND, speaker=speaker)


def _files_now(settings: SiteSettings, speaker: SpeakerId) -> tuple[frozenset[WithdrawnFile], str]:
    """The person's files in the corpus, and what kept them from being read."""
    from moretta.shared.data.reader import read_corpus

    try:
        clips = read_corpus(settings.corpus, classes=None).of([speaker])
        paths = [path for clip in clips for path in clip.files]
        key = settings.pseudonyms()
        return frozenset(WithdrawnFile(size=p.stat().st_size, digest=content_digest(key, p)) for p in paths), ""
    except (MorettaError, OSError) as error:
        why = error.message if isinstance(error, MorettaError) else str(error)
        return frozenset(), f"the corpus was not read ({why}): withdraw again when it can be"


def _kept(settings: SiteSettings, short: str) -> dict[Path, Provenance | None]:
    """Records of what is stored for a study; None in place of one that cannot be read."""
    try:
        return stored_provenances(settings, short)
    except HomeError:
        return {settings.releases / short: None}


def stored_studies(settings: SiteSettings) -> list[str]:
    """The starts of the digests of all studies of which something is kept."""
    folders = (path for root in (settings.releases, settings.updates) if root.is_dir() for path in root.iterdir())
    return sorted({path.name for path in folders if path.is_dir()})


def _concerns(settings: SiteSettings, short: str, kept: dict[Path, Provenance | None], listed: Withdrawn) -> bool:
    """Whether what is kept of a study may hold anything of those who have withdrawn; what has no record may."""
    release = settings.releases / short
    if release.exists() and not (release / STATEMENT_FILE).exists():
        shutil.rmtree(release, ignore_errors=True)  # half of one, from a process that was ended
    if not kept:
        return any((settings.updates / short).glob("*.safetensors"))
    provenances = [provenance for provenance in kept.values() if provenance is not None]
    known = [listed.speakers & provenance.speakers or listed.digests & provenance.digests for provenance in provenances]
    return len(provenances) < len(kept) or any(known)


def _cohorts(settings: SiteSettings, ledger: Ledger, speaker: SpeakerId) -> set[str]:
    pseudonym = settings.pseudonyms().speaker(speaker)
    return {digest for digest, cohort in cohorts_of(ledger).items() if pseudonym in cohort.members("speaker")}
