"""Follows a run by the files in its folder: reports its progress, and keeps the peak memory of its processes.

The stages that need no site (central check, audit, report) run in a process of their own, which starts here.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from moretta.deploy.runtime.environment import child_environment
from moretta.deploy.runtime.processes import ManagedProcess, end_marked, memory_bytes, new_mark
from moretta.deploy.runtime.run_folder import Notify
from moretta.server.stages.lifecycle import OUTCOME_FILE
from moretta.server.stages.run import MEMORY_FILE, PROGRESS_FILE
from moretta.server.stages.state import STATE_FILE
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import printable

_WATCH_SECONDS = 0.25
_MEMORY_SECONDS = 2.0
_SILENT_SECONDS = 30.0


class ProgressMonitor:
    """Follows one run."""

    def __init__(self, folder: Path, notify: Notify) -> None:
        self.peak = 0
        self.folder, self.notify = folder, notify
        self._seen, self._next_measurement = 0, 0.0
        self._stage, self._began, self._spoke = "", time.monotonic(), time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether the outcome is there."""
        return (self.folder / OUTCOME_FILE).exists()

    @property
    def sites_finished(self) -> bool:
        """Whether only the stages that need no site are left."""
        return self.ended or (self.folder / STATE_FILE).exists()

    def finish(self) -> None:
        """Run the stages that need no site, unless the run has ended, and wait for them.

        Raises:
            RunError: their process ended without an outcome.
        """
        if self.ended:
            return
        mark = new_mark()
        command = [sys.executable, "-m", "moretta.server.app", str(self.folder)]
        log = self.folder / "server" / "central.log"
        try:
            central = ManagedProcess("central stages", command, environment=child_environment(mark), log=log).start()
            while central.alive():
                self.look(mark)
            self.look(mark)
        finally:
            end_marked(mark)
        if not self.ended:
            raise RunError(
                f"the process of the audit ended with code {central.exit_code}",
                expected="an outcome",
                fix=f"see {log}; with little memory, free some",
            )

    def look(self, mark: str | None, *pids: int) -> bool:
        """Report what is new, wait a moment; true now and then, when memory was measured too.

        Args:
            mark: of the run's processes, if they carry one.
            pids: of more of them.
        """
        self._report_events()
        self._report_silence()
        time.sleep(_WATCH_SECONDS)
        if time.monotonic() < self._next_measurement:
            return False
        self._next_measurement = time.monotonic() + _MEMORY_SECONDS
        self.peak = max(self.peak, memory_bytes(mark, *pids))
        write_atomic(self.folder / MEMORY_FILE, str(self.peak))
        return True

    def _report_events(self) -> None:
        path = self.folder / PROGRESS_FILE
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._seen)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            event = json.loads(line)
            if event["state"] in ("started", "finished"):
                self._stage, self._began = (event["stage"] if event["state"] == "started" else ""), time.monotonic()
            self._spoke = time.monotonic()
            self.notify(as_text(event))
        self._seen += len(whole)

    def _report_silence(self) -> None:
        """A long stage that reports nothing is alive all the same."""
        now = time.monotonic()
        if now - self._spoke >= _SILENT_SECONDS:
            self._spoke = now
            self.notify(f"{self._stage or 'the run'}: at work for {now - self._began:.0f} s")


def as_text(event: dict[str, Any]) -> str:
    """One event of the progress file as one line. Text of sites may stand in it, and begins no line of its own."""
    match event["state"]:
        case "started":
            text = f"{event['stage']} ..."
        case "finished":
            text = f"{event['stage']}: done in {event['seconds']:.1f} s"
        case "resumed":
            text = f"{event['stage']} goes on after {event['after']}"
        case "note":
            text = str(event["what"])
        case _:
            what = f" ({event['what']})" if "what" in event else ""
            text = f"{event['stage']}: {event['done']}/{event['total']}{what}"
    return printable(text)
