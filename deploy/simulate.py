"""`moretta simulate`: a whole study on one machine, over virtual sites, through Flower's simulation runtime."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from moretta.deploy.runtime import marked
from moretta.deploy.runtime.desk import DeskProcess, desk_process
from moretta.deploy.runtime.flower import SimulationRuntime, simulation_runtime
from moretta.server.outcome import OUTCOME_FILE
from moretta.server.run import MEMORY_FILE, PROGRESS_FILE
from moretta.server.state import STATE_FILE
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
        StudyError: the corpus has too few speakers for the study's sites or folds, or only one emotion; or the study
            names something that does not exist.
    """
    check_names(study)
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
    study, absent = without_missing(corpus, study)
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
        absent=absent,
        dropped=_of_no_site(corpus, present),
        warnings=tuple(warnings),
    )


def without_missing(corpus: Corpus, study: Study) -> tuple[Study, dict[str, str]]:
    """Switch off what the corpus has not: no budget is set aside for it, and no autoencoder is trained.

    Returns:
        The study, and why each modality was switched off.

    Raises:
        StudyError: nothing is left to study.
    """
    absent = {}
    if study.voice.enabled and not any(clip.audio for clip in corpus.clips):
        absent["voice"] = "no clip of the corpus has sound"
    if study.face.enabled and not any(clip.video for clip in corpus.clips):
        absent["face"] = "no clip of the corpus has video"
    if absent.keys() == set(study.modalities):
        raise StudyError(
            "; ".join(absent.values()), expected="a corpus with what the study asks for", fix="correct the study"
        )
    return study.with_changes(**{f"{modality}__enabled": False for modality in absent}), absent


def _of_no_site(corpus: Corpus, speakers: set[int]) -> dict[str, int]:
    """Dropped files that no site counts, because their names tell no speaker who has clips."""
    prefixes = tuple(f"{speaker:04d}_" for speaker in speakers)
    return dict(Counter(d.reason for d in corpus.dropped if not Path(d.file).name.startswith(prefixes)))


def check_names(study: Study) -> None:
    """Look up everything that a study names, before any site spends budget on it.

    Raises:
        StudyError: an anonymizer, a model, a strategy or one of its options, or an attacker that does not exist.
    """
    from moretta.client.anonymize.registry import get_anonymizer
    from moretta.server.aggregation.strategies import make_strategy
    from moretta.server.audit.attackers.base import attacker_names
    from moretta.shared.models.emotion import emotion_model

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
    watch = _Watch(folder, tell)
    with _interruptible():
        with simulation_runtime(folder / "server") as runtime:
            tell("Starting Flower's simulation runtime")
            run_id = runtime.submit(sites=len(plan.sites), run_folder=folder)
            watch.until_sites_finish(runtime, run_id)
        if not watch.ended:
            with desk_process(folder) as desk:
                watch.until_desk_finishes(desk)
    return _outcome(folder, seconds=time.monotonic() - start, peak=watch.peak)


def reproduce_command(arguments: list[str]) -> str:
    """The command line as a person would type it again."""
    return shlex.join(["moretta", *arguments])


class _Watch:
    """Passes on progress and keeps the peak memory of all processes while others work."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self.peak = 0
        self._folder, self._tell = folder, tell
        self._seen, self._next_look = 0, 0.0

    @property
    def ended(self) -> bool:
        """Whether the outcome is there."""
        return (self._folder / OUTCOME_FILE).exists()

    def until_sites_finish(self, runtime: SimulationRuntime, run_id: str) -> None:
        """Wait for the sites' part.

        Raises:
            RunError: Flower ended without an outcome.
        """
        launched = time.monotonic()
        running = False
        while not self.ended and not (self._folder / STATE_FILE).exists():
            if self._look(runtime.mark):
                running = running or runtime.started()
                gone = runtime.gone() if running or time.monotonic() - launched > _LAUNCH_SECONDS else None
                if gone and not self.ended and not (self._folder / STATE_FILE).exists():
                    raise RunError(
                        f"{gone}: {runtime.cause(run_id)}", expected="an outcome", fix=f"see {runtime.log.parent}/*.log"
                    )

    def until_desk_finishes(self, desk: DeskProcess) -> None:
        """Wait for the server's own part.

        Raises:
            RunError: it ended without an outcome.
        """
        while desk.process.poll() is None:
            self._look(desk.mark)
        self._look(desk.mark)
        if not self.ended:
            raise RunError(
                f"the process of the audit ended with code {desk.process.returncode}",
                expected="an outcome",
                fix=f"see {desk.log}; with little memory, free some",
            )

    def _look(self, mark: str) -> bool:
        """Pass on what is new, wait a moment; true now and then, when memory was measured too."""
        self._seen = _pass_on(self._folder, self._seen, self._tell)
        time.sleep(_WATCH_SECONDS)
        if time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _MEMORY_SECONDS
        self.peak = max(self.peak, marked.memory_bytes(mark))
        write_atomic(self._folder / MEMORY_FILE, str(self.peak))
        return True


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
                what = f" ({event['what']})" if "what" in event else ""
                tell(f"{event['stage']}: {event['done']}/{event['total']}{what}")
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
        for each in old:  # who presses Ctrl-C twice would otherwise stop the cleaning up
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(f"ended by {signal.Signals(number).name}", fix="run the command again in a new folder")

    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in old:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
