"""One process that is kept alive: started, taken over from a server that was killed, restarted with backoff, ended.

A killed server leaves its children running. They are worth keeping, since a run of a study goes on in them: the next
server on the folder finds them by what the last one wrote down, and goes on watching them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from moretta.shared.core.atomic import write_atomic

_FIRST_BACKOFF_SECONDS = 0.5
_MOST_BACKOFF_SECONDS = 30.0
_STEADY_SECONDS = 60.0
"""Who has run for so long is started again at once."""


@dataclass(frozen=True, slots=True)
class Known:
    """A process, so that its pid cannot be taken for another's."""

    pid: int
    created: float
    identity: str
    """What it was started with. A server that would start it otherwise does not take it over."""

    def process(self) -> psutil.Process | None:
        """The process, if it lives."""
        try:
            process = psutil.Process(self.pid)
            alive = process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if alive else None


class Child:
    """See the module.

    Args:
        name: in logs and records.
        command: argument list.
        environment: whole.
        folder: to start in; an empty one, since Python imports from there first.
        log: gets its output.
        record: file in which it is written down.
        identity: see `Known`.
        tell: is told of starts and ends: event and further fields.
        monotonic: seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        command: list[str],
        environment: dict[str, str],
        folder: Path,
        log: Path,
        record: Path,
        identity: str,
        notify: Callable[[str, dict[str, object]], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._command, self._environment = name, command, environment
        self._folder, self._log, self._record, self._identity = folder, log, record, identity
        self._notify, self._monotonic = notify, monotonic
        self._popen: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self._started = 0.0
        self._backoff, self._not_before = _FIRST_BACKOFF_SECONDS, 0.0

    @property
    def pid(self) -> int | None:
        """Process id, while it lives."""
        return self._process.pid if self.alive() and self._process else None

    def alive(self) -> bool:
        """Whether it runs."""
        if self._popen is not None:
            return self._popen.poll() is None
        try:
            return (
                self._process is not None
                and self._process.is_running()
                and (self._process.status() != psutil.STATUS_ZOMBIE)
            )
        except psutil.Error:
            return False

    def take_over(self) -> bool:
        """Go on watching the process that an earlier server has left, if it is one like this; whether there was one."""
        known = _read(self._record).get(self.name)
        process = known.process() if known else None
        if known is None or process is None or known.identity != self._identity:
            return False
        self._process, self._started = process, self._monotonic()
        self._notify(f"{self.name}-taken-over", {"pid": process.pid})
        return True

    def keep_alive(self) -> bool:
        """Start it if it is not there and the backoff is over; whether it was started."""
        if self.alive():
            return False
        now = self._monotonic()
        if self._process is not None:
            self._note_end(now)
        if now < self._not_before:
            return False
        self._start(now)
        return True

    def ask_to_end(self) -> None:
        """Send SIGTERM, and do not wait."""
        if self._process is not None:
            with suppress(psutil.Error):
                self._process.terminate()

    def end(self, patience_seconds: float = 2.0) -> None:
        """Ask it to end, then make it."""
        self.ask_to_end()
        process, self._process = self._process, None
        if process is None:
            return
        psutil.wait_procs([process], timeout=patience_seconds)
        with suppress(psutil.Error):
            process.kill()
        if self._popen is not None:
            self._popen.wait()
            self._popen = None

    def kill(self) -> None:
        """End it at once; `keep_alive` starts it again."""
        if self._process is not None:
            try:
                self._process.kill()
            except psutil.Error:
                return
            psutil.wait_procs([self._process], timeout=5.0)

    def _start(self, now: float) -> None:
        descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as output:
            self._popen = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the server alone, which then ends all in order
            )
        self._process = psutil.Process(self._popen.pid)
        self._started = now
        _write(self._record, self.name, Known(self._popen.pid, self._process.create_time(), self._identity))
        self._notify(f"{self.name}-started", {"pid": self._popen.pid})

    def _note_end(self, now: float) -> None:
        code = self._popen.returncode if self._popen is not None else None
        self._process = self._popen = None
        if now - self._started > _STEADY_SECONDS:
            self._backoff = _FIRST_BACKOFF_SECONDS
        self._not_before = now + self._backoff
        self._backoff = min(_MOST_BACKOFF_SECONDS, self._backoff * 2)
        self._notify(f"{self.name}-ended", {"code": code})


def _read(record: Path) -> dict[str, Known]:
    try:
        return {name: Known(**fields) for name, fields in json.loads(record.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(record: Path, name: str, known: Known) -> None:
    content = {n: asdict(k) for n, k in {**_read(record), name: known}.items()}
    write_atomic(record, json.dumps(content, indent=1) + "\n", mode=0o600)
