"""A whole choice: releases and audits that are not there yet, the rule, and the files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moretta.deploy.choose.candidates import Candidate, Choice, choose, of_modality, weigh
from moretta.deploy.runtime.run_folder import Notify
from moretta.deploy.sweep.jobs import SweepPlan
from moretta.deploy.sweep.run_sweep import at_work, do_missing
from moretta.deploy.sweep.sweep_results import CellAudit, ResultFolder
from moretta.shared.audit.report.page import AuditPageInfo, render_audit
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.printable import to_toml
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.terms import Modality

CHOICE_JSON, CHOICE_CSV, STUDY_FILE = "choice.json", "choice.csv", "study.toml"
AUDIT_JSON, AUDIT_PAGE = "audit.json", "audit.html"
CAUTION = (
    "Chosen by its figures on these people, out of several: on other people it may be worse. "
    "Audit a release of other people, too."
)


@dataclass(frozen=True)
class Chosen:
    """What was chosen, and what it took."""

    folder: Path
    choice: Choice
    done: int
    reused: int
    failures: dict[str, str]
    """By what failed: why."""

    @property
    def code(self) -> ExitCode:
        """Where none keeps the cap among those that could be tried, another that failed might have."""
        if self.choice.chosen is not None:
            return ExitCode.OK
        return ExitCode.RUN_FAILED if self.failures else ExitCode.GATE


def choose_anonymizer(
    plan: SweepPlan, out: Path, *, modality: Modality, max_top1: float, jobs: int | None, command: str, notify: Notify
) -> Chosen:
    """Do what is not done yet, choose, and write everything into `out`.

    Args:
        plan: of `plan_choice`.
        out: a new or empty folder, or that of an earlier choice, whose results are used again where they still hold.
        modality: to choose for.
        max_top1: the cap.
        jobs: processes; None takes one for each CPU.
        command: how to do it again, for the page.
        notify: called with a line of text for every finished job.

    Raises:
        StudyError: the folder holds something else.
        RunError: another process works in the folder.
        Interrupted: Ctrl-C or SIGTERM; what was finished is kept, and no process is left.
    """
    with at_work(out):
        worked = do_missing(plan, out, jobs=jobs, notify=notify)
        results = ResultFolder(out)
        candidates: list[Candidate] = []
        audits: dict[str, CellAudit | None] = {}
        for cell in plan.cells:
            name = cell.cell.label
            audits[name] = results.get(cell.audit, CellAudit) if cell.audit else None
            emotions = len({clip.label for clip in of_modality(cell.corpus, modality)})
            why = "; ".join(dict.fromkeys(worked.failures[j.key] for j in cell.jobs if j.key in worked.failures))
            candidates.append(weigh(name, cell.study, audits[name], modality=modality, emotions=emotions, why=why))
        choice = choose(candidates, max_top1)
        proof = audits[choice.shown.name] if choice.shown else None
        write_choice(out, choice, proof, plan, command=command)
    return Chosen(out, choice, worked.done, worked.reused, plan.failures_by_label(worked.failures))


def write_choice(out: Path, choice: Choice, proof: CellAudit | None, plan: SweepPlan, *, command: str) -> None:
    """Write all files, each whole or not at all; what an earlier choice left and no longer holds is removed.

    Args:
        out: the folder.
        choice: what was chosen.
        proof: the audit of the one that is shown.
        plan: what was tried.
        command: how to do it again.
    """
    for stale in (STUDY_FILE, AUDIT_JSON, AUDIT_PAGE):
        (out / stale).unlink(missing_ok=True)
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    if choice.shown is not None and proof is not None:
        _write_proof(out, choice.shown, proof, plan, command=command, finished=finished)
    if choice.chosen is not None:
        write_atomic(out / STUDY_FILE, study_text(choice.chosen))
    content = {
        **choice.model_dump(mode="json"),
        "caution": CAUTION,
        "corpus": plan.cells[0].corpus.name,
        "synthetic": plan.cells[0].corpus.synthetic,
        "seed": plan.cells[0].study.seed,
        "warnings": plan.warnings,
        "command": command,
        "versions": versions(),
        "finished": finished,
    }
    write_atomic(out / CHOICE_CSV, as_csv(choice))
    write_atomic(out / CHOICE_JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")


def study_text(chosen: Candidate) -> str:
    """The section that makes a study release by the chosen anonymizer, with what it was chosen by."""
    reached = f"emotion UAR {chosen.uar:.3f}, top-1 at most {chosen.top1_upper:.3f} by {chosen.attackers} attackers"
    return f"# {chosen.name}: {reached}.\n# {CAUTION}\n{to_toml({chosen.modality: chosen.section})}"


def as_csv(choice: Choice) -> str:
    """One line for each candidate, in the order in which they were tried."""
    fields = [name for name in Candidate.model_fields if name != "section"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["chosen", *fields])
    for candidate in choice.candidates:
        content = candidate.model_dump(mode="json")
        chosen = "true" if candidate == choice.chosen else "false"
        writer.writerow([chosen, *("" if content[name] is None else content[name] for name in fields)])
    return buffer.getvalue()


def _write_proof(
    out: Path, shown: Candidate, proof: CellAudit, plan: SweepPlan, *, command: str, finished: str
) -> None:
    corpus, seed = plan.cells[0].corpus, plan.cells[0].study.seed
    facts = AuditPageInfo(
        name=f"{shown.name}, {corpus.name}{' (synthetic people)' if corpus.synthetic else ''}",
        seed=seed,
        originals=True,
        command=command,
        version=versions()["moretta"],
        finished=finished,
    )
    content = {
        "candidate": shown.name,
        "seed": seed,
        "audit": [row.model_dump(mode="json") for row in proof.rows],
        "utility": [row.model_dump(mode="json") for row in proof.utility],
    }
    write_atomic(out / AUDIT_PAGE, render_audit(facts, proof.rows, (), proof.utility))
    write_atomic(out / AUDIT_JSON, json.dumps(content, indent=1, allow_nan=False) + "\n")
