"""The files of a choice: the table, the audit that is its proof, and the section of the study file."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

from moretta.deploy.choose.rule import Candidate, Choice
from moretta.deploy.sweep.jobs import SweepPlan
from moretta.deploy.sweep.sweep_results import CellAudit
from moretta.shared.audit.report.page import AuditPageInfo, render_audit
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.printable import to_toml
from moretta.shared.core.reproducibility import versions

CHOICE_JSON, CHOICE_CSV, STUDY_FILE = "choice.json", "choice.csv", "study.toml"
AUDIT_JSON, AUDIT_PAGE = "audit.json", "audit.html"
CAUTION = (
    "Chosen by its figures on these people, out of several: on other people it may be worse. "
    "Audit a release of people who had no part in the choice."
)


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
