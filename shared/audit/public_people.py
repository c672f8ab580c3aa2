"""Public people as the attackers of a study see them: their recordings, and what the study's anonymizer makes of them.

An informed attacker has the anonymizer, and so as many releases of public people as there are public recordings. A
network that has learned to separate these needs less of the people who are attacked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.protocol import SetName
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, StudyError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.data.clips import Corpus
from moretta.shared.data.reader import read_corpus
from moretta.shared.data.recordings import has_sound
from moretta.shared.features.mfcc import SAMPLE_RATE, check_samples
from moretta.shared.privacy.noise import SeededNoise
from moretta.shared.release.anonymizer import Anonymizer, anonymizer_of
from moretta.shared.study.public_arrays import PUBLIC_SEED
from moretta.shared.study.schema import Study

FEWEST_PUBLIC = 8
"""People of whom a network that separates them can learn what separates people."""
MAX_PUBLIC_CLIPS = 3_000
MAX_PUBLIC_SECONDS = 10
"""Longest part of a clip, from its start: attackers use less of each, and all releases are in memory at once."""
_BATCH = 8
_KEY = PseudonymKey.seeded(PUBLIC_SEED, "public people")
PublicSets = Mapping[SetName, ClipSet]
"""Sound of public people, `original`, and what the anonymizer makes of the same clips, `released`."""


def public_corpus(study: Study, attacked: Collection[SpeakerId] = ()) -> Corpus | None:
    """The folder of public people that a study names; None where it names none.

    Args:
        attacked: the people of the study, as far as they are known.

    Raises:
        CorpusError: the folder cannot be read.
        StudyError: too few people with sound, or people who are attacked.
    """
    if study.audit.public is None:
        return None
    corpus = read_corpus(study.audit.public, classes=None)
    people = {clip.speaker for clip in corpus.clips if has_sound(clip)}
    if len(people) < FEWEST_PUBLIC:
        raise StudyError(
            f"{len(people)} public people with sound in {corpus.root}",
            expected=f"at least {FEWEST_PUBLIC}, for attackers to learn from",
            fix="correct `public` in [audit], or leave it out",
        )
    if both := in_order(people & set(attacked)):
        raise StudyError(
            f"{len(both)} people in both the study and the public people of {corpus.root}: {', '.join(both[:10])}",
            expected="other people: what attackers learn of them would be quoted on them",
            fix="take other people for `public` in [audit], or give them other ids",
        )
    return corpus


def public_sets(study: Study, arrays: Mapping[str, Array], attacked: Collection[SpeakerId] = ()) -> PublicSets:
    """Voices of the public people of a study, before and after its anonymizer, with noise of a public seed.

    At most `MAX_PUBLIC_CLIPS` clips are taken. Empty where the study names nobody, or releases no voice.

    Args:
        arrays: the study's public arrays.

    Raises:
        CorpusError, StudyError: see `public_corpus`; or the anonymizer releases nothing of these people.
    """
    corpus = public_corpus(study, attacked)
    if corpus is None or not study.voice.enabled:
        return {}
    original = ClipSet.from_corpus(corpus, "voice", _KEY)
    chosen = np.random.default_rng(PUBLIC_SEED).permutation(len(original))[:MAX_PUBLIC_CLIPS]
    original = original.subset(np.sort(chosen))
    anonymizer = anonymizer_of(study, "voice").from_study(study, arrays)
    with tempfile.TemporaryDirectory(prefix="moretta-public-") as remembered:
        anonymizer.keep_in(Path(remembered))
        anonymizer.fit(((speaker, sound) for _, speaker, sound in _sound(original)), SeededNoise(PUBLIC_SEED, "fit"))
        if anonymizer.trains_on_emotions:
            labels = [clip.emotion for clip in original.clips]
            anonymizer.train_on_emotions(
                (speaker, sound, study.classes.index(labels[i]))
                for i, speaker, sound in _sound(original)
                if labels[i] in study.classes
            )
        released = dict(_released(anonymizer, original))
    if len({original.clips[i].speaker for i in released}) < FEWEST_PUBLIC:
        raise StudyError(
            f"{anonymizer.name} releases {len(released)} of {len(original)} public clips",
            expected=f"clips of at least {FEWEST_PUBLIC} people, for attackers to learn from",
            fix="correct `public` in [audit], or leave it out",
        )
    kept = original.subset(sorted(released))
    made = ClipSet.from_arrays(
        kept.clips,
        [released[i] for i in sorted(released)],
        modality="voice",
        form=anonymizer.form,  # type: ignore[arg-type]  # of a voice
        codebook=anonymizer.codebook,
    )
    return {"original": kept, "released": made}


def _sound(clips: ClipSet) -> Iterator[tuple[int, str, Array]]:
    """Number, speaker and first samples of the clips that can be read."""
    for index, clip in enumerate(clips.clips):
        try:
            yield index, clip.speaker, check_samples(clips.waveform(index))[: MAX_PUBLIC_SECONDS * SAMPLE_RATE]
        except ClipError:
            continue


def _released(anonymizer: Anonymizer, clips: ClipSet) -> Iterator[tuple[int, Array]]:
    """Index and released array of each clip that the anonymizer releases."""
    batch: list[tuple[int, str, Array]] = []

    def released() -> Iterator[tuple[int, Array]]:
        numbers, speakers, sound = zip(*batch, strict=True)
        noise = [SeededNoise(PUBLIC_SEED, "clip", number) for number in numbers]
        found = anonymizer.release(sound, noise, speakers)
        yield from ((i, array) for i, array in zip(numbers, found, strict=True) if isinstance(array, np.ndarray))
        batch.clear()

    for one in _sound(clips):
        batch.append(one)
        if len(batch) == _BATCH:
            yield from released()
    if batch:
        yield from released()
