"""Clips that some other tool anonymized: in CREMA-D layout, or files under CREMA-D names in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.data.clip_names import ClipName
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker
from moretta.shared.data.demographics import DEMOGRAPHICS_FILE, read_demographics
from moretta.shared.data.reader import (
    AUDIO_ENDINGS,
    AUDIO_FOLDER,
    VIDEO_ENDINGS,
    VIDEO_FOLDER,
    parse_stem,
    read_corpus,
)


def read_foreign(folder: Path, *, speakers: Mapping[int, Speaker] | None = None) -> Corpus:
    """List the clips of a folder and its files that are none.

    Args:
        folder: with `AudioWAV` or `VideoFlash` in it, or with the files themselves.
        speakers: what is known of them elsewhere, such as in the originals.

    Raises:
        CorpusError: no file under a CREMA-D name.
    """
    if any((folder / name).is_dir() for name in (AUDIO_FOLDER, VIDEO_FOLDER)):
        found = read_corpus(folder)
        known = {**found.speakers, **(speakers or {})}
        return Corpus(found.root, found.name, found.synthetic, found.clips, known, found.dropped, found.warnings)
    audio, video, dropped = _files(folder)
    names = sorted(audio.keys() | video.keys())
    if not names:
        raise CorpusError(
            f"no wav or video file under a CREMA-D name in {folder}",
            expected="files such as 1001_IEO_ANG_HI.wav",
            fix="name the clips as the originals are named",
        )
    clips = tuple(Clip(name, name.emotion, audio.get(name), video.get(name)) for name in names)
    table = folder / DEMOGRAPHICS_FILE
    known = dict(speakers) if speakers is not None else dict(read_demographics(table)[0] if table.is_file() else {})
    people = {name.speaker: known.get(name.speaker, Speaker(name.speaker)) for name in names}
    return Corpus(folder, folder.name, False, clips, people, tuple(dropped))


def _files(folder: Path) -> tuple[dict[ClipName, Path], dict[ClipName, Path], list[Drop]]:
    audio: dict[ClipName, Path] = {}
    video: dict[ClipName, Path] = {}
    dropped: list[Drop] = []
    for path in sorted(folder.iterdir()):
        ending = path.suffix.lower()
        if path.name.startswith(".") or not path.is_file() or ending not in (*AUDIO_ENDINGS, *VIDEO_ENDINGS):
            continue
        try:
            name = parse_stem(path.stem)
        except ClipError as error:
            dropped.append(Drop(path.name, error.reason, error.message))
            continue
        (audio if ending in AUDIO_ENDINGS else video).setdefault(name, path)
    return audio, video, dropped
