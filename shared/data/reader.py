"""Reads a folder in CREMA-D layout: `AudioWAV/`, `VideoFlash/`, `VideoDemographics.csv`, maybe `summaryTable.csv`.

Only names and tables are read here. Whether a file can be decoded shows when it is (`media.py`), or under
`moretta corpus check`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.data.clip_names import ClipName
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker
from moretta.shared.data.demographics import DEMOGRAPHICS_FILE, VOTES_FILE, find_votes, read_demographics, read_votes

Labels = Literal["intended", "vote"]

SYNTHETIC_MARKER = "SYNTHETIC.json"
AUDIO_FOLDER = "AudioWAV"
VIDEO_FOLDER = "VideoFlash"
AUDIO_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
VIDEO_ENDINGS = (".flv", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")
"""The published form first: it is used where a clip has several."""
LITTER = ("thumbs.db", "desktop.ini", "icon\r", "@eadir")
"""What Windows, macOS and Synology leave in folders, beside hidden files: no part of a corpus."""
KNOWN_DEFECTS = {"1076_MTI_SAD_XX": "CREMA-D published it with a broken video and next to no sound"}
_LAYOUT = f"a folder with {AUDIO_FOLDER}/*.wav, {VIDEO_FOLDER}/*.flv (or .mp4), or both"


def read_corpus(root: Path, *, labels: Labels = "intended") -> Corpus:
    """List the clips of a corpus and everything that cannot be used.

    A clip with only sound or only video is normal. A speaker without a row in the demographics is kept, and named in
    the warnings.

    Args:
        root: the corpus folder.
        labels: `intended`, what the actor was asked for; or `vote`, what most people recognised, which drops ties.

    Raises:
        CorpusError: no such folder, no usable clip in it, or a table that cannot be read.
    """
    try:
        return _read(root, labels)
    except OSError as error:
        raise CorpusError(
            f"{error.filename or root} cannot be read ({error.strerror})", fix="check its rights"
        ) from error


def _read(root: Path, labels: Labels) -> Corpus:
    if not root.is_dir():
        raise CorpusError(f"no folder {root}", expected=_LAYOUT)
    folders = [folder for folder in (AUDIO_FOLDER, VIDEO_FOLDER) if (root / folder).is_dir()]
    if not folders:
        raise CorpusError(f"neither {AUDIO_FOLDER} nor {VIDEO_FOLDER} in {root}", expected=_LAYOUT)
    audio = _list_files(root, AUDIO_FOLDER, AUDIO_ENDINGS)
    video = _list_files(root, VIDEO_FOLDER, VIDEO_ENDINGS)
    drops = audio.dropped + video.dropped
    names = sorted(audio.kept.keys() | video.kept.keys())
    voted, vote_warnings = read_votes(find_votes(root)) if labels == "vote" else (None, [])
    clips = []
    for name in names:
        label = name.emotion if voted is None else voted.get(str(name))
        if label is None:
            drops += _drop_clip(root, (audio.kept.get(name), video.kept.get(name)))
        else:
            clips.append(Clip(name, label, audio.kept.get(name), video.kept.get(name)))
    if not clips:
        raise _no_clip(root, drops, vote_warnings)
    speakers, warnings = _speakers(root, {clip.speaker for clip in clips})
    name_, synthetic, marker_warnings = _read_marker(root)
    return Corpus(
        root=root,
        name=name_,
        synthetic=synthetic,
        clips=tuple(clips),
        speakers=speakers,
        dropped=tuple(sorted(drops, key=lambda drop: (drop.file, drop.reason))),
        warnings=(*marker_warnings, *warnings, *vote_warnings),
    )


def _no_clip(root: Path, drops: list[Drop], vote_warnings: list[str]) -> CorpusError:
    found = f"no usable clip in {root} ({len(drops)} files dropped{_counted(drops)})"
    if any(drop.reason == "no-vote" for drop in drops):
        return CorpusError(
            f"{found}; {'; '.join(vote_warnings)}" if vote_warnings else found,
            expected=f"a vote for its clips in {VOTES_FILE}",
            fix=f"correct FileName and MultiModalVote in {VOTES_FILE}, or use the labels `intended`",
        )
    return CorpusError(
        found,
        expected=_LAYOUT,
        fix="files are named <actor>_<sentence>_<emotion>_<level>, such as 1001_IEO_ANG_HI.wav",
    )


@dataclass
class _Files:
    """The files of one folder: at most one per clip name."""

    kept: dict[ClipName, Path] = field(default_factory=dict)
    dropped: list[Drop] = field(default_factory=list)


def _list_files(root: Path, folder: str, endings: tuple[str, ...]) -> _Files:
    """Hidden files (`.DS_Store`, half-written ones) and litter are no part of a corpus and are not counted."""
    files = _Files()
    if not (root / folder).is_dir():
        return files
    candidates: dict[ClipName, list[Path]] = {}
    for path in sorted((root / folder).iterdir()):
        if path.name.startswith(".") or path.name.casefold() in LITTER:
            continue
        relative = f"{folder}/{path.name}"
        if not path.is_file() or path.suffix.lower() not in endings:
            what = "a folder" if path.is_dir() else "a link to nothing" if not path.exists() else "a device or a pipe"
            found = what if not path.is_file() else f"a file ending in {path.suffix or 'nothing'}"
            files.dropped.append(
                Drop(relative, "wrong-kind", f"{found}; expected a file ending in {' or '.join(endings)}")
            )
            continue
        try:
            name = parse_stem(path.stem)
        except ClipError as error:
            files.dropped.append(Drop(relative, error.reason, error.message))
            continue
        if str(name) in KNOWN_DEFECTS:
            files.dropped.append(Drop(relative, "known-defect", KNOWN_DEFECTS[str(name)]))
            continue
        candidates.setdefault(name, []).append(path)
    for name, paths in candidates.items():
        keeper, *others = sorted(paths, key=lambda path: _preference(path, name, endings))
        files.kept[name] = keeper
        files.dropped += [Drop(f"{folder}/{path.name}", "duplicate", f"{keeper.name} is used") for path in others]
    return files


def parse_stem(stem: str) -> ClipName:
    """Names are read without regard to case: some unpackers change it, and Windows and macOS do not tell it apart."""
    return ClipName.parse(stem.upper() if stem.isascii() else stem)


def _preference(path: Path, name: ClipName, endings: tuple[str, ...]) -> tuple[bool, int, str]:
    """Sorts the file as CREMA-D publishes it first, on every machine alike."""
    return path.stem != str(name), endings.index(path.suffix.lower()), path.name


def _drop_clip(root: Path, files: tuple[Path | None, Path | None]) -> list[Drop]:
    detail = "the crowd's vote is tied or missing"
    return [Drop(file.relative_to(root).as_posix(), "no-vote", detail) for file in files if file is not None]


def _speakers(root: Path, numbers: set[int]) -> tuple[dict[int, Speaker], list[str]]:
    known: Mapping[int, Speaker] = {}
    warnings: list[str] = []
    path = root / DEMOGRAPHICS_FILE
    if path.is_file():
        known, warnings = read_demographics(path)
    missing = sorted(numbers - known.keys())
    if missing:
        listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        warnings.append(
            f"{len(missing)} of {len(numbers)} speakers have no row in {DEMOGRAPHICS_FILE}, "
            f"so their sex and age are unknown: {listed}"
        )
    return {number: known.get(number, Speaker(number)) for number in sorted(numbers)}, warnings


def is_synthetic(root: Path) -> bool:
    """Whether the clips in a folder were made by a program, as their maker marked them."""
    return _read_marker(root)[1]


def _read_marker(root: Path) -> tuple[str, bool, list[str]]:
    """A damaged marker still marks: synthetic data must never pass for real."""
    path = root / SYNTHETIC_MARKER
    folder_name = root.resolve().name
    if not path.exists():
        return folder_name, False, []
    try:
        name = json.loads(path.read_text("utf-8"))["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return folder_name, True, [f"{SYNTHETIC_MARKER} cannot be read ({type(error).__name__})"]
    return str(name), True, []


def _counted(drops: list[Drop]) -> str:
    reasons = sorted({drop.reason for drop in drops})
    if not reasons:
        return ""
    return ": " + ", ".join(f"{sum(d.reason == reason for d in drops)} {reason}" for reason in reasons)
