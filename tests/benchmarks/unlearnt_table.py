"""Utility and leaks of `unlearnt-gender` on voices: `unlearnt_table.py CORPUS [--public ACTORS] [--strengths ...]`.

Half of a corpus' people are public: the network is trained on two thirds of them, and figures of its own heads are of
the others. The other half is released. Both halves take their turn. Emotion and sex of the released people are read by
readers that were trained on other released people. The twelve networks are shown by their depth.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from public_halves import heading, of_people, recordings, show, table_parser
from sklearn.model_selection import GroupKFold, cross_val_predict

from moretta.shared.audit.crossval import estimator
from moretta.shared.audit.inference.attack_all import without_figures
from moretta.shared.audit.inference.classes import infer_attribute
from moretta.shared.audit.inference.twelve_networks import CHOSEN, SHAPES
from moretta.shared.core.labels import in_order
from moretta.shared.core.workers import limit_threads
from moretta.shared.features.mfcc import MELS
from moretta.shared.features.speaker_code import PublicRows
from moretta.shared.models.adversaries import recall
from moretta.shared.models.train_unlearnt import UnlearntTask, train_unlearnt
from moretta.shared.models.unlearnt_gender import STEPS
from moretta.shared.models.unlearnt_inputs import PublicClips, voice_input

_NAMES = (
    *("able", "in loop", "fresh linear", "fresh forest", "variation", "emotion head", "emotion, retrained", "logistic"),
    *("forest", "best of twelve", "depth 1", "depth 2", "depth 3", "s"),
)
COLUMNS = dict(zip(_NAMES, _NAMES, strict=True))
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
    parser = table_parser(__doc__, strengths=[0.0, 0.3, 0.5, 0.75, 1.0], epochs=60)
    parser.add_argument("--half", type=int, choices=(1, 2), nargs="*", default=[1, 2], help="the half that is public")
    options = parser.parse_args()
    limit_threads(1)
    values, people = heard_corpus(options.corpus)
    names = in_order({*people.person})
    first = np.isin(people.person, options.public or names[: len(names) // 2])
    print(f"{len(values)} clips of {len(names)} people")
    heading("public half | strength", COLUMNS)
    for half in options.half:
        public = first if half == 1 else ~first
        rows = {mine: of_people(people, own) for mine, own in ((True, public), (False, ~public))}
        bands = values[~public].reshape(-1, STEPS, MELS)
        plain = np.hstack([np.nanmean(bands, axis=1), np.nanstd(bands, axis=1)])
        show(f"{half} | originals", COLUMNS, [of_released(plain, rows[False])])
        for strength in options.strengths:
            start, task = time.process_time(), UnlearntTask(strength=strength, epochs=options.epochs)
            made = train_unlearnt(PublicClips({"voice": values[public]}, rows[True]), task, seed=options.seed)["voice"]
            seconds, found = time.process_time() - start, made.figures
            own = {"able": found.sex.able, "in loop": found.sex.in_loop, "fresh linear": found.sex.fresh_linear}
            own |= {"fresh forest": found.sex.fresh_forest, "variation": found.sex.variation, "s": seconds}
            own |= {"emotion head": found.emotion}
            show(f"{half} | {strength:g}", COLUMNS, [own | of_released(made(values[~public]), rows[False])])


def heard_corpus(corpus: Path) -> tuple[Any, PublicRows]:
    """All clips of a corpus, [n, values], and whose they are."""
    found = [(voice_input([one.samples]), one.whose) for one in recordings(corpus)]
    rows = PublicRows.of(np.zeros((len(found), 0)), [whose for _, whose in found])
    return np.concatenate([values for values, _ in found]), rows


if __name__ == "__main__":
    main()
