"""All inference attacks on released clips: attributes, inversion, and voices linked to faces."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference.classes import infer_attribute
from moretta.shared.audit.inference.crossmodal import link_modalities
from moretta.shared.audit.inference.inversion import DECODERS_OF, invert_with, with_embeddings
from moretta.shared.audit.inference.pairs import Pair, prepare_pair
from moretta.shared.audit.result import Attack, Result
from moretta.shared.audit.views import face_gradients, face_pixels, voice_statistics
from moretta.shared.core.array_types import Array, Float32, Float64
from moretta.shared.core.atomic import disk_failed
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Progress, Workers, one_thread

NO_ORIGINALS = "no originals were given: there is nothing to train a decoder on, and no anchor"
MIN_PER_CLASS = 4
"""People of each class that attribute inference must have."""
MIN_RESAMPLES = 50
"""Whether an attack works is read from its interval."""
DIMENSIONS = 64
"""Principal components of each modality's people that linkage works on, at most."""
LINK_MIN_PER_SEX = 6
Sets = Mapping[Modality, tuple[ClipSet | None, ClipSet]]
"""Originals, if they are to be had, and releases of each modality."""


@dataclass(frozen=True)
class Task:
    """One attack for one worker. Whatever it raises becomes an invalid result."""

    about: Result
    """The result without figures; its note is added to those of the results."""
    run: Callable[[], list[Result]]


def without_figures(attack: Attack, modality: Literal["voice", "face", "both"], target: str, scenario: str) -> Result:
    """A result without attacker and figures."""
    return Result(attack=attack, modality=modality, target=target, scenario=scenario, attacker="none", metric="none")


def attack_all(
    sets: Sets,
    *,
    seed: int = 0,
    bootstrap: int = 200,
    workers: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Every modality by `attack_clips`, then, with two of them, `attack_crossmodal`."""
    options = {"seed": seed, "bootstrap": bootstrap}
    with one_thread(), Workers(workers) as pool:
        found: list[Result] = []
        for original, released in sets.values():
            found += attack_clips(original, released, pool=pool, cache_dir=cache_dir, progress=progress, **options)
        if {"voice", "face"} <= sets.keys():
            found += attack_crossmodal(sets["voice"][1], sets["face"][1], pool=pool, **options)
    return found


def attack_clips(
    original: ClipSet | None,
    released: ClipSet,
    *,
    seed: int = 0,
    bootstrap: int = 200,
    pool: Workers | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Attribute inference and inversion on one modality. Nothing is raised: what fails is an invalid result.

    Args:
        original: the same clips before anonymization, under the same pseudonyms; None if they are not to be had.
        released: what left the sites; of many clips, `pairs.MAX_CLIPS` are attacked.
        seed: of draws, training and bootstraps.
        bootstrap: resamples of each interval; at least `MIN_RESAMPLES` are drawn.
        pool: where attacks run; None is this process.
        cache_dir: where embeddings of untrained encoders are kept, by content.
        progress: called after every finished attack.
    """
    bootstrap = max(MIN_RESAMPLES, bootstrap)
    about = without_figures("attribute", released.modality, "attributes and inversion", "semi-informed")
    found: list[Result] = []
    with _scratch(pool) as (folder, ready), _reported(found, about):
        pair = prepare_pair(original, released, folder, ready, seed=seed)
        tasks = _attribute_tasks(pair, seed=seed, bootstrap=bootstrap)
        tasks += _inversion_tasks(pair, folder, cache_dir, ready, seed=seed, bootstrap=bootstrap)
        found += run_tasks(tasks, ready, progress)
    unique = [result for place, result in enumerate(found) if result not in found[:place]]  # decoders share anchors
    return checked_by_originals(unique)


def attack_crossmodal(
    voice: ClipSet, face: ClipSet, *, seed: int = 0, bootstrap: int = 200, pool: Workers | None = None
) -> list[Result]:
    """Released voice to released face of the same person; among all, and among people of one sex."""
    about = without_figures("cross-modal", "both", "face of the voice", "semi-informed")
    found: list[Result] = []
    with _scratch(pool) as (folder, ready), _reported(found, about):
        pairs = [prepare_pair(None, clips, folder, ready, seed=seed) for clips in (voice, face)]
        sets = [pair.released for pair in pairs]
        both = set(sets[0].speakers) & set(sets[1].speakers)
        if not both:
            return [about.invalidated("nobody has both a released voice and a released face")]
        number = {name: i for i, name in enumerate(sorted(both))}
        sides: list[Array] = []
        for i, clips in enumerate(sets):
            person = np.array([number.get(c.speaker, -1 - i) for c in clips.clips])
            sides += [_principal(clips)[person >= 0], person[person >= 0]]
        sex = {number[c.speaker]: c.sex for c in sets[0].clips if c.speaker in number and c.sex is not None}
        note = "; ".join(dict.fromkeys(filter(None, (pair.note for pair in pairs))))
        blank = about.model_copy(update={"clips": len(sides[1])})
        about = about.model_copy(update={"note": note})
        link = partial(link_modalities, *sides, about=blank, resamples=max(MIN_RESAMPLES, bootstrap), seed=seed)
        tasks = [Task(about, partial(link, within=within)) for within in (None, sex)]
        if len(sex) < len(number) or min(Counter(sex.values()).values(), default=0) < LINK_MIN_PER_SEX:
            tasks.pop()  # a gallery of one sex in one fold would hold a person or two
        found += run_tasks(tasks, ready, None)
    return found


def checked_by_originals(results: Sequence[Result]) -> list[Result]:
    """Results on releases, invalid where the same attacker cannot infer the attribute from originals either."""
    anchors = {(r.target, r.attacker, r.metric): r for r in results if r.is_anchor}

    def checked(result: Result) -> Result:
        anchor = anchors.get((result.target, result.attacker, result.metric))
        if result.is_anchor or result.invalid or anchor is None or anchor.leaks:
            return result
        figure = "no figure" if anchor.value is None else f"{anchor.value:.3f}, chance {anchor.chance:.3f}"
        return result.invalidated(f"it cannot infer the {result.target} from unprotected clips either ({figure})")

    return [checked(result) for result in results]


def failure(error: Exception) -> str:
    """The reason of an attack that raised, in one line."""
    return f"the attack failed: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def run_tasks(tasks: Sequence[Task], pool: Workers, progress: Progress | None) -> list[Result]:
    """Results of all tasks, in their order whatever finished first."""
    found: list[list[Result]] = [[] for _ in tasks]
    if progress is not None and tasks:
        progress("inference attacks done", 0, len(tasks))
    for done, (index, results) in enumerate(pool.run(_run, [(task,) for task in tasks]), start=1):
        found[index] = results
        if progress is not None:
            about = tasks[index].about
            progress(f"{about.attack} ({about.target}, {about.scenario})", done, len(tasks))
    return [result for results in found for result in results]


def _run(task: Task) -> list[Result]:
    found: list[Result] = []
    with _reported(found, task.about.model_copy(update={"note": ""})), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate data, which the figures show
        for result in task.run():
            notes = dict.fromkeys(filter(None, (result.note, task.about.note)))
            found.append(result.model_copy(update={"note": "; ".join(notes)}))
    return found


@contextmanager
def _reported(found: list[Result], about: Result) -> Iterator[None]:
    """What is raised becomes an invalid result; only a disk that failed ends the audit."""
    try:
        yield
    except Exception as error:
        if disk_failed(error):
            raise
        found[:] = [about.invalidated(failure(error))]


@contextmanager
def _scratch(pool: Workers | None) -> Iterator[tuple[Path, Workers]]:
    """A folder for views, and the pool, or this process in its place."""
    with tempfile.TemporaryDirectory(prefix="moretta-inference-") as folder:
        if pool is not None:
            yield Path(folder), pool
        else:
            with Workers(1) as here:
                yield Path(folder), here


def _attribute_tasks(pair: Pair, *, seed: int, bootstrap: int) -> list[Task]:
    """Sex and age group, each on originals, as the anchor, and on releases."""
    tasks: list[Task] = []
    for target in ("sex", "age group"):
        for scenario, clips in (("unprotected", pair.original), ("semi-informed", pair.released)):
            if clips is not None:
                about = without_figures("attribute", clips.modality, target, scenario)
                noted = about.model_copy(update={"note": pair.note})
                tasks.append(Task(noted, partial(_infer, clips, about, seed, bootstrap)))
    return tasks


def _inversion_tasks(
    pair: Pair, folder: Path, cache_dir: Path | None, pool: Workers, *, seed: int, bootstrap: int
) -> list[Task]:
    about = without_figures("inversion", pair.released.modality, "speaker", "decoded")
    if pair.original is None:
        return [Task(about, partial(list, [about.invalidated(NO_ORIGINALS)]))]
    original, released = pair.original, pair.released
    if released.modality == "voice":  # faces are attacked small, so that the embeddings of the audit are not those
        original, released = with_embeddings(original, released, folder, cache_dir, pool, seed=seed)
    tasks = []
    for name in DECODERS_OF[released.modality]:
        of_decoder = about.model_copy(update={"target": f"speaker, {name}", "note": pair.note})
        tasks.append(
            Task(
                of_decoder, partial(invert_with, name, original, released, about=about, bootstrap=bootstrap, seed=seed)
            )
        )
    return tasks


def _infer(clips: ClipSet, about: Result, seed: int, bootstrap: int) -> list[Result]:
    stated = [clip.sex if about.target == "sex" else clip.age_group for clip in clips.clips]
    known = clips.subset(i for i, value in enumerate(stated) if value is not None)
    label = np.array([value for value in stated if value is not None])
    count = Counter({clip.speaker: value for clip, value in zip(known.clips, label, strict=True)}.values())
    if not known or len(count) < 2 or min(count.values()) < MIN_PER_CLASS:
        held = ", ".join(f"{n} {value}" for value, n in sorted(count.items())) or "none stated"
        reason = f"needs {MIN_PER_CLASS} people of each of two classes or more, there are: {held}"
        return [about.invalidated(reason, speakers=count.total())]
    about = about.model_copy(update={"metric": "balanced_accuracy", "clips": len(known)})
    return infer_attribute(_features(known), label, known.labels, about=about, resamples=bootstrap, seed=seed)


def _features(clips: ClipSet) -> Float32:
    """[n, d] of clips of either modality."""
    if clips.modality == "voice":
        return voice_statistics(clips)
    return np.concatenate([face_pixels(clips), face_gradients(clips)], axis=1)


def _principal(clips: ClipSet) -> Float64:
    """[n, d]: in what people differ most, learned from releases alone, which the attacker has; half as many as people.

    A link is learned from people, however many clips they have: more dimensions than people fit noise.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(_features(clips))
    labels = clips.labels
    means = np.stack([scaled[labels == person].mean(axis=0) for person in np.unique(labels)])
    components = max(1, min(DIMENSIONS, len(means) // 2, scaled.shape[1]))
    return np.asarray(PCA(components, svd_solver="full").fit(means).transform(scaled), np.float64)
