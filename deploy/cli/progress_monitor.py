"""Passes on a run's progress and keeps the peak memory of its processes, while others work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from moretta.deploy.cli.runs import Notify
from moretta.deploy.runtime import process_marks
from moretta.deploy.runtime.central_process import CentralProcess
from moretta.server.stages.context import MEMORY_FILE, PROGRESS_FILE
from moretta.server.stages.lifecycle import OUTCOME_FILE
from moretta.server.stages.state import STATE_FILE
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import printable

_WATCH_SECONDS = 0.25
_MEMORY_SECONDS = 2.0
_SILENT_SECONDS = 30.0


class Watch:
    """Follows one run by the files in its folder."""

    def __init__(self, folder: Path, notify: Notify) -> None:
        self.peak = 0
        self.folder, self.notify = folder, notify
        self._seen, self._next_look = 0, 0.0
        self._stage, self._began, self._spoke = "", time.monotonic(), time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether the outcome is there."""
        return (self.folder / OUTCOME_FILE).exists()

    @property
    def sites_finished(self) -> bool:
        """Whether nothing is left but the desk's part."""
        return self.ended or (self.folder / STATE_FILE).exists()

    def until_central_stages_finish(self, central: CentralProcess) -> None:
        """Wait for the server's own part.

        Raises:
            RunError: it ended without an outcome.
        """
        while central.process.poll() is None:
            self.look(central.mark)
        self.look(central.mark)
        if not self.ended:
            raise RunError(
                f"the process of the audit ended with code {central.process.returncode}",
                expected="an outcome",
                fix=f"see {central.log}; with little memory, free some",
            )

    def look(self, mark: str | None, *pids: int) -> bool:
        """Pass on what is new, wait a moment; true now and then, when memory was measured too.

        Args:
            mark: of the run's processes, if they carry one.
            pids: of more of them.
        """
        self._pass_on()
        self._break_silence()
        time.sleep(_WATCH_SECONDS)
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _MEMORY_SECONDS
        self.peak = max(self.peak, process_marks.memory_bytes(mark, *pids))
        write_atomic(self.folder / MEMORY_FILE, str(self.peak))
        return True

    def _pass_on(self) -> None:
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

    def _break_silence(self) -> None:
        """A stage that tells nothing for long is alive all the same."""
        now = time.monotonic()
        if now - self._spoke >= _SILENT_SECONDS:
            self._spoke = now
            self.notify(f"{self._stage or 'the run'}: at work for {now - self._began:.0f} s")


def as_text(event: dict[str, Any]) -> str:
    """One line of the progress file, for a person. Sites' words may stand in it, and begin no line of their own."""
    return printable(_as_text(event))


def _as_text(event: dict[str, Any]) -> str:
    match event["state"]:
        case "started":
            return f"{event['stage']} ..."
        case "finished":
            return f"{event['stage']}: done in {event['seconds']:.1f} s"
        case "resumed":
            return f"{event['stage']} goes on after {event['after']}"
        case "note":
            return str(event["what"])
        case _:
            what = f" ({event['what']})" if "what" in event else ""
            return f"{event['stage']}: {event['done']}/{event['total']}{what}"
