"""Finds the reader that knows a folder of clips, and holds what it read against the study's classes.

Only names and tables are read here. Whether a file can be decoded shows when it is (`media.py`), or under
`moretta corpus check`.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from moretta.shared.core.errors import CorpusError
from moretta.shared.core.labels import EMOTIONS, SpeakerId, class_of, in_order
from moretta.shared.core.plugins import Registry
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker, by_reason

Labels = Literal["intended", "vote"]
R = TypeVar("R", bound="type[CorpusReader]")

SYNTHETIC_MARKER = "SYNTHETIC.json"
AUDIO_ENDINGS = (
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"),
    *(".aac", ".aiff", ".aif", ".au", ".caf", ".wma", ".amr", ".ac3", ".mka", ".wv"),
)
VIDEO_ENDINGS = (
    *(".flv", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
    *(".mpg", ".mpeg", ".wmv", ".3gp", ".ogv", ".ts", ".mts"),
)
"""The form that CREMA-D publishes first: it is used where a clip has several."""
_LARGEST_MARKER = 1024 * 1024
_INSIDE = "files in the folder itself, or links to such"
_COPY = "copy the files there, or name the folder that has them"
_LITTER = ("thumbs.db", "desktop.ini", "icon\r", "@eadir")
"""Left in folders by Windows, macOS and Synology, beside hidden files: no part of a corpus."""


class CorpusReader(ABC):
    """Reads one layout of folders. A plug-in: one file, here or in a package with an entry point `moretta.corpora`."""

    name: ClassVar[str]
    layout: ClassVar[str]
    """A description of such a folder, for errors."""
    explicit: ClassVar[bool] = False
    """Whether such a folder declares its layout, as by a manifest. These readers come first."""

    @classmethod
    @abstractmethod
    def recognizes(cls, root: Path) -> bool:
        """Whether a folder has this layout."""

    @classmethod
    @abstractmethod
    def read(cls, root: Path, labels: Labels) -> Corpus:
        """List the clips under the corpus's own labels, and what cannot be used; a CorpusError if there is no clip."""


_READERS: Registry[type[CorpusReader]] = Registry(
    "corpus reader", group="moretta.corpora", package="moretta.shared.data.corpora", error=CorpusError
)


def corpus_reader(name: str) -> Callable[[R], R]:
    """Register a reader under a name."""

    def register(cls: R) -> R:
        cls.name = name
        _READERS.add(name, cls)
        return cls

    return register


def readers() -> list[type[CorpusReader]]:
    """All readers, in the order in which they are tried."""
    return sorted(_READERS.items(), key=lambda reader: not reader.explicit)


def read_corpus(root: Path, *, labels: Labels = "intended", classes: Sequence[str] | None = EMOTIONS) -> Corpus:
    """List the clips of a corpus and everything that cannot be used.

    A clip with only sound or only video is normal. Clips of other labels than the study's are dropped and counted.

    Args:
        root: the corpus folder.
        labels: `intended`, what the actor was to show; or `vote`, what most people recognised, which drops ties.
        classes: the study's; None keeps every clip under the corpus's own labels.

    Raises:
        CorpusError: no such folder, no usable clip in it, or a table that cannot be read, or is a link to outside.
    """
    try:
        reader = next((reader for reader in readers() if root.is_dir() and reader.recognizes(root)), None)
        if reader is None:
            found = f"no corpus that Moretta knows in {root}" if root.is_dir() else f"no folder {root}"
            layouts = "; or ".join(known.layout for known in readers())
            raise CorpusError(found, expected=f"a folder with {layouts}")
        corpus = _without_links(reader.read(root, labels))
        return corpus if classes is None else _of_classes(corpus, classes)
    except OSError as error:
        found = f"{error.filename or root} cannot be read ({error.strerror})"
        raise CorpusError(found, fix="check its rights") from error


def leads_outside(folder: Path, path: Path) -> bool:
    """Whether a path in a folder is a link, or lies behind one, to a place outside. The folder itself may be a link."""
    return not path.resolve().is_relative_to(folder.resolve())


def link_or_copy(source: Path, place: Path) -> None:
    """Put a file's content at another place: by a hard link, or by a copy where no link can be made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), place)
    except OSError:
        shutil.copyfile(source, place)


def _without_links(corpus: Corpus) -> Corpus:
    """The corpus without clips that lie elsewhere: whoever made the folder would choose what else is released."""
    for name in corpus.tables:
        if leads_outside(corpus.root, corpus.root / name):
            raise CorpusError(f"{name} in {corpus.root} is a link to outside the folder", expected=_INSIDE, fix=_COPY)
    folders = {path.parent for clip in corpus.clips for path in clip.files}
    behind = {folder for folder in folders if leads_outside(corpus.root, folder)}  # a look-up for each folder

    def is_outside(path: Path) -> bool:
        return path.parent in behind or (path.is_symlink() and leads_outside(corpus.root, path))

    outside = {clip.name for clip in corpus.clips if any(map(is_outside, clip.files))}
    if not outside:
        return corpus
    drops = list(corpus.dropped)
    for clip in corpus.clips:
        if clip.name in outside:
            drops += drops_of(corpus.root, clip, "outside", f"a link to outside the folder; expected {_INSIDE}")
    clips = tuple(clip for clip in corpus.clips if clip.name not in outside)
    if not clips:
        raise no_clip(corpus.root, drops, expected=_INSIDE, fix=_COPY)
    return _with_clips(corpus, clips, drops)


def _with_clips(corpus: Corpus, clips: Sequence[Clip], drops: Sequence[Drop]) -> Corpus:
    left = {clip.speaker for clip in clips}
    speakers = {speaker: person for speaker, person in corpus.speakers.items() if speaker in left}
    return replace(corpus, clips=tuple(clips), speakers=speakers, dropped=_in_file_order(drops))


def _of_classes(corpus: Corpus, classes: Sequence[str]) -> Corpus:
    """The corpus under the study's labels."""
    known = {label: class_of(label, classes) for label in {clip.label for clip in corpus.clips}}
    clips, drops = [], list(corpus.dropped)
    for clip in corpus.clips:
        label = known[clip.label]
        if label is not None:
            clips.append(clip if label == clip.label else replace(clip, label=label))
        else:
            detail = f"the label {clip.label!r} is none of the study's classes {', '.join(classes)}"
            drops += drops_of(corpus.root, clip, "other-label", detail)
    if not clips:
        raise no_clip(corpus.root, drops, fix=f"name its labels in the study: classes = {sorted(known)}")
    if len(drops) == len(corpus.dropped):
        return replace(corpus, clips=tuple(clips))
    return _with_clips(corpus, clips, drops)


def corpus_of(
    root: Path,
    clips: Iterable[Clip],
    people: Mapping[SpeakerId, Speaker],
    drops: Sequence[Drop],
    warnings: Sequence[str] = (),
    **more: Any,
) -> Corpus:
    """A corpus of the given clips, sorted, with the name of the folder or of the marker of a synthetic corpus."""
    name, synthetic, marker_warnings = read_marker(root)
    return Corpus(
        root=root,
        name=name,
        synthetic=synthetic,
        clips=tuple(sorted(clips, key=lambda clip: clip.name)),
        speakers={speaker: people[speaker] for speaker in in_order(people)},
        dropped=_in_file_order(drops),
        warnings=(*marker_warnings, *warnings),
        **more,
    )


def no_clip(
    root: Path, drops: Sequence[Drop], *, expected: str = "", fix: str = "", notes: Sequence[str] = ()
) -> CorpusError:
    """The error of a corpus in which nothing is left."""
    counted = ", ".join(f"{count} {reason}" for reason, count in sorted(by_reason(drops).items()))
    found = f"no usable clip in {root} ({len(drops)} files dropped{': ' * bool(counted)}{counted})"
    return CorpusError("; ".join([found, *notes]), expected=expected, fix=fix)


def drops_of(root: Path, clip: Clip, reason: str, detail: str) -> list[Drop]:
    """A drop for each file of a clip."""
    return [Drop(path.relative_to(root).as_posix(), reason, detail, clip.speaker) for path in clip.files]


def _in_file_order(drops: Iterable[Drop]) -> tuple[Drop, ...]:
    return tuple(sorted(drops, key=lambda drop: (drop.file, drop.reason)))


def media_files(folder: Path, *, below: bool = False) -> Iterator[Path]:
    """Everything in a folder, sorted, but hidden files, half-written ones and litter.

    With `below` it is everything in the folders in it, and no folder itself.
    """
    for path in sorted(folder.rglob("*") if below else folder.iterdir()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.name.casefold() not in _LITTER and not (below and path.is_dir()):
            yield path


def wrong_kind(path: Path, endings: Sequence[str] = ()) -> str | None:
    """The reason why a path is no file with one of these endings, or with any; None if it is one."""
    if path.is_file() and (not endings or path.suffix.lower() in endings):
        return None
    what = "a folder" if path.is_dir() else "a link to nothing" if not path.exists() else "a device or a pipe"
    found = what if not path.is_file() else f"a file ending in {path.suffix or 'nothing'}"
    return f"{found}; expected a file" + (f" ending in {' or '.join(endings)}" if endings else "")


def read_marker(root: Path) -> tuple[str, bool, list[str]]:
    """Name, whether a program made the clips, warnings. A damaged marker still marks: synthetic must not pass for real.

    The maker of a synthetic corpus writes the marker.
    """
    path = root / SYNTHETIC_MARKER
    folder_name = root.resolve().name
    if not os.path.lexists(path):
        return folder_name, False, []
    try:
        if not path.is_file() or leads_outside(root, path) or path.stat().st_size > _LARGEST_MARKER:
            return folder_name, True, [f"{SYNTHETIC_MARKER} is not read: it is no small file in the folder itself"]
        return str(json.loads(path.read_text("utf-8"))["name"]), True, []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return folder_name, True, [f"{SYNTHETIC_MARKER} cannot be read ({type(error).__name__})"]
