"""How far a study is, from the files in its folder and the server's registry; neither server nor sites are called."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moretta.server.enrollment.site_registry import SiteRegistry
from moretta.server.grid.site_grid import Traffic
from moretta.server.home import ServerHome
from moretta.server.stages.lifecycle import OUTCOME_FILE, newest_attempt, working_pid
from moretta.server.stages.run import PROGRESS_FILE, Run, RunContext, SiteFacts, SiteSpending, progress_events
from moretta.server.stages.state import STATE_FILE, load_progress
from moretta.shared.audit.report.wording import format_seconds
from moretta.shared.core.errors import ExitCode, HomeError
from moretta.shared.study.run_plan import DeploymentPlan, load_plan

_PACE_ROUNDS = 3
_SHOWN = 20
"""Problems that are listed; the report has all of them."""


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One site's part so far."""

    name: str
    clips: int = 0
    rounds: int = 0
    missed: tuple[str, ...] = ()
    epsilon: float | None = None
    """Epsilon that its training has spent so far, for the study's unit; None without DP-SGD, or before training."""
    seconds: float = 0.0
    """Seconds from each message to it until its reply was there, all together."""
    bytes_sent: int = 0
    """Bytes sent to it."""
    bytes_received: int = 0
    """Bytes received from it."""
    last_call: int | None = None
    """When an enrolled site last called the server, in seconds since 1970; None in a simulation, or before any call."""


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
    name: str = ""
    seconds: float = 0.0
    """Seconds since the study was begun; of a study that is over, until its end."""
    seconds_left: float | None = None
    """Time until the end of this model's rounds, at the pace of the last ones; None outside training."""
    epsilon_budget: float | None = None
    """Epsilon that training may spend, for one unit; None without DP-SGD."""
    synthetic: bool = False
    problems: tuple[str, ...] = ()
    """Warnings of the report so far, and notes about sites that were lost and came back; the newest last."""

    @property
    def over(self) -> bool:
        """Nothing more will happen to it, unless it is resumed."""
        return self.state in {"finished", "failed", "stopped"}

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, for scripts."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The record as lines of text, for people."""
        lines = [f"{self.state}{f': {self.cause}' if self.cause else ''}"]
        if self.stage:
            lines.append(f"stage {self.stage}")
        if self.round is not None:
            left = "" if self.seconds_left is None else f", about {format_seconds(self.seconds_left)} left"
            lines.append(f"round {self.round} of {self.rounds}{left}")
        if self.attempts > 1:
            lines.append(f"submitted {self.attempts} times")
        for site in self.sites:
            missed = f"; missed {', '.join(site.missed)}" if site.missed else ""
            spent = "" if site.epsilon is None else f", epsilon {site.epsilon:.2f}"
            if spent and self.epsilon_budget is not None:
                spent += f" of {self.epsilon_budget:g}"
            lines.append(f"  {site.name}: {site.clips} clips, {site.rounds} rounds{spent}{missed}")
        return lines


def study_status(folder: Path) -> StudyStatus:
    """How the study in a folder is; StudyError where no run is, ReleaseError where its state cannot be read."""
    run = load_progress(folder) or Run(RunContext(folder, load_plan(folder)))
    outcome: dict[str, Any] = json.loads(_text(folder / OUTCOME_FILE) or "{}")
    events = list(progress_events(_text(folder / PROGRESS_FILE)))
    code = outcome.get("exit_code")
    if code is not None:
        state = "finished" if code in (ExitCode.OK, ExitCode.GATE) else "failed"
    elif (folder / STATE_FILE).exists():
        state = "in central stages"
    else:
        state = "at work" if working_pid(folder) else "stopped"
    begun = (str(event["stage"]) for event in reversed(events) if event["state"] == "started")
    budget = run.context.study.privacy
    return StudyStatus(
        name=run.context.study.name,
        seconds=_seconds(run.context.progress.started, folder, over=code is not None),
        seconds_left=_left(run) if state == "at work" else None,
        epsilon_budget=budget.epsilon if budget.dp_sgd else None,
        synthetic=run.context.plan.synthetic,
        problems=(*run.context.progress.warnings, *(str(e["what"]) for e in events if e["state"] == "note"))[-_SHOWN:],
        state=state,
        stage=str(outcome.get("stage") or next(begun, "")),
        done=tuple(run.context.progress.done),
        round=max(run.context.progress.last_round.values(), default=None),
        rounds=run.context.study.train.rounds,
        attempts=newest_attempt(folder),
        exit_code=code,
        cause=str(outcome.get("cause", "")),
        sites=_sites(run),
    )


def changes(folder: Path, *, seconds: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[StudyStatus]:
    """The study's state now, and again at each change, until it is over. Time alone is no change."""
    before: dict[str, object] | None = None
    while True:
        found = study_status(folder)
        facts = {name: value for name, value in asdict(found).items() if name not in {"seconds", "seconds_left"}}
        facts["sites"] = [{k: v for k, v in asdict(site).items() if k != "last_call"} for site in found.sites]
        if facts != before:
            yield found
        if found.over:
            return
        before = facts
        sleep(seconds)


def _sites(run: Run) -> tuple[SiteStatus, ...]:
    calls, found = _last_calls(run), list[SiteStatus]()
    for site in (planned.name for planned in run.context.plan.sites):
        spent = run.training.spent.get(site, SiteSpending())
        traffic = run.context.progress.traffic.get(site, Traffic())
        found.append(
            SiteStatus(
                site,
                run.releases.facts.get(site, SiteFacts()).clips,
                spent.rounds,
                run.context.progress.missed_as_text(site),
                spent.epsilon[max(spent.epsilon)] if spent.epsilon else None,
                round(traffic.seconds, 2),
                traffic.sent,
                traffic.received,
                calls.get(site),
            )
        )
    return tuple(found)


def _last_calls(run: Run) -> Mapping[str, int]:
    """When each enrolled site last called; empty where the server's registry is not at hand."""
    if not isinstance(run.context.plan, DeploymentPlan):
        return {}
    with suppress(HomeError):
        home = ServerHome.open(run.context.plan.server_home)
        registry = SiteRegistry.open(home.registry)
        try:
            return {record.name: record.last_call for record in registry.sites() if record.last_call}
        finally:
            registry.close()
    return {}


def _left(run: Run) -> float | None:
    """Seconds that the rounds of the model in training will take, at the pace of the last ones."""
    rounds = run.training.rounds
    same = [row for row in rounds if row.stage == rounds[-1].stage and row.seconds is not None]
    if not same or f"{same[-1].stage}" in run.context.progress.done:
        return None
    pace = [row.seconds or 0.0 for row in same[-_PACE_ROUNDS:]]
    return math.fsum(pace) / len(pace) * (run.context.study.train.rounds - same[-1].round)


def _seconds(started: float, folder: Path, *, over: bool) -> float:
    end = (folder / OUTCOME_FILE).stat().st_mtime if over else time.time()
    return round(max(0.0, end - started), 1)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
