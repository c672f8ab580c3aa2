"""`translated-face` by the measures of its paper: `python tests/benchmarks/translated_table.py [--figure P]`.

The networks are trained, or taken from the cache, for the defaults of the study's options: once as published, and once
without landmarks between category and face. They are tried on heads that had no part, whose true faces are known. Needs
the weights of `moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from moretta.client.anonymizers.translated_face import SEED
from moretta.shared.audit.pretrained.face_encoders import SFaceEncoder
from moretta.shared.audit.pretrained.face_network import ExpressionEvaluator
from moretta.shared.audit.utility.kept_face import landmark_error, structural_similarity
from moretta.shared.core.array_types import Float64, Int64, UInt8
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.models.head.portrait import PublicPerson, public_person
from moretta.shared.models.translated_face import (
    LABELS,
    NEUTRAL,
    Translated,
    TranslationTask,
    Translator,
    draw_settings,
    every_emotion,
    portraits,
    trained_translator,
    translated,
)

TRIED, FIRST, LARGER = 12, 10_000, 2
PERSON: PublicPerson = "cedar"
Reader = Callable[[UInt8], Int64]


def outsider() -> Reader:
    """Class indices [n] of pictures [n, 64, 64, 3] by an expression network that has seen no drawn face."""
    network = ExpressionEvaluator.load()
    return lambda pictures: np.asarray(network.probabilities([p[None] for p in pictures]).argmax(axis=1))


def learned(known: Translated) -> Reader:
    """The same by logistic regression on grey pictures of the heads that the networks were trained on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def grey(some: UInt8) -> Float64:
        small = [cv2.resize(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA) for p in some]
        return np.stack(small).reshape(len(some), -1).astype(np.float64)

    emotions = np.tile(np.arange(LABELS), len(known.pictures))
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    reader.fit(grey(flat(known.pictures)), emotions)
    return lambda pictures: np.asarray(reader.predict(grey(pictures)))


def flat(pictures: UInt8) -> UInt8:
    """[settings, 6, 64, 64, 3] as [n, 64, 64, 3]."""
    return pictures.reshape(-1, *pictures.shape[2:])


def spread(pictures: UInt8) -> float:
    """Mean distance of pictures [n, 64, 64, 3], six by six, from the mean of the six."""
    sixes = pictures.reshape(-1, LABELS, *pictures.shape[1:]).astype(np.float64)
    return float(np.abs(sixes - sixes.mean(axis=1, keepdims=True)).mean())


def report(name: str, tried: Translated, translator: Translator, readers: dict[str, Reader]) -> UInt8:
    """Prints what networks make of the neutral face of people whom they have not seen; returns the pictures."""
    emotions = np.tile(np.arange(LABELS), len(tried.pictures))
    sources = np.repeat(tried.pictures[:, NEUTRAL], LABELS, axis=0)
    truth, made, other = flat(tried.pictures), translated(translator, sources, emotions), emotions != NEUTRAL
    similar, unchanged = (
        np.array([structural_similarity(*pair) for pair in zip(truth, some, strict=True)]) for some in (made, sources)
    )
    mesh = FaceMesh.load()
    marks = [[mesh.points(picture) for picture in three] for three in zip(truth, made, sources, strict=True)]
    errors = [
        [landmark_error(points[0], some) for some in points[1:] if some is not None]
        for points, is_other in zip(marks, other, strict=True)
        if is_other and points[0] is not None and all(some is not None for some in points)
    ]
    found, nothing = np.mean(errors, axis=0)
    print(f"{name}: the six differ by {spread(made) / spread(truth):.2f} of what true faces do")
    print(f"  SSIM to the truth {similar[other].mean():.3f} (source as it is {unchanged[other].mean():.3f})")
    print(f"  landmark error {found:.3f} (source as it is {nothing:.3f}), found in {len(errors)} of {other.sum()}")
    for label, reader in readers.items():
        right = [reader(some) == emotions for some in (truth, made)]
        print(
            f"  emotion right, {label}: {right[0].mean():.2f} on true renders, {right[1].mean():.2f} on outputs; ",
            end="",
        )
        print(", ".join(f"{right[1][emotions == each].mean():.2f}" for each in range(LABELS)))
    encoder = SFaceEncoder.load()
    faces, outputs = (encoder.embed_many([picture[None] for picture in some]) for some in (sources, made))
    firsts, people = faces[::LABELS], tried.people
    left, right_ = np.triu_indices(len(firsts), 1)
    impostors = (firsts[left] * firsts[right_]).sum(axis=1)[people[left] != people[right_]]
    own, limit = (faces * outputs).sum(axis=1)[other], np.quantile(impostors, 0.95)
    print(
        f"  SFace cosine to the source {own.mean():.2f}, above {limit:.2f} of impostors in {(own > limit).mean():.2f}"
    )
    return made


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--figure", type=Path, help="a picture to write: truth and outputs of two people and the public"
    )
    parser.add_argument("--published", action="store_true", help="leave the networks without landmarks out")
    given = parser.parse_args()
    known = draw_settings(TranslationTask().heads, seed=SEED, workers=1)
    tried = draw_settings(TRIED, seed=SEED, first=FIRST, workers=1)
    readers, rows = {"face-api": outsider(), "trained on renders": learned(known)}, []
    for name, landmarks in (("as published", True), ("without landmarks", False))[: 1 if given.published else 2]:
        before, task = os.times(), TranslationTask(landmarks=landmarks)
        translator = trained_translator(task, seed=SEED, notify=lambda text: print(text, flush=True))
        spent = sum(os.times()[:4]) - sum(before[:4])
        print(f"training, where it was not in the cache: {spent:.0f} s of CPU with that of drawing", flush=True)
        made = report(name, tried, translator, readers)
        released = portraits(translator, PERSON)
        truth = every_emotion(public_person(PERSON), (0.0, 0.0, 0.0), (0.25, 0.5, 1.0))[0]
        for label, reader in readers.items():
            right = int((reader(released) == np.arange(LABELS)).sum())
            print(f"  of the six released pictures {label} reads {right} right", flush=True)
        if landmarks:
            people = [np.flatnonzero(tried.people == who)[0] for who in (0, TRIED // 2)]
            rows = [some for who in people for some in (tried.pictures[who], made[LABELS * who : LABELS * (who + 1)])]
            rows += [truth, released]
    if given.figure is not None:
        sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        larger = cv2.resize(sheet, None, fx=LARGER, fy=LARGER, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(given.figure), larger[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


if __name__ == "__main__":
    main()
