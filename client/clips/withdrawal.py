"""A person withdraws: their clips are not read again, what was made with them is removed, and the records say so.

Data that has left cannot be called back from here; `still_out` lists where it is.
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
from moretta.client.clips.site_clips import Withdrawn, WithdrawnFile, add_withdrawn, content_digest, remove_withdrawn
from moretta.client.clips.stored_state import Line, all_sent, remove_stored, stored_provenances
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
    """Digest of the study."""
    name: str = ""
    """Name of the study; empty if it was not recorded."""
    server: str = ""
    """Address of the server; empty if it was not recorded."""
    ca_fingerprint: str = ""
    pseudonyms: tuple[str, ...] = ()
    """Pseudonyms of the person that the server has."""
    first: int = 0
    last: int = 0
    """Times of the first and the last response, in seconds since 1970."""
    sent: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Kind of data -> its rounds; none where there are no rounds."""


@dataclass(frozen=True)
class Withdrawal:
    """The outcome for one person."""

    speaker: SpeakerId
    files: int
    """Number of the person's files, which the site recognizes by content from now on."""
    removed: tuple[str, ...]
    """Studies whose release or updates were removed, by the start of their digest."""
    forgotten: int
    """Number of anonymizers' files that held the person."""
    note: str
    """Failures; empty if there were none."""
    out: tuple[StillOut, ...]


def withdraw(settings: SiteSettings, speaker: SpeakerId) -> Withdrawal:
    """Do everything for a person who withdraws. Killed on the way, it is done again by the same call."""
    files, note = _files_now(settings, speaker)
    kept = {short: _kept(settings, short) for short in stored_studies(settings)}
    files |= {file for found in kept.values() for made in found.values() if made for file in made.files_of(speaker)}
    known = speaker in settings.withdrawn.speakers or files or _cohorts(settings, Ledger(settings.ledger), speaker)
    if not known and not any(
        speaker in line.get("speakers", {}) for lines in all_sent(settings.home) for line in lines
    ):
        raise CorpusError(
            f"no clip of speaker {speaker} in this site's corpus, and no record of one",
            expected="a person whose clips this site has or had",
            fix="see who is on record: moretta site doctor, and the names of the files",
        )
    key = settings.pseudonyms()
    listed = add_withdrawn(settings.home, key, speaker, files)
    removed = tuple(short for short, found in kept.items() if _concerns(settings, short, found, listed))
    broken: RefusedError | None = None
    for short in removed:
        study = next((made.study for made in kept[short].values() if made is not None), short)
        try:
            remove_stored(settings, study, "a person has withdrawn")
        except RefusedError as error:  # of the ledger, which is written last: other studies are removed all the same
            broken = error
    shutil.rmtree(settings.audits, ignore_errors=True)  # of all studies: each can be made again without the person
    forgotten = forget_speaker(settings.remembered, speaker)
    if broken is not None:
        raise broken
    # Once for each withdrawal, also where this was killed over it or the ledger was broken
    ledger, kinds = Ledger(settings.ledger), (WITHDRAWN_KIND, CONSENT_KIND)
    theirs = [e["kind"] for e in ledger.all_entries() if e.get("speaker") == key.speaker(speaker)]
    if [kind for kind in theirs if kind in kinds][-1:] != [WITHDRAWN_KIND]:
        ledger.spend(WITHDRAWN_KIND, speaker=key.speaker(speaker))
    return Withdrawal(speaker, len(files), removed, forgotten, note, tuple(still_out(settings, speaker)))


def give_back(settings: SiteSettings, speaker: SpeakerId) -> None:
    """A person has consented again: their clips are read again from the next release on."""
    remove_withdrawn(settings.home, settings.pseudonyms(), speaker)
    Ledger(settings.ledger).spend(CONSENT_KIND, speaker=settings.pseudonyms().speaker(speaker))


def still_out(settings: SiteSettings, speaker: SpeakerId) -> Iterator[StillOut]:
    """The data about a person that left, by study and server; of earlier versions as far as the ledger shows."""
    by_study: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for lines in all_sent(settings.home):
        for line in lines:
            if speaker in line.get("speakers", {}):
                by_study[line["study"], line["server"], line["ca_fingerprint"]].append(line)
    for (study, server, fingerprint), lines in by_study.items():
        rounds: dict[str, set[int]] = defaultdict(set)
        for line in lines:
            rounds[line["what"]] |= {line["round"]} - {0}
        yield StillOut(
            study,
            lines[0]["name"],
            server,
            fingerprint,
            pseudonyms=tuple(dict.fromkeys(line["speakers"][speaker] for line in lines)),
            first=lines[0]["at"],
            last=lines[-1]["at"],
            sent={what: tuple(sorted(numbers)) for what, numbers in rounds.items()},
        )
    ledger, key = Ledger(settings.ledger), settings.pseudonyms()
    older: dict[str, list[dict[str, Any]]] = defaultdict(list)
    cohorts, recorded = _cohorts(settings, ledger, speaker), {study for study, _, _ in by_study}
    for entry in ledger.all_entries():
        if entry.get("cohort") in cohorts and entry.get("study") and entry["study"] not in recorded:
            older[entry["study"]].append(entry)
    own = key.speaker(speaker)  # earlier versions released it as it is
    for study, entries in older.items():
        yield StillOut(
            study,
            pseudonyms=(own, key.renamed(own, study)),
            first=entries[0]["at"],
            last=entries[-1]["at"],
            sent={str(e.get("model") or e["kind"]).partition("/")[0]: () for e in entries},
        )


def stored_studies(settings: SiteSettings) -> list[str]:
    """The starts of the digests of all studies of which something is kept."""
    folders = (path for root in (settings.releases, settings.updates) if root.is_dir() for path in root.iterdir())
    return sorted({path.name for path in folders if path.is_dir()})


def _files_now(settings: SiteSettings, speaker: SpeakerId) -> tuple[frozenset[WithdrawnFile], str]:
    """The person's files in the corpus, and what kept them from being read."""
    from moretta.shared.data.reader import read_corpus

    try:
        clips, key = read_corpus(settings.corpus, classes=None).of([speaker]), settings.pseudonyms()
        files = (WithdrawnFile(size=p.stat().st_size, digest=content_digest(key, p)) for c in clips for p in c.files)
        return frozenset(files), ""
    except (MorettaError, OSError) as error:
        why = error.message if isinstance(error, MorettaError) else str(error)
        return frozenset(), f"the corpus was not read ({why}): withdraw again when it can be"


def _kept(settings: SiteSettings, short: str) -> dict[Path, Provenance | None]:
    """Records of what is stored for a study; None in place of one that cannot be read."""
    try:
        return stored_provenances(settings, short)
    except HomeError:
        return {settings.releases / short: None}


def _concerns(settings: SiteSettings, short: str, kept: dict[Path, Provenance | None], listed: Withdrawn) -> bool:
    """Whether what is kept of a study may hold anything of those who have withdrawn; what has no record may."""
    release = settings.releases / short
    if release.exists() and not (release / STATEMENT_FILE).exists():
        shutil.rmtree(release, ignore_errors=True)  # half of one, from a process that was ended
    if not kept:
        return any((settings.updates / short).glob("[!.]*.safetensors"))
    return any(
        made is None or listed.speakers & made.speakers or listed.digests & made.digests for made in kept.values()
    )


def _cohorts(settings: SiteSettings, ledger: Ledger, speaker: SpeakerId) -> set[str]:
    pseudonym = settings.pseudonyms().speaker(speaker)
    return {digest for digest, cohort in cohorts_of(ledger).items() if pseudonym in cohort.members("speaker")}
