"""Gain of a model under DP from public people: `pretraining_table.py PRIVATE PUBLIC WORK`.

The model `statistics` starts at zero, or at weights that were trained on public people's clips without noise. Every
private speaker is a site, and is tested once over five folds. The initial weights of the stage are replaced in this
process.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from fusion_table import released, remember_features, scored, trained

from moretta.server.stages import train
from moretta.server.stages.run import Run
from moretta.shared.audit.inference.trained_models import Recipe
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.reader import read_corpus
from moretta.shared.models.emotion import study_model
from moretta.shared.models.outputs import log_probabilities

EPSILON, EPOCHS = 4.0, 20
STUDIES: dict[str, dict[str, Any]] = {
    "a clip, noise of the sites": {"privacy__unit": "clip"},
    "a speaker, noise of the sites": {"privacy__unit": "speaker"},
    "a site, noise of the server": {"privacy__dp_sgd": False, "aggregation": {"dp": "central", "epsilon": EPSILON}},
}


def main() -> None:
    """A row for each unit, and one for the public model as it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("private", type=Path)
    parser.add_argument("public", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="*", choices=[*STUDIES], default=[*STUDIES])
    requested = parser.parse_args()
    limit_threads(1)
    remember_features("voice", "statistics")
    private, public = (_released(getattr(requested, name), requested.work / name) for name in ("private", "public"))
    weights = _learned(public)
    print(f"the public model as it is: {_as_it_is(private, weights)}\n")
    print("| unit | from zero | from public people |\n|---|---|---|")
    usual = train._initial
    for name in requested.only:
        changes, cells = STUDIES[name], []
        for initial in (usual, lambda *_: weights):
            train._initial = initial
            counts: dict[str, Any] = {}
            for fold in range(private.context.study.split.folds):
                study = private.context.study.with_changes(
                    split__test_fold=fold, **{"privacy__dp_sgd": True, "privacy__epsilon": EPSILON, **changes}
                )
                counts |= trained(private, requested.work / "training", study).evaluation.counts["voice"]
            cells.append(scored(np.stack([counts[speaker] for speaker in sorted(counts)])))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _released(corpus: Path, folder: Path) -> Run:
    people = {clip.speaker for clip in read_corpus(corpus).clips}
    changes = {"voice": {"anonymizer": "none", "form": "mfcc"}, "face": {"enabled": False}, "sites": len(people)}
    return released(corpus, folder, changes)


def _inputs(run: Run) -> tuple[Any, Any, list[str]]:
    """The model's input of all clips, their classes and speakers."""
    study = run.context.study
    pairs = list(run.releases.model_inputs(run.public, "voice", study_model(study, "voice")))
    labels = np.array([study.classes.index(clip.emotion) for _, clip in pairs], np.int64)
    return np.stack([x for x, _ in pairs]), labels, [clip.speaker for _, clip in pairs]


def _learned(run: Run) -> dict[str, Any]:
    """Weights after plain SGD on everybody, with the standardisation by the same clips."""
    x, y, _ = _inputs(run)
    network = Recipe(study_model(run.context.study, "voice"), 0.1, 16, EPOCHS).network(x, y, 1)
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def _as_it_is(run: Run, weights: dict[str, Any]) -> str:
    x, y, speakers = _inputs(run)
    found = log_probabilities(study_model(run.context.study, "voice"), weights, x).argmax(axis=1)
    counts = np.zeros((len(set(speakers)), len(run.context.study.classes), len(run.context.study.classes)), np.int64)
    np.add.at(counts, (np.unique(speakers, return_inverse=True)[1], y, found), 1)
    return scored(counts)


if __name__ == "__main__":
    main()
