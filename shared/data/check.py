"""Decodes a whole corpus: its contents, every file that cannot be used, recordings that are there more than once.

A corpus can be compared with the lists that CREMA-D is published with.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.core.workers import map_files
from moretta.shared.data.clips import Clip, Corpus, Drop, Speaker, by_reason
from moretta.shared.data.corpora.cremad import VOTES_FILE, ClipName, find_votes
from moretta.shared.data.media import OVERDRIVEN_SHARE, SAMPLE_RATE, SOUND_FILES, is_overdriven
from moretta.shared.data.reader import Labels, read_corpus
from moretta.shared.data.recordings import Kind, picture_seconds, read_pictures, read_sound, sound_file
from moretta.shared.data.tables import DEMOGRAPHICS_FILE, listed, read_demographics, read_table
from moretta.shared.features.faces import FaceCropper

NAMES_FILE = "SentenceFilenames.csv"
_FACE_FPS = 5.0
"""As studies sample videos unless they say otherwise."""
_FACE_SIDE = 16  # nobody looks at these crops


@dataclass(frozen=True, slots=True)
class Durations:
    """Durations of the files of one modality, in seconds."""

    files: int
    total: float
    shortest: float
    median: float
    longest: float


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
class Repeated:
    """One recording under several names: whatever is counted by clip counts it several times."""

    kind: Kind
    files: list[str]
    speakers: list[SpeakerId]
    emotions: list[str]

    @property
    def fault(self) -> bool:
        """Whether it is unclear whose recording it is."""
        return len(self.speakers) > 1

    def __str__(self) -> str:
        whose = f"speakers {listed(self.speakers)}" if self.fault else f"{len(self.files)} names"
        emotions = f", labelled {' and '.join(self.emotions)}" if len(self.emotions) > 1 else ""
        return f"the same {self.kind} under {whose}{emotions}: {listed(self.files)}"


@dataclass(frozen=True, slots=True)
class PublishedComparison:
    """How a corpus differs from CREMA-D's own lists."""

    listed_clips: int
    present_clips: int
    """Clips of the corpus that are listed."""
    unknown_clips: list[str]
    """Clips of the corpus that are not listed."""
    missing_clips: list[str]
    """Listed clips, of speakers that the corpus has, that it lacks."""
    unknown_speakers: list[SpeakerId]
    missing_speakers: list[SpeakerId]
    different_speakers: list[SpeakerId]
    """Speakers whose sex or age differs from the list."""
    outside_grammar: list[str]
    """Listed names that Moretta cannot parse: none in CREMA-D as published."""
    without_vote: int
    """Listed clips whose crowd vote is tied or missing."""


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
    """Pictures that were searched, those without a face, and those in which somebody else is seen, too."""
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


@dataclass(slots=True)
class _Finding:
    """The result of decoding the sound or the pictures of one clip."""

    clip: Clip
    kind: Kind
    file: str = ""
    """Relative to the corpus; empty if the clip has none."""
    seconds: float = 0.0
    digest: str = ""
    form: str = ""
    overdriven: bool = False
    faces: Counter[str] = field(default_factory=Counter)
    drop: Drop | None = None
    """The reason why the file cannot be used; None if it can."""


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
    published = _compare(corpus, names) if names is not None else None
    kinds: tuple[Kind, ...] = ("sound", "pictures")
    tasks = [(root, clip, kind) for clip in corpus.clips for kind in kinds if kind == "sound" or clip.video]
    tick = progress(len(tasks)) if progress else None
    findings = map_files(_decode, tasks, workers=workers, progress=tick)
    drops = {(drop.file, drop.reason): drop for one in findings if (drop := one.drop) is not None}
    usable = [one for one in findings if one.file and one.drop is None]
    sound, pictures = ([one for one in usable if one.kind == kind] for kind in kinds)
    kept = list({one.clip.name: one.clip for one in usable}.values())
    loud = [one.file for one in sound if one.overdriven]
    too_loud = f"recorded too loud, with over {OVERDRIVEN_SHARE:.0%} of samples at full scale: {listed(loud)}"
    return CheckReport(
        root=str(corpus.root),
        name=corpus.name,
        synthetic=corpus.synthetic,
        labels=labels,
        clips=len(kept),
        audio=_durations(sound),
        video=_durations(pictures),
        emotions=_count(clip.label for clip in kept),
        levels=_count(clip.level for clip in kept if clip.level),
        speakers=[_speaker_counts(person, usable) for person in corpus.speakers.values()],
        unusable=sorted([*corpus.dropped, *drops.values()], key=lambda drop: (drop.file, drop.reason)),
        converted=_count(one.form for one in sound if one.form),
        inside_videos=sum(one.clip.audio is None for one in sound),
        faces=dict(sum((one.faces for one in pictures), Counter[str]())),
        repeated=_repeated(usable),
        warnings=[*corpus.warnings, *([too_loud] if loud else [])],
        published=published,
    )


def _decode(task: tuple[Path, Clip, Kind]) -> _Finding:
    root, clip, kind = task
    found, path = _Finding(clip, kind), sound_file(clip) if kind == "sound" else clip.video
    if path is not None:
        found.file = path.relative_to(root).as_posix()
        try:
            if kind == "sound":
                _decode_sound(found, path)
            else:
                _decode_pictures(found)
        except ClipError as error:
            found.drop = Drop(found.file, error.reason, error.message)
    return found


def _decode_sound(found: _Finding, path: Path) -> None:
    import soundfile

    samples = read_sound(found.clip)
    assert samples is not None, "there is a file with sound"
    if path == found.clip.audio and path.suffix.lower() in SOUND_FILES:
        info = soundfile.info(path)
        if info.samplerate != SAMPLE_RATE or info.channels != 1:
            found.form = f"{info.samplerate} Hz, {info.channels} channels"
    found.seconds, found.overdriven = len(samples) / SAMPLE_RATE, is_overdriven(samples)
    found.digest = hashlib.sha256(samples.tobytes()).hexdigest()


def _decode_pictures(found: _Finding) -> None:
    frames = read_pictures(found.clip, fps=_FACE_FPS)
    assert frames is not None, "there is a video"
    seen = FaceCropper(_FACE_SIDE).crop_clip(frames)
    found.seconds = picture_seconds(found.clip)
    digest = hashlib.sha256(str(frames.shape).encode())
    digest.update(frames.tobytes())
    found.digest = digest.hexdigest()
    without = len(frames) if seen.centred else seen.borrowed
    found.faces = Counter(frames=len(frames), without_face=without, with_other_faces=seen.with_others)


def _durations(files: Sequence[_Finding]) -> Durations | None:
    values = np.array(sorted(one.seconds for one in files))
    if not len(values):
        return None
    figures = (values.sum(), values[0], np.median(values), values[-1])
    return Durations(len(values), *(round(float(figure), 3) for figure in figures))


def _speaker_counts(person: Speaker, usable: Sequence[_Finding]) -> SpeakerCounts:
    own = [one for one in usable if one.clip.speaker == person.id]
    clips, kinds = {one.clip.name: one.clip for one in own}.values(), Counter(one.kind for one in own)
    emotions = _count(clip.label for clip in clips)
    return SpeakerCounts(person.id, person.sex, person.age, len(clips), kinds["sound"], kinds["pictures"], emotions)


def _repeated(usable: Iterable[_Finding]) -> list[Repeated]:
    """Recordings that are there more than once, in order of the first."""
    same: dict[tuple[Kind, str], list[_Finding]] = defaultdict(list)
    for one in usable:
        same[one.kind, one.digest].append(one)
    found = []
    for (kind, _), several in same.items():
        speakers, labels = {one.clip.speaker for one in several}, {one.clip.label for one in several}
        if len(several) > 1:
            found.append(Repeated(kind, [one.file for one in several], in_order(speakers), sorted(labels)))
    return found


def _compare(corpus: Corpus, lists: Path) -> PublishedComparison:
    """Compare with `SentenceFilenames.csv`, `VideoDemographics.csv` and `summaryTable.csv` in `lists`."""
    for file in (NAMES_FILE, DEMOGRAPHICS_FILE):
        if not (lists / file).is_file():
            raise CorpusError(f"no {file} in {lists}", expected=f"{NAMES_FILE}, {DEMOGRAPHICS_FILE}, {VOTES_FILE}")
    names: set[ClipName] = set()
    outside: list[str] = []
    for row in read_table(lists / NAMES_FILE, ("Filename",)):
        try:
            names.add(ClipName.parse(row["Filename"]))
        except ClipError:
            outside.append(row["Filename"])
    people, _ = read_demographics(lists / DEMOGRAPHICS_FILE)
    votes = read_table(find_votes(lists), ("FileName", "MultiModalVote"))  # as published, its ties are `A:S`
    present, here = {ClipName.parse(clip.name) for clip in corpus.clips}, corpus.speakers

    def differ(speaker: SpeakerId) -> bool:
        """Unknown differs from nothing."""
        pairs = ((here[speaker].sex, people[speaker].sex), (here[speaker].age, people[speaker].age))
        return any(ours is not None and theirs is not None and ours != theirs for ours, theirs in pairs)

    return PublishedComparison(
        listed_clips=len(names),
        present_clips=len(present & names),
        unknown_clips=[str(name) for name in sorted(present - names)],
        missing_clips=[str(name) for name in sorted(names - present) if name.speaker in here],
        unknown_speakers=in_order(here.keys() - people.keys()),
        missing_speakers=in_order(people.keys() - here.keys()),
        different_speakers=in_order(filter(differ, here.keys() & people.keys())),
        outside_grammar=outside,
        without_vote=sum(len(row["MultiModalVote"]) != 1 for row in votes),
    )


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(str(value) for value in values).items()))
