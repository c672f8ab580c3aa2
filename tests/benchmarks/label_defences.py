"""Defences against pooled labels: `label_defences.py CORPUS [--speakers FIRST LAST] [--draws N]`.

The predicted labels of one site are changed in several ways before randomized response. The attacker counts how often
each label comes in half of a person's clips, with each true label or whatever the true label. By Bayes' rule it then
re-identifies the other half, 30 pooled at a time. An EER above 0.5 is a leak, too: the attacker can be inverted.
Figures are means over draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mistakes_table import labeler_of
from scipy.optimize import linear_sum_assignment
from scipy.special import log_softmax
from speakers_table import sound_of

from moretta.client.anonymizers.emotion_labeler import uniform_errors
from moretta.shared.audit.metrics.scores import Trials
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.privacy.local_mechanisms import RandomizedResponse
from moretta.shared.privacy.noise import SeededNoise

K = len(EMOTIONS)
POOLED, SETS = 30, 10
_PRIOR = 12.0
"""Clips of everybody's that count among a person's own of each label."""


@dataclass(frozen=True)
class Site:
    """A site's labels and scores of its clips."""

    scores: np.ndarray
    """[clips, 6], logarithms of probabilities."""
    speaker: np.ndarray
    label: np.ndarray


Defence = Callable[[Site, np.random.Generator], np.ndarray]


def as_predicted(site: Site, rng: np.random.Generator) -> np.ndarray:
    del rng
    return site.scores.argmax(axis=1)


def equal_counts(site: Site, rng: np.random.Generator) -> np.ndarray:
    """Every speaker has each label equally often; which clip has which is the likeliest assignment."""
    labels = np.zeros(len(site.label), int)
    for one in np.unique(site.speaker):
        mine = np.flatnonzero(site.speaker == one)
        slots = (np.arange(len(mine)) + rng.integers(K)) % K
        clips, places = linear_sum_assignment(-site.scores[mine][:, slots])
        labels[mine[clips]] = slots[places]
    return labels


def least_certain_at_random(site: Site, rng: np.random.Generator) -> np.ndarray:
    """The fifth of each speaker's clips that is predicted least certainly gets any label."""
    labels, sure = as_predicted(site, rng), site.scores.max(axis=1)
    for one in np.unique(site.speaker):
        mine = np.flatnonzero(site.speaker == one)
        unsure = mine[np.argsort(sure[mine])[: len(mine) // 5]]
        labels[unsure] = rng.integers(0, K, len(unsure))
    return labels


def hidden(site: Site, rng: np.random.Generator) -> np.ndarray:
    """A wrong label is drawn uniformly from all wrong ones."""
    return uniform_errors(as_predicted(site, rng).astype(np.int32), site.label, rng.random(len(site.label)))


def ceiling(quantile: float) -> Defence:
    """Misclassifications hidden, and nobody's labels of an emotion right more often than this quantile of the others'.

    At 0.75 it is what `emotion-label-rr` releases.
    """

    def defence(site: Site, rng: np.random.Generator) -> np.ndarray:
        right = as_predicted(site, rng) == site.label
        people = np.unique(site.speaker)
        kept = right.copy()
        for emotion in range(K):
            cells = [(site.speaker == one) & (site.label == emotion) for one in people]
            rates = np.array([right[cell].mean() for cell in cells])
            for number, cell in enumerate(cells):
                most = np.quantile(np.delete(rates, number), quantile)
                chance = min(1.0, most / max(rates[number], 1e-9))
                kept[cell] &= rng.random(cell.sum()) < chance
        labels = np.where(kept, site.label, (site.label + 1) % K).astype(np.int32)
        return uniform_errors(labels, site.label, rng.random(len(labels)))

    return defence


DEFENCES: dict[str, Defence] = {
    "as predicted": as_predicted,
    "as many of each label for everybody": equal_counts,
    "the least certain fifth at random": least_certain_at_random,
    "misclassifications hidden": hidden,
    "misclassifications hidden, right as often as 3 of 4 others": ceiling(0.75),
    "misclassifications hidden, right as often as 1 of 2 others": ceiling(0.5),
}


def main() -> None:
    """Change, randomize, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--speakers", nargs=2, type=int, default=(0, 10_000), help="the first and the last")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--epsilons", nargs="*", type=float, default=[3.5, 2.5])
    options = parser.parse_args()
    made_of = sound_of(options.corpus, *options.speakers)
    made = labeler_of(3.5, made_of)
    raw = []
    for clip, samples in made_of.items():
        model, places = made._labeler_of(str(clip.speaker)), made._places(str(clip.speaker), samples)
        raw.append(places[0] @ model.weights + model.bias)
    speaker = np.unique([clip.speaker for clip in made_of], return_inverse=True)[1]
    site = Site(log_softmax(np.array(raw), axis=1), speaker, np.array([EMOTIONS.index(clip.label) for clip in made_of]))
    print("| defence | epsilon of a label | right | top-1 | EER | top-1, released alone | EER, released alone |")
    print("|---|---|---|---|---|---|---|")
    for epsilon in options.epsilons:
        for name, defence in DEFENCES.items():
            found = np.mean([drawn(site, defence, epsilon, draw) for draw in range(options.draws)], axis=0)
            print(f"| {name} | {epsilon:g} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)


def drawn(site: Site, defence: Defence, epsilon: float, draw: int) -> list[float]:
    """Share of right labels; top-1 and EER with true labels known; top-1 and EER from released labels alone."""
    rng = np.random.default_rng([draw, 7])
    response = RandomizedResponse(choices=K, token_epsilon=epsilon, unit="clip")
    labels = response.randomize(defence(site, rng), SeededNoise(draw, "answers"))
    right = float(np.mean([np.mean(labels[site.label == e] == e) for e in range(K)]))
    return [
        right,
        *re_identified(labels, site, site.label, rng),
        *re_identified(labels, site, np.zeros_like(site.label), rng),
    ]


def re_identified(labels: np.ndarray, site: Site, known: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Top-1 and EER of pooled clips, by counts of labels for each value of what is known."""
    people = site.speaker.max() + 1
    enrolled = np.zeros(len(labels), bool)
    for cell in np.unique(site.speaker * K + site.label):
        mine = rng.permutation(np.flatnonzero(site.speaker * K + site.label == cell))
        enrolled[mine[: len(mine) // 2]] = True
    counts = np.zeros((people, K, K))
    np.add.at(counts, (site.speaker[enrolled], known[enrolled], labels[enrolled]), 1)
    common = (counts.sum(axis=0) + 0.5) / (counts.sum(axis=0) + 0.5).sum(axis=1, keepdims=True)
    own = (counts + _PRIOR * common) / (counts.sum(axis=2, keepdims=True) + _PRIOR)
    evidence = np.log(own / common)  # [people, K, K]
    scores, whose = [], []
    for one in range(people):
        trial = np.flatnonzero(~enrolled & (site.speaker == one))
        for _ in range(SETS if len(trial) >= POOLED else 0):
            chosen = rng.choice(trial, POOLED, replace=False)
            scores.append(evidence[:, known[chosen], labels[chosen]].sum(axis=1))
            whose.append(one)
    if not scores:
        raise SystemExit(f"nobody has {POOLED} clips to pool and as many enrolled: choose people with more")
    table, owner = np.array(scores), np.array(whose)
    claims = table - np.log(np.exp(table).mean(axis=1, keepdims=True))
    trials = Trials(claims.ravel(), np.tile(np.arange(people), len(owner)), owner.repeat(people))
    return float(np.mean(table.argmax(axis=1) == owner)), eer(trials)


if __name__ == "__main__":
    main()
