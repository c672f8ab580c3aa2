"""All attacks beyond identity on released clips: attributes, inversion, and voices linked to faces."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.clipset import ClipSet
from moretta.shared.audit.inference.findings import (
    Attack,
    InferenceFinding,
    Source,
    from_leak,
    invalid_finding,
    validated_by_anchor,
    what_failed,
)
from moretta.shared.audit.inference.restoring import DECODERS_OF, invert_with, with_embeddings
from moretta.shared.audit.inference.sets import Pair, prepare_pair
from moretta.shared.audit.worker_pool import Workers, one_thread
from moretta.shared.core.pace import Progress
from moretta.shared.core.storage import disk_failed
from moretta.shared.core.terms import Modality

NO_ORIGINALS = "no originals were given: there is nothing to train a decoder on, and no anchor"
MIN_PER_CLASS = 4
"""People of each class that attribute inference must have."""
MIN_RESAMPLES = 50
"""Whether an attack works is told by its interval."""
DIMENSIONS = 64
"""Principal components of each modality's people that linkage works on, at most."""
LINK_MIN_PER_SEX = 6
Sets = Mapping[Modality, tuple[ClipSet | None, ClipSet]]
"""Originals, if they are to be had, and releases of each modality."""


@dataclass(frozen=True)
class Task:
    """One attack for one worker. Whatever it raises becomes an invalid finding."""

    attack: Attack
    modality: str
    target: str
    source: Source
    function: Callable[..., list[InferenceFinding]]
    arguments: tuple[Any, ...]
    note: str = ""


def attack_all(
    sets: Sets,
    *,
    seed: int = 0,
    bootstrap: int = 200,
    workers: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[InferenceFinding]:
    """Every modality by `run_inference_attacks`, then, with two of them, `attack_crossmodal`."""
    with one_thread(), Workers(workers) as pool:
        found: list[InferenceFinding] = []
        for original, released in sets.values():
            found += run_inference_attacks(
                original,
                released,
                seed=seed,
                bootstrap=bootstrap,
                pool=pool,
                cache_dir=cache_dir,
                progress=progress,
            )
        if {"voice", "face"} <= sets.keys():
            voice, face = sets["voice"][1], sets["face"][1]
            found += attack_crossmodal(voice, face, seed=seed, bootstrap=bootstrap, pool=pool)
    return found


def run_inference_attacks(
    original: ClipSet | None,
    released: ClipSet,
    *,
    seed: int = 0,
    bootstrap: int = 200,
    pool: Workers | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[InferenceFinding]:
    """Attribute inference and inversion on one modality. Nothing is raised: what fails is an invalid finding.

    Args:
        original: the same clips before anonymization, under the same pseudonyms; None if they are not to be had.
        released: what left the sites; of many clips, `sets.MAX_CLIPS` are attacked.
        seed: of draws, training and bootstraps.
        bootstrap: resamples of each interval; at least `MIN_RESAMPLES` are drawn.
        pool: where attacks run; None is this process.
        cache_dir: where embeddings of untrained encoders are kept, by content.
        progress: told of every finished attack.
    """
    modality, bootstrap = released.modality, max(MIN_RESAMPLES, bootstrap)
    with tempfile.TemporaryDirectory(prefix="moretta-inference-") as scratch, _pool_or_here(pool) as ready:
        folder = Path(scratch)
        try:
            pair = prepare_pair(original, released, folder, ready, seed=seed)
            tasks = attribute_tasks(pair, seed=seed, bootstrap=bootstrap)
            tasks += _inversion_tasks(pair, folder, cache_dir, ready, seed=seed, bootstrap=bootstrap)
        except Exception as error:
            if disk_failed(error):
                raise
            return [invalid_finding("attribute", modality, "attributes and inversion", "released", what_failed(error))]
        found = run_tasks(tasks, ready, progress)
    return validated_by_anchor(list(dict.fromkeys(found)))  # decoders share their anchors


def attack_crossmodal(
    voice: ClipSet, face: ClipSet, *, seed: int = 0, bootstrap: int = 200, pool: Workers | None = None
) -> list[InferenceFinding]:
    """Released voice to released face of the same person; among all, and among people of one sex."""
    with tempfile.TemporaryDirectory(prefix="moretta-inference-") as scratch, _pool_or_here(pool) as ready:
        try:
            pairs = [prepare_pair(None, clips, Path(scratch), ready, seed=seed) for clips in (voice, face)]
            sets = [pair.released for pair in pairs]
            both = set(sets[0].speakers) & set(sets[1].speakers)
            if not both:
                reason = "nobody has both a released voice and a released face"
                return [invalid_finding("cross-modal", "both", "face of the voice", "released", reason)]
            features = [_principal(clips) for clips in sets]
        except Exception as error:
            if disk_failed(error):
                raise
            return [invalid_finding("cross-modal", "both", "face of the voice", "released", what_failed(error))]
        bootstrap = max(MIN_RESAMPLES, bootstrap)
        number = {name: i for i, name in enumerate(sorted(both))}
        speakers = [np.array([number.get(c.speaker, -1 - i) for c in s.clips]) for i, s in enumerate(sets)]
        rows = [person >= 0 for person in speakers]
        sides = [(f[r], p[r]) for f, p, r in zip(features, speakers, rows, strict=True)]
        sex = {number[c.speaker]: c.sex for c in sets[0].clips if c.speaker in number and c.sex is not None}
        note = "; ".join(dict.fromkeys(filter(None, (pair.note for pair in pairs))))
        tasks = [
            Task("cross-modal", "both", "face of the voice", "released", _link, (*sides, w, seed, bootstrap), note)
            for w in (None, sex)
        ]
        if len(sex) < len(number) or min(Counter(sex.values()).values(), default=0) < LINK_MIN_PER_SEX:
            tasks.pop()  # a gallery of one sex in one fold would hold a person or two
        return run_tasks(tasks, ready, None)


def attribute_tasks(pair: Pair, *, seed: int, bootstrap: int) -> list[Task]:
    """Sex and age group, each on originals, as the anchor, and on releases."""
    tasks: list[Task] = []
    for target in ("sex", "age group"):
        for source, clips in (("original", pair.original), ("released", pair.released)):
            if clips is not None:
                arguments = (clips, target, source, seed, bootstrap)
                tasks.append(Task("attribute", clips.modality, target, source, _infer, arguments, pair.note))  # type: ignore[arg-type]
    return tasks


def run_tasks(tasks: Sequence[Task], pool: Workers, progress: Progress | None) -> list[InferenceFinding]:
    """Findings of all tasks, in their order whatever finished first."""
    found: list[list[InferenceFinding]] = [[] for _ in tasks]
    if progress is not None and tasks:
        progress("attacks beyond identity done", 0, len(tasks))
    for done, (index, result) in enumerate(pool.run(_run, [(task,) for task in tasks]), start=1):
        found[index] = result
        if progress is not None:
            progress(f"{tasks[index].attack} ({tasks[index].target}, {tasks[index].source})", done, len(tasks))
    return [finding for result in found for finding in result]


def _run(task: Task) -> list[InferenceFinding]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of degenerate data, which the figures show
            found = task.function(*task.arguments)
    except Exception as error:
        if disk_failed(error):
            raise
        return [invalid_finding(task.attack, task.modality, task.target, task.source, what_failed(error))]
    return [f.model_copy(update={"note": "; ".join(filter(None, (f.note, task.note)))}) for f in found]


def _inversion_tasks(
    pair: Pair, folder: Path, cache_dir: Path | None, pool: Workers, *, seed: int, bootstrap: int
) -> list[Task]:
    modality = pair.released.modality
    names = DECODERS_OF[modality]
    if pair.original is None:
        nothing = ("inversion", modality, "speaker", "decoded", NO_ORIGINALS)
        return [Task("inversion", modality, "speaker", "decoded", _invalid, nothing)]
    original, released = pair.original, pair.released
    if modality == "voice":  # faces are attacked small, so that the embeddings of the audit are not those
        original, released = with_embeddings(original, released, folder, cache_dir, pool, seed=seed)
    tasks: list[Task] = []
    for name in names:
        arguments = (name, original, released, seed, bootstrap)
        tasks.append(Task("inversion", modality, f"speaker, {name}", "decoded", _invert, arguments, pair.note))
    return tasks


def _invert(name: str, original: ClipSet, released: ClipSet, seed: int, bootstrap: int) -> list[InferenceFinding]:
    return invert_with(name, original, released, bootstrap=bootstrap, seed=seed)


def _invalid(attack: Attack, modality: str, target: str, source: Source, reason: str) -> list[InferenceFinding]:
    return [invalid_finding(attack, modality, target, source, reason)]


def _infer(clips: ClipSet, target: str, source: Source, seed: int, bootstrap: int) -> list[InferenceFinding]:
    from moretta.shared.audit.inference.attributes import infer_attribute

    stated = [clip.sex if target == "sex" else clip.age_group for clip in clips.clips]
    known = clips.subset(i for i, value in enumerate(stated) if value is not None)
    label = np.array([value for value in stated if value is not None])
    of_person = {clip.speaker: value for clip, value in zip(known.clips, label, strict=True)}
    count = Counter(of_person.values())
    few = {value: n for value, n in count.items() if n < MIN_PER_CLASS}
    if not known or len(count) < 2 or few:
        held = ", ".join(f"{n} {value}" for value, n in sorted(count.items())) or "none stated"
        reason = f"needs {MIN_PER_CLASS} people of each of two classes or more, there are: {held}"
        return [invalid_finding("attribute", clips.modality, target, source, reason, speakers=len(of_person))]
    leaks = infer_attribute(_features(known), label, known.labels, target=target, resamples=bootstrap, seed=seed)
    return [
        from_leak(leak, "attribute", clips.modality, source, metric="balanced_accuracy", clips=len(known))
        for leak in leaks
    ]


_Side = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]
"""Features [n, d] and persons [n] of one modality."""


def _link(
    voice: _Side,
    face: _Side,
    within: Mapping[int, str] | None,
    seed: int,
    bootstrap: int,
) -> list[InferenceFinding]:
    from moretta.shared.audit.inference.crossmodal import link_modalities

    leaks = link_modalities(*voice, *face, within=within, resamples=bootstrap, seed=seed)
    found = []
    for leak in leaks:
        target, kind = leak.target.rsplit(", ", 1)
        metric = "top1" if kind == "top-1" else "one_of_two"
        plain = replace(leak, target=target)
        found.append(from_leak(plain, "cross-modal", "both", "released", metric=metric, clips=len(voice[1])))
    return found


def _features(clips: ClipSet) -> npt.NDArray[np.float32]:
    """[n, d] of clips of either modality."""
    from moretta.shared.audit.learn.vectors import face_gradients, face_pixels, voice_statistics

    if clips.modality == "voice":
        return voice_statistics(clips)
    return np.concatenate([face_pixels(clips), face_gradients(clips)], axis=1)


def _principal(clips: ClipSet) -> npt.NDArray[np.float64]:
    """[n, d]: in what people differ most, learnt from releases alone, which the attacker has; half as many as people.

    A link is learnt from people, however many clips they have: more dimensions than people fit noise.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(_features(clips))
    labels = clips.labels
    means = np.stack([scaled[labels == person].mean(axis=0) for person in np.unique(labels)])
    components = max(1, min(DIMENSIONS, len(means) // 2, scaled.shape[1]))
    return np.asarray(PCA(components, svd_solver="full").fit(means).transform(scaled), np.float64)


def _pool_or_here(pool: Workers | None) -> Any:
    from contextlib import nullcontext

    return Workers(1) if pool is None else nullcontext(pool)
