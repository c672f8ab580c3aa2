"""`translated-face` by the measures of its paper: `python tests/benchmarks/translated_table.py [--figure P]`.

Both networks are trained on drawn heads, once as published, and once without landmarks between category and face. They
are tried on heads that had no part, whose true faces are known. Needs the weights of `moretta attackers fetch`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from moretta.client.anonymizers.translated_face import SEED
from moretta.shared.audit.pretrained.expression import ExpressionEvaluator
from moretta.shared.audit.pretrained.face_encoders import SFaceEncoder
from moretta.shared.audit.utility.kept_face import landmark_error, structural_similarity
from moretta.shared.core.array_types import Int64, UInt8
from moretta.shared.features.landmarks import FaceMesh
from moretta.shared.models.translated_face import (
    LABELS,
    NEUTRAL,
    Translated,
    TranslationTask,
    Translator,
    draw_settings,
    portraits,
    trained_translator,
    translated,
)

TRIED, FIRST, PERSON = 12, 10_000, "cedar"


def judged(pictures: UInt8) -> Int64:
    """Class indices [n] by an expression network that has seen no drawn face."""
    probabilities = ExpressionEvaluator.load().probabilities([picture[None] for picture in pictures])
    return np.asarray(probabilities.argmax(axis=1))


def learned(known: Translated, pictures: UInt8) -> Int64:
    """The same by logistic regression on grey pictures of the heads that networks were trained on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def grey(some: UInt8) -> np.ndarray:
        small = [cv2.resize(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA) for p in some]
        return np.stack(small).reshape(len(some), -1).astype(np.float64)

    emotions = np.tile(np.arange(LABELS), len(known.pictures))
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500))
    reader.fit(grey(known.pictures.reshape(-1, *known.pictures.shape[2:])), emotions)
    return np.asarray(reader.predict(grey(pictures)))


def report(name: str, known: Translated, tried: Translated, translator: Translator) -> UInt8:
    """Prints what networks make of the neutral face of people whom they have not seen; returns the pictures."""
    emotions = np.tile(np.arange(LABELS), len(tried.pictures))
    sources = np.repeat(tried.pictures[:, NEUTRAL], LABELS, axis=0)
    truth = tried.pictures.reshape(-1, *tried.pictures.shape[2:])
    made = translated(translator, sources, emotions)
    other = emotions != NEUTRAL
    similar, unchanged = (
        np.array([structural_similarity(*pair) for pair in zip(truth, some, strict=True)]) for some in (made, sources)
    )
    mesh = FaceMesh.load()
    marks = [tuple(mesh.points(picture) for picture in three) for three in zip(truth, made, sources, strict=True)]
    whole = [
        three for three, is_other in zip(marks, other, strict=True) if is_other and all(p is not None for p in three)
    ]
    errors, nothing = (np.mean([landmark_error(three[0], three[n]) for three in whole]) for n in (1, 2))
    print(
        f"{name}: SSIM to the truth {similar[other].mean():.2f} (source as it is {unchanged[other].mean():.2f}); ",
        end="",
    )
    print(f"landmark error {errors:.3f} (source as it is {nothing:.3f}), found in {len(whole)} of {other.sum()}")
    for label, reader in (("face-api", judged), ("trained on renders", lambda some: learned(known, some))):
        rates = [float((reader(some) == emotions).mean()) for some in (truth, made)]
        print(f"  emotion right, {label}: {rates[0]:.2f} on true renders, {rates[1]:.2f} on outputs")
    encoder = SFaceEncoder.load()
    faces, outputs = (encoder.embed_many([picture[None] for picture in some]) for some in (sources, made))
    firsts, people = faces[::LABELS], tried.people
    left, right = np.triu_indices(len(firsts), 1)
    unlike = people[left] != people[right]
    limit = np.quantile((firsts[left] * firsts[right]).sum(axis=1)[unlike], 0.95)
    own = (faces * outputs).sum(axis=1)[other]
    print(
        f"  SFace cosine to the source {own.mean():.2f}, above {limit:.2f} of impostors in {(own > limit).mean():.2f}"
    )
    return made


def main() -> None:
    """Train, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=int, default=TranslationTask().heads)
    parser.add_argument("--steps", type=int, default=TranslationTask().steps)
    parser.add_argument(
        "--figure", type=Path, help="a PNG to write: truth and outputs of a person, and of the public one"
    )
    given = parser.parse_args()
    known = draw_settings(given.heads, seed=SEED)
    tried = draw_settings(TRIED, seed=SEED, first=FIRST)
    rows = [tried.pictures[0]]
    for name, landmarks in (("as published", True), ("without landmarks", False)):
        before, task = os.times(), TranslationTask(heads=given.heads, steps=given.steps, landmarks=landmarks)
        translator = trained_translator(task, seed=SEED, notify=print)
        spent = sum(os.times()[:4]) - sum(before[:4])
        print(f"training, where it was not in the cache: {spent:.0f} s of CPU beside that of drawing", flush=True)
        made = report(name, known, tried, translator)
        rows += [made[:LABELS], portraits(translator, PERSON)]
    if given.figure is not None:
        sheet = [np.concatenate(list(row), axis=1) for row in rows]
        cv2.imwrite(str(given.figure), np.concatenate(sheet)[:, :, ::-1])


if __name__ == "__main__":
    main()
