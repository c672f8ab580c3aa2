"""`moretta audit`: attack release folders, or what any other tool made of a corpus."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from moretta.deploy.runtime.audit_sets import Audited, Sets, audit_sets
from moretta.deploy.runtime.run_folder import prepare_output
from moretta.shared.audit.arrays import VideoFaces
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.public_people import PublicSets, public_sets
from moretta.shared.core.errors import ClipError, CorpusError, ReleaseError, StudyError
from moretta.shared.core.labels import SpeakerId, classes_among, in_order
from moretta.shared.core.terms import MODALITIES, Modality
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker
from moretta.shared.data.corpora.cremad import ClipName
from moretta.shared.data.reader import (
    AUDIO_ENDINGS,
    VIDEO_ENDINGS,
    leads_outside,
    media_files,
    read_corpus,
    read_marker,
    readers,
)
from moretta.shared.data.tables import DEMOGRAPHICS_FILE, read_demographics
from moretta.shared.release import PseudonymKey, Release, open_release
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.release.release_format import STATEMENT_FILE
from moretta.shared.study.schema import Study

KEY_FILE = "pseudonym.key"
FOREIGN_SITE = "audit"
FACE_SIDE, FACE_FPS = 128, 5.0
"""Pixels a side, and pictures per second, of faces cut out of videos, where no release states its own."""
_DEPTH = 3


def audit_folder(
    releases: Path,
    *,
    corpus: Path | None,
    key: Path | None,
    out: Path,
    seed: int = 0,
    name: str = "",
    parallel: Path | None = None,
    study: Study | None = None,
    **how: Any,
) -> Audited:
    """Attack everything in a folder; writes `audit.json`, `audit.html` and the trial lists to `out`.

    Args:
        releases: a release, a folder of releases, or sound and video files named as the originals.
        corpus: the originals, without which there is no unprotected anchor.
        key: the pseudonym key of the site that made the release; default the one next to it.
        seed: of trials and training, and of the pseudonyms of simulated sites.
        name: what is attacked; default the name of the folder.
        parallel: a corpus of the same clips as they should sound in the voice that is wanted, where that is known.
        study: what the releases were made by: attackers learn first from the public people that it names.
        how: see `audit_sets`.
    """
    prepare_output(out)
    there, sets = _load(releases, corpus, key, seed)
    how["truth"] = None if parallel is None else _parallel(releases, parallel, key, seed)
    known = None if study is None else study.audit.public
    if study is not None and known is not None:
        how["public"] = _public(study, releases, corpus)
    basis: list[Any] = [_files(path) for path in (releases, corpus, key, parallel, known) if path is not None]
    basis += [] if study is None else [study.digest()]
    marked = (releases, *release_folders(releases), *([corpus] if corpus else []))
    synthetic = any(read_marker(folder)[1] for folder in marked)
    name = name or releases.resolve().name
    return audit_sets(sets, out, released=there, name=name, synthetic=synthetic, basis=basis, seed=seed, **how)


def _public(study: Study, folder: Path, corpus: Path | None) -> PublicSets:
    """Voices of the study's public people, before and after its anonymizer. Raises StudyError: the releases are of
    another anonymizer; or see `public_sets`."""
    named = study.voice.anonymizer, study.voice.form
    for release in map(open_release, release_folders(folder)):
        made = release.anonymizer("voice")
        if made is not None and (made.name, made.form) != named:
            found = f"a study of {' as '.join(named)}, and a release of {made.name} as {made.form}"
            raise StudyError(found, expected="the study that the releases were made by", fix="correct --study")
    others = None if corpus is None else read_corpus(corpus, classes=None)
    return public_sets(study, prepare_public(study), others)


def _files(path: Path) -> list[tuple[str, str]]:
    """Name and content of a file, or of all files of a folder: a digest, of sound and video size and time of change.

    Statements, tables and arrays are small, and a tool that writes them again may set their time back.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [(str(file), _content(file)) for file in files]


def _content(file: Path) -> str:
    if file.suffix.lower() in (*AUDIO_ENDINGS, *VIDEO_ENDINGS) or not file.is_file():
        found = file.lstat()
        return f"{found.st_size} {found.st_mtime_ns}"
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _load(folder: Path, corpus: Path | None, key: Path | None, seed: int) -> tuple[tuple[Modality, ...], Sets]:
    """Releases at most three levels down, by path; where there is none, files of another tool.

    Returns which modalities there are, and the sets of those with anything that can be read.
    """
    expected = "releases, or sound and video named as the originals"
    if not folder.is_dir():
        raise ReleaseError(f"no folder {folder}", expected=expected)
    releases = [open_release(path) for path in release_folders(folder)]
    sets = _of_releases(releases, corpus, key, seed) if releases else _of_files(folder, corpus, seed)
    if not any(len(released) for _, released in sets.values()):
        raise ReleaseError(f"nothing to attack in {folder}", expected=expected)
    sets = {modality: pair for modality, pair in sets.items() if len(pair[1])}
    return tuple(m for m in MODALITIES if m in sets or any(m in release.modalities for release in releases)), sets


def release_folders(folder: Path) -> list[Path]:
    """The folders of all releases in a folder, at most three levels down, or the folder itself; sorted."""
    patterns = ["/".join(["*"] * depth + [STATEMENT_FILE]) for depth in range(_DEPTH + 1)]
    return sorted({statement.parent for pattern in patterns for statement in folder.glob(pattern)})


def _of_releases(releases: list[Release], corpus: Path | None, key: Path | None, seed: int) -> Sets:
    classes = classes_among(clip.emotion for release in releases for clip in release.clips)
    known, keys = None, {}
    if corpus is not None:
        originals = read_corpus(corpus, classes=classes)
        keys = _keys(releases, originals, key, seed)
        known = replace(originals, clips=originals.of(keys))
    sets: Sets = {}
    for modality in MODALITIES:
        released = ClipSet.from_releases(releases, modality, classes=classes)
        if len(released):
            loader = VideoFaces(side=released.side(FACE_SIDE), fps=FACE_FPS) if modality == "face" else None
            original = None
            if known is not None:
                original = ClipSet.from_corpus(known, modality, keys, loader=loader, classes=classes)
            sets[modality] = (original, released)
    return sets


def _parallel(folder: Path, parallel: Path, key: Path | None, seed: int) -> ClipSet:
    """Parallel speech, under the pseudonyms of what was released."""
    speech, releases = read_corpus(parallel, classes=None), [open_release(path) for path in release_folders(folder)]
    classes = classes_among(clip.label for clip in speech.clips)
    if not releases:
        return ClipSet.from_corpus(speech, "voice", PseudonymKey.seeded(seed, FOREIGN_SITE), classes=classes)
    keys = _keys(releases, speech, key, seed)
    return ClipSet.from_corpus(replace(speech, clips=speech.of(keys)), "voice", keys, classes=classes)


def _keys(releases: list[Release], corpus: Corpus, key: Path | None, seed: int) -> dict[SpeakerId, PseudonymKey]:
    """The key of each original speaker's site, found by the pseudonyms in the releases."""
    keys: dict[SpeakerId, PseudonymKey] = {}
    for release in releases:
        path = key or release.folder.parent / KEY_FILE
        if path.is_file():
            site_key = PseudonymKey(path.read_bytes())
        elif key is None and any(statement.noise == "seeded" for statement in release.statement.anonymizers):
            site_key = PseudonymKey.seeded(seed, release.statement.site)
        else:
            raise ReleaseError(
                f"no pseudonym key at {path}, so originals cannot be matched with released clips",
                expected=f"the {KEY_FILE} that `moretta anonymize` left next to the release",
                fix="name it with --key, or leave --corpus out: there is no unprotected anchor then",
            )
        speakers = {clip.speaker for clip in release.clips}
        for used in (site_key.in_study(release.statement.study), site_key):  # names are a study's, or the site's own
            keys |= {speaker: used for speaker in corpus.speakers if used.speaker(speaker) in speakers}
    if not keys:
        raise ReleaseError(
            "no speaker of the corpus has a pseudonym of these releases",
            expected="the corpus that was released, and the key of the site that did it",
            fix=f"check --corpus; name the site's {KEY_FILE} with --key; for simulated sites, --seed is the study's",
        )
    return keys


def _of_files(folder: Path, corpus: Path | None, seed: int) -> Sets:
    """Originals and files of another tool, under pseudonyms of this audit: file names give the speakers."""
    pseudonyms = PseudonymKey.seeded(seed, FOREIGN_SITE)
    originals = None if corpus is None else read_corpus(corpus, classes=None)
    files = _read_foreign(folder, originals)
    classes = classes_among(clip.label for known in (files, originals) if known is not None for clip in known.clips)
    loader = VideoFaces(side=FACE_SIDE, fps=FACE_FPS)
    sets: Sets = {}
    for modality in MODALITIES:
        attacked = replace(files, clips=tuple(_of_one_kind(clip, modality) for clip in files.clips))
        found = ClipSet.from_corpus(attacked, modality, pseudonyms, loader=loader, classes=classes)
        drops = Counter(drop.reason for drop in files.dropped) if modality == "voice" else {}  # count them once
        original = None
        if originals is not None and len(found):
            original = ClipSet.from_corpus(originals, modality, pseudonyms, loader=loader, classes=classes)
        sets[modality] = (original, replace(found, damaged=dict(drops)))
    return sets


def _of_one_kind(clip: Clip, modality: Modality) -> Clip:
    """The clip with one modality alone: another tool's sound and pictures may not belong together."""
    if modality == "face":
        return replace(clip, audio=None)
    return clip if clip.audio is None else replace(clip, video=None)


def _read_foreign(folder: Path, originals: Corpus | None) -> Corpus:
    """The clips that some other tool anonymized: a corpus of its own, or files that are named as the originals are;
    without originals, files under CREMA-D names."""
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
        if leads_outside(folder, path):
            dropped.append(Drop(relative.as_posix(), "outside", "a link to outside the folder"))
            continue
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
