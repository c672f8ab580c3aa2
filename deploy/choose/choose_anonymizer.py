"""A whole choice: releases and audits that are not there yet, the rule, and the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moretta.deploy.choose.choice_files import write_choice
from moretta.deploy.choose.choice_plan import of_modality
from moretta.deploy.choose.evidence import weigh
from moretta.deploy.choose.rule import Choice, choose
from moretta.deploy.runtime.run_folder import Notify
from moretta.deploy.sweep.jobs import PlannedCell, SweepPlan
from moretta.deploy.sweep.run_sweep import at_work, do_missing
from moretta.deploy.sweep.sweep_results import CellAudit, ResultFolder
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.terms import Modality


@dataclass(frozen=True)
class Chosen:
    """What a choice came to."""

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
        tell: told of every finished job.

    Raises:
        StudyError: the folder holds something else.
        RunError: another process works in the folder.
        Interrupted: Ctrl-C or SIGTERM; what was finished is kept, and no process is left.
    """
    with at_work(out):
        worked = do_missing(plan, out, jobs=jobs, notify=notify)
        shelf = ResultFolder(out)
        audits = {planned.cell.label: _audit(planned, shelf) for planned in plan.cells}
        candidates = [
            weigh(
                planned.cell.label,
                planned.study,
                audits[planned.cell.label],
                modality=modality,
                emotions=len({clip.label for clip in of_modality(planned.corpus, modality)}),
                why=_why(planned, worked.failures),
            )
            for planned in plan.cells
        ]
        choice = choose(candidates, max_top1)
        proof = audits[choice.shown.name] if choice.shown else None
        write_choice(out, choice, proof, plan, command=command)
    return Chosen(out, choice, worked.done, worked.reused, plan.failures_by_label(worked.failures))


def _audit(planned: PlannedCell, shelf: ResultFolder) -> CellAudit | None:
    return shelf.get(planned.audit, CellAudit) if planned.audit else None


def _why(planned: PlannedCell, failures: dict[str, str]) -> str:
    jobs = [planned.release, *([planned.audit] if planned.audit else [])]
    return "; ".join(dict.fromkeys(failures[job.key] for job in jobs if job.key in failures))
