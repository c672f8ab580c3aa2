"""The folder of a run: made empty, followed while the run writes into it, concluded, cleaned up after an interrupt."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from moretta.deploy.runtime.processes import ManagedProcess, child_environment, end_marked, memory_bytes, new_mark
from moretta.server.stages.lifecycle import OUTCOME_FILE
from moretta.server.stages.run import MEMORY_FILE, PROGRESS_FILE, progress_events
from moretta.server.stages.state import STATE_FILE
from moretta.shared.core.atomic import naming, write_atomic
from moretta.shared.core.errors import ExitCode, Interrupted, RunError, StudyError
from moretta.shared.core.printable import printable

Notify = Callable[[str], None]
"""Gets a line of progress for a person."""
_TEXTS = {
    "started": "{stage} ...",
    "finished": "{stage}: done in {seconds:.1f} s",
    "resumed": "{stage} goes on after {after}",
    "note": "{what}",
}
"""Lines for events that are no step."""
_PROBE_BYTES = 4096
"""Bytes for which a folder of results must have room: a block of most file systems."""
_WATCH_SECONDS = 0.25
_MEMORY_SECONDS = 2.0
_SILENT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    folder: Path
    code: ExitCode
    stage: str
    cause: str
    seconds: float
    peak_memory_bytes: int

    def to_json(self) -> dict[str, str | int | float]:
        """The record as JSON values, for scripts."""
        return {
            "out": str(self.folder),
            "exit_code": int(self.code),
            "stage": self.stage,
            "cause": self.cause,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def conclude(folder: Path, *, seconds: float, peak: int, why: Sequence[str] = ()) -> Outcome:
    """Add to the outcome that the run wrote what only its watcher knows, and read it. `why` is added to the cause."""
    content = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    (folder / MEMORY_FILE).unlink(missing_ok=True)
    content |= {"seconds": round(seconds, 2), "peak_memory_bytes": peak, "cause": "; ".join([content["cause"], *why])}
    write_atomic(folder / OUTCOME_FILE, json.dumps(content, indent=1) + "\n")
    return read_outcome(folder)


def read_outcome(folder: Path) -> Outcome:
    """The outcome of a run that has ended, as `conclude` left it."""
    content = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    watched = content.get("seconds", 0.0), content.get("peak_memory_bytes", 0)
    return Outcome(folder, ExitCode(content["exit_code"]), content["stage"], content["cause"], *watched)


def reopen(folder: Path) -> bool:
    """Make a run's folder ready to go on; false if the run has ended well and nothing is left to do."""
    path = folder / OUTCOME_FILE
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8"))["exit_code"] in (ExitCode.OK, ExitCode.GATE):
            return False
        path.unlink()
    return True


def prepare_folder(folder: Path, *, begun: str = "") -> None:
    """Make the folder of a new run; one that holds something already is a StudyError, but for work with a file `begun`,
    which goes on."""
    if begun and (folder / begun).is_file():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(
            f"{folder} is not an empty folder", expected="a new or empty folder for a run", fix="choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)


def prepare_output(folder: Path) -> None:
    """Make a folder for results and try to write into it, so that hours of work do not end in an OSError."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(_PROBE_BYTES))


def reproduce_command(arguments: list[str], names: Mapping[Path | None, str] | None = None) -> str:
    """The command line as a person would type it again; `names` stand in for paths that are nobody else's business."""
    return shlex.join(["moretta", *(_without_path(word, names or {}) for word in arguments)])


def _without_path(word: str, names: Mapping[Path | None, str]) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    # As paths: a shell completes the name of a folder with a slash
    name = names.get(Path(value)) if value else None
    return word if name is None else f"{option}{equals}{name}"


@contextmanager
def interruptible(fix: str = "run the same command again: it goes on where it stopped") -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Interrupted`, so that everything is cleaned up on the way out.

    Where SIGHUP is ignored, as under `nohup`, it stays so.
    """

    def stop(number: int) -> None:
        for each in old:  # a second Ctrl-C would otherwise stop the cleaning up
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(f"ended by {signal.Signals(number).name}", fix=fix)

    with _handling(stop) as old:
        yield


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Note SIGINT, SIGTERM and SIGHUP, for work that looks now and then and ends where it can go on later.

    Yields whether one came. A second one does what it did before.
    """
    came = False

    def stop(_number: int) -> None:
        nonlocal came
        came = True
        for each, handler in old.items():
            signal.signal(each, handler)

    with _handling(stop) as old:
        yield lambda: came


@contextmanager
def passing_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """A folder, for its owner alone, that is removed whole at the end: a second Ctrl-C does not stop that."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        with _handling(lambda _: None):
            shutil.rmtree(folder)


@contextmanager
def _handling(stop: Callable[[int], None]) -> Iterator[dict[signal.Signals, Any]]:
    """Let the three signals call `stop`; yields what handled them before, and does again afterwards."""

    def handle(number: int, _frame: FrameType | None) -> None:
        stop(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {s: handler for s in numbers if (handler := signal.getsignal(s)) != signal.SIG_IGN or s != signal.SIGHUP}
    for number in old:
        signal.signal(number, handle)
    try:
        yield old
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class ProgressMonitor:
    """Follows a run by the files in its folder: reports its progress, and keeps the peak memory of its processes."""

    def __init__(self, folder: Path, notify: Notify) -> None:
        self.peak = 0
        self.folder, self.notify = folder, notify
        events = folder / PROGRESS_FILE
        self._seen = events.stat().st_size if events.exists() else 0  # of a run that goes on
        self._next_measurement = 0.0
        self._stage, self._began, self._reported = "", time.monotonic(), time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether the outcome is there."""
        return (self.folder / OUTCOME_FILE).exists()

    @property
    def sites_finished(self) -> bool:
        """Whether only the stages that need no site are left."""
        return self.ended or (self.folder / STATE_FILE).exists()

    def finish(self) -> None:
        """Run the stages that need no site, unless the run has ended, in a process of their own, and wait for it.

        Raises RunError if that ends without an outcome.
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

        That is of the processes that carry the run's mark, if they do, and of those with these pids.
        """
        self._report_events()
        now = time.monotonic()
        if now - self._reported >= _SILENT_SECONDS:  # a long stage that reports nothing is alive all the same
            self._reported = now
            self.notify(f"{self._stage or 'the run'}: at work for {now - self._began:.0f} s")
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
        for event in progress_events(whole.decode("utf-8", errors="replace")):
            if event["state"] in ("started", "finished"):
                self._stage, self._began = (event["stage"] if event["state"] == "started" else ""), time.monotonic()
            self._reported = time.monotonic()
            self.notify(as_text(event))
        self._seen += len(whole)


def as_text(event: dict[str, Any]) -> str:
    """One event of the progress file as one line. Text of sites may stand in it, and begins no line of its own."""
    step = "{stage}: {done}/{total} ({what})" if "what" in event else "{stage}: {done}/{total}"
    return printable(_TEXTS.get(event["state"], step).format(**event))
