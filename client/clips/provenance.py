"""Provenance of a stored release: kept with it, at the site, and compared with the corpus before the release is used.
Of an approval, it lists the clips that were approved.

Of each clip there is where its files were, their size and times, a keyed digest of their content, and one of its
metadata: label, sex, age group. A file whose size, times and inode are as they were is taken to be as it was, so the
comparison costs one look at each file; a whole comparison reads everything.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import AliasChoices, Field

from moretta.client.clips.site_clips import WithdrawnFile, content_digest, labelled_corpus
from moretta.client.settings import SiteSettings
from moretta.client.site_home import OwnRecord, read_own
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError, RefusedError
from moretta.shared.core.labels import EMOTIONS, SpeakerId, in_order
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.release.release_format import age_group
from moretta.shared.study.schema import Study

PROVENANCE_FILE = "origin.json"
Stat = tuple[int, int, int, int]
"""Size in bytes, time of the last change of content and of the file's entry in nanoseconds, inode."""
_CALLED: dict[Modality, str] = {"voice": "sound", "face": "video"}


class ChangedError(RefusedError):
    """The corpus is not what a release was made of."""

    public_message: ClassVar[str] = "the site's clips have changed since its release"


class UnclearError(ChangedError):
    """Either somebody has withdrawn or a disk is missing: the site cannot tell which."""

    public_message: ClassVar[str] = "the site cannot tell whether its clips have changed since its release"


class SourceFile(OwnRecord):
    """One file that was read; its path starts at the corpus folder."""

    path: str
    stat: Stat
    digest: str


class SourceClip(OwnRecord):
    """One clip that was read."""

    speaker: SpeakerId
    metadata: str = Field(validation_alias=AliasChoices("metadata", "told"))
    """Keyed digest of what was released beside its arrays."""
    files: dict[Modality, SourceFile]


class Provenance(OwnRecord):
    """The clips of one release, or of one site's part in a code, as they were. It never leaves."""

    format: Literal[1] = 1
    study: str
    """Digest of the study."""
    name: str
    """Name of the study."""
    labels: Literal["intended", "vote"]
    classes: tuple[str, ...] = EMOTIONS
    attributes: bool
    """Whether sex and age group were released."""
    modalities: tuple[Modality, ...]
    tables: dict[str, Stat | None]
    described: tuple[SpeakerId, ...]
    """Speakers whose sex or age a table gave."""
    clips: dict[str, SourceClip]

    @classmethod
    def take(
        cls, settings: SiteSettings, study: Study, corpus: Corpus, clips: Sequence[Clip], modalities: Sequence[Modality]
    ) -> Self:
        """Note how all clips are now, before they are read."""
        return cls(
            study=study.digest(),
            name=study.name,
            labels=study.labels,
            classes=study.classes,
            attributes=study.audit.attributes,
            modalities=tuple(modalities),
            tables={name: _stat(settings.corpus / name) for name in corpus.tables},
            described=tuple(sorted(_described(corpus))),
            clips={c.name: _source(settings, study.audit.attributes, corpus, c, modalities=modalities) for c in clips},
        )

    def of_those(self, read: Mapping[Modality, Collection[str]]) -> Self:
        """The record without unreadable files: one that is repaired later has no part in the release."""
        kept: dict[str, SourceClip] = {}
        for name, clip in self.clips.items():
            if files := {m: source for m, source in clip.files.items() if name in read.get(m, ())}:
                kept[name] = clip.model_copy(update={"files": files})
        return self.model_copy(update={"clips": kept})

    @staticmethod
    def load(folder: Path) -> Provenance | None:
        """The record in a folder; None if there is none."""
        stat = _stat(folder / PROVENANCE_FILE)
        return None if stat is None else _loaded(folder / PROVENANCE_FILE, stat)

    def save(self, folder: Path) -> None:
        """Write it into a folder, readable by its owner only."""
        write_atomic(folder / PROVENANCE_FILE, self.model_dump_json(), mode=0o600)

    @property
    def speakers(self) -> frozenset[SpeakerId]:
        """Everybody on these clips."""
        return frozenset(clip.speaker for clip in self.clips.values())

    @property
    def digests(self) -> frozenset[str]:
        """Digests of the content of all files."""
        return frozenset(source.digest for clip in self.clips.values() for source in clip.files.values())

    def now(self, settings: SiteSettings, corpus: Corpus, clip: Clip, *, whole: bool = False) -> SourceClip | None:
        """One of these clips as it is now; None if it is another one than it was. `whole` reads its files anyway."""
        was = self.clips[clip.name]
        if clip.speaker != was.speaker or was.files.keys() - _paths(clip).keys():
            return None
        known = {} if whole else was.files
        now = _source(settings, self.attributes, corpus, clip, modalities=was.files, known=known)
        if now.metadata != was.metadata or any(now.files[m].digest != file.digest for m, file in was.files.items()):
            return None
        return was.model_copy(update={"files": now.files})

    def holds(self, settings: SiteSettings, corpus: Corpus, clip: Clip) -> bool:
        """Whether a clip is one of these, has no other file than it had, and is as it was."""
        was = self.clips.get(clip.name)
        if was is None or _paths(clip).keys() & set(self.modalities) != was.files.keys():
            return False
        return self.now(settings, corpus, clip) is not None

    def without(self, names: Collection[str]) -> Self:
        """The record without the clips of these names."""
        return self.model_copy(update={"clips": {n: clip for n, clip in self.clips.items() if n not in names}})

    def files_of(self, speaker: SpeakerId) -> frozenset[WithdrawnFile]:
        """Files of one person, in the form of the list of those who have withdrawn."""
        sources = (s for c in self.clips.values() if c.speaker == speaker for s in c.files.values())
        return frozenset(WithdrawnFile(size=source.stat[0], digest=source.digest) for source in sources)


@lru_cache(maxsize=4)  # it is read before and after every response, and thousands of clips take a while
def _loaded(path: Path, stat: Stat) -> Provenance | None:
    del stat
    broken = HomeError(
        f"the record of clips that were released or approved, {path}, cannot be read",
        expected="the file that this version wrote",
        fix=f"delete the folder {path.parent}: a release is then made anew, and an approval must be given again",
    )
    return read_own(path, Provenance.model_validate_json, broken)


@dataclass
class Changes:
    """Differences from the corpus of a release. Names of speakers and clips stay at the site."""

    gone: set[SpeakerId] = field(default_factory=set)
    """Speakers who have no clip any more."""
    lost: list[str] = field(default_factory=list)
    """Clips that are missing, or not this site's any more."""
    changed: list[str] = field(default_factory=list)
    """Clips with other content, label, sex or age group."""
    added: list[str] = field(default_factory=list)
    """Clips that came later. They have no part in the release, which stays valid."""
    unclear: str = ""
    """The reason why the site cannot say which speakers are gone; empty if it can."""
    now: Provenance | None = None
    """The same provenance, with the times and places that files have now."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.changed)

    def as_text(self) -> str:
        """The changes in words, for the site's own log."""
        gone = f"; nothing is left of {', '.join(in_order(self.gone))}" if self.gone else ""
        return f"{len(self.lost)} clips are gone and {len(self.changed)} are others than they were{gone}"


def find_changes(provenance: Provenance, settings: SiteSettings, *, whole: bool = False) -> Changes:
    """Compare what something was made of with the corpus as it is; `whole` reads files that look untouched, too."""
    from moretta.client.clips.approved_clips import approved_names

    names = approved_names(settings, provenance.study)
    if not whole and (names is None or provenance.clips.keys() <= names) and _untouched(provenance, settings):
        return Changes()
    corpus, clips = labelled_corpus(settings, provenance.labels, provenance.classes)
    clips = tuple(clip for clip in clips if names is None or clip.name in names)
    there = {clip.name: clip for clip in clips}
    found = Changes(unclear=_unclear(provenance, settings, corpus, there))
    if found.unclear:
        return found
    renewed: dict[str, SourceClip] = {}
    for name, was in provenance.clips.items():
        if name not in there or was.files.keys() - _paths(there[name]).keys():
            found.lost.append(name)
            continue
        now = provenance.now(settings, corpus, there[name], whole=whole)
        if now is None:
            found.changed.append(name)
        else:
            renewed[name] = now
    found.gone = set(provenance.speakers - {clip.speaker for clip in clips})
    usable = {clip.name for clip in clips if _paths(clip).keys() & set(provenance.modalities)}
    found.added = [name for name in there if name in usable - provenance.clips.keys()]
    tables = {name: _stat(settings.corpus / name) for name in corpus.tables}
    found.now = provenance.model_copy(update={"clips": renewed, "tables": tables})
    return found


def check_unchanged(provenance: Provenance, settings: SiteSettings) -> None:
    """Refuse what has just been made if clips changed meanwhile."""
    changes = find_changes(provenance, settings)
    if changes or changes.unclear:
        raise ChangedError(changes.unclear or changes.as_text(), fix="start the study again")


def _untouched(provenance: Provenance, settings: SiteSettings) -> bool:
    """Whether nothing looks as if anybody had touched it, and everybody is still this site's."""
    people, withdrawn, root = provenance.speakers, settings.withdrawn, settings.corpus
    if withdrawn.speakers & people or (settings.speakers and people - set(settings.speakers)):
        return False
    if any(_stat(root / name) != stat for name, stat in provenance.tables.items()):
        return False
    sources = (source for clip in provenance.clips.values() for source in clip.files.values())
    return all(_stat(root / s.path) == s.stat and s.digest not in withdrawn.digests for s in sources)


def _unclear(provenance: Provenance, settings: SiteSettings, corpus: Corpus, there: Mapping[str, Clip]) -> str:
    """The reason why a loss is no withdrawal, such as a folder that is not mounted; empty if there is none."""
    by_modality: dict[Modality, list[SourceFile]] = defaultdict(list)
    halved: dict[tuple[SpeakerId, Modality], list[SourceFile]] = defaultdict(list)
    for name, clip in provenance.clips.items():
        for modality, source in clip.files.items():
            by_modality[modality].append(source)
            if name in there:
                halved[clip.speaker, modality].append(source)

    def all_gone(sources: Sequence[SourceFile]) -> bool:
        return bool(sources) and not any((settings.corpus / source.path).exists() for source in sources)

    for modality in provenance.modalities:
        if all_gone(sources := by_modality[modality]):
            return f"none of the {len(sources)} files of {_CALLED[modality]} that were released is in its folder"
    left = {clip.speaker for clip in there.values()}
    if unknown := in_order((set(provenance.described) & left) - _described(corpus)):
        tables = " or ".join(name for name, stat in provenance.tables.items() if stat is not None) or "no table"
        named = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        return f"{tables} says nothing any more of {named}, whose clips are still there"
    for (speaker, modality), sources in sorted(halved.items()):
        if all_gone(sources):
            kind = _CALLED[modality]
            return f"all files of {kind} of speaker {speaker} are gone, and other files of the same clips are there"
    return ""


def _described(corpus: Corpus) -> set[SpeakerId]:
    return {n for n, speaker in corpus.speakers.items() if (speaker.sex, speaker.age) != (None, None)}


def _paths(clip: Clip) -> dict[Modality, Path]:
    # A video's own sound stands in for a sound file
    found: dict[Modality, Path | None] = {"voice": clip.audio or clip.video, "face": clip.video}
    return {modality: path for modality, path in found.items() if path is not None}


def _source(
    settings: SiteSettings,
    attributes: bool,
    corpus: Corpus,
    clip: Clip,
    *,
    modalities: Iterable[Modality],
    known: Mapping[Modality, SourceFile] = {},
) -> SourceClip:
    """A clip as it is now; files that look as they were in `known` are not read again."""
    key, files, speaker = settings.pseudonyms(), dict[Modality, SourceFile](), corpus.speakers.get(clip.speaker)
    for modality, file in _paths(clip).items():
        path, stat = file.relative_to(settings.corpus).as_posix(), _stat(file) or (-1, -1, -1, -1)
        was = known.get(modality)
        if was is not None and (was.path, was.stat) == (path, stat):
            files[modality] = was
        elif modality in modalities:  # its times were looked at before: a change meanwhile shows at the next look
            files[modality] = SourceFile(path=path, stat=stat, digest=content_digest(key, file))
    person = f"{speaker.sex} {age_group(speaker.age)}" if attributes and speaker is not None else ""
    return SourceClip(speaker=clip.speaker, metadata=key.digest(f"told {clip.label} {person}"), files=files)


def _stat(path: Path) -> Stat | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a third faster, and there may be thousands
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
