"""Public people: their recordings, and the releases that the study's anonymizer makes of them.

A user who has the anonymizer has as many releases of public people as there are public recordings. Attackers learn
from them (`[audit] public`), and so does a model before its federated training (`[train] public`).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.protocol import SetName
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, CorpusError, StudyError
from moretta.shared.core.labels import in_order
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.data.reader import read_corpus
from moretta.shared.data.recordings import has_sound, read_pictures, read_sound
from moretta.shared.features.faces import check_frames
from moretta.shared.features.mfcc import SAMPLE_RATE, check_samples
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import Anonymizer, anonymizer_of
from moretta.shared.study.public_arrays import PUBLIC_SEED
from moretta.shared.study.schema import Study

FEWEST_PUBLIC = 8
"""Fewest people that a network can learn from."""
MAX_PUBLIC_CLIPS = 3_000
MAX_PUBLIC_SECONDS = 10
"""Longest part of a clip, from its start: all releases are in memory at once."""
_BATCH = 8
_KEY = PseudonymKey.seeded(PUBLIC_SEED, "public people")
_SENSE: Mapping[Modality, str] = {"voice": "sound", "face": "pictures"}
Named = Literal["audit", "train"]
"""The section of a study that names the folder."""
PublicSets = Mapping[SetName, ClipSet]
"""Sound of public people, `original`, and releases of the same clips, `released`."""


@dataclass(frozen=True)
class PublicRelease:
    """One modality of clips of public people after an anonymizer."""

    anonymizer: Anonymizer
    clips: tuple[Clip, ...]
    arrays: tuple[Array, ...]
    tried: int
    """Clips that were to be released, with those that could not be."""


def public_corpus(study: Study, named_in: Named, others: Corpus | None = None) -> Corpus | None:
    """The folder of public people that a section of a study names; None where it names none.

    Args:
        study: under its own classes and labels for `train`, else under the labels of the folder.
        named_in: the section.
        others: the clips of the study, as far as they are known: over real sites the server knows none.

    Raises:
        CorpusError: the folder or a file cannot be read.
        StudyError: too few people with what the section needs, a class without a clip, or people or recordings that
            the study has too.
    """
    trains = named_in == "train"
    folder = study.train.public if trains else study.audit.public
    if folder is None:
        return None
    needed: dict[Modality, set[str]]
    if trains:
        corpus = read_corpus(folder, labels=study.labels, classes=study.classes)
        needed = people_by_modality(study, corpus)
    else:
        corpus = read_corpus(folder, classes=None)
        needed = {"voice": {clip.speaker for clip in corpus.clips if has_sound(clip)}}
    for modality, people in needed.items():
        if len(people) < FEWEST_PUBLIC:
            raise StudyError(
                f"{len(people)} public people with {_SENSE[modality]} in {corpus.root}",
                expected=f"at least {FEWEST_PUBLIC}, for {'a model' if trains else 'attackers'} to learn from",
                fix=f"correct `public` in [{named_in}], or leave it out",
            )
        shown = {clip.label for clip in corpus.clips if _has(clip, modality)}
        if trains and (absent := [name for name in study.classes if name not in shown]):
            raise StudyError(
                f"no public clip of {', '.join(absent)} with {_SENSE[modality]} in {corpus.root}",
                expected="clips of every class of the study, for a model to learn from",
                fix=f"add such clips, correct `public` in [{named_in}], or leave it out",
            )
    if others is not None:
        _check_apart(corpus, others, named_in)
    return corpus


def people_by_modality(study: Study, corpus: Corpus) -> dict[Modality, set[str]]:
    """The people who have a modality of the study, by modality; those that nobody has are left out, but not all."""
    found = {m: {clip.speaker for clip in corpus.clips if _has(clip, m)} for m in study.modalities}
    return {modality: people for modality, people in found.items() if people} or found


def public_sets(study: Study, arrays: Mapping[str, Array], others: Corpus | None = None) -> PublicSets:
    """Voices of the public people of `[audit]`, before and after the study's anonymizer, with noise of a public seed.

    Empty where the study names nobody, or releases no voice.

    Args:
        study: what is audited.
        arrays: the study's public arrays.
        others: see `public_corpus`.

    Raises:
        CorpusError, StudyError: see `public_corpus` and `public_release`.
    """
    corpus = public_corpus(study, "audit", others)
    if corpus is None or not study.voice.enabled:
        return {}
    made = public_release(study, arrays, corpus, "voice")
    names = {_KEY.clip(clip.name) for clip in made.clips}
    original = ClipSet.from_corpus(corpus, "voice", _KEY)
    kept = original.subset(i for i, clip in enumerate(original.clips) if clip.clip in names)
    released = ClipSet.from_arrays(
        kept.clips,
        made.arrays,
        modality="voice",
        form=made.anonymizer.form,  # type: ignore[arg-type]  # of a voice
        codebook=made.anonymizer.codebook,
    )
    return {"original": kept, "released": released}


def public_release(study: Study, arrays: Mapping[str, Array], corpus: Corpus, modality: Modality) -> PublicRelease:
    """One modality of public people as the study's anonymizer releases it, with noise of a public seed.

    At most `MAX_PUBLIC_CLIPS` clips are taken, in the order of the corpus. No ledger knows of it: these people are at
    no site.

    Raises:
        StudyError: the anonymizer releases clips of too few of these people, or cannot be trained on them.
    """
    there = [clip for clip in corpus.clips if _has(clip, modality)]
    chosen = np.random.default_rng(PUBLIC_SEED).permutation(len(there))[:MAX_PUBLIC_CLIPS]
    clips = [there[i] for i in np.sort(chosen)]
    anonymizer = anonymizer_of(study, modality).from_study(study, arrays)
    with tempfile.TemporaryDirectory(prefix="moretta-public-") as remembered:
        anonymizer.keep_in(Path(remembered))
        raw = _reader(study, modality)
        fitted = ((_KEY.speaker(clips[i].speaker), array) for i, array in _read(clips, raw))
        anonymizer.fit(fitted, SeededNoise(PUBLIC_SEED, "fit"))
        if anonymizer.trains_on_emotions:
            anonymizer.train_on_emotions(
                (_KEY.speaker(clips[i].speaker), array, study.classes.index(clips[i].label))
                for i, array in _read(clips, raw)
                if clips[i].label in study.classes
            )
        released = dict(_released(anonymizer, clips, raw))
    if len({clips[i].speaker for i in released}) < FEWEST_PUBLIC:
        raise StudyError(
            f"{anonymizer.name} releases {len(released)} of {len(clips)} public clips",
            expected=f"clips of at least {FEWEST_PUBLIC} people",
            fix="correct `public`, or leave it out",
        )
    return PublicRelease(anonymizer, tuple(clips[i] for i in released), tuple(released.values()), len(clips))


def _check_apart(public: Corpus, others: Corpus, named_in: Named) -> None:
    """Raise StudyError where somebody is in both, by the id or by a recording."""
    fix = f"take these people out of the folder that `public` in [{named_in}] names, or take another one"
    if both := in_order({clip.speaker for clip in public.clips} & {clip.speaker for clip in others.clips}):
        raise StudyError(
            f"{len(both)} people in both the study and the public people of {public.root}: {', '.join(both[:10])}",
            expected="other people: what is learned of them would be quoted on them",
            fix=f"{fix}; give them other ids, if they are others",
        )
    if same := _same_files(public, others):
        shown = ", ".join(f"{ours.name} is {theirs.name}" for ours, theirs in same[:3])
        raise StudyError(
            f"{len(same)} recordings of the study among the public people of {public.root}, under other ids: {shown}",
            expected="other people: what is learned of them would be quoted on them",
            fix=fix,
        )


def _same_files(public: Corpus, others: Corpus) -> list[tuple[Path, Path]]:
    """Files of both that have the same bytes, if any. Only those that have the same length are read."""
    try:
        theirs = defaultdict[int, list[Path]](list)
        for path in _files(others):
            theirs[path.stat().st_size].append(path)
        theirs.pop(0, None)
        ours = [path for path in _files(public) if path.stat().st_size in theirs]
        sizes = {path.stat().st_size for path in ours}
        known = {_digest(path): path for size in sizes for path in theirs[size]}
        return [(path, known[digest]) for path in ours if (digest := _digest(path)) in known]
    except OSError as error:
        raise CorpusError(f"{error.filename} cannot be read ({error.strerror})", fix="check its rights") from error


def _files(corpus: Corpus) -> list[Path]:
    return sorted({path for clip in corpus.clips for path in clip.files})


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _has(clip: Clip, modality: Modality) -> bool:
    return has_sound(clip) if modality == "voice" else clip.video is not None


def _reader(study: Study, modality: Modality) -> Callable[[Clip], Array | None]:
    """Reads the beginning of a clip as a site reads it."""

    def sound(clip: Clip) -> Array | None:
        samples = read_sound(clip)
        return None if samples is None else check_samples(samples)[: MAX_PUBLIC_SECONDS * SAMPLE_RATE]

    def pictures(clip: Clip) -> Array | None:
        frames = read_pictures(clip, fps=study.face.fps)
        if frames is not None:
            check_frames(frames)
        return None if frames is None else frames[: max(1, int(MAX_PUBLIC_SECONDS * study.face.fps))]

    return sound if modality == "voice" else pictures


def _read(clips: Sequence[Clip], raw: Callable[[Clip], Array | None]) -> Iterator[tuple[int, Array]]:
    """Number and content of the clips that can be read."""
    for number, clip in enumerate(clips):
        try:
            array = raw(clip)
        except ClipError:
            continue
        if array is not None:
            yield number, array


def _released(
    anonymizer: Anonymizer, clips: Sequence[Clip], raw: Callable[[Clip], Array | None]
) -> Iterator[tuple[int, Array]]:
    """Index and released array of each clip that the anonymizer releases."""
    batch: list[tuple[int, Array]] = []

    def released() -> Iterator[tuple[int, Array]]:
        numbers, arrays = zip(*batch, strict=True)
        noise = [SeededNoise(PUBLIC_SEED, "clip", number) for number in numbers]
        found = anonymizer.release(arrays, noise, [_KEY.speaker(clips[i].speaker) for i in numbers])
        yield from ((i, array) for i, array in zip(numbers, found, strict=True) if isinstance(array, np.ndarray))
        batch.clear()

    for one in _read(clips, raw):
        batch.append(one)
        if len(batch) == _BATCH:
            yield from released()
    if batch:
        yield from released()
