"""Emotion and identity in expression tracks: `face_few_clips.py CORPUS [--people]`, by clips a person and by noise.

Measured are the numbers that would be drawn, which reveal more than pictures of them. Emotion is read by logistic
regression that was trained on other people with all their clips. Two clips are compared by the cosine of their means,
whitened within the clips of other people (EER, the better of the score and its inverse), without and with the knowledge
of the clips' emotions. With `--people`, emotion is read from small grey pictures of each public person instead.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moretta.client.anonymizers.expression_track import ExpressionTrack, TrackOptions
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.media import read_frames
from moretta.shared.data.reader import read_corpus
from moretta.shared.features.face_track import CROP_SIDE
from moretta.shared.features.faces import FaceCropper
from moretta.shared.models.adversaries import recall
from moretta.shared.models.head.portrait import PublicPerson
from moretta.shared.privacy.noise import SeededNoise

COUNTS = (1, 2, 5, 10, 24)
NOISES = ((0.0, 0.0), (0.5, 0.3), (0.7, 0.4), (1.0, 0.5), (1.3, 0.7))
DRAWS = 5
FPS = 5.0
THUMBNAIL = 24
SHRINKAGE = 0.003
"""Of the logistic regression on pictures."""
Floats = np.ndarray[Any, Any]


@dataclass
class Corpus:
    """Everybody's clips, and how they are anonymized."""

    made: Values
    frames: list[Floats]
    people: Floats
    emotions: Floats


class Values(ExpressionTrack):
    """The numbers instead of pictures of them."""

    def drawn(self, normal: Floats) -> Floats:
        """As they are."""
        return normal


def main() -> None:
    """Print a line for each number of clips, and one for people of one emotion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--people", action="store_true", help="compare the public people")
    limit_threads(1)
    options = parser.parse_args()
    clips = [clip for clip in read_corpus(options.corpus).clips if clip.video is not None]
    frames = [np.stack(list(read_frames(clip.video, fps=FPS))) for clip in clips if clip.video is not None]
    people = np.array([clip.speaker for clip in clips])
    emotions = np.array([str(clip.label) for clip in clips])
    corpus = Corpus(Values(FaceCropper(CROP_SIDE), TrackOptions(), fps=FPS), frames, people, emotions)
    if options.people:
        print("| public person | emotion UAR |\n|---|---|")
        for person in get_args(PublicPerson):
            print(f"| {person} | {worn(corpus, person):.2f} |", flush=True)
        return
    print("| clips of each person | emotion UAR | EER | EER, emotions known |\n|---|---|---|---|")
    for count in COUNTS:
        print(f"| {count} | {averaged(corpus, count)} |", flush=True)
    print(f"| all, of one emotion | {one_emotion(corpus):.2f} | - | - |")
    print("\n| noise on clips, and within them | emotion UAR | EER | EER, emotions known |\n|---|---|---|---|")
    for clip_noise, frame_noise in NOISES:
        chosen = TrackOptions(clip_noise=clip_noise, frame_noise=frame_noise)
        corpus.made = Values(FaceCropper(CROP_SIDE), chosen, fps=FPS)
        print(f"| {clip_noise}, {frame_noise} | {averaged(corpus, max(COUNTS))} |", flush=True)


def worn(corpus: Corpus, person: PublicPerson) -> float:
    """Emotion UAR of people whom the evaluator was not trained on, from pictures of one public person."""
    made = ExpressionTrack(FaceCropper(CROP_SIDE), TrackOptions(person=person), fps=FPS)
    names = [str(name) for name in corpus.people]
    corpus.made.fit(zip(names, corpus.frames, strict=True), SeededNoise(0, "fit"))
    noise = [SeededNoise(0, row) for row in range(len(names))]
    x = np.stack([looks(made.drawn(np.asarray(clip))) for clip in corpus.made.release(corpus.frames, noise, names)])
    predicted = np.empty_like(corpus.emotions)
    for fold in range(4):
        own = np.isin(corpus.people, np.unique(corpus.people)[fold::4])
        predicted[own] = evaluator(SHRINKAGE).fit(x[~own], corpus.emotions[~own]).predict(x[own])
    return recall(corpus.emotions, predicted)


def looks(pictures: Floats) -> Floats:
    """Mean and spread of a clip's grey thumbnails, [2 * THUMBNAIL ** 2]."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    small = np.stack([cv2.resize(g, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).ravel() for g in grey]) / 255
    return np.concatenate([small.mean(0), small.std(0)])


def averaged(corpus: Corpus, count: int) -> str:
    """Three cells of a row."""
    found = [measured(corpus, chosen(corpus.people, count, draw), draw) for draw in range(DRAWS)]
    return " | ".join(f"{value:.2f}" for value in np.mean(found, axis=0))


def chosen(people: Floats, count: int, draw: int) -> Floats:
    """Indices of so many clips of each person."""
    rng = np.random.default_rng([count, draw])
    return np.concatenate([rng.permutation(np.flatnonzero(people == person))[:count] for person in np.unique(people)])


def values(corpus: Corpus, rows: Floats, draw: int) -> Floats:
    """Mean and spread of every clip's numbers, [clips, 20], of a site that has no other clips than these."""
    names = [str(corpus.people[row]) for row in rows]
    clips = [corpus.frames[row] for row in rows]
    corpus.made.fit(zip(names, clips, strict=True), SeededNoise(draw, "fit"))
    noise = [SeededNoise(draw, int(row)) for row in rows]
    released = corpus.made.release(clips, noise, names)
    return np.stack([np.concatenate([r.mean(0), r.std(0)]) for r in released if isinstance(r, np.ndarray)])


def measured(corpus: Corpus, rows: Floats, draw: int) -> tuple[float, float, float]:
    """(Emotion UAR, EER, EER with emotions known)."""
    x, who, what = values(corpus, rows, draw), corpus.people[rows], corpus.emotions[rows]
    means = x[:, : x.shape[1] // 2]
    centred = means - np.stack([means[what == emotion].mean(0) for emotion in what])
    everything, predicted = values(corpus, np.arange(len(corpus.people)), draw), np.empty_like(what)
    for fold in range(4):
        held = np.unique(who)[fold::4]
        others, own = ~np.isin(corpus.people, held), np.isin(who, held)
        predicted[own] = evaluator().fit(everything[others], corpus.emotions[others]).predict(x[own])
    return recall(what, predicted), verification(means, who), verification(centred, who)


def one_emotion(corpus: Corpus) -> float:
    """Emotion UAR where each site's person shows one emotion only; the evaluator was trained on people with all."""
    people, emotions = corpus.people, corpus.emotions
    everything = values(corpus, np.arange(len(people)), 0)
    right: dict[str, list[float]] = {}
    for number, person in enumerate(np.unique(people)):
        others = people != person
        trained = evaluator().fit(everything[others], emotions[others])
        for emotion in np.unique(emotions):
            rows = np.flatnonzero((people == person) & (emotions == emotion))
            own = values(corpus, rows, number)
            right.setdefault(emotion, []).append(float(np.mean(trained.predict(own) == emotion)))
    return float(np.mean([np.mean(r) for r in right.values()]))


def evaluator(shrinkage: float = 0.03) -> Any:
    """Of emotion."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=shrinkage, max_iter=500))


def verification(x: Floats, who: Floats) -> float:
    """EER over all pairs of clips within each half of the people, whitened by the other half."""
    scores, same = [], []
    for half in range(2):
        held = np.isin(who, np.unique(who)[half::2])
        other, other_who = x[~held], who[~held]
        within = np.concatenate([other[other_who == p] - other[other_who == p].mean(0) for p in np.unique(other_who)])
        power = within.T @ within / max(len(within), 1)
        power += (0.1 * np.trace(power) / len(power) + 1e-6) * np.eye(len(power))
        white = (x[held] - other.mean(0)) @ np.linalg.cholesky(np.linalg.inv(power))
        white /= np.linalg.norm(white, axis=1, keepdims=True)
        first, second = np.triu_indices(len(white), 1)
        scores.append((white @ white.T)[first, second])
        same.append(who[held][first] == who[held][second])
    found = equal_error_rate(np.concatenate(scores), np.concatenate(same))
    return min(found, 1 - found)


def equal_error_rate(scores: Floats, same: Floats) -> float:
    """Where misses and false alarms are equally frequent."""
    if not same.any():
        return 0.5
    ordered = same[np.argsort(-scores)]
    misses, alarms = 1 - np.cumsum(ordered) / ordered.sum(), np.cumsum(~ordered) / (~ordered).sum()
    at = int(np.argmin(np.abs(misses - alarms)))
    return float((misses[at] + alarms[at]) / 2)


if __name__ == "__main__":
    main()
