"""One attacker, trained in one way, in every scenario that this training serves: the unit of work of an audit."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from moretta.shared.audit import scoring
from moretta.shared.audit.attackers.base import Attacker, Embedder, Identifier, PoolIdentifier, get_attacker
from moretta.shared.audit.attackers.open_set import embeddings_of
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.measure import Measurement, blank, failed
from moretta.shared.audit.metrics.distinctiveness import Similarity
from moretta.shared.audit.metrics.identification import Ranking
from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.metrics.verification import affine_calibration
from moretta.shared.audit.protocol import SCENARIOS, Scenario, SetName, TrialPlan
from moretta.shared.audit.result import Result, failure
from moretta.shared.audit.score_files import keep_scores
from moretta.shared.core.array_types import Float32, Float64, Int64
from moretta.shared.features.voice_similarity import similarity_matrix

A = TypeVar("A", bound=Attacker)
MIN_SPEAKERS = 2
MIN_SPEAKERS_OF_HALVES = 4
"""An embedder trains on one half of the speakers and attacks the other: two speakers make a half."""
OTHER_FORM = "codes were released: an attacker trained on, or enrolled with, sound or pictures cannot read them"
DISTINCTIVENESS = {"ignorant": "deidentification", "lazy-informed": "voice_distinctiveness_gain"}
"""Metrics that compare original with released clips, and released with released ones, as these scenarios do."""


@dataclass(frozen=True)
class Inputs:
    """Common data of all units of one audit: sets with the same clips in the same order."""

    sets: dict[SetName, ClipSet]
    plan: TrialPlan
    seed: int
    bootstrap: int
    scores: Path | None = None
    """Folder in which each unit keeps its scores; None keeps none."""
    public: Mapping[SetName, ClipSet] = field(default_factory=dict)
    """Clips of public people, in the forms of the sets."""

    @property
    def clips(self) -> ClipSet:
        """Any set: for what they share, names and labels."""
        return self.sets["released"]

    def rows_of(self, pseudonyms: Sequence[str]) -> Int64:
        """Positions of clips."""
        position = {clip.clip: index for index, clip in enumerate(self.clips.clips)}
        return np.array([position[name] for name in pseudonyms], np.int64)

    @property
    def sides(self) -> tuple[Int64, Int64]:
        """Rows that are enrolled, and rows that are tried."""
        return self.rows_of(self.plan.enrol), self.rows_of(self.plan.trial)

    @property
    def enrolled(self) -> int:
        """Speakers with two clips or more."""
        return sum(map(len, self.plan.halves))

    @property
    def numbers(self) -> dict[str, int]:
        """Number of each speaker."""
        return {name: number for number, name in enumerate(self.clips.speakers)}


class Unit(NamedTuple):
    """One attacker and its training set; None for encoders used as they are."""

    attacker: str
    train: SetName | None

    @property
    def name(self) -> str:
        """Name of the training, for seeds and messages."""
        return self.train or "public"


def units_of(cls: type[Attacker], sets: set[SetName]) -> list[Unit]:
    """The trainings that the sets at hand allow."""
    if not cls.trainable:
        return [Unit(cls.name, None)]
    return [Unit(cls.name, train) for train in ("original", "released", "constant") if train in sets]


def scenarios_of(cls: type[Attacker], unit: Unit, sets: set[SetName]) -> list[Scenario]:
    """The scenarios that one training serves."""
    found = [s for s in SCENARIOS if {s.enrol, s.trial} <= sets]
    if not cls.trainable:
        return [s for s in found if s.name != "semi-informed"]
    closed = not issubclass(cls, Embedder)
    return [s for s in found if s.train == unit.train and (s.enrol == s.train or not closed)]


def possible(inputs: Inputs, unit: Unit) -> tuple[list[Scenario], list[Scenario]]:
    """The scenarios of a training that can be run, and those in which the model would have to read another form.

    A model of sound or pictures cannot read codes, nor one of codes these. To make codes of own recordings is
    semi-informed.
    """
    wanted = scenarios_of(get_attacker(unit.attacker), unit, set(inputs.sets))
    codes = {name for name, clips in inputs.sets.items() if clips.holds_codes}
    barred = [s for s in wanted if len({name in codes for name in (s.enrol, s.trial, s.train)}) > 1]
    return [s for s in wanted if s not in barred], barred


def run_unit(inputs: Inputs, unit: Unit) -> list[Result]:
    """Train, attack and measure. Whatever goes wrong becomes invalid results, never an exception of the audit."""
    cls = get_attacker(unit.attacker)
    scenarios, barred = possible(inputs, unit)

    def invalid(some: list[Scenario], reason: str) -> list[Result]:
        return failed(cls, [s.name for s in some], reason, speakers=inputs.enrolled, clips=len(inputs.plan.trial))

    found = invalid(barred, OTHER_FORM)
    needed = MIN_SPEAKERS_OF_HALVES if issubclass(cls, Embedder) and cls.trainable else MIN_SPEAKERS
    if inputs.enrolled < needed:
        reason = f"{inputs.enrolled} speakers with two clips or more, at least {needed} are needed"
        return found + invalid(scenarios, reason)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of degenerate data, which the anchors show better
            return found + (_run(cls, inputs, unit, scenarios) if scenarios else [])
    except Exception as error:
        return found + invalid(scenarios, failure(error))


def _run(cls: type[Attacker], inputs: Inputs, unit: Unit, scenarios: list[Scenario]) -> list[Result]:
    scored = train_and_score(cls, inputs, unit, scenarios)
    numbers, clips = inputs.numbers, len(inputs.plan.trial)
    half_of = {numbers[s]: half for half, members in enumerate(inputs.plan.halves) for s in members}
    tried = Counter(inputs.clips.labels[inputs.sides[1]].tolist())
    sex_of = {numbers[clip.speaker]: clip.sex for clip in inputs.clips.clips if clip.sex is not None}
    age_of = {numbers[clip.speaker]: clip.age_group for clip in inputs.clips.clips if clip.age_group is not None}
    measurement = Measurement(inputs.clips.speakers, sex_of, half_of, tried, inputs.bootstrap, inputs.seed, age_of)
    results: list[Result] = []
    if inputs.scores is not None:
        modality: str = cls.modality
        kept = {(modality, s.name, cls.name): t for s, _, t in scored if t is not None and s.name != "constant"}
        keep_scores(inputs.scores / f"{cls.modality}-{cls.name}-{unit.name}.npz", kept, inputs.clips.speakers)
    for s, ranking, trials in scored:
        about = blank(cls, s.name, speakers=len(ranking.gallery), clips=clips)
        results += measurement.of_ranking(about, ranking)
        if trials is not None:
            results += measurement.of_trials(about.model_copy(update={"speakers": len(trials.speakers)}), trials)
    if not cls.trainable and cls.modality == "voice" and "original" in inputs.sets:
        open_trials = next(trials for s, _, trials in scored if s.name == "unprotected" and trials is not None)
        results += _distinctiveness(cls, inputs, open_trials, measurement)
    return results


def _seed_of(*parts: object) -> int:
    """A seed that depends on its parts only: never on which worker runs, or when."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) >> 1


def _distinctiveness(
    cls: type[Attacker], inputs: Inputs, open_trials: Trials, measurement: Measurement
) -> list[Result]:
    """How distinct voices still are, by an encoder used as it is: a trained one would have two scales.

    Its own scores on unprotected clips make log-likelihood ratios of its cosines.
    """
    (enrol, trial), labels = inputs.sides, inputs.clips.labels
    clips = len(trial)
    enrol, trial = enrol[np.isin(labels[enrol], labels[trial])], trial[np.isin(labels[trial], labels[enrol])]
    ratio = affine_calibration(open_trials)

    def similarity(first: SetName, second: SetName) -> Float64:
        left = embeddings_of(cls.name, inputs.sets[first].subset(enrol))
        right = embeddings_of(cls.name, inputs.sets[second].subset(trial))
        return similarity_matrix(ratio(scoring.cosines(left, right)), labels[enrol], labels[trial])

    before, speakers = similarity("original", "original"), np.unique(labels[enrol])
    results: list[Result] = []
    for scenario in (s for s in SCENARIOS if s.name in DISTINCTIVENESS):
        about = blank(cls, scenario.name, speakers=len(speakers), clips=clips)
        both = Similarity(before, similarity(scenario.enrol, scenario.trial), speakers)
        results += measurement.of_similarity(about, DISTINCTIVENESS[scenario.name], both)
    return results


Scored = list[tuple[Scenario, Ranking, Trials | None]]
"""Identification and verification in each scenario."""


def train_and_score(cls: type[Attacker], inputs: Inputs, unit: Unit, scenarios: list[Scenario]) -> Scored:
    """Attack without measuring."""
    seed = _seed_of(inputs.seed, unit.attacker, unit.name)
    if issubclass(cls, Identifier):
        return _identify(cls, inputs, unit, scenarios, seed)
    if issubclass(cls, Embedder):
        return _embed(cls, inputs, unit, scenarios, seed)
    if issubclass(cls, PoolIdentifier):
        return _identify_pools(cls, inputs, unit, scenarios, seed)
    raise TypeError(f"{cls.__name__} is no Identifier, PoolIdentifier or Embedder")


def _made(cls: type[A], inputs: Inputs, unit: Unit) -> A:
    """An attacker that has yet to be trained, with the public people whom it may learn from first."""
    attacker = cls()
    attacker.public = None if unit.train is None else inputs.public.get(unit.train)
    return attacker


def _identify(cls: type[Identifier], inputs: Inputs, unit: Unit, scenarios: list[Scenario], seed: int) -> Scored:
    assert unit.train is not None
    enrol, trial = inputs.sides
    attacker = _made(cls, inputs, unit)
    attacker.fit(inputs.sets[unit.train].subset(enrol), seed=seed)
    scored: Scored = []
    for scenario in scenarios:
        scores = attacker.scores(inputs.sets[scenario.trial].subset(trial))
        ranking = scoring.ranking_of_posteriors(scores, attacker.speakers, inputs.numbers, inputs.clips.labels[trial])
        scored.append((scenario, ranking, scoring.claims(ranking, seed=seed)))
    return scored


def _identify_pools(
    cls: type[PoolIdentifier], inputs: Inputs, unit: Unit, scenarios: list[Scenario], seed: int
) -> Scored:
    assert unit.train is not None
    enrol, trial = inputs.sides
    attacker, speakers = _made(cls, inputs, unit), inputs.clips.labels[trial]
    attacker.fit(inputs.sets[unit.train].subset(enrol), seed=seed)
    scored: Scored = []
    for scenario in scenarios:
        scores = partial(attacker.pool_scores, inputs.sets[scenario.trial].subset(trial))
        ranking = scoring.ranking_of_pools(scores, attacker.speakers, inputs.numbers, speakers)
        scored.append((scenario, ranking, None))
    return scored


def _embed(cls: type[Embedder], inputs: Inputs, unit: Unit, scenarios: list[Scenario], seed: int) -> Scored:
    """Identification with a model that knows the enrolment; verification with models of other speakers only.

    Each half of the speakers trains a model that compares the other half.
    """
    (enrol, trial), labels = inputs.sides, inputs.clips.labels
    model = _made(cls, inputs, unit)
    if unit.train is not None:
        model.fit(inputs.sets[unit.train].subset(enrol), seed=seed)
    rankings = {}
    for s in scenarios:
        enrolled = _vectors(model, inputs.sets[s.enrol].subset(enrol))
        tried = _vectors(model, inputs.sets[s.trial].subset(trial))
        rankings[s.name] = scoring.ranking_by_centroids(enrolled, labels[enrol], tried, labels[trial])
    pairs = np.stack([inputs.rows_of(side) for side in zip(*inputs.plan.pairs, strict=True)], axis=1)  # [n, 2]
    folds: list[tuple[Embedder, Float32 | None, Int64]] = []
    """A model, embeddings of clips it was trained on, and the pairs that it compares."""
    if unit.train is None:
        folds.append((model, None, pairs))
    else:
        for half, members in enumerate(inputs.plan.halves):
            known = np.isin(labels, [inputs.numbers[s] for s in members])
            model, train = _made(cls, inputs, unit), inputs.sets[unit.train].subset(np.flatnonzero(known))
            model.fit(train, seed=_seed_of(seed, half))
            few = np.sort(np.random.default_rng(seed).permutation(len(train))[: scoring.COHORT])
            folds.append((model, _vectors(model, train.subset(few)), pairs[~known[pairs].any(axis=1)]))
    speakers = labels[np.concatenate([own for _, _, own in folds])]  # [n, 2]
    scored: Scored = []
    for s in scenarios:
        scores = np.concatenate([_compare(*fold, inputs, s) for fold in folds])
        scored.append((s, rankings[s.name], Trials(scores, speakers[:, 0], speakers[:, 1])))
    return scored


def _compare(model: Embedder, cohort: Float32 | None, pairs: Int64, inputs: Inputs, scenario: Scenario) -> Float64:
    sides: list[Float32] = []
    local = np.empty_like(pairs)
    for column, name in enumerate((scenario.enrol, scenario.trial)):
        rows, local[:, column] = np.unique(pairs[:, column], return_inverse=True)
        sides.append(_vectors(model, inputs.sets[name].subset(rows)))
    enrol, trial = sides
    scores = scoring.paired_cosines(enrol[local[:, 0]], trial[local[:, 1]])
    return scores if cohort is None else scoring.normalized(scores, cohort, enrol, trial, local)


def _vectors(model: Embedder, clips: ClipSet) -> Float32:
    return model.embed(clips) if model.trainable else embeddings_of(model.name, clips)
