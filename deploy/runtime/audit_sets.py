"""The attacks, the page and the files of an audit outside of a study: of a folder, or of a site's own release."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.public_people import PublicSets
from moretta.shared.audit.report.page import render_audit
from moretta.shared.audit.report.report_schema import GatePart
from moretta.shared.audit.report.summary import headlines, identity_sentences
from moretta.shared.audit.report.verdict import check_gate
from moretta.shared.audit.result import Result, strongest_of_each
from moretta.shared.audit.run_attacks import keeping
from moretta.shared.audit.runner import audit
from moretta.shared.audit.score_files import SCORES_FILE, collect_scores, load_scores
from moretta.shared.audit.utility.evaluators import evaluate_utility, get_evaluator
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.device import computing_device
from moretta.shared.core.errors import RunError
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import Progress
from moretta.shared.study.sections import GateSection

PAGE_FILE, FIGURES_FILE = "audit.html", "audit.json"
_UNTIL_THE_END = ".attacks"
Sets = dict[Modality, tuple[ClipSet | None, ClipSet]]
"""Originals, if there are any, and what was released, by modality."""


@dataclass
class Audited:
    """Results of an audit."""

    released: tuple[Modality, ...]
    """The modalities that were released, attacked or not."""
    resamples: int
    """Bootstrap resamples of each interval."""
    rows: list[Result] = field(default_factory=list)
    findings: list[Result] = field(default_factory=list)
    """Results of the inference attacks."""
    utility: list[Result] = field(default_factory=list)
    """Results of the utility evaluators."""
    unused: dict[str, dict[str, int]] = field(default_factory=dict)
    """Clips that could not be used, by modality and reason."""
    originals: bool = True
    """Whether there were originals to check attackers on."""
    synthetic: bool = False
    """Whether a program made the clips, as far as their folders say."""

    @property
    def gate(self) -> GatePart:
        """The verdict by the default criteria."""
        return check_gate(GateSection(), headlines(self.rows, None), released=self.released, resamples=self.resamples)

    @property
    def sentences(self) -> list[str]:
        """One sentence in plain words for each modality, on its strongest attacker."""
        return identity_sentences(headlines(self.rows, None), self.rows, without_originals=not self.originals)

    @property
    def headline(self) -> list[dict[str, Any]]:
        """Name of each modality, with its strongest attacks by top-1 and EER; None where there is none."""
        found: dict[str, dict[str, Any]] = {}
        for row in strongest_of_each(self.rows):
            if row.metric in ("top1", "eer"):
                found.setdefault(row.modality, {"modality": row.modality, "top1": None, "eer": None})[row.metric] = row
        return list(found.values())

    def headline_json(self) -> list[dict[str, Any]]:
        """The headline as plain JSON."""
        return [
            {key: value.model_dump(mode="json") if isinstance(value, Result) else value for key, value in part.items()}
            for part in self.headline
        ]


def audit_sets(
    sets: Sets,
    out: Path,
    *,
    released: tuple[Modality, ...],
    name: str,
    synthetic: bool,
    basis: Sequence[Any] = (),
    attackers: Sequence[str] = (),
    seed: int = 0,
    bootstrap: int = 200,
    workers: int | None = None,
    cache_dir: Path | None = None,
    inference: bool = True,
    utility: bool = True,
    evaluators: Sequence[str] = (),
    sentences: Mapping[str, str] | None = None,
    truth: ClipSet | None = None,
    public: PublicSets | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> Audited:
    """Attack these clips; writes `audit.json`, `audit.html`, the scores and the trial lists to the folder `out`.

    After an interruption the same call continues: `out/.attacks` keeps the finished attacks until the end.

    Args:
        released: the modalities that were released, attacked or not.
        name: what is attacked, as a reader knows it.
        basis: all that the sets depend on; with anything else nothing holds that an interrupted call has left.
        seed: of trials and training.
        bootstrap: resamples of each interval.
        cache_dir: where embeddings of untrained encoders are kept; None keeps them for this audit only.
        evaluators: utility evaluators that run only where they are named, beside the others.
        sentences: texts by code, where they are neither CREMA-D's nor RAVDESS's.
        truth: the released clips as they should sound, under their pseudonyms, where that is known.
        public: voices of public people before and after the same anonymizer, for attackers that learn from them first.
        command: to reproduce the audit, for the page.

    Raises:
        AttackersError: an unknown evaluator, before anything is attacked.
        RunError: none of the attackers named works on these clips.
    """
    for named in evaluators:
        get_evaluator(named)
    originals = all(original is not None for original, _ in sets.values())
    done = Audited(released, bootstrap, originals=originals, synthetic=synthetic)
    how: dict[str, Any] = {"seed": seed, "workers": workers, "progress": progress}
    attack: dict[str, Any] = {"bootstrap": bootstrap, "cache_dir": cache_dir, **how}
    depends: list[Any] = [seed, bootstrap, sorted(attackers), inference, utility, sorted(evaluators), sentences]
    depends += [computing_device().type, *basis]
    with keeping(out / _UNTIL_THE_END, json.dumps(depends)) as kept:
        for modality, (original, clips) in sets.items():
            result = audit(original, clips, attackers=attackers, scores_dir=kept / "scores", public=public, **attack)
            done.rows += result.results
            done.unused[modality] = result.unused
            sets[modality] = original, clips.without(result.outlying)
            result.plan.save(out / f"trials-{modality}.json")
        if not done.rows:
            raise RunError(
                "no attacker of the ones named works on what is there", expected=f"one for {', '.join(sets)}"
            )
        collect_scores(kept / "scores", out / SCORES_FILE, {row.attacker for row in done.rows})
        if inference:
            from moretta.shared.audit.inference.attack_all import attack_all

            done.findings = attack_all(sets, **attack)
        with tempfile.TemporaryDirectory(prefix="moretta-utility-") as scratch:
            for original, clips in sets.values() if utility else ():
                done.utility += evaluate_utility(
                    original,
                    clips,
                    more=evaluators,
                    sentences=sentences,
                    truth=truth,
                    scratch=Path(scratch),
                    **how,
                )
    page = render_audit(
        done.rows,
        done.findings,
        done.utility,
        gate=done.gate,
        scores=load_scores(out),
        synthetic=done.synthetic,
        name=name,
        seed=seed,
        command=command,
        originals=done.originals,
        unused=[(f"{m} {why}", n) for m, reasons in done.unused.items() for why, n in sorted(reasons.items())],
    )
    write_atomic(out / PAGE_FILE, page)
    content = {
        "verdict": done.gate.model_dump(mode="json"),
        "synthetic": done.synthetic,
        "seed": seed,
        "originals": done.originals,
        "device": computing_device().type,
        "unused": done.unused,
        "headline": done.headline_json(),
        "audit": [row.model_dump(mode="json") for row in done.rows],
        "inference": [finding.model_dump(mode="json") for finding in done.findings],
        "utility": [row.model_dump(mode="json") for row in done.utility],
    }
    write_atomic(out / FIGURES_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return done
