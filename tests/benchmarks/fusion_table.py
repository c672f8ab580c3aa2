"""The vote and the learned fusion of voice and face: `fusion_table.py CORPUS WORK`.

Every speaker is held out once, in one of five folds; the figures are those of all clips, with 95 % intervals over
speakers. The sites, their releases, their DP-SGD and the server's stages are those of a simulation, in this process.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import shutil
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from moretta.client.clips.stored_state import take_over_release
from moretta.client.settings import simulated_site
from moretta.deploy.runtime.planning import plan_simulation
from moretta.deploy.runtime.simulation import connect_locally
from moretta.server.stages.run import Progress, Run, RunContext
from moretta.server.stages.state import RESUME_FILE, load_progress, save_state
from moretta.server.study import SITE_STAGES, run_stages
from moretta.shared.audit.metrics import confusion
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.reader import read_corpus
from moretta.shared.models import emotion
from moretta.shared.models.reliability import expected_calibration_error
from moretta.shared.study.schema import Study, parse_study

RELEASES: dict[str, dict[str, Any]] = {
    "speaker-normalized, expression-track": {
        "voice": {"anonymizer": "speaker-normalized"},
        "face": {"anonymizer": "expression-track"},
    },
    "original, autoencoder": {"voice": {"preset": "original"}},
}
STUDIES: dict[str, dict[str, Any]] = {
    "vote alone": {},
    "learned": {"fusion__kind": "learned"},
    "learned, nothing held back": {"fusion__kind": "learned", "fusion__held_back": 0.0},
}
OUTPUTS = ("voice", "face", "fused", "learned")
HEAD = "| released | DP-SGD | study | voice | face | vote | learned | ECE: voice | face | vote | learned |"
SITES = 6


def main() -> None:
    """Release, train, print a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", choices=[*RELEASES], help="one of the two releases")
    requested = parser.parse_args()
    limit_threads(1)
    remember_features("face", "gradients")
    started = time.monotonic()
    print(f"{HEAD}\n|{'---|' * 11}")
    for name in [requested.only] if requested.only else RELEASES:
        made = released(requested.corpus, requested.work / name.replace(", ", "-"), RELEASES[name])
        for private in (False, True):
            for words, changes in STUDIES.items():
                cells = figures(made, requested.work / "training", privacy__dp_sgd=private, **changes)
                print(f"| {name} | {'epsilon 8' if private else 'none'} | {words} | {' | '.join(cells)} |", flush=True)
    print(f"\n{time.monotonic() - started:.0f} s")


def remember_features(modality: Any, name: str) -> None:
    """The same clips are looked at in every fold: once is enough."""
    model, known = emotion.emotion_model(modality, name), dict[bytes, Any]()

    def once(see: Any) -> Any:
        def features(array: Any, *scale: Any) -> Any:
            key = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
            if key not in known:
                known[key] = see(array, *scale)
            return known[key]

        return features

    of_sound = None if model.of_sound is None else once(model.of_sound)
    emotion._MODELS[modality, name] = dataclasses.replace(model, features=once(model.features), of_sound=of_sound)


def released(corpus: Path, folder: Path, changes: dict[str, Any]) -> Run:
    """A run whose sites have released; one that is there already is taken."""
    found = load_progress(folder)
    if found is not None:
        return found
    study = parse_study({"sites": SITES, "privacy": {"dp_sgd": False}, "audit": {"enabled": False}, **changes})
    plan = plan_simulation(read_corpus(corpus), study, "moretta simulate")
    shutil.rmtree(folder, ignore_errors=True)
    plan.save(folder)
    run = Run(RunContext(folder, plan))
    connect_locally(run, len(plan.sites))
    names = [stage.name for stage in SITE_STAGES]
    run_stages(run, SITE_STAGES[: names.index("release") + 1])
    save_state(run, RESUME_FILE)
    return run


def figures(made: Run, folder: Path, **changes: Any) -> list[str]:
    """UAR with intervals and ECE of every output, over all folds."""
    counts: dict[str, dict[str, Any]] = defaultdict(dict)
    bins: dict[str, Any] = defaultdict(int)
    for fold in range(made.context.study.split.folds):
        run = trained(made, folder, made.context.study.with_changes(split__test_fold=fold, **changes))
        for output in OUTPUTS:
            counts[output] |= run.evaluation.counts.get(output, {})
            bins[output] = bins[output] + run.evaluation.reliability.get(output, 0)
    there = [output for output in OUTPUTS if counts[output]]
    scores = {o: scored(np.stack([counts[o][s] for s in sorted(counts[o])])) for o in there}
    errors = {o: f"{expected_calibration_error(bins[o]):.2f}" for o in there}
    return [column.get(output, "-") for column in (scores, errors) for output in OUTPUTS]


def scored(by_speaker: Any) -> str:
    """UAR of counts [speakers, classes, classes]."""
    interval = confusion.bootstrap(by_speaker, confusion.uar, seed=1)
    low, high = interval or (float("nan"), float("nan"))
    return f"{float(confusion.uar(by_speaker.sum(0))):.2f} [{low:.2f}, {high:.2f}]"


def trained(made: Run, folder: Path, study: Study) -> Run:
    """The study on a release that was made before."""
    shutil.rmtree(folder, ignore_errors=True)
    plan = made.context.plan.model_copy(update={"study": study})
    plan.save(folder)
    for number in range(len(plan.sites)):
        take_over_release(
            simulated_site(made.context.folder, number), made.context.study, simulated_site(folder, number), study
        )
    run = Run(RunContext(folder, plan, Progress(done=["codebook"])), public=made.public)
    connect_locally(run, len(plan.sites))
    run_stages(run, SITE_STAGES)
    return run


if __name__ == "__main__":
    main()
