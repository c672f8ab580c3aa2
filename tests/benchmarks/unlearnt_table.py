"""Utility and leaks of `unlearnt-gender` on voices: `unlearnt_table.py CORPUS [--public ACTORS] [--strengths ...]`.

Half of a corpus' people are public: the network is trained on two thirds of them, and figures of its own heads are of
the others. The other half is released. Both halves take their turn. Emotion and sex of the released people are read by
readers that were trained on other released people. The twelve networks are shown by their depth.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from public_halves import of_people
from sklearn.model_selection import GroupKFold, cross_val_predict

from moretta.shared.audit.crossval import estimator
from moretta.shared.audit.inference.attack_all import without_figures
from moretta.shared.audit.inference.classes import infer_attribute
from moretta.shared.audit.inference.twelve_networks import CHOSEN, SHAPES
from moretta.shared.core.labels import EMOTIONS, in_order
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.media import read_audio
from moretta.shared.data.reader import read_corpus
from moretta.shared.features.mfcc import MELS
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.adversaries import recall
from moretta.shared.models.train_unlearnt import UnlearntTask, train_unlearnt
from moretta.shared.models.unlearnt_gender import STEPS
from moretta.shared.models.unlearnt_inputs import PublicClips, voice_input

COLUMNS = (
    *("able", "in loop", "fresh linear", "fresh forest", "variation", "emotion head", "emotion, retrained", "logistic"),
    *("forest", "best of twelve", "depth 1", "depth 2", "depth 3", "s"),
)
_logistic = estimator("linear_model.LogisticRegression", C=0.01, max_iter=2000, scaled=True)


def of_released(vectors: Any, people: PublicRows) -> dict[str, float]:
    """Balanced accuracies of readers that were trained on other released people."""
    folds = GroupKFold(5)
    found = cross_val_predict(_logistic(0), vectors, people.emotion, groups=people.person, cv=folds)
    about = without_figures("attribute", "voice", "sex", "semi-informed")
    rows = infer_attribute(
        vectors, people.sex, np.unique(people.person, return_inverse=True)[1], about=about, resamples=50, seed=1
    )
    by = {row.attacker: row.value or float("nan") for row in rows}
    depths = {
        f"depth {depth}": float(np.mean([by[f"network {d} x {w}"] for d, w in SHAPES if d == depth]))
        for depth in (1, 2, 3)
    }
    return {
        "emotion, retrained": recall(people.emotion, found),
        "logistic": by["logistic regression"],
        "forest": by["random forest"],
        "best of twelve": by[CHOSEN],
        **depths,
    }


def main() -> None:
    """Hear, train, release, read, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--public", nargs="*", default=[], help="speakers of the first half")
    parser.add_argument("--strengths", nargs="*", type=float, default=[0.0, 0.3, 0.5, 0.75, 1.0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--half", type=int, choices=(1, 2), nargs="*", default=[1, 2], help="the half that is public")
    options = parser.parse_args()
    limit_threads(1)
    values, people = heard_corpus(options.corpus)
    names = in_order({*people.person})
    first = np.isin(people.person, options.public or names[: len(names) // 2])
    print(f"{len(values)} clips of {len(names)} people")
    print("| public half | strength | " + " | ".join(COLUMNS) + " |")
    print("|---|---|" + "---|" * len(COLUMNS), flush=True)
    for half in options.half:
        public = first if half == 1 else ~first
        rows = {mine: of_people(people, own) for mine, own in ((True, public), (False, ~public))}
        bands = values[~public].reshape(-1, STEPS, MELS)
        plain = np.hstack([np.nanmean(bands, axis=1), np.nanstd(bands, axis=1)])
        show(half, "originals", of_released(plain, rows[False]))
        for strength in options.strengths:
            start, task = time.process_time(), UnlearntTask(strength=strength, epochs=options.epochs)
            made = train_unlearnt(PublicClips({"voice": values[public]}, rows[True]), task, seed=options.seed)["voice"]
            seconds, found = time.process_time() - start, made.figures
            own = {"able": found.sex.able, "in loop": found.sex.in_loop, "fresh linear": found.sex.fresh_linear}
            own |= {"fresh forest": found.sex.fresh_forest, "variation": found.sex.variation, "s": seconds}
            own |= {"emotion head": found.emotion}
            show(half, f"{strength:g}", own | of_released(made(values[~public]), rows[False]))


def heard_corpus(corpus: Path) -> tuple[Any, PublicRows]:
    """All clips of a corpus, [n, values], and whose they are."""
    read = read_corpus(corpus)
    clips = [clip for clip in read.clips if clip.audio is not None]
    sounds = (read_audio(clip.audio) for clip in clips if clip.audio is not None)
    person, sex = np.array([c.speaker for c in clips]), np.array([read.speakers[c.speaker].sex or "" for c in clips])
    emotion = np.array([EMOTIONS.index(clip.label) for clip in clips], np.int64)
    values = np.concatenate([voice_input([sound]) for sound in sounds])
    return values, PublicRows(np.zeros((len(clips), 0)), person, emotion, sex)


def show(half: int, name: str, found: dict[str, float]) -> None:
    """One line."""
    cells = [f"{found[key]:.2f}" if key in found else "-" for key in COLUMNS]
    print("| " + " | ".join([str(half), name, *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
