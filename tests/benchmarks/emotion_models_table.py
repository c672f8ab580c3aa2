"""Emotion models, central and federated, nothing hidden: `emotion_models_table.py CORPUS MODALITY WORK [--only ...]`.

Every speaker is held out once, in one of five folds. Central rows are of utility evaluators, trained and tested on
originals. Federated rows are those of a simulation of releases by the anonymizer `none`, in this process.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from fusion_table import released, remember_features, scored, trained

from moretta.server.stages.run import Run
from moretta.shared.audit.arrays import VideoFaces
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics import confusion
from moretta.shared.audit.utility.evaluators import evaluate_utility
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.clips import Corpus
from moretta.shared.data.reader import read_corpus

EVALUATORS: dict[str, tuple[str, ...]] = {
    "voice": ("voice-logistic", "voice-forest", "voice-crnn"),
    "face": ("face-logistic", "face-forest", "face-sequence"),
}
MODELS: dict[str, tuple[str, ...]] = {"voice": ("statistics", "cnn", "crnn"), "face": ("gradients", "sequence")}
FACE_SIDE, FPS = 64, 5.0


def main() -> None:
    """Print a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("modality", choices=list(MODELS))
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="*", help="evaluators, or models as `federated-NAME`; default all")
    parser.add_argument(
        "--people",
        help="the first and the last number, as 1017-1032: central rows are of them, federated ones have them apart",
    )
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate at the sites")
    parser.add_argument("--optimizer", default="sgd", help="at the sites")
    parser.add_argument("--batch", type=int, default=16, help="clips in a batch at the sites")
    parser.add_argument("--folds", type=int, default=5, help="how many of the five are run")
    parser.add_argument("--epsilon", type=float, help="of DP-SGD for a clip; without it federated rows have no DP")
    parser.add_argument("--public", type=Path, help="public people that federated training starts from")
    requested = parser.parse_args()
    limit_threads(1)
    corpus = read_corpus(requested.corpus)
    names = [*EVALUATORS[requested.modality], *(f"federated-{name}" for name in MODELS[requested.modality])]
    print("| trained | people | emotion UAR | processor seconds |\n|---|---|---|---|")
    for name in requested.only or names:
        start = time.process_time()
        if name.startswith("federated-"):
            people, found = len({clip.speaker for clip in corpus.clips}), federated(name.partition("-")[2], requested)
        else:
            chosen = _of_people(corpus, requested.people)
            people, found = len({clip.speaker for clip in chosen.clips}), central(name, chosen, requested.modality)
        print(f"| {name} | {people} | {found} | {time.process_time() - start:.0f} |", flush=True)


def _of_people(corpus: Corpus, span: str | None) -> Corpus:
    return dataclasses.replace(corpus, clips=tuple(clip for clip in corpus.clips if _is_of(span, clip.speaker)))


def _is_of(span: str | None, speaker: str) -> bool:
    first, _, last = (span or "").partition("-")
    return not span or int(first) <= int(speaker) <= int(last)


def central(name: str, corpus: Corpus, modality: Any) -> str:
    """UAR of an evaluator on originals."""
    loader = None if modality == "voice" else VideoFaces(side=FACE_SIDE, fps=FPS)
    clips = ClipSet.from_corpus(corpus, modality, PseudonymKey.seeded(1, "table"), loader=loader)
    with tempfile.TemporaryDirectory() as scratch:
        (row,) = evaluate_utility(None, clips, evaluators=[name], seed=1, workers=1, scratch=Path(scratch))
    if row.value is None:
        return row.reason
    return f"{row.value:.3f}" + ("" if row.low is None else f" [{row.low:.2f}, {row.high:.2f}]")


def federated(model: str, requested: argparse.Namespace) -> str:
    """UAR of the model of a simulation, over the folds."""
    modality, other = requested.modality, "face" if requested.modality == "voice" else "voice"
    remember_features(modality, model)
    form = "frames" if modality == "face" else "waveform" if model == "crnn" else "mfcc"
    changes = {
        modality: {"anonymizer": "none", "form": form},
        other: {"enabled": False},
        "sites": requested.sites,
    }
    made = released(requested.corpus, requested.work / f"{form}-{requested.sites}", changes)
    counts, alone = dict[str, Any](), list[Any]()
    for fold in range(requested.folds):
        study = made.context.study.with_changes(
            split__test_fold=fold,
            train__rounds=requested.rounds,
            train__learning_rate=requested.rate,
            train__optimizer=requested.optimizer,
            train__batch_size=requested.batch,
            train__public=requested.public and requested.public.resolve(),
            privacy__dp_sgd=requested.epsilon is not None,
            privacy__epsilon=requested.epsilon,
            **{f"{modality}__model": model},
        )
        run = trained(made, requested.work / "training", study)
        counts |= run.evaluation.counts[modality]
        alone += [start.result.confusion for start in run.training.public_start.values() if start.result]
        print(_summary(made, counts, requested.people), file=sys.stderr, flush=True)
    before = f"; public people alone: {float(confusion.uar(np.sum(alone, axis=0))):.2f}" if alone else ""
    return _summary(made, counts, requested.people) + before


def _summary(made: Run, counts: dict[str, Any], span: str | None) -> str:
    """UAR of everybody who was tested so far, and of a span of them."""
    plan: Any = made.context.plan
    keys = plan.pseudonym_keys()
    numbers = {keys[number].speaker(number): number for number in keys}
    apart = [speaker for speaker in sorted(counts) if span and _is_of(span, numbers[speaker])]
    found = [scored(np.stack([counts[speaker] for speaker in sorted(counts)]))]
    found += [f"{span}: {scored(np.stack([counts[speaker] for speaker in apart]))}"] if apart else []
    return f"{len(counts)} people: {'; '.join(found)}"


if __name__ == "__main__":
    main()
