"""How far a study is, from the files in its folder; neither server nor sites are called."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moretta.server.stages.lifecycle import OUTCOME_FILE, newest_attempt, working_pid
from moretta.server.stages.run import PROGRESS_FILE, Run, RunContext, SiteFacts, SiteSpending
from moretta.server.stages.state import STATE_FILE, load_progress
from moretta.shared.core.errors import ExitCode
from moretta.shared.study.run_plan import load_plan


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One site's part so far."""

    name: str
    clips: int = 0
    rounds: int = 0
    missed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """How a study is."""

    state: str
    """`finished`, `failed`, `at work`, `in central stages` or `stopped`."""
    stage: str
    """The stage that was begun last."""
    done: tuple[str, ...]
    round: int | None
    """The last whole round of the model in training."""
    rounds: int
    attempts: int
    exit_code: int | None
    cause: str
    sites: tuple[SiteStatus, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.state}{f': {self.cause}' if self.cause else ''}"]
        if self.stage:
            lines.append(f"stage {self.stage}")
        if self.round is not None:
            lines.append(f"round {self.round} of {self.rounds}")
        if self.attempts > 1:
            lines.append(f"submitted {self.attempts} times")
        for site in self.sites:
            missed = f"; missed {', '.join(site.missed)}" if site.missed else ""
            lines.append(f"  {site.name}: {site.clips} clips, {site.rounds} rounds{missed}")
        return lines


def study_status(folder: Path) -> StudyStatus:
    """How the study in a folder is; StudyError where no run is, ReleaseError where its state cannot be read."""
    run = load_progress(folder) or Run(RunContext(folder, load_plan(folder)))
    outcome: dict[str, Any] = json.loads(_text(folder / OUTCOME_FILE) or "{}")
    events = [json.loads(line) for line in _text(folder / PROGRESS_FILE).splitlines()]
    code = outcome.get("exit_code")
    if code is not None:
        state = "finished" if code in (ExitCode.OK, ExitCode.GATE) else "failed"
    elif (folder / STATE_FILE).exists():
        state = "in central stages"
    else:
        state = "at work" if working_pid(folder) else "stopped"
    begun = (str(event["stage"]) for event in reversed(events) if event["state"] == "started")
    return StudyStatus(
        state=state,
        stage=str(outcome.get("stage") or next(begun, "")),
        done=tuple(run.context.progress.done),
        round=max(run.context.progress.last_round.values(), default=None),
        rounds=run.context.study.train.rounds,
        attempts=newest_attempt(folder),
        exit_code=code,
        cause=str(outcome.get("cause", "")),
        sites=tuple(
            SiteStatus(
                site.name,
                run.releases.facts.get(site.name, SiteFacts()).clips,
                run.training.spent.get(site.name, SiteSpending()).rounds,
                run.context.progress.missed_as_text(site.name),
            )
            for site in run.context.plan.sites
        ),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
