"""Decodes a whole corpus: its contents, and every file that cannot be used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.core.errors import ClipError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.workers import map_files
from moretta.shared.data.clips import Clip, Corpus, Drop, by_reason
from moretta.shared.data.comparison import PublishedComparison, Repeated, Seen, compare_with_published, find_repeated
from moretta.shared.data.media import OVERDRIVEN_SHARE, SAMPLE_RATE, SOUND_FILES, is_overdriven
from moretta.shared.data.reader import Labels, read_corpus
from moretta.shared.data.recordings import Kind, picture_seconds, read_pictures, read_sound, sound_file
from moretta.shared.data.tables import listed
from moretta.shared.features.faces import FaceCropper

_KINDS: tuple[Kind, ...] = ("sound", "pictures")
_FACE_FPS = 5.0
"""As studies sample videos unless they say otherwise."""
_FACE_SIDE = 16  # nobody looks at these crops


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
    """Counts of one speaker's usable files."""

    speaker: SpeakerId
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
    inside_videos: int
    """Clips whose sound is that of their video, because they have no sound file."""
    faces: dict[str, int]
    """Pictures that were looked at, those without a face, and those in which somebody else is seen, too."""
    repeated: list[Repeated]
    warnings: list[str]
    published: PublishedComparison | None = field(default=None)

    @property
    def ok(self) -> bool:
        """Whether every file can be used, and no recording stands under two speakers."""
        return not self.unusable and not any(same.fault for same in self.repeated)

    @property
    def reasons(self) -> dict[str, int]:
        """Unusable files by reason, the most frequent first."""
        return by_reason(self.unusable)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `json.dumps`."""
        return {"ok": self.ok, "reasons": self.reasons, **asdict(self)}


@dataclass(frozen=True, slots=True)
class _Finding:
    """The result of decoding the sound or the pictures of one clip."""

    file: str = ""
    """The file, relative to the corpus; empty if the clip has none."""
    seconds: float = 0.0
    digest: str = ""
    form: str = ""
    overdriven: bool = False
    faces: Counter[str] = field(default_factory=Counter)
    drop: Drop | None = None
    """Why it cannot be used."""

    @property
    def usable(self) -> bool:
        return bool(self.file) and self.drop is None


@dataclass(frozen=True, slots=True)
class _Task:
    root: Path
    clip: Clip
    kind: Kind


_Found = dict[tuple[str, Kind], _Finding]


def check_corpus(
    root: Path,
    *,
    labels: Labels = "intended",
    classes: Sequence[str] | None = None,
    names: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int], Callable[[], None]] | None = None,
) -> CheckReport:
    """Decode every file of a corpus.

    Args:
        root: the corpus folder.
        labels: as for `read_corpus`.
        classes: the same.
        names: a folder with CREMA-D's own lists, to compare with.
        workers: processes; None takes one for each core.
        progress: called with the number of files; what it returns is called for each file done.

    Raises:
        CorpusError: as `read_corpus`, or a list in `names` cannot be read.
    """
    corpus = read_corpus(root, labels=labels, classes=classes)
    published = compare_with_published(corpus, names) if names is not None else None
    tasks = [_Task(root, clip, kind) for clip in corpus.clips for kind in _KINDS if kind == "sound" or clip.video]
    tick = progress(len(tasks)) if progress else None
    findings = map_files(_decode, tasks, workers=workers, progress=tick)
    found = {(task.clip.name, task.kind): finding for task, finding in zip(tasks, findings, strict=True)}
    return _report(corpus, labels, found, published)


def _decode(task: _Task) -> _Finding:
    path = sound_file(task.clip) if task.kind == "sound" else task.clip.video
    if path is None:
        return _Finding()
    file = path.relative_to(task.root).as_posix()
    try:
        return _decode_sound(task.clip, path, file) if task.kind == "sound" else _decode_pictures(task.clip, file)
    except ClipError as error:
        return _Finding(file, drop=Drop(file, error.reason, error.message))


def _decode_sound(clip: Clip, path: Path, file: str) -> _Finding:
    import soundfile

    samples = read_sound(clip)
    if samples is None:
        return _Finding()
    form = ""
    if path == clip.audio and path.suffix.lower() in SOUND_FILES:
        info = soundfile.info(path)
        if info.samplerate != SAMPLE_RATE or info.channels != 1:
            form = f"{info.samplerate} Hz, {info.channels} channels"
    digest = hashlib.sha256(samples.tobytes()).hexdigest()
    return _Finding(file, len(samples) / SAMPLE_RATE, digest, form, is_overdriven(samples))


def _decode_pictures(clip: Clip, file: str) -> _Finding:
    frames = read_pictures(clip, fps=_FACE_FPS)
    if frames is None:
        return _Finding()
    seen = FaceCropper(_FACE_SIDE).crop_clip(frames)
    digest = hashlib.sha256(str(frames.shape).encode())
    digest.update(frames.tobytes())
    faces = Counter(
        frames=len(frames),
        without_face=len(frames) if seen.centred else seen.borrowed,
        with_other_faces=seen.with_others,
    )
    return _Finding(file, picture_seconds(clip), digest.hexdigest(), faces=faces)


def _report(corpus: Corpus, labels: Labels, found: _Found, published: PublishedComparison | None) -> CheckReport:
    def usable(clip: Clip, kind: Kind) -> bool:
        return (clip.name, kind) in found and found[clip.name, kind].usable

    kept = [clip for clip in corpus.clips if usable(clip, "sound") or usable(clip, "pictures")]
    sound = [found[clip.name, "sound"] for clip in kept if usable(clip, "sound")]
    pictures = [found[clip.name, "pictures"] for clip in kept if usable(clip, "pictures")]
    drops = {(drop.file, drop.reason): drop for f in found.values() if (drop := f.drop) is not None}
    return CheckReport(
        root=str(corpus.root),
        name=corpus.name,
        synthetic=corpus.synthetic,
        labels=labels,
        clips=len(kept),
        audio=Durations.of(finding.seconds for finding in sound),
        video=Durations.of(finding.seconds for finding in pictures),
        emotions=_count(clip.label for clip in kept),
        levels=_count(clip.level for clip in kept if clip.level),
        speakers=[
            _speaker_counts(corpus, speaker, [clip for clip in kept if clip.speaker == speaker], usable)
            for speaker in corpus.speakers
        ],
        unusable=sorted([*corpus.dropped, *drops.values()], key=lambda drop: (drop.file, drop.reason)),
        converted=_count(finding.form for finding in sound if finding.form),
        inside_videos=sum(clip.audio is None and usable(clip, "sound") for clip in kept),
        faces=dict(sum((finding.faces for finding in pictures), Counter[str]())),
        repeated=find_repeated(
            Seen(clip, kind, found[clip.name, kind].file, found[clip.name, kind].digest)
            for clip in kept
            for kind in _KINDS
            if usable(clip, kind)
        ),
        warnings=[*corpus.warnings, *_overdriven(sound)],
        published=published,
    )


def _overdriven(sound: Iterable[_Finding]) -> list[str]:
    files = [finding.file for finding in sound if finding.overdriven]
    share = f"{OVERDRIVEN_SHARE:.0%}"
    return [f"recorded too loud, with over {share} of samples at full scale: {listed(files)}"] if files else []


def _speaker_counts(
    corpus: Corpus, speaker: SpeakerId, clips: list[Clip], usable: Callable[[Clip, Kind], bool]
) -> SpeakerCounts:
    person = corpus.speakers[speaker]
    return SpeakerCounts(
        speaker=speaker,
        sex=person.sex,
        age=person.age,
        clips=len(clips),
        audio=sum(usable(clip, "sound") for clip in clips),
        video=sum(usable(clip, "pictures") for clip in clips),
        emotions=_count(clip.label for clip in clips),
    )


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values).items()))
