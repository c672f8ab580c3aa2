"""Clips that some other tool anonymized: a corpus of its own, or files that are named as the originals are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import in_order
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker
from moretta.shared.data.corpora.cremad import ClipName
from moretta.shared.data.demographics import DEMOGRAPHICS_FILE, read_demographics
from moretta.shared.data.reader import AUDIO_ENDINGS, VIDEO_ENDINGS, media_files, read_corpus, readers


def read_foreign(folder: Path, originals: Corpus | None = None) -> Corpus:
    """List the clips of a folder and its files that are none.

    Args:
        folder: in the layout of a corpus, or with files that are named as the originals; without originals, files
            under CREMA-D names.
        originals: what the clips were made of.

    Raises:
        CorpusError: no file under the name of a clip.
    """
    known = {} if originals is None else originals.speakers
    if any(reader.recognizes(folder) for reader in readers()):
        found = read_corpus(folder, classes=None)
        return replace(found, speakers={**found.speakers, **known})
    clips: dict[str, Clip] = {}
    dropped: list[Drop] = []
    names = {} if originals is None else _by_stem(originals)
    for path in media_files(folder, below=True):
        ending = path.suffix.lower()
        if not path.is_file() or ending not in (*AUDIO_ENDINGS, *VIDEO_ENDINGS):
            continue
        relative = path.relative_to(folder)
        clip = names.get(relative.with_suffix("").as_posix().casefold()) or names.get(path.stem.casefold())
        try:
            clip = clip or ClipName.of_file(path.stem).clip(None, None)
        except ClipError as error:
            dropped.append(Drop(relative.as_posix(), error.reason, error.message))
            continue
        clip = clips.get(clip.name, clip)
        if ending in AUDIO_ENDINGS:
            clips[clip.name] = replace(clip, audio=clip.audio or path)
        else:
            clips[clip.name] = replace(clip, video=clip.video or path)
    if not clips:
        raise CorpusError(
            f"no sound or video file in {folder} that is named as a clip",
            expected="files named as the originals, or such as 1001_IEO_ANG_HI.wav",
            fix="name the clips as the originals are named",
        )
    table = folder / DEMOGRAPHICS_FILE
    if originals is None and table.is_file():
        known = read_demographics(table)[0]
    people = {s: known.get(s, Speaker(s)) for s in in_order({clip.speaker for clip in clips.values()})}
    return Corpus(folder, folder.name, False, tuple(clips[name] for name in sorted(clips)), people, tuple(dropped))


def _by_stem(originals: Corpus) -> dict[str, Clip]:
    """The clips, without files, by the names of their files: with the folder, and alone where it is the only one."""
    found: dict[str, Clip] = {}
    twice: set[str] = set()
    for clip in originals.clips:
        bare = replace(clip, audio=None, video=None)
        for path in clip.files:
            found[path.relative_to(originals.root).with_suffix("").as_posix().casefold()] = bare
            other = found.setdefault(path.stem.casefold(), bare)
            if other.name != clip.name:
                twice.add(path.stem.casefold())
    return {name: clip for name, clip in found.items() if name not in twice}
