"""Provenance of a stored release: kept with it, at the site, and compared with the corpus before the release is used.

Of each clip there is where its files were, their size and times, a keyed digest of their content, and one of its
metadata: label, sex, age group. A file whose size, times and inode are as they were is taken to be as it was, so the
comparison costs one look at each file; a whole comparison reads everything.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from moretta.client.clips.site_clips import WithdrawnFile, content_digest, labelled_corpus
from moretta.client.settings import SiteSettings
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError, RefusedError
from moretta.shared.core.labels import EMOTIONS, SpeakerId, in_order
from moretta.shared.core.pseudonym import PseudonymKey
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


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFile(_Record):
    """One file that was read; its path starts at the corpus folder."""

    path: str
    stat: Stat
    digest: str


class SourceClip(_Record):
    """One clip that was read."""

    speaker: SpeakerId
    metadata: str = Field(validation_alias=AliasChoices("metadata", "told"))
    """Keyed digest of what was released beside its arrays."""
    files: dict[Modality, SourceFile]


class Provenance(_Record):
    """The clips of one release, or of one site's part in a code, as they were. It never leaves."""

    format: Literal[1] = 1
    study: str
    """Digest of the study."""
    name: str
    """Of the study."""
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
        key, attributes = settings.pseudonyms(), study.audit.attributes
        return cls(
            study=study.digest(),
            name=study.name,
            labels=study.labels,
            classes=study.classes,
            attributes=attributes,
            modalities=tuple(modalities),
            tables=_table_stats(settings.corpus, corpus.tables),
            described=tuple(sorted(_described(corpus))),
            clips={
                clip.name: SourceClip(
                    speaker=clip.speaker,
                    metadata=_metadata(key, corpus, clip, attributes=attributes),
                    files={m: _source(settings.corpus, key, path) for m, path in _paths(clip, modalities)},
                )
                for clip in clips
            },
        )

    def of_those(self, read: Mapping[Modality, Collection[str]]) -> Self:
        """Without what could not be read: a broken file that is mended later has no part in what was made."""
        kept: dict[str, SourceClip] = {}
        for name, clip in self.clips.items():
            files = {m: source for m, source in clip.files.items() if name in read.get(m, ())}
            if files:
                kept[name] = clip.model_copy(update={"files": files})
        return self.model_copy(update={"clips": kept})

    @staticmethod
    def load(folder: Path) -> Provenance | None:
        """Of what is stored in a folder; None if there is none."""
        path = folder / PROVENANCE_FILE
        try:
            return _loaded(path, _stat(path))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise HomeError(
                f"the record of what was released, {path}, cannot be read: {type(error).__name__}",
                expected="the file that this version wrote",
                fix=f"delete the folder {path.parent}: the release is then made anew when it is requested",
            ) from error

    def save(self, folder: Path) -> None:
        """Write it into a folder, readable by its owner only."""
        write_atomic(folder / PROVENANCE_FILE, self.model_dump_json(), mode=0o600)

    @property
    def speakers(self) -> frozenset[SpeakerId]:
        """Everybody on these clips."""
        return frozenset(clip.speaker for clip in self.clips.values())

    @property
    def digests(self) -> frozenset[str]:
        """Of the content of all files."""
        return frozenset(source.digest for clip in self.clips.values() for source in clip.files.values())

    def files_of(self, speaker: SpeakerId) -> frozenset[WithdrawnFile]:
        """Of one person, as the list of those who have withdrawn holds them."""
        sources = (s for c in self.clips.values() if c.speaker == speaker for s in c.files.values())
        return frozenset(WithdrawnFile(size=source.stat[0], digest=source.digest) for source in sources)


@lru_cache(maxsize=4)  # it is read before and after every response, and thousands of clips take a while
def _loaded(path: Path, stat: Stat | None) -> Provenance:
    del stat
    return Provenance.model_validate_json(path.read_bytes())


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
    """Why the site cannot tell who is gone."""
    now: Provenance | None = None
    """The same provenance, with the times and places that files have now."""

    def __bool__(self) -> bool:
        return bool(self.lost or self.changed)

    def as_text(self) -> str:
        """For the site's own log."""
        gone = f"; nothing is left of {', '.join(in_order(self.gone))}" if self.gone else ""
        return f"{len(self.lost)} clips are gone and {len(self.changed)} are others than they were{gone}"


def find_changes(provenance: Provenance, settings: SiteSettings, *, whole: bool = False) -> Changes:
    """Compare what something was made of with the corpus as it is.

    Args:
        provenance: of a release or of a part in a code.
        settings: of the site, as they are now.
        whole: read every file again, even those that look untouched.
    """
    if not whole and _untouched(provenance, settings):
        return Changes()
    root, key = settings.corpus, settings.pseudonyms()
    corpus, clips = labelled_corpus(settings, provenance.labels, provenance.classes)
    there = {clip.name: clip for clip in clips}
    found = Changes(unclear=_unclear(provenance, settings, corpus, there))
    if found.unclear:
        return found
    renewed: dict[str, SourceClip] = {}
    for name, was in provenance.clips.items():
        clip = there.get(name)
        paths = {} if clip is None else dict(_paths(clip, provenance.modalities))
        if clip is None or was.files.keys() - paths.keys():
            found.lost.append(name)
            continue
        files = {
            m: source if not whole and _looks_same(root, source, paths[m]) else _source(root, key, paths[m])
            for m, source in was.files.items()
        }
        same = all(files[m].digest == source.digest for m, source in was.files.items())
        if same and _metadata(key, corpus, clip, attributes=provenance.attributes) == was.metadata:
            renewed[name] = was.model_copy(update={"files": files})
        else:
            found.changed.append(name)
    found.gone = set(provenance.speakers - {clip.speaker for clip in clips})
    found.added = [n for n, c in there.items() if n not in provenance.clips and any(_paths(c, provenance.modalities))]
    found.now = provenance.model_copy(update={"clips": renewed, "tables": _table_stats(root, corpus.tables)})
    return found


def check_unchanged(provenance: Provenance, settings: SiteSettings) -> None:
    """Refuse what has just been made if clips changed meanwhile."""
    changes = find_changes(provenance, settings)
    if changes or changes.unclear:
        raise ChangedError(changes.unclear or changes.as_text(), fix="start the study again")


def _untouched(provenance: Provenance, settings: SiteSettings) -> bool:
    """Whether nothing looks as if anybody had touched it, and everybody is still this site's."""
    people, withdrawn = provenance.speakers, settings.withdrawn
    if withdrawn.speakers & people or (settings.speakers and people - set(settings.speakers)):
        return False
    if provenance.tables != _table_stats(settings.corpus, provenance.tables):
        return False
    return all(
        _stat(settings.corpus / source.path) == source.stat and source.digest not in withdrawn.digests
        for clip in provenance.clips.values()
        for source in clip.files.values()
    )


def _unclear(provenance: Provenance, settings: SiteSettings, corpus: Corpus, there: Mapping[str, Clip]) -> str:
    """A folder that is not mounted, and a person who was deleted by half, are no withdrawals; empty if all is clear."""

    def all_gone(sources: Sequence[SourceFile]) -> bool:
        return bool(sources) and not any((settings.corpus / source.path).exists() for source in sources)

    for modality in provenance.modalities:
        sources = [c.files[modality] for c in provenance.clips.values() if modality in c.files]
        if all_gone(sources):
            return f"none of the {len(sources)} files of {_CALLED[modality]} that were released is in its folder"
    left = {clip.speaker for clip in there.values()}
    unknown = in_order((set(provenance.described) & left) - _described(corpus))
    if unknown:
        tables = " or ".join(name for name, stat in provenance.tables.items() if stat is not None) or "no table"
        named = ", ".join(unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        return f"{tables} says nothing any more of {named}, whose clips are still there"
    halved: dict[tuple[SpeakerId, Modality], list[SourceFile]] = defaultdict(list)
    for name, clip in provenance.clips.items():
        for modality, source in clip.files.items() if name in there else ():
            halved[clip.speaker, modality].append(source)
    for (speaker, modality), sources in sorted(halved.items()):
        if all_gone(sources):
            kind = _CALLED[modality]
            return f"all files of {kind} of speaker {speaker} are gone, and other files of the same clips are there"
    return ""


def _metadata(key: PseudonymKey, corpus: Corpus, clip: Clip, *, attributes: bool) -> str:
    """Keyed digest of what is released of a clip beside its arrays."""
    speaker = corpus.speakers.get(clip.speaker) if attributes else None
    person = "" if speaker is None else f"{speaker.sex} {age_group(speaker.age)}"
    return key.digest(f"told {clip.label} {person}")


def _described(corpus: Corpus) -> set[SpeakerId]:
    return {n for n, speaker in corpus.speakers.items() if (speaker.sex, speaker.age) != (None, None)}


def _paths(clip: Clip, modalities: Sequence[Modality]) -> Iterator[tuple[Modality, Path]]:
    sound = clip.audio or clip.video  # a video's own sound stands in for a sound file
    if "voice" in modalities and sound is not None:
        yield "voice", sound
    if "face" in modalities and clip.video is not None:
        yield "face", clip.video


def _source(root: Path, key: PseudonymKey, path: Path) -> SourceFile:
    """Its times are looked at before it is read: a change meanwhile shows at the next look."""
    stat = _stat(path) or (-1, -1, -1, -1)
    digest = content_digest(key, path)
    return SourceFile(path=path.relative_to(root).as_posix(), stat=stat, digest=digest)


def _looks_same(root: Path, was: SourceFile, path: Path) -> bool:
    return path.relative_to(root).as_posix() == was.path and _stat(path) == was.stat


def _table_stats(root: Path, tables: Iterable[str]) -> dict[str, Stat | None]:
    return {name: _stat(root / name) for name in tables}


def _stat(path: Path) -> Stat | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a third faster, and there may be thousands
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
