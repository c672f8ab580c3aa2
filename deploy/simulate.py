"""`moretta simulate`: a whole study on one machine, over virtual sites, through Flower's simulation runtime."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from moretta.deploy.runtime import marked
from moretta.deploy.runtime.flower import SimulationRuntime, simulation_runtime
from moretta.server.run import MEMORY_FILE, OUTCOME_FILE, PROGRESS_FILE
from moretta.shared.atomic import write_atomic
from moretta.shared.corpus.clips import Corpus
from moretta.shared.corpus.splits import assign_sites, make_folds
from moretta.shared.errors import Interrupted, RunError, StudyError
from moretta.shared.exit_codes import ExitCode
from moretta.shared.plan import PlannedSite, SimulationPlan
from moretta.shared.seeds import derive
from moretta.shared.study import Study

_LAUNCH_SECONDS = 90.0
_WATCH_SECONDS = 0.25
_MEMORY_SECONDS = 2.0

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a simulated run ended."""

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


def plan_simulation(corpus: Corpus, study: Study, command: str) -> SimulationPlan:
    """Deal the speakers over virtual sites and folds.

    Raises:
        StudyError: the corpus has too few speakers for the study's sites or folds, or only one emotion.
    """
    present = {clip.speaker for clip in corpus.clips}
    speakers = [corpus.speakers[number] for number in sorted(present)]
    emotions = {clip.label for clip in corpus.clips}
    if len(speakers) < 2:
        raise StudyError(
            f"a corpus of {len(speakers)} speaker",
            expected="at least 2: one is held out, and re-identification is a choice between people",
            fix="use a corpus of several speakers",
        )
    if len(emotions) < 2:
        raise StudyError(
            f"a corpus of one emotion ({next(iter(emotions))})", expected="at least 2 emotions to tell apart"
        )
    warnings = list(getattr(corpus, "warnings", ()))
    if study.split.folds > len(speakers):
        warnings.append(f"folds lowered from {study.split.folds} to {len(speakers)}, the number of speakers")
        study = study.with_changes(
            split__folds=len(speakers), split__test_fold=min(study.split.test_fold, len(speakers) - 1)
        )
    sites = assign_sites(speakers, study.sites, derive(study.seed, "sites"))
    width = max(2, len(str(len(sites) - 1)))
    return SimulationPlan(
        corpus=corpus.root.resolve(),
        corpus_name=corpus.name,
        synthetic=corpus.synthetic,
        study=study,
        sites=tuple(PlannedSite(name=f"site-{i:0{width}d}", speakers=tuple(s)) for i, s in enumerate(sites)),
        folds=make_folds(speakers, study.split.folds, derive(study.seed, "folds")),
        command=command,
        warnings=tuple(warnings),
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


def simulate(plan: SimulationPlan, folder: Path, tell: Tell) -> Outcome:
    """Run a planned study in `folder`, which `prepare_folder` made, and wait for its end.

    Raises:
        RunError: Flower did not start or died.
        Interrupted: Ctrl-C or SIGTERM; every process of the run has ended and no report is left half-written.
    """
    folder = folder.resolve()
    plan.save(folder)
    start = time.monotonic()
    with _interruptible(), simulation_runtime(folder / "server") as runtime:
        tell("Starting Flower's simulation runtime")
        runtime.submit(sites=len(plan.sites), run_folder=folder)
        peak = _watch(runtime, folder, tell)
    return _outcome(folder, seconds=time.monotonic() - start, peak=peak)


def reproduce_command(arguments: list[str]) -> str:
    """The command line as a person would type it again."""
    return shlex.join(["moretta", *arguments])


def _watch(runtime: SimulationRuntime, folder: Path, tell: Tell) -> int:
    """Pass on progress until the outcome is there; returns the peak memory seen, in bytes."""
    peak, next_look, seen = 0, 0.0, 0
    launched = time.monotonic()
    running = False
    while not (folder / OUTCOME_FILE).exists():
        seen = _pass_on(folder, seen, tell)
        now = time.monotonic()
        if now >= next_look:
            peak = max(peak, marked.memory_bytes(runtime.mark))
            write_atomic(folder / MEMORY_FILE, str(peak))
            next_look = now + _MEMORY_SECONDS
            running = running or runtime.started()
            gone = runtime.gone() if running or now - launched > _LAUNCH_SECONDS else None
            if gone and not (folder / OUTCOME_FILE).exists():
                raise RunError(gone, expected="an outcome", fix=f"see {runtime.log}")
        time.sleep(_WATCH_SECONDS)
    _pass_on(folder, seen, tell)
    return peak


def _pass_on(folder: Path, seen: int, tell: Tell) -> int:
    path = folder / PROGRESS_FILE
    if not path.exists():
        return seen
    with path.open("rb") as file:
        file.seek(seen)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.splitlines():
        event = json.loads(line)
        match event["state"]:
            case "started":
                tell(f"{event['stage']} ...")
            case "finished":
                tell(f"{event['stage']}: done in {event['seconds']:.1f} s")
            case _:
                tell(f"{event['stage']}: {event['done']}/{event['total']}")
    return seen + len(whole)


def _outcome(folder: Path, *, seconds: float, peak: int) -> Outcome:
    content = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    (folder / MEMORY_FILE).unlink(missing_ok=True)
    content |= {"seconds": round(seconds, 2), "peak_memory_bytes": peak}
    write_atomic(folder / OUTCOME_FILE, json.dumps(content, indent=1) + "\n")
    return Outcome(
        folder=folder,
        code=ExitCode(content["exit_code"]),
        stage=content["stage"],
        cause=content["cause"],
        seconds=seconds,
        peak_memory_bytes=peak,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted`, so that everything is cleaned up on the way out."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise Interrupted(f"ended by {signal.Signals(number).name}", fix="run the command again in a new folder")

    old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
