"""Utility and leaks of `replacement-autoencoder`: `replacement_table.py CORPUS [--public ACTORS] [--strengths ...]`.

Half of a corpus' people are public: the autoencoder and every reader is trained on them. The others are released. Both
halves take their turn, and a line is their mean. `chosen on` are figures of the third of the public people who were
held out; the line that they choose is marked, and all other figures are of the released people, who chose nothing.

`originals' model` knows nothing of the anonymizer; `retrained` and `fresh` are trained on what the autoencoder makes of
the public people. Sex and emotion are balanced accuracies, speaker is top-1 of a forest on every other clip.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from public_halves import both_halves, heading, recordings, show, table_parser
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from moretta.shared.core.labels import EMOTIONS
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.speaker_code import PublicRows, public_rows
from moretta.shared.models.adversaries import Labelled, fresh_readers, recall
from moretta.shared.models.replacement_autoencoder import SEXES, ReplacementAutoencoder, placed
from moretta.shared.models.train_replacement import PublicSplit, ReplacementTask, fitted, in_loop, measured_autoencoder

SENSITIVE, REPLACEMENT = EMOTIONS.index("FEA"), EMOTIONS.index("NEU")
LEAST_EXPLAINED = 0.4
"""Of lines that may be chosen: a network that reconstructs less is no longer an autoencoder."""
COLUMNS = {
    "fresh_public": "chosen on: fresh sex",
    "able": "able at 0",
    "explained": "R2",
    "emotion": "emotion, retrained",
    "emotion_originals": "emotion, originals' model",
    "others": "other five",
    "sensitive_originals": "FEA, originals' model",
    "sensitive": "FEA, retrained",
    "in_loop": "sex in loop",
    "loss": "its loss",
    "originals": "sex, originals' model",
    "linear": "sex, fresh linear",
    "forest": "sex, fresh forest",
    "speaker": "speaker top-1",
    "seconds": "s",
}


def main() -> None:
    """Train, release, read, print."""
    options = table_parser(__doc__, strengths=[0.0, 0.5, 1.0, 2.0, 4.0], epochs=200).parse_args()
    limit_threads(1)
    rows = public_rows(recordings(options.corpus), in_windows=False)
    halves = both_halves(rows, options.public)
    people_of = " and ".join(str(len({*half[1].person})) for half in halves)
    print(f"{len(rows.values)} clips of {len({*rows.person})} people; released in turn: those of {people_of}")
    heading("replaced | strength", COLUMNS)
    show("- | originals", COLUMNS, [untouched(*half) for half in halves])
    plain = ReplacementTask(sensitive=None, replacement=REPLACEMENT, strength=0.0, epochs=options.epochs)
    able: dict[tuple[int, int | None], float] = {}
    for sensitive in (None, SENSITIVE):
        lines: dict[float, list[dict[str, float]]] = {}
        for strength in sorted({0.0, *options.strengths}):
            task = replace(plain, sensitive=sensitive, strength=strength)
            lines[strength] = [
                measured(*half, task, able, half=number, seed=options.seed) for number, half in enumerate(halves)
            ]
            show(f"{'FEA' if sensitive else 'none'} | {strength:g}", COLUMNS, lines[strength])
        mean = {s: {name: np.mean([one[name] for one in found]) for name in found[0]} for s, found in lines.items()}
        usable = [s for s in mean if mean[s]["explained_public"] >= LEAST_EXPLAINED] or [0.0]
        best = min(usable, key=lambda strength: mean[strength]["fresh_public"])
        print(f"<!-- {'FEA' if sensitive else 'none'} replaced: held-out public people choose {best:g} -->", flush=True)


def measured(
    public: PublicRows, others: PublicRows, task: ReplacementTask, able: dict[Any, float], *, half: int, seed: int
) -> dict[str, float]:
    """One line, of one half."""
    split, start = PublicSplit.of(public, seed=seed), time.perf_counter()
    network = fitted(split.some(held_out=False), task, seed=seed)
    seconds = time.perf_counter() - start
    if task.strength == 0:
        able[half, task.sensitive] = in_loop(network, split.some(held_out=True))[0]
    made = measured_autoencoder(network, split, task, able=able[half, task.sensitive], seed=seed)
    released = PublicSplit(made.places(others.values), *_labels(others), split.scale)
    figures = read(split, released, made(split.places), made(released.places))
    found, loss = in_loop(network, released)
    kept = released.emotion != task.sensitive
    return figures | {
        "fresh_public": max(made.figures.fresh_linear, made.figures.fresh_forest),
        "explained_public": made.explained,
        "able": made.figures.able,
        "explained": explained(made, released.places[kept]),
        "in_loop": found,
        "loss": loss,
        "seconds": seconds,
    }


def untouched(public: PublicRows, others: PublicRows) -> dict[str, float]:
    """The line of original measurements."""
    split = PublicSplit.of(public, seed=1)
    places = placed(others.values, split.scale)
    released = PublicSplit(places, *_labels(others), split.scale)
    return read(split, released, split.places, places) | {"explained": 1.0}


def _labels(rows: PublicRows) -> tuple[Any, Any, Any]:
    return rows.emotion, (rows.sex == SEXES[1]).astype(np.int64), np.unique(rows.person, return_inverse=True)[1]


def explained(made: ReplacementAutoencoder, places: Any) -> float:
    missed = np.square(made(places) - places).sum()
    return float(1 - missed / np.square(places - places.mean(axis=0)).sum())


def read(public: PublicSplit, released: PublicSplit, known: Any, seen: Any) -> dict[str, float]:
    """Figures on released clips `seen`, of models trained on originals and of models trained on releases."""
    retrained = _linear().fit(known, public.emotion).predict(seen)
    originals = _linear().fit(public.places, public.emotion).predict(seen)
    emotion, fear = released.emotion, released.emotion == SENSITIVE
    linear, forest = fresh_readers(Labelled(known, public.sex), Labelled(seen, released.sex), seed=1)
    person = released.is_held_out  # in a table's split the place of the person
    odd = np.arange(len(person)) % 2 == 1
    who = RandomForestClassifier(200, random_state=1, n_jobs=1).fit(seen[odd], person[odd]).predict(seen[~odd])
    return {
        "emotion": recall(emotion, retrained),
        "emotion_originals": recall(emotion, originals),
        "others": recall(emotion[~fear], retrained[~fear]),
        "sensitive": float((retrained[fear] == SENSITIVE).mean()),
        "sensitive_originals": float((originals[fear] == SENSITIVE).mean()),
        "originals": fresh_readers(Labelled(public.places, public.sex), Labelled(seen, released.sex), seed=1)[0],
        "linear": linear,
        "forest": forest,
        "speaker": float((who == person[~odd]).mean()),
    }


def _linear() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced"))


if __name__ == "__main__":
    main()
