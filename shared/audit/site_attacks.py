"""Attacks that need originals, which never leave their site: the site scores, and counts of rounded scores leave.

The attacker is one that every site has in its own code. Arrays with its training on public people are offered and
approved with the study; encoders used as they are need none. The coordinator cannot change them after it has seen a
release. Two scenarios are scored: `unprotected`, which shows whether the attacker works, and `ignorant`.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from moretta.shared.audit.arrays import VideoFaces
from moretta.shared.audit.attackers.base import Embedder, NotConvergedError, get_attacker
from moretta.shared.audit.attackers.open_set import WithinClassEmbedder
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.execute import OTHER_FORM
from moretta.shared.audit.metrics.scores import METRICS, Trials
from moretta.shared.audit.protocol import TrialPlan, make_plan
from moretta.shared.audit.result import Result
from moretta.shared.audit.runner import matched
from moretta.shared.audit.scoring import paired_cosines
from moretta.shared.core.array_types import Array, Float32, Float64, Int64
from moretta.shared.core.errors import ReleaseError, StudyError
from moretta.shared.core.labels import classes_among
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Workers, one_thread
from moretta.shared.data.reader import read_corpus
from moretta.shared.messages.wire import LEVELS, MAX_TRIALS
from moretta.shared.study.public_arrays import OF_ATTACKER, PUBLIC_SEED, Rule, Rules, check_public
from moretta.shared.study.schema import Study

SCENARIOS = ("unprotected", "ignorant")
STEP = 2 / (LEVELS - 1)
"""Step between two scores, which are cosines."""
SCORED_AT_SITES = "scored at the sites, on originals: nobody else can check these figures"
_METRICS = ("eer", "min_cllr", "d_sys")
_LARGEST = 1e6
_SIDE = 128

Counts = tuple[int, ...]
"""How many comparisons have each of `LEVELS` scores, from -1 to 1."""


class SiteScores(NamedTuple):
    """Mated and non-mated comparisons of one scenario."""

    mated: Counts
    nonmated: Counts

    @property
    def trials(self) -> Trials:
        """The counts as trials. The people are unknown, so every mated comparison is of person 0."""
        levels = np.arange(LEVELS) * STEP - 1
        scores = [np.repeat(levels, counts) for counts in self]
        tried = np.repeat([0, 1], [len(each) for each in scores])
        return Trials(np.concatenate(scores), np.zeros(len(tried)), tried)


def sendable(name: str) -> type[Embedder]:
    """An attacker that sites can be asked to run; a StudyError for one that learns what no arrays here can hold."""
    cls = get_attacker(name)
    fits = issubclass(cls, WithinClassEmbedder) and not cls.learns_features
    if issubclass(cls, Embedder) and (fits or not cls.trainable):
        return cls
    raise StudyError(
        f"audit.at_sites names {name}",
        expected="encoders used as they are, their heads, or voice-wccn and face-wccn",
        fix="correct [audit]",
    )


def check_trainable(study: Study) -> None:
    """Refuse a coordinator's study whose `at_sites` cannot be trained. Raises StudyError."""
    learning = [name for name in study.audit.at_sites if sendable(name).trainable]
    if learning and study.audit.public is None:
        raise StudyError(
            f"audit.at_sites names {', '.join(learning)}, which learn",
            expected="public people to learn from",
            fix="name a folder of their clips in audit.public, or take encoders used as they are",
        )


def learned_rules(study: Study) -> Rules:
    """Rules for the arrays of the study's attackers, by name: shape and bounds."""
    found: dict[str, Rule] = {}
    for name in study.audit.at_sites:
        if sendable(name).trainable:
            found[f"{OF_ATTACKER}{name}/middle"] = Rule((f"values of {name}",), _LARGEST)
            found[f"{OF_ATTACKER}{name}/map"] = Rule((f"values of {name}", f"directions of {name}"), _LARGEST)
    return found


def check_learned(study: Study, arrays: Mapping[str, Array]) -> None:
    """Check an offer's arrays of attackers: one missing, unknown, of other type, shape or range is a StudyError."""
    theirs = {name: array for name, array in arrays.items() if name.startswith(OF_ATTACKER)}
    if theirs or study.audit.at_sites:
        check_public(theirs, learned_rules(study))
    for name, array in theirs.items():
        if array.ndim == 2 and array.shape[1] > array.shape[0]:  # it adds nothing, and could fill a site's memory
            raise StudyError(f"the public array {name} of {list(array.shape)}", expected="no more columns than rows")


def learn(study: Study) -> dict[str, Array]:
    """Train the attackers of `at_sites` that learn, on the coordinator's public people; the same each time."""
    found: dict[str, Array] = {}
    names = [name for name in study.audit.at_sites if sendable(name).trainable]
    if not names:
        return found
    check_trainable(study)
    assert study.audit.public is not None
    corpus = read_corpus(study.audit.public, classes=None)
    key = PseudonymKey.seeded(PUBLIC_SEED, "public people")
    classes = classes_among(clip.label for clip in corpus.clips)
    with one_thread(), tempfile.TemporaryDirectory(prefix="moretta-public-") as scratch, Workers(1) as pool:
        sets: dict[Modality, ClipSet] = {}
        for name in names:
            cls = sendable(name)
            if cls.modality not in sets:
                loader = VideoFaces(side=_SIDE, fps=study.face.fps) if cls.modality == "face" else None
                clips = ClipSet.from_corpus(corpus, cls.modality, key, loader=loader, classes=classes)
                sets[cls.modality] = clips.with_views(Path(scratch), pool=pool, coefficients=_coefficients(study))
            clips = sets[cls.modality]
            if len(clips.speakers) < 2:
                raise StudyError(
                    f"{len(clips.speakers)} public people with {cls.modality} in {study.audit.public}",
                    expected="two, with several clips each, for an attacker to learn from",
                )
            model = cls()
            model.fit(clips, seed=PUBLIC_SEED)
            assert isinstance(model, WithinClassEmbedder)
            found |= {f"{OF_ATTACKER}{name}/{part}": array for part, array in model.learned().items()}
    return found


def attacker_of(name: str, arrays: Mapping[str, Array]) -> Embedder:
    """An attacker with what it has learned, from the arrays of an offer."""
    model = sendable(name)()
    if isinstance(model, WithinClassEmbedder):
        model.take({part: arrays[f"{OF_ATTACKER}{name}/{part}"] for part in ("middle", "map")})
    return model


def score(
    model: Embedder, original: ClipSet, released: ClipSet, *, seed: int
) -> tuple[dict[str, SiteScores], frozenset[str]]:
    """Compare a site's originals with each other, and with what it released.

    Args:
        original: clips of the site, under the pseudonyms of its release.
        seed: draws the comparisons. It must be the site's own: nobody else may know which clips are compared.

    Returns:
        Counts by scenario, and the people compared, by pseudonym.

    Raises:
        ReleaseError: codes were released, too few people, or no clip can be read.
        NotConvergedError: vectors of another size than the attacker has learned.
    """
    if released.holds_codes:
        raise ReleaseError(OTHER_FORM, expected="sound or pictures")
    with one_thread(), tempfile.TemporaryDirectory(prefix="moretta-scores-") as scratch, Workers(1) as pool:
        sets, _, _ = matched(original, released, Path(scratch), pool)
        plan = make_plan(sets["released"].clips, seed=seed)
        speaker_of = {clip.clip: clip.speaker for clip in sets["released"].clips}
        chosen = list(_chosen(plan, speaker_of, np.random.default_rng(seed)))
        mated = np.array([speaker_of[a] == speaker_of[b] for a, b in chosen], bool)
        if not mated.any() or mated.all():
            raise ReleaseError("fewer than two people with two clips each", expected="several people to compare")
        place = {clip.clip: row for row, clip in enumerate(sets["released"].clips)}
        rows = np.array([[place[a], place[b]] for a, b in chosen], np.int64)
        found: dict[str, SiteScores] = {}
        enrolled = _embedded(model, sets["original"], rows[:, 0])
        for scenario, tried in zip(SCENARIOS, (sets["original"], sets["released"]), strict=True):
            scores = paired_cosines(enrolled, _embedded(model, tried, rows[:, 1]))
            found[scenario] = SiteScores(counted(scores[mated]), counted(scores[~mated]))
    return found, frozenset(speaker_of[clip] for pair in chosen for clip in pair)


def counted(scores: Float64) -> Counts:
    """How many of these cosines have each score, once they are rounded."""
    levels = np.clip(np.rint((scores + 1) / STEP), 0, LEVELS - 1).astype(np.int64)
    return tuple(np.bincount(levels, minlength=LEVELS).tolist())


def _chosen(plan: TrialPlan, speaker_of: Mapping[str, str], rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """At most `MAX_TRIALS` pairs of each kind; people take turns, both those who are tried and those who are enrolled.

    It ends when half of the people have no pair left, so of n people nobody has much more than 2 / n of the pairs.
    Counts in which one person has nearly all would be scores of that person.
    """
    for is_mated in (True, False):
        left: dict[str, dict[str, list[tuple[str, str]]]] = {}
        for pair in (plan.pairs[i] for i in rng.permutation(len(plan.pairs))):
            enrolled, tried = speaker_of[pair[0]], speaker_of[pair[1]]
            if (enrolled == tried) == is_mated:
                left.setdefault(tried, {}).setdefault(enrolled, []).append(pair)
        chosen, used = list[tuple[str, str]](), Counter[str]()
        for turn in count():
            before = len(chosen)
            for own in left.values():
                free = [person for person in own if own[person] and used[person] <= turn]
                if free:
                    rarest = min(free, key=lambda person: used[person])
                    used[rarest] += 1
                    chosen.append(own[rarest].pop())
            if len(chosen) >= MAX_TRIALS or len(chosen) - before <= len(left) // 2:
                break
        yield from chosen[:MAX_TRIALS]


def _embedded(model: Embedder, clips: ClipSet, rows: Int64) -> Float32:
    unique, inverse = np.unique(rows, return_inverse=True)
    try:
        return np.asarray(model.embed(clips.subset(unique)), np.float32)[inverse]
    except ValueError as error:
        found = f"vectors that {model.name} cannot take as it was trained"
        raise NotConvergedError(found, expected="clips with as many MFCC as the public ones") from error


def _coefficients(study: Study) -> int | None:
    """MFCC of the study's releases; None of the usual number."""
    number = getattr(study.voice.options, "coefficients", None)
    return number if isinstance(number, int) and study.voice.form != "waveform" else None


def rows_of(name: str, by_site: Mapping[str, Mapping[str, SiteScores]], *, speakers: int) -> list[Result]:
    """Figures of one attacker in the scenario `ignorant`, over the comparisons of all sites together.

    They have no interval, as nobody but the sites knows which comparisons are of one person. They are invalid where the
    attacker does not work on the originals, by the same sites' scores.
    """
    cls = sendable(name)
    eer = METRICS.get("eer").function
    opened = eer(_together(scores["unprotected"] for scores in by_site.values()).trials)
    each = [f"{site} {eer(scores['ignorant'].trials):.3f}" for site, scores in sorted(by_site.items())]
    whole = _together(scores["ignorant"] for scores in by_site.values())
    size = sum(map(sum, whole))
    note = f"{SCORED_AT_SITES}; {size} comparisons; EER on originals {opened:.3f}, on releases {', '.join(each)}"
    about = Result(
        modality=cls.modality, attacker=name, kind=cls.kind, scenario="ignorant", metric="eer", speakers=speakers
    ).model_copy(update={"note": note})
    rows = []
    for metric in _METRICS:
        known = METRICS.get(metric)
        row = about.model_copy(update={"metric": metric, "chance": known.chance_among(0)})
        rows.append(row.with_value(known.function(whole.trials)))
    if opened is None or opened > cls.max_unprotected_eer:
        why = f"it cannot break unprotected data: EER {opened:.3f} there, at most {cls.max_unprotected_eer} wanted"
        rows = [row.invalidated(why) for row in rows]
    return rows


def _together(scores: Iterable[SiteScores]) -> SiteScores:
    found = np.sum([[each.mated, each.nonmated] for each in scores], axis=0)
    return SiteScores(tuple(found[0].tolist()), tuple(found[1].tolist()))
