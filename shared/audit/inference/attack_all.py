"""All inference attacks on released clips: attributes, inversion, and voices linked to faces."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference.attributes import TARGETS, features_of, infer_from_clips, read_off_faces
from moretta.shared.audit.inference.crossmodal import link_modalities
from moretta.shared.audit.inference.inversion import DECODERS_OF, invert_with, with_embeddings
from moretta.shared.audit.metrics.intervals import MIN_RESAMPLES
from moretta.shared.audit.result import Attack, Result, failure
from moretta.shared.audit.run_attacks import run_all
from moretta.shared.core.array_types import Array, Float64, UInt8
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Progress, Workers, one_thread

NO_ORIGINALS = "no originals were given: there is nothing to train a decoder on, and no anchor"
MAX_CLIPS = {"voice": 600, "face": 240}
"""Clips that are attacked, at most."""
MIN_EACH = 4
"""Clips of a speaker below which fewer speakers are taken instead."""
SIDE, FRAMES = 64, 4
"""Pixels of the faces that are attacked, and frames of a clip."""
DIMENSIONS = 64
"""Principal components of each modality's people that linkage works on, at most."""
LINK_MIN_PER_SEX = 6
_CHUNK = 16
Sets = Mapping[Modality, tuple[ClipSet | None, ClipSet]]
"""Originals, if there are any, and releases of each modality."""
Task = tuple[Result, Callable[[], list[Result]]]
"""A result without figures, whose note is added to those of the results, and one attack for one worker."""


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
    """Attribute inference and inversion on one modality: the arguments are those of `runner.audit`.

    Nothing is raised: an attack that fails is an invalid result. Of many clips, `MAX_CLIPS` are attacked; at least
    `MIN_RESAMPLES` are drawn. Without a pool attacks run in this process.
    """
    options = {"seed": seed, "bootstrap": max(MIN_RESAMPLES, bootstrap)}
    try:
        with _scratch(pool) as (folder, ready):
            pair = prepare_pair(original, released, folder, ready, seed=seed)
            tasks: list[Task] = []
            for target in TARGETS:
                for scenario, clips in (("unprotected", pair.original), ("semi-informed", pair.released)):
                    if clips is not None:
                        about = without_figures("attribute", clips.modality, target, scenario)
                        noted = about.model_copy(update={"note": pair.note})
                        tasks.append((noted, partial(infer_from_clips, clips, about, **options)))
            for scenario, clips in (("unprotected", pair.original), ("ignorant", pair.released)):
                if clips is not None and clips.modality == "face":
                    about = without_figures("attribute", "face", " and ".join(TARGETS), scenario)
                    noted = about.model_copy(update={"note": pair.note})
                    tasks.append((noted, partial(read_off_faces, clips, about, **options)))
            tasks += _inversion_tasks(pair, folder, cache_dir, ready, **options)
            found = run_tasks(tasks, ready, progress)
    except Exception as error:
        about = without_figures("attribute", released.modality, "attributes and inversion", "semi-informed")
        return [about.invalidated(failure(error))]
    unique = [result for place, result in enumerate(found) if result not in found[:place]]  # decoders share anchors
    return checked_by_originals(unique)


def attack_crossmodal(
    voice: ClipSet, face: ClipSet, *, seed: int = 0, bootstrap: int = 200, pool: Workers | None = None
) -> list[Result]:
    """Released voice to released face of the same person; among all, and among people of one sex."""
    about = without_figures("cross-modal", "both", "face of the voice", "semi-informed")
    try:
        with _scratch(pool) as (folder, ready):
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
            blank = about.model_copy(update={"clips": len(sides[1])})
            link = partial(link_modalities, *sides, about=blank, resamples=max(MIN_RESAMPLES, bootstrap), seed=seed)
            noted = about.model_copy(update={"note": _joined(*(pair.note for pair in pairs))})
            tasks: list[Task] = [(noted, partial(link, within=within)) for within in (None, sex)]
            if len(sex) < len(number) or min(Counter(sex.values()).values(), default=0) < LINK_MIN_PER_SEX:
                tasks.pop()  # a gallery of one sex in one fold would hold a person or two
            return run_tasks(tasks, ready, None)
    except Exception as error:
        return [about.invalidated(failure(error))]


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


def run_tasks(tasks: Sequence[Task], pool: Workers, progress: Progress | None) -> list[Result]:
    """Results of all tasks in their order. Whatever an attack raises becomes an invalid result."""
    labels = [f"{about.attack} ({about.target}, {about.scenario})" for about, _ in tasks]
    return run_all(_run, tasks, labels, what="inference attacks done", pool=pool, progress=progress)


def _run(about: Result, attack: Callable[[], list[Result]]) -> list[Result]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of degenerate data, which the figures show
            return [r.model_copy(update={"note": _joined(r.note, about.note)}) for r in attack()]
    except Exception as error:
        return [about.invalidated(failure(error))]


def _joined(*notes: str) -> str:
    return "; ".join(dict.fromkeys(filter(None, notes)))


@contextmanager
def _scratch(pool: Workers | None) -> Iterator[tuple[Path, Workers]]:
    """A folder for views, and the pool, or this process in its place."""
    with tempfile.TemporaryDirectory(prefix="moretta-inference-") as folder, Workers(1) as here:
        yield Path(folder), pool or here


class Pair(NamedTuple):
    """The same clips before (None without originals) and after anonymization, in one order."""

    original: ClipSet | None
    released: ClipSet
    note: str
    """Text on the part of the clips and frames that is used; empty if it is all of them."""


def prepare_pair(original: ClipSet | None, released: ClipSet, scratch: Path, pool: Workers, *, seed: int) -> Pair:
    """Thin, read once, and put both sets into one order. Clips that either lacks, or cannot read, are left out."""
    if original is not None:
        known = {clip.clip for clip in original.clips}
        released = released.subset(i for i, clip in enumerate(released.clips) if clip.clip in known)
    few = thinned(released, MAX_CLIPS[released.modality], seed=seed)
    note = "" if len(few) == len(released) else f"on {len(few)} of {len(released)} clips, drawn evenly over speakers"
    if released.modality == "face":
        note = _joined(note, f"on {FRAMES} frames a clip of {SIDE} x {SIDE} pixels")
    ready = _read_once(few, scratch, pool, None)
    coefficients = None
    if len(ready) and released.modality == "voice" and not ready.holds_codes:
        coefficients = ready.mfcc(0).shape[1]
    before = None if original is None else _read_once(original.among(ready), scratch, pool, coefficients)
    return Pair(before, ready if before is None else ready.among(before), note)


def _read_once(clips: ClipSet, scratch: Path, pool: Workers, coefficients: int | None) -> ClipSet:
    if clips.holds_pictures:
        return _small(clips, pool)
    return clips.with_views(scratch, pool=pool, coefficients=coefficients)


def thinned(clips: ClipSet, limit: int, *, seed: int) -> ClipSet:
    """At most about `limit` clips, equally many of each speaker, by pseudonym; of very many speakers only some."""
    rng = np.random.default_rng([seed, 0x7417])
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(clips)), key=lambda i: clips.clips[i].clip):
        by_speaker[clips.clips[index].speaker].append(index)

    def some(items: list[str] | list[int], count: int) -> list[int]:
        return [int(i) for i in np.sort(rng.permutation(len(items))[:count])]

    names = sorted(by_speaker)
    names = [names[i] for i in some(names, max(2, limit // MIN_EACH))]
    each = len(clips) if len(clips) <= limit else max(MIN_EACH, limit // max(1, len(names)))
    return clips.subset(by_speaker[name][i] for name in names for i in some(by_speaker[name], each))


def _small(clips: ClipSet, pool: Workers) -> ClipSet:
    """The same clips as few small frames in memory: reading and cropping a video again would cost far more."""
    chunks = clips.batches(_CHUNK)
    found: dict[int, list[UInt8 | None]] = dict(pool.run(_shrink, [(clips.subset(chunk),) for chunk in chunks]))
    flat = [frames for index in range(len(chunks)) for frames in found[index]]
    kept = [(clip, frames) for clip, frames in zip(clips.clips, flat, strict=True) if frames is not None]
    described, arrays = [clip for clip, _ in kept], [frames for _, frames in kept]
    small = ClipSet.from_arrays(described, arrays, modality="face", form="frames")
    return replace(small, damaged=dict(clips.damaged))


def _shrink(clips: ClipSet) -> list[UInt8 | None]:
    """uint8 [FRAMES, SIDE, SIDE, 3] of each clip, None of one that cannot be read."""

    def small(index: int) -> UInt8 | None:
        try:
            frames = clips.frames(index)
        except (ClipError, ReleaseError):
            return None
        if not len(frames):
            return None
        chosen = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
        return np.stack([cv2.resize(frames[i], (SIDE, SIDE), interpolation=cv2.INTER_AREA) for i in chosen])

    return [small(index) for index in range(len(clips))]


def _inversion_tasks(
    pair: Pair, folder: Path, cache_dir: Path | None, pool: Workers, *, seed: int, bootstrap: int
) -> list[Task]:
    about = without_figures("inversion", pair.released.modality, "speaker", "decoded")
    if pair.original is None:
        return [(about, partial(list, [about.invalidated(NO_ORIGINALS)]))]
    original, released = pair.original, pair.released
    if released.modality == "voice":  # faces are attacked small, so that the embeddings of the audit are not those
        original, released = with_embeddings(original, released, folder, cache_dir, pool, seed=seed)
    tasks: list[Task] = []
    for name in DECODERS_OF["voice" if released.holds_codes else released.modality]:
        noted = about.model_copy(update={"target": f"speaker, {name}", "note": pair.note})
        invert = partial(invert_with, name, original, released, about=about, bootstrap=bootstrap, seed=seed)
        tasks.append((noted, invert))
    return tasks


def _principal(clips: ClipSet) -> Float64:
    """[n, d]: in what people differ most, learned from releases alone, which the attacker has; half as many as people.

    A link is learned from people, however many clips they have: more dimensions than people fit noise.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(features_of(clips))
    labels = clips.labels
    means = np.stack([scaled[labels == person].mean(axis=0) for person in np.unique(labels)])
    components = max(1, min(DIMENSIONS, len(means) // 2, scaled.shape[1]))
    return np.asarray(PCA(components, svd_solver="full").fit(means).transform(scaled), np.float64)
