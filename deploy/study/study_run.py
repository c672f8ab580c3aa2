"""`moretta study run`: submit the server's part to a running server, follow it, submit it again when it dies."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moretta.deploy.cli.progress_monitor import Watch
from moretta.deploy.cli.runs import Notify, Outcome, conclude, interruptible
from moretta.deploy.runtime.central_process import central_process
from moretta.deploy.runtime.control import Control, ControlError, RunStatus
from moretta.server.home import ServerHome, running_server
from moretta.server.stages.lifecycle import OUTCOME_FILE, announce_attempt, newest_attempt, working_pid, write_outcome
from moretta.server.stages.state import RESUME_FILE
from moretta.shared.core.errors import ExitCode, HomeError
from moretta.shared.study.run_plan import DeploymentPlan

FRUITLESS_ATTEMPTS = 3
"""So many in a row that came no further end the study."""
_LAUNCH_SECONDS = 120.0
"""From submission until a process works on the run."""
_ASK_SECONDS = 2.0
_DEAD_SECONDS = 5.0
"""A run without a process for so long is dead. Flower itself notices after a minute."""
_T = TypeVar("_T")


class _ServerGoneError(Exception):
    """No server for too long."""


def connect(home: ServerHome) -> Control:
    """The SuperLink of the server that runs on a folder.

    Raises:
        HomeError: none does.
    """
    server = running_server(home)
    return Control(server.superlink, Path(server.superlink_ca).read_bytes())


@dataclass
class StudyRun:
    """One study on its way over one server.

    Args:
        plan: who takes part.
        folder: of the run; absolute.
        tell: is told of progress, in lines.
        control: connects to the server's SuperLink, wherever that is at the moment.
        clock: in seconds.
    """

    plan: DeploymentPlan
    folder: Path
    notify: Notify
    control: Callable[[], Control]
    clock: Callable[[], float] = time.monotonic

    def run(self) -> Outcome:
        """Run the study to its end.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the run can go on with `--resume`.
            RunError: the desk's part ended without an outcome.
        """
        self.plan.save(self.folder)
        start = self.clock()
        monitor = Watch(self.folder, self.notify)
        with interruptible(fix=f"go on with: moretta study run ... --out {self.folder} --resume"):
            self._sites_part(monitor)
            if not monitor.ended:
                with central_process(self.folder) as central:
                    monitor.until_central_stages_finish(central)
        return conclude(self.folder, seconds=self.clock() - start, peak=monitor.peak)

    def _sites_part(self, monitor: Watch) -> None:
        """Submit and follow, again and again, until the sites' part is over or comes no further."""
        fruitless = 0
        while not monitor.sites_finished:
            before = self._progress()
            try:
                why = self._attempt(monitor)
            except _ServerGoneError as error:
                write_outcome(self.folder, code=ExitCode.RUN_FAILED, stage="", cause=str(error))
                return
            if why is None:
                return
            fruitless = 0 if self._progress() != before else fruitless + 1
            if fruitless >= FRUITLESS_ATTEMPTS:
                cause = f"{fruitless} attempts in a row came no further; the last one: {why}"
                write_outcome(self.folder, code=ExitCode.RUN_FAILED, stage="", cause=cause)
                return
            self.notify(f"The server's part ended without an outcome ({why}); it is submitted again")

    def _attempt(self, monitor: Watch) -> str | None:
        """One submission; returns why it died, None if the sites' part is over."""
        number = newest_attempt(self.folder) + 1
        announce_attempt(self.folder, number)
        try:
            run_id = self._reached(monitor, lambda control: self._submit(control, number))
            try:
                return self._follow(monitor, run_id)
            except BaseException:
                self._stop(run_id)
                raise
        except BaseException:
            announce_attempt(self.folder, number + 1)  # whoever still works on the run ends itself
            raise

    def _submit(self, control: Control, number: int) -> int:
        return control.submit({"run-dir": str(self.folder), "desk": "later", "attempt": number})

    def _follow(self, monitor: Watch, run_id: int) -> str | None:
        launched, ask = self.clock(), 0.0
        alive: float | None = None
        while not monitor.sites_finished:
            pids = _pids(self.folder)
            monitor.look(None, *pids)
            if pids:
                alive = self.clock()
            if self.clock() < ask:
                continue
            ask = self.clock() + _ASK_SECONDS
            status = self._reached(monitor, lambda control: _status(control, run_id))
            if status.state == "finished":
                return None if self._settled(monitor) else _died(status)
            if alive is not None and self.clock() - alive > _DEAD_SECONDS:
                self._stop(run_id)
                return None if self._settled(monitor) else "its process died"
            if alive is None and self.clock() - launched > _LAUNCH_SECONDS:
                self._stop(run_id)
                return f"no process took up the run within {_LAUNCH_SECONDS:.0f} s"
        return None

    def _reached(self, monitor: Watch, ask: Callable[[Control], _T]) -> _T:
        """Ask the server, and wait for it where it is not there, but not for ever."""
        end = self.clock() + self.plan.study.stages.wait_seconds
        notified = False
        while True:
            try:
                return ask(self.control())
            except (ControlError, HomeError) as error:
                if not notified:
                    self.notify(f"The server is not there ({error.found}); waiting for it")
                    notified = True
                if self.clock() > end:
                    seconds = self.plan.study.stages.wait_seconds
                    raise _ServerGoneError(f"no server for {seconds:.0f} s: {error.found}") from error
                monitor.look(None, *_pids(self.folder))
                time.sleep(0.5)

    def _settled(self, monitor: Watch) -> bool:
        """Whether the files of a run that Flower calls finished come to say so too, a moment later."""
        end = self.clock() + 2.0
        while not monitor.sites_finished and self.clock() < end:
            monitor.look(None)
        return monitor.sites_finished

    def _stop(self, run_id: int) -> None:
        try:
            self.control().stop(run_id)
        except (ControlError, HomeError):
            return

    def _progress(self) -> bytes:
        """What changes with every stage and round."""
        path = self.folder / RESUME_FILE
        return path.read_bytes() if path.exists() else b""


def reopen(folder: Path) -> bool:
    """Make a run's folder ready to go on; false if it has ended well and nothing is left to do."""
    path = folder / OUTCOME_FILE
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8"))["exit_code"] in (ExitCode.OK, ExitCode.GATE):
            return False
        path.unlink()
    return True


def _status(control: Control, run_id: int) -> RunStatus:
    return control.status(run_id) or RunStatus(
        "finished", "failed", "Flower's SuperLink does not know the run any more"
    )


def _died(status: RunStatus) -> str:
    return f"{status.result}: {' '.join(status.details.split())[:300] or 'no details'}"


def _pids(folder: Path) -> tuple[int, ...]:
    pid = working_pid(folder)
    return () if pid is None else (pid,)
