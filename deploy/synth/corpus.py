"""The synthetic corpus: rendered heads that speak with a formant synthesizer, written in CREMA-D layout.

The design is crossed, as CREMA-D's is: every speaker says the same sentences in every emotion, so that neither speaker
nor emotion can be read off the words.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.core.array_types import Float64, UInt8
from moretta.shared.core.errors import CorpusError
from moretta.shared.core.labels import Emotion
from moretta.shared.core.workers import map_files
from moretta.shared.data.clips import Corpus
from moretta.shared.data.corpora.cremad import AUDIO_FOLDER, SENTENCES, VIDEO_FOLDER, ClipName, Level
from moretta.shared.data.media import SAMPLE_RATE, Audio, write_video, write_wav
from moretta.shared.data.reader import SYNTHETIC_MARKER, read_corpus
from moretta.shared.data.tables import DEMOGRAPHICS_FILE
from moretta.shared.models.speech import Voice, make_voice, synthesize

GENERATOR = "moretta synth 1"
"""Version of the generator, which grows whenever the same seed would give other clips."""
STATEMENT = (
    "Synthetic voices and faces. The rules for how an emotion sounds and looks are Moretta's own: how well emotion is "
    "recognised here says nothing about recordings of people."
)
FRAMES_PER_SECOND = 12
FIRST_SPEAKER = 1001
_LEVEL_SENTENCE = "IEO"
_LEVELS = (Level.MD, Level.HI, Level.LO)
_INTENSITY = {Level.LO: 0.65, Level.MD: 1.0, Level.HI: 1.3, Level.XX: 1.0}
_INTENSITY_SPREAD = 0.15
_YOUNGEST, _OLDEST = 20, 74  # as in CREMA-D


@dataclass(frozen=True, slots=True)
class SyntheticSpeaker:
    """One made-up person: voice and face come from the same seed, sex and age."""

    id: int
    sex: str
    age: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Job:
    root: Path
    speaker: SyntheticSpeaker
    name: ClipName
    seed: int
    video: bool


def synthesize_corpus(
    root: Path,
    *,
    speakers: int,
    clips: int,
    seed: int,
    video: bool = True,
    workers: int | None = None,
    progress: Callable[[], None] | None = None,
) -> Corpus:
    """Make a corpus.

    Args:
        root: a folder that is empty or does not exist. It appears whole or not at all.
        speakers: how many people; half of them of either sex.
        clips: of each person, over six emotions and then sentences (`clip_names`).
        seed: the same seed gives the same sound, byte for byte.
        video: render faces too.
        workers: processes; None takes one for each core.
        progress: called for each clip done.

    Raises:
        CorpusError: `root` holds something, or the numbers are impossible.
    """
    if speakers < 1 or clips < 1:
        raise CorpusError(f"{speakers} speakers with {clips} clips each", expected="at least one of both")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise CorpusError(f"{root} is not empty", expected="a new or empty folder", fix="name another, or remove it")
    people = make_speakers(speakers, seed)
    names = [clip_names(person.id, clips) for person in people]
    with _built_aside(root) as building:
        jobs = [
            _Job(building, person, name, _derive(person.seed, index), video)
            for person, persons_names in zip(people, names, strict=True)
            for index, name in enumerate(persons_names)
        ]
        for folder in (AUDIO_FOLDER, VIDEO_FOLDER)[: 1 + video]:
            (building / folder).mkdir()
        map_files(_make_clip, jobs, workers=workers, progress=progress)
        _write_tables(building, people, seed=seed, clips=clips, video=video)
    return read_corpus(root)


def make_speakers(speakers: int, seed: int) -> list[SyntheticSpeaker]:
    """The people of a corpus, men and women in turn. Person 3 is the same however many there are."""
    people = []
    for index in range(speakers):
        person_seed = _derive(seed, index)
        age = int(np.random.default_rng(person_seed).integers(_YOUNGEST, _OLDEST, endpoint=True))
        people.append(SyntheticSpeaker(FIRST_SPEAKER + index, ("male", "female")[index % 2], age, person_seed))
    return people


def clip_names(speaker: int, clips: int) -> list[ClipName]:
    """The first `clips` names of one speaker's full set, which has 82 as in CREMA-D.

    Six emotions for each sentence in turn. Only the first sentence is acted at levels, medium at first; its other
    levels come last.

    Raises:
        CorpusError: there are not so many names.
    """
    names = [
        ClipName(speaker, sentence, emotion, _first_level(sentence, emotion))
        for sentence in SENTENCES
        for emotion in Emotion
    ]
    acted = [emotion for emotion in Emotion if emotion is not Emotion.NEU]
    names += [ClipName(speaker, _LEVEL_SENTENCE, emotion, level) for level in _LEVELS[1:] for emotion in acted]
    if clips > len(names):
        raise CorpusError(f"{clips} clips for each speaker", expected=f"at most {len(names)}, as in CREMA-D")
    return names[:clips]


def loudness_per_frame(audio: Audio, fps: float) -> Float64:
    """How far the mouth opens: root mean square of the [samples] of each frame over the loudest. [frames], 0 to 1."""
    per_frame = SAMPLE_RATE / fps
    frames = max(1, int(len(audio) / per_frame))
    edges = (np.arange(frames + 1) * per_frame).astype(int)
    power = np.add.reduceat(np.square(audio[: max(1, edges[-1])], dtype=np.float64), edges[:-1])
    level = np.sqrt(power / np.maximum(1, np.diff(edges)))
    loudness: Float64 = np.clip(level / max(float(level.max()), 1e-9), 0, 1)
    return loudness


def _first_level(sentence: str, emotion: Emotion) -> Level:
    return _LEVELS[0] if sentence == _LEVEL_SENTENCE and emotion is not Emotion.NEU else Level.XX


def _make_clip(job: _Job) -> None:
    name = job.name
    generator = np.random.default_rng(job.seed)
    intensity = _INTENSITY[name.level] * float(np.exp(generator.normal(0, _INTENSITY_SPREAD)))
    audio = synthesize(_voice(job.speaker), name.emotion, name.sentence, intensity=intensity, seed=job.seed)
    write_wav(job.root / AUDIO_FOLDER / f"{name}.wav", audio)
    if job.video:
        frames = _render(job, loudness_per_frame(audio, FRAMES_PER_SECOND), intensity)
        write_video(job.root / VIDEO_FOLDER / f"{name}.flv", frames, FRAMES_PER_SECOND, audio)


def _render(job: _Job, loudness: Float64, intensity: float) -> Iterator[UInt8]:
    from moretta.shared.models.head import render_clip

    return render_clip(
        _face(job.speaker), job.name.emotion, loudness, fps=FRAMES_PER_SECOND, intensity=intensity, seed=job.seed
    )


@lru_cache(maxsize=4)
def _voice(speaker: SyntheticSpeaker) -> Voice:
    return make_voice(speaker.seed, sex=speaker.sex)


@lru_cache(maxsize=4)
def _face(speaker: SyntheticSpeaker) -> Any:
    from moretta.shared.models.head import make_identity

    return make_identity(speaker.seed, sex=speaker.sex, age=speaker.age)


def _derive(seed: int, index: int) -> int:
    """A seed of its own for each part, so that no part's draws shift another's."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


def _write_tables(root: Path, people: list[SyntheticSpeaker], *, seed: int, clips: int, video: bool) -> None:
    rows = [f"{person.id},{person.age},{person.sex.capitalize()},Unknown,Unknown" for person in people]
    table = "\n".join(["ActorID,Age,Sex,Race,Ethnicity", *rows]) + "\n"
    (root / DEMOGRAPHICS_FILE).write_text(table, encoding="utf-8", newline="\n")
    marker = {
        "name": f"synthetic, {len(people)} speakers x {clips} clips, seed {seed}",
        "generator": GENERATOR,
        "seed": seed,
        "clips_per_speaker": clips,
        "video": video,
        "statement": STATEMENT,
        "speakers": [asdict(person) for person in people],
    }
    (root / SYNTHETIC_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _built_aside(root: Path) -> Iterator[Path]:
    """A hidden folder beside `root` that becomes it if the block ends well, and is removed if it does not."""
    root = root.resolve()
    building = root.with_name(f".{root.name}.{os.getpid()}")
    building.mkdir(parents=True)
    try:
        yield building
        if root.exists():
            root.rmdir()
        building.rename(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
