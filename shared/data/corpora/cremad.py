"""CREMA-D as published: `AudioWAV/`, `VideoFlash/`, `VideoDemographics.csv`, maybe `summaryTable.csv`.

File names carry everything: `<actor>_<sentence>_<emotion>_<level>`. Source: Cao et al., "CREMA-D: Crowd-sourced
Emotional Multimodal Actors Dataset", IEEE Trans. Affective Computing 2014, and the corpus's own file list.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import EMOTIONS, Emotion, SpeakerId, class_of, in_order
from moretta.shared.data import reader, tables
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker

AUDIO_FOLDER, VIDEO_FOLDER = "AudioWAV", "VideoFlash"
VOTES_FILE = "summaryTable.csv"
KNOWN_DEFECTS = {"1076_MTI_SAD_XX": "CREMA-D published it with a broken video and next to no sound"}
_LAYOUT = f"a folder with {AUDIO_FOLDER}/*.wav, {VIDEO_FOLDER}/*.flv (or .mp4), or both"
_VOTES = {"FileName": ("file", "clip", "clipname"), "MultiModalVote": ("multimodal",)}


class Level(StrEnum):
    """Acted intensity; XX is unspecified."""

    LO, MD, HI, XX = "LO", "MD", "HI", "XX"


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
        """Parse a file name without its ending; a ClipError `bad-name` if it is not in the grammar."""
        match = _NAME.fullmatch(stem) if stem.isascii() else None
        if match is None:
            raise ClipError("bad-name", f"the file name {stem!r}", expected=_GRAMMAR)
        known = {"sentence": SENTENCES, "emotion": Emotion.__members__, "level": Level.__members__}
        for what, texts in known.items():
            if match[what] not in texts:
                found = f"the {what} {match[what]!r} in {stem!r}"
                raise ClipError("bad-name", found, expected=f"one of {', '.join(texts)}")
        return cls(int(match["speaker"]), match["sentence"], Emotion(match["emotion"]), Level(match["level"]))

    @classmethod
    def of_file(cls, stem: str) -> ClipName:
        """Parts of a file's name, in upper or lower case: unpackers may change it, Windows and macOS ignore it."""
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


@reader.corpus_reader("crema-d")
class CremaD(reader.CorpusReader):
    """CREMA-D, and other clips under its names. A speaker without a row in the demographics is kept, with a warning."""

    layout = f"{AUDIO_FOLDER}/*.wav, {VIDEO_FOLDER}/*.flv (or .mp4), or both, under CREMA-D names"

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Whether one of the two folders is there."""
        return any((root / folder).is_dir() for folder in (AUDIO_FOLDER, VIDEO_FOLDER))

    @classmethod
    def read(cls, root: Path, labels: reader.Labels) -> Corpus:
        """List the clips under the intended emotions or the votes."""
        drops: list[Drop] = []
        audio = _list_files(root, AUDIO_FOLDER, reader.AUDIO_ENDINGS, drops)
        video = _list_files(root, VIDEO_FOLDER, reader.VIDEO_ENDINGS, drops)
        voted, vote_warnings = read_votes(find_votes(root)) if labels == "vote" else (None, [])
        clips = []
        for name in audio.keys() | video.keys():
            label = name.emotion.value if voted is None else voted.get(str(name))
            clip = name.clip(audio.get(name), video.get(name), label)
            if label is None:
                drops += reader.drops_of(root, clip, "no-vote", "the crowd's vote is tied or missing")
            else:
                clips.append(clip)
        if not clips:
            expected = _LAYOUT
            fix = "files are named <actor>_<sentence>_<emotion>_<level>, such as 1001_IEO_ANG_HI.wav"
            if any(drop.reason == "no-vote" for drop in drops):
                expected = f"a vote for its clips in {VOTES_FILE}"
                fix = f"correct FileName and MultiModalVote in {VOTES_FILE}, or use the labels `intended`"
            raise reader.no_clip(root, drops, expected=expected, fix=fix, notes=vote_warnings)
        people, warnings = _speakers(root, {clip.speaker for clip in clips})
        files = (tables.DEMOGRAPHICS_FILE, VOTES_FILE, f"processedResults/{VOTES_FILE}")
        return reader.corpus_of(root, clips, people, drops, [*warnings, *vote_warnings], tables=files)


def find_votes(root: Path) -> Path:
    """The table of the crowd's votes: in the folder itself, or where CREMA-D's repository keeps it."""
    for path in (root / VOTES_FILE, root / "processedResults" / VOTES_FILE):
        if path.is_file():
            return path
    found = f"no {VOTES_FILE} in {root}, and the requested labels are `vote`"
    raise CorpusError(found, fix="put CREMA-D's summaryTable.csv there, or use the labels `intended`")


def read_votes(path: Path) -> tuple[dict[str, str | None], list[str]]:
    """The crowd's vote on face and voice together by clip name, None where it was tied; and warnings."""
    found: dict[str, set[str | None]] = defaultdict(set)
    strange: dict[str, list[int]] = defaultdict(list)
    odd: dict[str, list[int]] = defaultdict(list)
    for row in tables.read_table(path, _VOTES):
        try:  # with or without a folder and an ending
            name = str(ClipName.of_file(re.split(r"[/\\]", row["FileName"])[-1].split(".", 1)[0].strip()))
        except ClipError:
            strange[row["FileName"]].append(row.line)
            continue
        votes = [_vote(part.strip()) for part in re.split(r"[:/,;|+]", row["MultiModalVote"])]
        if None in votes and not tables.is_unknown(row["MultiModalVote"]):
            odd[row["MultiModalVote"]].append(row.line)
        found[name].add(votes[0] if len(set(votes)) == 1 else None)
    contradicting = [name for name, votes in found.items() if len(votes) > 1]
    warnings = [
        *tables.not_understood(path, "file name", strange, "one such as 1001_IEO_ANG_HI", "the row is ignored"),
        *tables.not_understood(path, "vote", odd, "a letter of A, D, F, H, N, S, or the emotion's name"),
    ]
    if contradicting:
        warnings.append(
            f"{path.name} has contradicting votes of {len(contradicting)} clips, which count as without a vote: "
            f"{tables.listed(contradicting)}"
        )
    return {name: next(iter(votes)) if len(votes) == 1 else None for name, votes in found.items()}, warnings


def _vote(text: str) -> str | None:
    """Emotion by the first letter of its name: A, D, F, H, N, S; or by the whole name."""
    letter = next((emotion for emotion in EMOTIONS if emotion[0].casefold() == text.casefold()), None)
    return letter or class_of(text, EMOTIONS)


def _list_files(root: Path, folder: str, endings: tuple[str, ...], drops: list[Drop]) -> dict[ClipName, Path]:
    """The files of one folder: at most one per clip name."""
    candidates: dict[ClipName, list[Path]] = defaultdict(list)
    for path in reader.media_files(root / folder) if (root / folder).is_dir() else ():
        relative, actor = f"{folder}/{path.name}", _ACTOR.match(path.name)
        speaker = str(int(actor[1])) if actor else None
        if (why := reader.wrong_kind(path, endings)) is not None:
            drops.append(Drop(relative, "wrong-kind", why, speaker))
            continue
        try:
            name = ClipName.of_file(path.stem)
        except ClipError as error:
            drops.append(Drop(relative, error.reason, error.message, speaker))
            continue
        if str(name) in KNOWN_DEFECTS:
            drops.append(Drop(relative, "known-defect", KNOWN_DEFECTS[str(name)], speaker))
        else:
            candidates[name].append(path)
    for name, paths in candidates.items():
        # The file as CREMA-D publishes it comes first, on every machine alike.
        paths.sort(key=lambda path: (path.stem != str(name), endings.index(path.suffix.lower()), path.name))
        detail = f"{paths[0].name} is used"
        drops += [Drop(f"{folder}/{path.name}", "duplicate", detail, name.speaker) for path in paths[1:]]
    return {name: paths[0] for name, paths in candidates.items()}


def _speakers(root: Path, present: set[SpeakerId]) -> tuple[dict[SpeakerId, Speaker], list[str]]:
    path = root / tables.DEMOGRAPHICS_FILE
    known, warnings = tables.read_demographics(path) if path.is_file() else ({}, [])
    missing = in_order(present - known.keys())
    if missing:
        names = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        warnings.append(
            f"{len(missing)} of {len(present)} speakers have no row in {tables.DEMOGRAPHICS_FILE}, "
            f"so their sex and age are unknown: {names}"
        )
    return {speaker: known.get(speaker, Speaker(speaker)) for speaker in present}, warnings
