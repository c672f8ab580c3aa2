"""Cross-modal linkage: does a released voice find the released face of the same person?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from moretta.shared.audit.metrics.identification import Ranking, hits, ranks
from moretta.shared.audit.metrics.intervals import bootstrap_rows
from moretta.shared.audit.result import Result
from moretta.shared.core.array_types import Array, Float64, Int64, Integers, unit_rows

Maps = tuple[Callable[[Float64], Float64], Callable[[Float64], Float64]]
Mapper = Callable[[Float64, Float64, float], Maps]
"""Fits on paired (voice, face), with a strength of regularisation, maps of both into one space, compared by cosine."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Regularisation tried, relative to the mean variance; chosen on people the attacker knows."""
INNER_FOLDS = 3
DIMENSIONS = 32
MIN_PEOPLE = 6


def link_modalities(
    voice: Array,
    voice_person: Integers,
    face: Array,
    face_person: Integers,
    *,
    about: Result,
    within: Mapping[int, str] | None = None,
    folds: int = 3,
    resamples: int = 200,
    seed: int = 0,
) -> list[Result]:
    """How well a voice clip [n, d] finds its face [m, e] among those of people outside the training folds.

    Two figures for each mapping: top-1 of the whole gallery, one fold's people, and the forced choice between its face
    and another one (Nagrani, Albanie and Zisserman, CVPR 2018; chance is 0.5), which shows what top-1 of few people
    cannot. The mapping is learned on pairs of voice and face clips of one person, matched at random, so that neither
    text nor time can link them; tested on other people, each enrolled by the mean of their faces.

    `within` has the group (sex) of each person: candidates are then of the voice's own group, so that a link is more
    than the group. `about` is the result without figures; `folds` are person-disjoint.
    """
    people = np.intersect1d(voice_person, face_person)
    about = about.model_copy(update={"target": "face of the voice" + ("" if within is None else " within group")})
    if len(people) < MIN_PEOPLE:
        reason = f"{len(people)} people have both voice and face: at least {MIN_PEOPLE} are needed"
        few = {"metric": "top1", "speakers": len(people)}
        return [about.invalidated(reason, attacker=name, **few) for name in MAPPERS]
    sides = _Clips(voice, voice_person), _Clips(face, face_person)
    fold = np.random.default_rng(seed).permutation(len(people)) % folds
    found: list[Result] = []
    for name, fit in MAPPERS.items():
        parts = []
        for f in range(folds):
            known, others = people[fold != f], people[fold == f]
            scaled = sides[0].standardised(known), sides[1].standardised(known)
            strength = _choose(fit, scaled, known, seed)
            parts.append(_tried(*_mapped(fit, scaled, known, strength=strength, seed=seed), others, within))
        hit, won, chance, person = (np.concatenate(column) for column in zip(*parts, strict=True))
        for metric, values, expected in (("top1", hit, float(chance.mean())), ("one_of_two", won, 0.5)):
            interval = bootstrap_rows(partial(_mean, values), person, resamples=resamples, seed=seed)
            changes = {"metric": metric, "attacker": name, "chance": expected, "speakers": len(np.unique(person))}
            found.append(about.with_value(float(values.mean()), interval, **changes))
    return found


class _Clips(NamedTuple):
    """Features [n, d] of clips and their persons [n]."""

    features: Array
    person: Integers

    def standardised(self, known: Integers) -> _Clips:
        """The clips, standardised by mean and spread of the training people."""
        values = np.asarray(self.features, dtype=np.float64)
        train = values[np.isin(self.person, known)]
        spread = train.std(axis=0)
        return _Clips((values - train.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0), self.person)


def _mean(values: Float64, rows: Int64) -> float:
    return float(values[rows].mean())


def _mapped(
    fit: Mapper, sides: tuple[_Clips, _Clips], known: Integers, *, strength: float, seed: int
) -> tuple[_Clips, _Clips]:
    """Directions of both sides after maps that are fitted on known people.

    Voice and face clips of one person are paired at random; the scarcer modality is repeated.
    """
    rng = np.random.default_rng(seed)
    rows: tuple[list[Int64], list[Int64]] = ([], [])
    for person in known:
        own = [np.flatnonzero(side.person == person) for side in sides]
        for column, clips in zip(rows, own, strict=True):
            column.append(np.resize(rng.permutation(clips), max(map(len, own))))
    voice, face = (side.features[np.concatenate(column)] for side, column in zip(sides, rows, strict=True))
    maps = zip(fit(voice, face, strength), sides, strict=True)
    of_voice, of_face = (_Clips(unit_rows(to(side.features)), side.person) for to, side in maps)
    return of_voice, of_face


def _tried(
    voice: _Clips, face: _Clips, people: Integers, within: Mapping[int, str] | None
) -> tuple[Float64, Float64, Float64, Int64]:
    """Top-1 hits, share of forced choices won, chance of a hit, and person of every voice clip of these people."""
    group = np.array(["" if within is None else within[int(p)] for p in people])
    columns: list[tuple[Float64, Float64, Float64, Int64]] = []
    for name in np.unique(group):
        members = group == name
        n = int(members.sum())
        if n < 2:
            continue  # alone in its group a person needs no attack to be found
        ranking = _ranking(voice, face, people[members])
        won = 1 - (ranks(ranking) - 1) / (n - 1)
        columns.append((hits(ranking, 1), won, np.full(len(ranking), 1 / n), ranking.speaker))
    hit, won, chance, person = (np.concatenate(column) for column in zip(*columns, strict=True))
    return hit, won, chance, person


def _ranking(voice: _Clips, face: _Clips, people: Integers) -> Ranking:
    """Every voice clip of these people against the mean face of each."""
    gallery = unit_rows(np.stack([face.features[face.person == p].mean(axis=0) for p in people]))
    rows = np.isin(voice.person, people)
    return Ranking(voice.features[rows] @ gallery.T, people.astype(np.int64), voice.person[rows].astype(np.int64))


def _choose(fit: Mapper, sides: tuple[_Clips, _Clips], known: Integers, seed: int) -> float:
    """The strength that ranks known people best when they are left out: clips of one person are no new person."""
    fold = np.random.default_rng(seed).permutation(len(known)) % INNER_FOLDS

    def mean_rank(strength: float) -> float:
        found: list[float] = []
        for f in range(INNER_FOLDS):
            mapped = _mapped(fit, sides, known[fold != f], strength=strength, seed=seed)
            found.append(float(ranks(_ranking(*mapped, known[fold == f])).mean()))
        return float(np.mean(found))

    return min(STRENGTHS, key=mean_rank)


def _cca(voice: Float64, face: Float64, strength: float) -> Maps:
    """Regularised canonical correlation: whiten both sides, then the singular vectors of their correlation."""

    def whitener(x: Float64) -> Float64:
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        return np.asarray(vectors / np.sqrt(values + strength * values.mean() + 1e-9), dtype=np.float64)

    whiten_voice, whiten_face = whitener(voice), whitener(face)
    left, correlation, right = np.linalg.svd(whiten_voice.T @ voice.T @ face @ whiten_face / len(voice))
    k = min(DIMENSIONS, len(correlation))
    to_voice, to_face = whiten_voice @ left[:, :k] * correlation[:k], whiten_face @ right[:k].T * correlation[:k]
    return (lambda v: v @ to_voice), (lambda f: f @ to_face)


def _ridge(voice: Float64, face: Float64, strength: float) -> Maps:
    """A linear guess of the face from the voice."""
    covariance = voice.T @ voice / len(voice)
    shrunk = covariance + strength * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights = np.linalg.solve(shrunk, voice.T @ face / len(voice))
    return (lambda v: v @ weights), (lambda f: f)


MAPPERS: Mapping[str, Mapper] = {"canonical correlation": _cca, "ridge": _ridge}
