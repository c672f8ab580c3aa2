"""What was tried against those who pool words: `word_defences.py CORPUS [--speakers FIRST LAST] [--draws N]`.

The words of one site, changed in several ways before they are answered at random. The attacker counts: from half of a
person's clips how often each word comes, with each label or whatever the label, and says by Bayes' rule whose the other
half are, so many pooled at a time. An EER above 0.5 is a leak too, to whoever inverts the attacker. Means over draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mistakes_table import taught
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
    """What a site knows of its clips."""

    scores: np.ndarray
    """[clips, 6], logarithms of probabilities."""
    speaker: np.ndarray
    label: np.ndarray


Defence = Callable[[Site, np.random.Generator], np.ndarray]


def as_heard(site: Site, rng: np.random.Generator) -> np.ndarray:
    del rng
    return site.scores.argmax(axis=1)


def equal_counts(site: Site, rng: np.random.Generator) -> np.ndarray:
    """Every speaker has each word as often; which clip has which is the likeliest assignment."""
    words = np.zeros(len(site.label), int)
    for one in np.unique(site.speaker):
        mine = np.flatnonzero(site.speaker == one)
        slots = (np.arange(len(mine)) + rng.integers(K)) % K
        clips, places = linear_sum_assignment(-site.scores[mine][:, slots])
        words[mine[clips]] = slots[places]
    return words


def unsure_at_random(site: Site, rng: np.random.Generator) -> np.ndarray:
    """The fifth of each speaker's clips that is told least surely gets any word."""
    words, sure = as_heard(site, rng), site.scores.max(axis=1)
    for one in np.unique(site.speaker):
        mine = np.flatnonzero(site.speaker == one)
        unsure = mine[np.argsort(sure[mine])[: len(mine) // 5]]
        words[unsure] = rng.integers(0, K, len(unsure))
    return words


def hidden(site: Site, rng: np.random.Generator) -> np.ndarray:
    """A word that is not the label is any other that is not, as likely."""
    return uniform_errors(as_heard(site, rng).astype(np.int32), site.label, rng.random(len(site.label)))


def ceiling(quantile: float) -> Defence:
    """Mistakes hidden, and nobody's clips of an emotion right more often than this quantile of the others' are.

    At 0.75 it is what is released.
    """

    def defence(site: Site, rng: np.random.Generator) -> np.ndarray:
        right = as_heard(site, rng) == site.label
        people = np.unique(site.speaker)
        kept = right.copy()
        for emotion in range(K):
            cells = [(site.speaker == one) & (site.label == emotion) for one in people]
            rates = np.array([right[cell].mean() for cell in cells])
            for number, cell in enumerate(cells):
                most = np.quantile(np.delete(rates, number), quantile)
                chance = min(1.0, most / max(rates[number], 1e-9))
                kept[cell] &= rng.random(cell.sum()) < chance
        words = np.where(kept, site.label, (site.label + 1) % K).astype(np.int32)
        return uniform_errors(words, site.label, rng.random(len(words)))

    return defence


DEFENCES: dict[str, Defence] = {
    "as it sounds": as_heard,
    "as many of each word for everybody": equal_counts,
    "the least sure fifth at random": unsure_at_random,
    "mistakes hidden": hidden,
    "mistakes hidden, right as often as 3 of 4 others": ceiling(0.75),
    "mistakes hidden, right as often as 1 of 2 others": ceiling(0.5),
}


def main() -> None:
    """Change, answer, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--speakers", nargs=2, type=int, default=(0, 10_000), help="the first and the last")
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--epsilons", nargs="*", type=float, default=[3.5, 2.5])
    options = parser.parse_args()
    first, last = options.speakers
    made_of = {clip: s for clip, s in sound_of(options.corpus).items() if first <= clip.speaker <= last}
    made = taught(3.5, made_of)
    raw = []
    for clip, samples in made_of.items():
        model, places = made._labeler_of(str(clip.speaker)), made._places(str(clip.speaker), samples)
        raw.append(places[0] @ model.weights + model.bias)
    speaker = np.unique([clip.speaker for clip in made_of], return_inverse=True)[1]
    site = Site(log_softmax(np.array(raw), axis=1), speaker, np.array([EMOTIONS.index(clip.label) for clip in made_of]))
    print("| defence | epsilon of a word | right | top-1 | EER | top-1, words alone | EER, words alone |")
    print("|---|---|---|---|---|---|---|")
    for epsilon in options.epsilons:
        for name, defence in DEFENCES.items():
            found = np.mean([drawn(site, defence, epsilon, draw) for draw in range(options.draws)], axis=0)
            print(f"| {name} | {epsilon:g} | " + " | ".join(f"{value:.3f}" for value in found) + " |", flush=True)


def drawn(site: Site, defence: Defence, epsilon: float, draw: int) -> list[float]:
    """Share of right words; top-1 and EER with labels known; top-1 and EER from words alone."""
    rng = np.random.default_rng([draw, 7])
    response = RandomizedResponse(choices=K, token_epsilon=epsilon, unit="clip")
    words = response.response(defence(site, rng), SeededNoise(draw, "answers"))
    right = float(np.mean([np.mean(words[site.label == e] == e) for e in range(K)]))
    return [right, *named(words, site, site.label, rng), *named(words, site, np.zeros_like(site.label), rng)]


def named(words: np.ndarray, site: Site, known: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Top-1 and EER of pooled clips, by counts of words for each value of what is known."""
    people = site.speaker.max() + 1
    enrolled = np.zeros(len(words), bool)
    for cell in np.unique(site.speaker * K + site.label):
        mine = rng.permutation(np.flatnonzero(site.speaker * K + site.label == cell))
        enrolled[mine[: len(mine) // 2]] = True
    counts = np.zeros((people, K, K))
    np.add.at(counts, (site.speaker[enrolled], known[enrolled], words[enrolled]), 1)
    common = (counts.sum(axis=0) + 0.5) / (counts.sum(axis=0) + 0.5).sum(axis=1, keepdims=True)
    own = (counts + _PRIOR * common) / (counts.sum(axis=2, keepdims=True) + _PRIOR)
    evidence = np.log(own / common)  # [people, K, K]
    scores, whose = [], []
    for one in range(people):
        trial = np.flatnonzero(~enrolled & (site.speaker == one))
        for _ in range(SETS if len(trial) >= POOLED else 0):
            chosen = rng.choice(trial, POOLED, replace=False)
            scores.append(evidence[:, known[chosen], words[chosen]].sum(axis=1))
            whose.append(one)
    table, owner = np.array(scores), np.array(whose)
    claims = table - np.log(np.exp(table).mean(axis=1, keepdims=True))
    trials = Trials(claims.ravel(), np.tile(np.arange(people), len(owner)), owner.repeat(people))
    return float(np.mean(table.argmax(axis=1) == owner)), eer(trials)


if __name__ == "__main__":
    main()
