"""What simulations and studies over real sites have in common: names, folders, outcomes, interrupts."""

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

from moretta.server.stages.context import MEMORY_FILE
from moretta.server.stages.lifecycle import OUTCOME_FILE
from moretta.shared.core.atomic import naming, write_atomic
from moretta.shared.core.errors import ExitCode, Interrupted, StudyError
from moretta.shared.study.schema import Study

Notify = Callable[[str], None]
_PROBE_BYTES = 4096
"""That a place for results must have room for; a block of most file systems."""


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
    """Read the outcome that the run wrote, and add what only its watcher knows."""
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


def check_names(study: Study) -> None:
    """Look up everything that a study names, and hold its limits together, before any site spends budget on it.

    Raises:
        StudyError: an anonymizer, a model, a strategy or one of its options, or an attacker that does not exist; or
            limits that contradict each other.
    """
    from moretta.client.anonymizers.anonymizer_registry import get_anonymizer
    from moretta.server.aggregation.strategies import make_strategy
    from moretta.shared.audit.attackers import attacker_names
    from moretta.shared.models.emotion import emotion_model
    from moretta.shared.study.limits import check_limits

    for modality in study.modalities:
        section = study.section(modality)
        get_anonymizer(modality, section.anonymizer)
        emotion_model(modality, section.model)
    make_strategy(study.train.strategy, dict(study.train.strategy_options))
    known = attacker_names()
    unknown = [name for name in study.audit.attackers if name not in known]
    if unknown:
        raise StudyError(
            f"audit.attackers names {', '.join(unknown)}",
            expected=f"one or more of: {', '.join(known)}",
            fix="correct [audit]",
        )
    check_limits(study)
    _check_attacked(study)


def _check_attacked(study: Study) -> None:
    from moretta.shared.audit.attackers import attacker_names

    if not study.audit.attackers or (study.gate.max_top1 is None and study.gate.min_eer is None):
        return
    for modality in study.modalities:
        if not set(study.audit.attackers) & set(attacker_names(modality)):
            raise StudyError(
                f"audit.attackers names none of {modality}, whose releases [gate] limits",
                expected=f"one or more of: {', '.join(attacker_names(modality))}",
                fix="correct [audit]",
            )


def prepare_folder(folder: Path) -> None:
    """Make the folder of a new run.

    Raises:
        StudyError: something is in it already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StudyError(
            f"{folder} is not an empty folder", expected="a new or empty folder for a run", fix="choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)


def prepare_output(folder: Path) -> None:
    """Make a folder for results and try to write into it: hours of work must not end in one that takes none.

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
        for each in old:  # who presses Ctrl-C twice would otherwise stop the cleaning up
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
