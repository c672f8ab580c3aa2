"""Gain of a model under DP from public people: `pretraining_table.py PRIVATE PUBLIC WORK`.

A voice model starts from the seed, or from what `[train] public` gives it. Every private speaker is a site, and is
tested once over five folds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from fusion_table import released, remember_features, scored, trained

from moretta.shared.audit.metrics import confusion
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.reader import read_corpus

EPSILON = 4.0
STUDIES: dict[str, dict[str, Any]] = {
    "a clip, noise of the sites": {"privacy__unit": "clip"},
    "a speaker, noise of the sites": {"privacy__unit": "speaker"},
    "a site, noise of the server": {"privacy__dp_sgd": False, "aggregation": {"dp": "central", "epsilon": EPSILON}},
}


def main() -> None:
    """A row for each unit: from the seed, from public people, and the public model as it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("private", type=Path)
    parser.add_argument("public", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*STUDIES], default=[*STUDIES])
    parser.add_argument("--rate", type=float, help="learning_rate of [train], for both")
    requested = parser.parse_args()
    limit_threads(1)
    remember_features("voice", "statistics")
    people = {clip.speaker for clip in read_corpus(requested.private).clips}
    voice = {"anonymizer": "none", "form": "mfcc"}
    private = released(
        requested.private,
        requested.work / "private",
        {"voice": voice, "face": {"enabled": False}, "sites": len(people)},
    )
    print("| unit | from zero | from public people | the public model as it is |\n|---|---|---|---|")
    for name in requested.only:
        cells, alone = list[str](), list[Any]()
        for public in (None, requested.public.resolve()):
            counts: dict[str, Any] = {}
            for fold in range(private.context.study.split.folds):
                study = private.context.study.with_changes(
                    split__test_fold=fold,
                    train__public=public,
                    train__learning_rate=requested.rate,
                    **{"privacy__dp_sgd": True, "privacy__epsilon": EPSILON, **STUDIES[name]},
                )
                run = trained(private, requested.work / "training", study)
                counts |= run.evaluation.counts["voice"]
                alone += [start.result.confusion for start in run.training.public_start.values() if start.result]
            cells.append(scored(np.stack([counts[speaker] for speaker in sorted(counts)])))
        whole = float(confusion.uar(np.sum(alone, axis=0)))
        print(f"| {name} | {' | '.join(cells)} | {whole:.2f} |", flush=True)


if __name__ == "__main__":
    main()
