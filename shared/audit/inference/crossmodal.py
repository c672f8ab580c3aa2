"""Cross-modal linkage: does a released voice find the released face of the same person?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.shared.audit.inference.attack_result import Leak
from moretta.shared.audit.metrics.bootstrap import bootstrap_rows
from moretta.shared.audit.metrics.identification import hits, ranks
from moretta.shared.audit.metrics.ranking import Ranking

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Maps = tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]
Mapper = Callable[[Floats, Floats, float], Maps]
"""Fits on paired (voice, face), with a strength of regularisation, maps of both into one space, compared by cosine."""
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Regularisation tried, relative to the mean variance; chosen on people the attacker knows."""
INNER_FOLDS = 3
DIMENSIONS = 32
MIN_SPEAKERS = 6


def link_modalities(
    voice: npt.NDArray[Any],
    voice_person: npt.NDArray[np.integer],
    face: npt.NDArray[Any],
    face_person: npt.NDArray[np.integer],
    *,
    within: Mapping[int, str] | None = None,
    folds: int = 3,
    resamples: int = 200,
    seed: int = 0,
) -> list[Leak]:
    """How well a voice clip finds its face among those of people outside the training folds, for each mapping.

    Two figures each: top-1 of the whole gallery, and the forced choice between its face and another one (Nagrani,
    Albanie and Zisserman, CVPR 2018; chance is 0.5), which shows what top-1 of few people cannot.

    The mapping is learnt on pairs of voice and face clips of one person, matched at random, so that neither what is
    said nor when can link them; tested on other people, each enrolled by the mean of their faces.

    Args:
        voice: [n, d], features of released voice clips.
        voice_person: int [n].
        face: [m, e], features of released face clips.
        face_person: int [m].
        within: the group (sex) of each person; candidates are then of the voice's own group, so that what is found is
            more than the group.
        folds: person-disjoint folds; the gallery is one fold's people.
        resamples: of the bootstrap over people.
        seed: of folds, pairs and bootstrap.
    """
    speakers = np.intersect1d(voice_person, face_person)
    target = "face of the voice" + ("" if within is None else " within group")
    if len(speakers) < MIN_SPEAKERS:
        invalid = f"{len(speakers)} people have both voice and face: at least {MIN_SPEAKERS} are needed"
        return [Leak(f"{target}, top-1", name, None, None, None, len(speakers), invalid) for name in MAPPERS]
    sides = _Clips(voice, voice_person), _Clips(face, face_person)
    fold = np.random.default_rng(seed).permutation(len(speakers)) % folds
    found: list[Leak] = []
    for name, fit in MAPPERS.items():
        parts = []
        for f in range(folds):
            known, others = speakers[fold != f], speakers[fold == f]
            of_voice, of_face = (side.standardised(known) for side in sides)
            strength = _choose(fit, of_voice, of_face, known, seed)
            maps = fit(*_pairs(of_voice, of_face, known, seed), strength)
            parts.append(_tried(of_voice.mapped(maps[0]), of_face.mapped(maps[1]), others, within))
        hit, won, chance, person = (np.concatenate(column) for column in zip(*parts, strict=True))
        for kind, values, expected in (("top-1", hit, float(chance.mean())), ("one of two", won, 0.5)):
            interval = bootstrap_rows(partial(_mean, values), person, resamples=resamples, seed=seed)
            value = float(values.mean())
            found.append(Leak(f"{target}, {kind}", name, value, expected, interval, len(np.unique(person))))
    return found


@dataclass(frozen=True)
class _Clips:
    """Features [n, d] of clips and their persons [n]."""

    features: npt.NDArray[Any]
    person: npt.NDArray[np.integer]

    def standardised(self, known: npt.NDArray[np.integer]) -> _Clips:
        """By mean and spread of the people who are trained on."""
        values = np.asarray(self.features, dtype=np.float64)
        train = values[np.isin(self.person, known)]
        spread = train.std(axis=0)
        return _Clips((values - train.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0), self.person)

    def mapped(self, to: Callable[[Floats], Floats]) -> _Clips:
        """Directions after a map."""
        return _Clips(_unit(to(self.features)), self.person)


def _tried(
    voice: _Clips, face: _Clips, speakers: npt.NDArray[np.integer], within: Mapping[int, str] | None
) -> tuple[Floats, Floats, Floats, Ints]:
    """Top-1 hits, share of forced choices won, chance of a hit, and person of every voice clip of these people."""
    group = np.array(["" if within is None else within[int(p)] for p in speakers])
    columns: list[tuple[Floats, Floats, Floats, Ints]] = []
    for name in np.unique(group):
        members = group == name
        n = int(members.sum())
        if n < 2:
            continue  # alone in its group a person is found without any attack
        ranking = _ranking(voice, face, speakers[members])
        won = 1 - (ranks(ranking) - 1) / (n - 1)
        columns.append((hits(ranking, 1), won, np.full(len(ranking), 1 / n), ranking.speaker))
    hit, won, chance, person = (np.concatenate(column) for column in zip(*columns, strict=True))
    return hit, won, chance, person


def _ranking(voice: _Clips, face: _Clips, speakers: npt.NDArray[np.integer]) -> Ranking:
    """Every voice clip of these people against the mean face of each."""
    gallery = _unit(np.stack([face.features[face.person == p].mean(axis=0) for p in speakers]))
    rows = np.isin(voice.person, speakers)
    return Ranking(voice.features[rows] @ gallery.T, speakers.astype(np.int64), voice.person[rows].astype(np.int64))


def _choose(fit: Mapper, voice: _Clips, face: _Clips, known: npt.NDArray[np.integer], seed: int) -> float:
    """The strength that ranks known people best when they are left out: clips of one person are no new person."""
    fold = np.random.default_rng(seed).permutation(len(known)) % INNER_FOLDS

    def mean_rank(strength: float) -> float:
        found: list[float] = []
        for f in range(INNER_FOLDS):
            maps = fit(*_pairs(voice, face, known[fold != f], seed), strength)
            found.append(float(ranks(_ranking(voice.mapped(maps[0]), face.mapped(maps[1]), known[fold == f])).mean()))
        return float(np.mean(found))

    return min(STRENGTHS, key=mean_rank)


def _mean(values: Floats, rows: Ints) -> float:
    return float(values[rows].mean())


def _pairs(voice: _Clips, face: _Clips, known: npt.NDArray[np.integer], seed: int) -> tuple[Floats, Floats]:
    """Voice and face of one person, matched at random; the scarcer modality is repeated."""
    rng = np.random.default_rng(seed)
    voice_rows, face_rows = [], []
    for person in known:
        v, f = np.flatnonzero(voice.person == person), np.flatnonzero(face.person == person)
        n = max(len(v), len(f))
        voice_rows.append(np.resize(rng.permutation(v), n))
        face_rows.append(np.resize(rng.permutation(f), n))
    return voice.features[np.concatenate(voice_rows)], face.features[np.concatenate(face_rows)]


def _cca(voice: Floats, face: Floats, strength: float) -> Maps:
    """Regularised canonical correlation: whiten both sides, then the singular vectors of their correlation."""
    whiten_voice, whiten_face = _whitener(voice, strength), _whitener(face, strength)
    left, correlation, right = np.linalg.svd(whiten_voice.T @ voice.T @ face @ whiten_face / len(voice))
    k = min(DIMENSIONS, len(correlation))
    to_voice, to_face = whiten_voice @ left[:, :k] * correlation[:k], whiten_face @ right[:k].T * correlation[:k]
    return (lambda v: v @ to_voice), (lambda f: f @ to_face)


def _ridge(voice: Floats, face: Floats, strength: float) -> Maps:
    """A linear guess of the face from the voice."""
    covariance = voice.T @ voice / len(voice)
    shrunk = covariance + strength * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weights = np.linalg.solve(shrunk, voice.T @ face / len(voice))
    return (lambda v: v @ weights), (lambda f: f)


MAPPERS: Mapping[str, Mapper] = {"canonical correlation": _cca, "ridge": _ridge}


def _whitener(x: Floats, strength: float) -> Floats:
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    return np.asarray(vectors / np.sqrt(values + strength * values.mean() + 1e-9), dtype=np.float64)


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float64)
