"""The folder of a run: made empty, concluded with an outcome, cleaned up after an interrupt."""

from __future__ import annotations

import json
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from moretta.server.stages.lifecycle import OUTCOME_FILE
from moretta.server.stages.run import MEMORY_FILE
from moretta.shared.core.atomic import naming, write_atomic
from moretta.shared.core.errors import ExitCode, Interrupted, StudyError

Notify = Callable[[str], None]
"""Gets a line of progress for a person."""
_PROBE_BYTES = 4096
"""A folder for results must have room for so much: a block of most file systems."""


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
        """For scripts."""
        return {
            "out": str(self.folder),
            "exit_code": int(self.code),
            "stage": self.stage,
            "cause": self.cause,
            "seconds": round(self.seconds, 2),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def conclude(folder: Path, *, seconds: float, peak: int) -> Outcome:
    """Add to the outcome that the run wrote what only its watcher knows, and read it."""
    content = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    (folder / MEMORY_FILE).unlink(missing_ok=True)
    content |= {"seconds": round(seconds, 2), "peak_memory_bytes": peak}
    write_atomic(folder / OUTCOME_FILE, json.dumps(content, indent=1) + "\n")
    return read_outcome(folder)


def read_outcome(folder: Path) -> Outcome:
    """The outcome of a run that has ended, as `conclude` left it."""
    content = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    return Outcome(
        folder=folder,
        code=ExitCode(content["exit_code"]),
        stage=content["stage"],
        cause=content["cause"],
        seconds=content.get("seconds", 0.0),
        peak_memory_bytes=content.get("peak_memory_bytes", 0),
    )


def prepare_folder(folder: Path) -> None:
    """Make the folder of a new run.

    Raises:
        StudyError: it holds something already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(
            f"{folder} is not an empty folder", expected="a new or empty folder for a run", fix="choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)


def prepare_output(folder: Path) -> None:
    """Make a folder for results and try to write into it, so that hours of work do not end in one that takes none.

    Raises:
        OSError: it cannot be made or written.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(_PROBE_BYTES))


def reproduce_command(arguments: list[str]) -> str:
    """The command line as a person would type it again."""
    return shlex.join(["moretta", *arguments])


@contextmanager
def interruptible(fix: str = "run the command again in a new folder") -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into `Interrupted`, so that everything is cleaned up on the way out.

    Where SIGHUP is ignored, as under `nohup`, it stays so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in old:  # a second Ctrl-C would otherwise stop the cleaning up
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(f"ended by {signal.Signals(number).name}", fix=fix)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    old = {s: handler for s in numbers if (handler := signal.getsignal(s)) != signal.SIG_IGN or s != signal.SIGHUP}
    for number in old:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
