"""CREMA-D as published: `AudioWAV/`, `VideoFlash/`, `VideoDemographics.csv`, maybe `summaryTable.csv`.

File names carry everything: `<actor>_<sentence>_<emotion>_<level>`. Source: Cao et al., "CREMA-D: Crowd-sourced
Emotional Multimodal Actors Dataset", IEEE Trans. Affective Computing 2014, and the corpus's own file list.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import EMOTIONS, Emotion, SpeakerId, class_of, in_order
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker
from moretta.shared.data.demographics import DEMOGRAPHICS_FILE, UNKNOWN, read_demographics
from moretta.shared.data.reader import (
    AUDIO_ENDINGS,
    VIDEO_ENDINGS,
    CorpusReader,
    Labels,
    corpus_reader,
    drops_of,
    in_file_order,
    media_files,
    no_clip,
    read_marker,
    wrong_kind,
)
from moretta.shared.data.tables import listed, not_understood, read_table

AUDIO_FOLDER, VIDEO_FOLDER = "AudioWAV", "VideoFlash"
VOTES_FILE = "summaryTable.csv"
KNOWN_DEFECTS = {"1076_MTI_SAD_XX": "CREMA-D published it with a broken video and next to no sound"}
_LAYOUT = f"a folder with {AUDIO_FOLDER}/*.wav, {VIDEO_FOLDER}/*.flv (or .mp4), or both"
_VOTES = {"FileName": ("file", "clip", "clipname"), "MultiModalVote": ("multimodal",)}


class Level(StrEnum):
    """Acted intensity; XX is unspecified."""

    LO = "LO"
    MD = "MD"
    HI = "HI"
    XX = "XX"


SENTENCES: dict[str, str] = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}

_NAME = re.compile(r"(?P<speaker>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>[A-Z]{2})")
_ACTOR = re.compile(r"(\d{4})_")
_GRAMMAR = "<4-digit actor>_<sentence>_<emotion>_<level>, such as 1001_IEO_ANG_HI"


@dataclass(frozen=True, order=True, slots=True)
class ClipName:
    """A parsed clip name.

    >>> ClipName.parse("1001_IEO_ANG_HI").emotion
    <Emotion.ANG: 'ANG'>
    >>> str(ClipName.of_file("1001_ieo_ang_hi"))
    '1001_IEO_ANG_HI'
    """

    number: int
    sentence: str
    emotion: Emotion
    level: Level

    @classmethod
    def parse(cls, stem: str) -> ClipName:
        """Parse a file name without its ending.

        Raises:
            ClipError: reason `bad-name` if `stem` is not in the grammar.
        """
        match = _NAME.fullmatch(stem) if stem.isascii() else None
        if match is None:
            raise ClipError("bad-name", f"the file name {stem!r}", expected=_GRAMMAR)
        sentence, emotion, level = match["sentence"], match["emotion"], match["level"]
        for word, known, what in (
            (sentence, SENTENCES, "sentence"),
            (emotion, Emotion.__members__, "emotion"),
            (level, Level.__members__, "level"),
        ):
            if word not in known:
                raise ClipError("bad-name", f"the {what} {word!r} in {stem!r}", expected=f"one of {', '.join(known)}")
        return cls(int(match["speaker"]), sentence, Emotion(emotion), Level(level))

    @classmethod
    def of_file(cls, stem: str) -> ClipName:
        """The same in any case: some unpackers change it, and Windows and macOS ignore it."""
        return cls.parse(stem.upper() if stem.isascii() else stem)

    @property
    def speaker(self) -> SpeakerId:
        """The actor."""
        return str(self.number)

    def clip(self, audio: Path | None, video: Path | None, label: str | None = None) -> Clip:
        """The clip of this name, under its intended emotion or under another label."""
        label = label or self.emotion.value
        return Clip(str(self), self.speaker, label, self.sentence, self.level.value, audio, video)

    def __str__(self) -> str:
        return f"{self.number:04d}_{self.sentence}_{self.emotion}_{self.level}"


@corpus_reader("crema-d")
class CremaD(CorpusReader):
    """CREMA-D, and other clips under its names. A speaker without a row in the demographics is kept, with a warning."""

    layout = f"{AUDIO_FOLDER}/*.wav, {VIDEO_FOLDER}/*.flv (or .mp4), or both, under CREMA-D names"

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Whether one of the two folders is there."""
        return any((root / folder).is_dir() for folder in (AUDIO_FOLDER, VIDEO_FOLDER))

    @classmethod
    def read(cls, root: Path, labels: Labels) -> Corpus:
        """List the clips under the intended emotions or the votes."""
        audio = _list_files(root, AUDIO_FOLDER, AUDIO_ENDINGS)
        video = _list_files(root, VIDEO_FOLDER, VIDEO_ENDINGS)
        drops = audio.dropped + video.dropped
        voted, vote_warnings = read_votes(find_votes(root)) if labels == "vote" else (None, [])
        clips = []
        for name in sorted(audio.kept.keys() | video.kept.keys()):
            label = name.emotion.value if voted is None else voted.get(str(name))
            clip = name.clip(audio.kept.get(name), video.kept.get(name), label)
            if label is None:
                drops += drops_of(root, clip, "no-vote", "the crowd's vote is tied or missing")
            else:
                clips.append(clip)
        if not clips:
            raise _no_clip(root, drops, vote_warnings)
        speakers, warnings = _speakers(root, {clip.speaker for clip in clips})
        name_, synthetic, marker_warnings = read_marker(root)
        return Corpus(
            root=root,
            name=name_,
            synthetic=synthetic,
            clips=tuple(clips),
            speakers=speakers,
            dropped=in_file_order(drops),
            warnings=(*marker_warnings, *warnings, *vote_warnings),
            tables=(DEMOGRAPHICS_FILE, VOTES_FILE, f"processedResults/{VOTES_FILE}"),
        )


def find_votes(root: Path) -> Path:
    """The table of the crowd's votes: in the folder itself, or where CREMA-D's repository keeps it."""
    for path in (root / VOTES_FILE, root / "processedResults" / VOTES_FILE):
        if path.is_file():
            return path
    raise CorpusError(
        f"no {VOTES_FILE} in {root}, and the labels asked for are `vote`",
        fix="put CREMA-D's summaryTable.csv there, or use the labels `intended`",
    )


def read_votes(path: Path) -> tuple[dict[str, str | None], list[str]]:
    """The crowd's vote on face and voice together by clip name, None where it was tied; and warnings.

    Raises:
        CorpusError: see `read_table`.
    """
    found: dict[str, set[str | None]] = defaultdict(set)
    strange: dict[str, list[int]] = defaultdict(list)
    odd: dict[str, list[int]] = defaultdict(list)
    for row in read_table(path, _VOTES):
        try:  # with or without a folder and an ending
            name = str(ClipName.of_file(re.split(r"[/\\]", row["FileName"])[-1].split(".", 1)[0].strip()))
        except ClipError:
            strange[row["FileName"]].append(row.line)
            continue
        votes = [_vote(part.strip()) for part in re.split(r"[:/,;|+]", row["MultiModalVote"])]
        if None in votes and row["MultiModalVote"].casefold() not in UNKNOWN:
            odd[row["MultiModalVote"]].append(row.line)
        found[name].add(votes[0] if len(set(votes)) == 1 else None)
    contradicting = [name for name, votes in found.items() if len(votes) > 1]
    warnings = [
        *not_understood(path, "file name", strange, "a clip's name, such as 1001_IEO_ANG_HI", "the row is ignored"),
        *not_understood(path, "vote", odd, "a letter of A, D, F, H, N, S, or the emotion's name"),
    ]
    if contradicting:
        warnings.append(
            f"{path.name} has contradicting votes of {len(contradicting)} clips, which count as without a vote: "
            f"{listed(contradicting)}"
        )
    return {name: next(iter(votes)) if len(votes) == 1 else None for name, votes in found.items()}, warnings


def _vote(text: str) -> str | None:
    """By the first letter of its name: A, D, F, H, N, S; or by the whole name."""
    letter = next((emotion for emotion in EMOTIONS if emotion[0].casefold() == text.casefold()), None)
    return letter or class_of(text, EMOTIONS)


@dataclass
class _Files:
    """The files of one folder: at most one per clip name."""

    kept: dict[ClipName, Path] = field(default_factory=dict)
    dropped: list[Drop] = field(default_factory=list)


def _list_files(root: Path, folder: str, endings: tuple[str, ...]) -> _Files:
    files = _Files()
    candidates: dict[ClipName, list[Path]] = defaultdict(list)
    for path in media_files(root / folder) if (root / folder).is_dir() else ():
        relative, actor = f"{folder}/{path.name}", _ACTOR.match(path.name)
        speaker = str(int(actor[1])) if actor else None
        if (why := wrong_kind(path, endings)) is not None:
            files.dropped.append(Drop(relative, "wrong-kind", why, speaker))
            continue
        try:
            name = ClipName.of_file(path.stem)
        except ClipError as error:
            files.dropped.append(Drop(relative, error.reason, error.message, speaker))
            continue
        if str(name) in KNOWN_DEFECTS:
            files.dropped.append(Drop(relative, "known-defect", KNOWN_DEFECTS[str(name)], speaker))
        else:
            candidates[name].append(path)
    for name, paths in candidates.items():
        # The file as CREMA-D publishes it comes first, on every machine alike.
        order = sorted(paths, key=lambda p: (p.stem != str(name), endings.index(p.suffix.lower()), p.name))
        files.kept[name], others = order[0], order[1:]
        detail = f"{order[0].name} is used"
        files.dropped += [Drop(f"{folder}/{path.name}", "duplicate", detail, name.speaker) for path in others]
    return files


def _no_clip(root: Path, drops: list[Drop], vote_warnings: list[str]) -> CorpusError:
    if any(drop.reason == "no-vote" for drop in drops):
        error = no_clip(
            root,
            drops,
            expected=f"a vote for its clips in {VOTES_FILE}",
            fix=f"correct FileName and MultiModalVote in {VOTES_FILE}, or use the labels `intended`",
        )
        return CorpusError("; ".join([error.found, *vote_warnings]), expected=error.expected, fix=error.fix)
    fix = "files are named <actor>_<sentence>_<emotion>_<level>, such as 1001_IEO_ANG_HI.wav"
    return no_clip(root, drops, expected=_LAYOUT, fix=fix)


def _speakers(root: Path, present: set[SpeakerId]) -> tuple[dict[SpeakerId, Speaker], list[str]]:
    path = root / DEMOGRAPHICS_FILE
    known, warnings = read_demographics(path) if path.is_file() else ({}, [])
    missing = in_order(present - known.keys())
    if missing:
        names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        warnings.append(
            f"{len(missing)} of {len(present)} speakers have no row in {DEMOGRAPHICS_FILE}, "
            f"so their sex and age are unknown: {names}"
        )
    return {speaker: known.get(speaker, Speaker(speaker)) for speaker in in_order(present)}, warnings
