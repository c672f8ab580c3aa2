"""Gain of attackers from public people: `attacker_table.py CORPUS PUBLIC [--only LINES] [--attackers NAMES]`.

Every line is a release of CORPUS by one anonymizer at its defaults, attacked semi-informed from single clips. The first
figures of a line are of attackers that know nobody else; the last ones of those that learned from PUBLIC first, after
the same anonymizer. The line `sound` is CAM++ on the recordings
themselves, as it is and with a head that learned from the enrolment clips. All rows are of the same trials: a clip
against the mean, or the direction, of each person's enrolment clips.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from moretta.shared.audit import scoring
from moretta.shared.audit.attackers.open_set import choose_shrinkage, embeddings_of, whitening
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.verification import eer
from moretta.shared.audit.protocol import make_plan
from moretta.shared.audit.public_people import PublicSets, public_sets
from moretta.shared.audit.result import Result
from moretta.shared.audit.runner import audit
from moretta.shared.pretrained import cache_folder
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study, parse_study

LINES: dict[str, dict[str, Any]] = {
    "sound": {"anonymizer": "none", "form": "waveform"},
    "none": {"anonymizer": "none", "form": "mfcc"},
    "none, 40 MFCC": {"anonymizer": "none", "form": "mfcc", "options": {"coefficients": 40}},
    "mfcc-quantizer": {"anonymizer": "mfcc-quantizer", "form": "mfcc"},
    "speaker-normalized": {"anonymizer": "speaker-normalized"},
    "public-voice": {"anonymizer": "public-voice"},
}
ATTACKERS = ("voice-gmm", "voice-svm", "voice-logistic", "voice-given-emotion", "voice-likeness", "voice-tdnn")
FROM_PUBLIC = ("voice-ecapa",)


def study_of(line: str, people: Path) -> Study:
    """A study of one line, whose public people are those of a folder."""
    return parse_study({"face": {"enabled": False}, "voice": LINES[line], "audit": {"public": people}})


def main() -> None:
    """Release, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("public", type=Path)
    parser.add_argument("--only", nargs="*", default=list(LINES), choices=list(LINES))
    parser.add_argument("--attackers", nargs="*", default=list(ATTACKERS), help="that know nobody else")
    options = parser.parse_args()
    print("| released | attacker | public people | top-1 | EER | seconds of processor |\n|---|---|---|---|---|---|")
    for line in options.only:
        study = study_of(line, options.corpus)
        arrays = prepare_public(study)
        attacked = public_sets(study, arrays)["released"]  # the corpus goes through the anonymizer as public people do
        if line == "sound":
            show_sound(attacked)
            continue
        show(line, attacked, (*options.attackers, *FROM_PUBLIC), {})
        show(line, attacked, FROM_PUBLIC, public_sets(study_of(line, options.public), arrays))


def show(line: str, attacked: ClipSet, attackers: tuple[str, ...], public: PublicSets) -> None:
    """Print a row for each attacker."""
    for name in attackers:
        start = time.process_time()
        rows = audit(
            None, attacked, attackers=[name], seed=1, workers=1, cache_dir=cache_folder(), public=public
        ).results
        seconds = time.process_time() - start
        figures = [figure(rows, metric) for metric in ("top1", "eer")]
        known = len(public["released"].speakers) if public else "-"
        print(f"| {line} | {name} | {known} | {' | '.join(figures)} | {seconds:.0f} |", flush=True)


def show_sound(clips: ClipSet) -> None:
    """Print the rows of CAM++."""
    plan, place = make_plan(clips.clips, seed=1), {clip.clip: row for row, clip in enumerate(clips.clips)}
    sides = [np.array([place[name] for name in side]) for side in (plan.enrol, plan.trial)]
    known, tried = (embeddings_of("campplus", clips.subset(side)) for side in sides)
    whose, own = (clips.labels[side] for side in sides)
    head = whitening(known, whose, choose_shrinkage(known, whose, seed=1))
    for name, enrolled, shown in (("campplus", known, tried), ("campplus+head", head(known), head(tried))):
        ranking = scoring.ranking_by_centroids(enrolled, whose, shown, own)
        claims = scoring.claims(ranking, seed=1)
        assert claims is not None
        top1 = (ranking.scores.argmax(1) == ranking.truth).mean()
        print(f"| sound | {name} | by others | {top1:.3f} | {eer(claims):.3f} | - |", flush=True)


def figure(rows: list[Result], metric: str) -> str:
    """Value and interval, of single clips of all people."""
    row = next(
        r
        for r in rows
        if (r.metric, r.subset, r.pooled) == (metric, "all", 1) and r.scenario in ("semi-informed", "lazy-informed")
    )
    if row.value is None or row.invalid:
        return "invalid"
    return f"{row.value:.3f} [{row.low:.2f}, {row.high:.2f}]"


if __name__ == "__main__":
    main()
