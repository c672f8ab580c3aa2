"""Emotion and identity of rendered faces by networks of others: `expressions.py [--cache DIR]`.

Renders people whom no recipe was tuned on, in random pose, light, strength and speech. Prints recall of face-api's
expression network for each emotion, the share of faces that YuNet detects, and the equal error rate of SFace over pairs
of pictures with different emotions. Weights come from the cache of `attackers fetch`.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moretta.shared.audit.pretrained.face_api_nets import EXPRESSIONS
from moretta.shared.audit.pretrained.face_encoders import SFaceEncoder
from moretta.shared.audit.pretrained.face_network import NAMES, ExpressionEvaluator
from moretta.shared.core.labels import EMOTIONS, Emotion
from moretta.shared.core.workers import limit_threads
from moretta.shared.models.head import make_identity, render_frame
from moretta.shared.pretrained.cache import CACHE_VARIABLE

FIRST_UNSEEN = 5000
"""Recipes were tuned on seeds below 1000."""


class Picture(NamedTuple):
    """One rendered frame and what it shows."""

    person: int
    emotion: Emotion
    frame: NDArray[np.uint8]


def render(first: int, people: int, each: int, supersample: int) -> list[Picture]:
    """Pictures of every emotion in random circumstances, `each` per person and emotion."""
    pictures = []
    for seed in range(first, first + people):
        identity, rng = make_identity(seed), np.random.default_rng([seed, 1])
        for emotion in EMOTIONS:
            for _ in range(each):
                yaw, pitch, roll = (float(angle) for angle in rng.normal(size=3) * (0.16, 0.08, 0.05))
                frame = render_frame(
                    identity,
                    emotion,
                    intensity=float(rng.uniform(0.7, 1.0)),
                    jaw_open=float(0.42 * rng.uniform(0, 0.6) * (rng.random() < 0.7)),
                    gaze=(float(0.06 * rng.normal()), float(0.05 * rng.normal())),
                    pose=(yaw, pitch, roll),
                    light=(float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.3, 0.8)), 1.0),
                    supersample=supersample,
                    rng=rng,
                )
                pictures.append(Picture(seed, Emotion(emotion), frame))
    return pictures


def read(evaluator: ExpressionEvaluator, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Score of each of the network's seven classes."""
    import torch

    with torch.inference_mode():
        return np.asarray(evaluator._net(evaluator._pictures(frame[None]))[0].cpu().numpy(), np.float32)


def report_expressions(pictures: list[Picture], scores: list[NDArray[np.float32]]) -> None:
    """Print recall by emotion, for the best of all seven classes and for the best of the corpus's six."""
    column = {emotion: EXPRESSIONS.index(word) for word, emotion in NAMES.items()}
    shown = np.array([column[picture.emotion] for picture in pictures])
    table = np.stack(scores)
    for title, columns in (("best of 7", list(range(len(EXPRESSIONS)))), ("best of 6", sorted(column.values()))):
        read_as = np.array(columns)[table[:, columns].argmax(1)]
        recall = {emotion: float((read_as[shown == column[emotion]] == column[emotion]).mean()) for emotion in EMOTIONS}
        each = "  ".join(f"{emotion} {share:.2f}" for emotion, share in recall.items())
        print(f"{title}: UAR {np.mean(list(recall.values())):.3f}   {each}")


def equal_error_rate(same: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Where as many pairs of one person fall below a threshold as pairs of two reach it."""
    thresholds = np.sort(np.concatenate([same, other]))
    missed = np.searchsorted(np.sort(same), thresholds) / len(same)
    false = 1 - np.searchsorted(np.sort(other), thresholds) / len(other)
    best = int(np.abs(missed - false).argmin())
    return float((missed[best] + false[best]) / 2)


def report_identity(encoder: SFaceEncoder, pictures: list[Picture]) -> None:
    """Print SFace's similarities and EER over pairs of pictures with different emotions."""
    points = encoder.embed_many([picture.frame[None] for picture in pictures])
    person = np.array([picture.person for picture in pictures])
    emotion = np.array([EMOTIONS.index(picture.emotion) for picture in pictures])
    first, second = np.triu_indices(len(pictures), 1)
    crossed = emotion[first] != emotion[second]
    first, second = first[crossed], second[crossed]
    likeness = (points[first] * points[second]).sum(1)
    same = person[first] == person[second]
    rate = equal_error_rate(likeness[same], likeness[~same])
    print(
        f"SFace: EER {rate:.4f}   mean likeness: same {likeness[same].mean():.2f}, other {likeness[~same].mean():.2f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", help="folder with the weights, if not the user's cache")
    parser.add_argument("--first", type=int, default=FIRST_UNSEEN, help="first seed")
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--each", type=int, default=3, help="pictures per person and emotion")
    parser.add_argument("--supersample", type=int, default=1)
    options = parser.parse_args()
    limit_threads()
    if options.cache:
        os.environ[CACHE_VARIABLE] = options.cache
    evaluator = ExpressionEvaluator.load()
    start = time.process_time()
    pictures = render(options.first, options.people, options.each, options.supersample)
    took = 1000 * (time.process_time() - start) / len(pictures)
    found = [evaluator._finder.find(picture.frame) is not None for picture in pictures]
    seen = [(p, read(evaluator, p.frame)) for p, face in zip(pictures, found, strict=True) if face]
    print(f"{len(pictures)} pictures of {options.people} people from seed {options.first}; {took:.1f} ms of CPU each")
    print(f"YuNet: {len(seen) / len(pictures):.3f} detected")
    report_expressions([picture for picture, _ in seen], [scores for _, scores in seen])
    if SFaceEncoder.missing() is None:
        report_identity(SFaceEncoder.load(), pictures)


if __name__ == "__main__":
    main()
