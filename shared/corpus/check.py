"""Looks at a whole corpus: what is there, and every file that cannot be used. Everything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.corpus.clips import Clip, Corpus, Drop
from moretta.shared.corpus.media import SAMPLE_RATE, read_audio, read_frames
from moretta.shared.corpus.published import PublishedComparison, compare_with_published
from moretta.shared.corpus.reader import Labels, read_corpus
from moretta.shared.corpus.workers import map_files
from moretta.shared.errors import ClipError


@dataclass(frozen=True, slots=True)
class Durations:
    """Of the files of one modality, in seconds."""

    files: int
    total: float
    shortest: float
    median: float
    longest: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Durations | None:
        """None if there is no file."""
        values = np.array(sorted(seconds))
        if not len(values):
            return None
        figures = (values.sum(), values[0], np.median(values), values[-1])
        return cls(len(values), *(round(float(figure), 3) for figure in figures))


@dataclass(frozen=True, slots=True)
class SpeakerCounts:
    """What there is of one speaker, counting usable files only."""

    speaker: int
    sex: str | None
    age: int | None
    clips: int
    audio: int
    video: int
    emotions: dict[str, int]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of a check. A clip is usable if a file of at least one modality is."""

    root: str
    name: str
    synthetic: bool
    labels: str
    clips: int
    audio: Durations | None
    video: Durations | None
    emotions: dict[str, int]
    levels: dict[str, int]
    speakers: list[SpeakerCounts]
    unusable: list[Drop]
    converted: dict[str, int]
    """Sound files that are not mono at 16 kHz, and are converted as they are read, by what they are."""
    warnings: list[str]
    published: PublishedComparison | None = field(default=None)

    @property
    def ok(self) -> bool:
        """Whether every file can be used."""
        return not self.unusable

    @property
    def reasons(self) -> dict[str, int]:
        """Unusable files by reason, the most frequent first."""
        return dict(Counter(drop.reason for drop in self.unusable).most_common())

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `json.dumps`."""
        return {"ok": self.ok, "reasons": self.reasons, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Finding:
    """What decoding one file showed: its length, or why it cannot be used."""

    seconds: float = 0.0
    form: str = ""
    drop: Drop | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    root: Path
    path: Path
    modality: str


def check_corpus(
    root: Path,
    *,
    labels: Labels = "intended",
    names: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int], Callable[[], None]] | None = None,
) -> CheckReport:
    """Decode every file of a corpus.

    Args:
        root: the corpus folder.
        labels: as for `read_corpus`.
        names: a folder with CREMA-D's own lists, to compare with.
        workers: processes; None takes one for each core.
        progress: called with the number of files; what it returns is called for each file done.

    Raises:
        CorpusError: as `read_corpus`, or a list in `names` cannot be read.
    """
    corpus = read_corpus(root, labels=labels)
    published = compare_with_published(corpus, names) if names is not None else None
    tasks = [
        _Task(root, path, modality)
        for clip in corpus.clips
        for modality, path in (("audio", clip.audio), ("video", clip.video))
        if path is not None
    ]
    tick = progress(len(tasks)) if progress else None
    found = dict(
        zip((task.path for task in tasks), map_files(_decode, tasks, workers=workers, progress=tick), strict=True)
    )
    return _report(corpus, labels, found, published)


def _decode(task: _Task) -> _Finding:
    try:
        return _decode_audio(task.path) if task.modality == "audio" else _decode_video(task.path)
    except ClipError as error:
        return _Finding(drop=Drop(task.path.relative_to(task.root).as_posix(), error.reason, error.message))


def _decode_audio(path: Path) -> _Finding:
    import soundfile

    seconds = len(read_audio(path)) / SAMPLE_RATE
    info = soundfile.info(path)
    converted = info.samplerate != SAMPLE_RATE or info.channels != 1
    return _Finding(seconds, f"{info.samplerate} Hz, {info.channels} channels" if converted else "")


def _decode_video(path: Path) -> _Finding:
    import av

    frames = sum(1 for _ in read_frames(path, fps=None))
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate
    return _Finding(frames / float(rate) if rate else 0.0)


def _report(
    corpus: Corpus, labels: Labels, found: dict[Path, _Finding], published: PublishedComparison | None
) -> CheckReport:
    def usable(path: Path | None) -> bool:
        return path is not None and found[path].drop is None

    kept = [clip for clip in corpus.clips if usable(clip.audio) or usable(clip.video)]
    audio = [found[clip.audio] for clip in kept if clip.audio is not None and usable(clip.audio)]
    video = [found[clip.video] for clip in kept if clip.video is not None and usable(clip.video)]
    drops = [finding.drop for finding in found.values() if finding.drop is not None]
    return CheckReport(
        root=str(corpus.root),
        name=corpus.name,
        synthetic=corpus.synthetic,
        labels=labels,
        clips=len(kept),
        audio=Durations.of(finding.seconds for finding in audio),
        video=Durations.of(finding.seconds for finding in video),
        emotions=_count(clip.label for clip in kept),
        levels=_count(clip.name.level for clip in kept),
        speakers=[
            _speaker_counts(corpus, speaker, [clip for clip in kept if clip.speaker == speaker], usable)
            for speaker in corpus.speakers
        ],
        unusable=sorted([*corpus.dropped, *drops], key=lambda drop: (drop.file, drop.reason)),
        converted=_count(finding.form for finding in audio if finding.form),
        warnings=list(corpus.warnings),
        published=published,
    )


def _speaker_counts(
    corpus: Corpus, speaker: int, clips: list[Clip], usable: Callable[[Path | None], bool]
) -> SpeakerCounts:
    person = corpus.speakers[speaker]
    return SpeakerCounts(
        speaker=speaker,
        sex=person.sex,
        age=person.age,
        clips=len(clips),
        audio=sum(usable(clip.audio) for clip in clips),
        video=sum(usable(clip.video) for clip in clips),
        emotions=_count(clip.label for clip in clips),
    )


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values).items()))
