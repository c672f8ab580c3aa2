"""A whole study on one machine, over virtual sites, through Flower's simulation engine or in this very process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from moretta.deploy.runtime.processes import end_marked, flower_environment, last_error, new_mark
from moretta.deploy.runtime.run_folder import (
    Notify,
    Outcome,
    ProgressMonitor,
    conclude,
    interruptible,
    read_outcome,
    reopen,
)
from moretta.server.stages.run import Run
from moretta.shared.core.atomic import locked
from moretta.shared.core.errors import ExitCode, RunError, StudyError
from moretta.shared.core.flower_private import TaskIdentity, set_message_id
from moretta.shared.study.run_plan import PLAN_FILE, SimulationPlan

LOG_FILE = Path("server") / "flower.log"
_PROGRAM = "from moretta.deploy.runtime.simulated_sites import main; main()"
"""Code of the program, and not `-m`, since every worker process of the audit would import the main module."""
_LOCK_FILE = Path("server") / ".simulation"
_FIRST_NODE = 2
"""First number of virtual sites; 1 is the server."""


class SimulationProcess:
    """The process that runs a study over virtual sites, see `moretta.deploy.runtime.simulated_sites`.

    It starts with the block, and imports meanwhile. On leaving, whatever the reason, every process of it is ended.
    """

    def __init__(self) -> None:
        self.mark = new_mark()
        """Mark in the environment of every process of the run."""

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(prefix="moretta-")
        self._errors = Path(self._scratch.name) / "stderr"  # until the run has a log
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM],
                env=flower_environment(self.mark, Path(self._scratch.name) / "flwr"),
                cwd=self._scratch.name,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends all in order
            )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # By its own id first: right after its start its environment, and so its mark, cannot be read yet
            self._process.terminate()
            end_marked(self.mark)
            self._process.wait()
        finally:
            self._scratch.cleanup()

    def run(self, plan: SimulationPlan, folder: Path, notify: Notify) -> Outcome:
        """Run a planned study in `folder`, which `prepare_folder` made, and wait for its end.

        A run that is there goes on after its last whole stage or round; one that has ended well is not run again.

        Raises:
            RunError: the process died, or another one is at work on the run.
            StudyError: a run of another study, or on another corpus, is in the folder.
            Interrupted: Ctrl-C or SIGTERM; every process of the run has ended and no report is left half-written.
        """
        folder = folder.resolve()
        (folder / LOG_FILE).parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(locked(folder / _LOCK_FILE, wait=False))
            except BlockingIOError:
                raise RunError(f"another process is at work in {folder}", fix="wait for its end") from None
            if not (folder / PLAN_FILE).exists():
                plan.save(folder)
            elif _what_matters(plan) != _what_matters(SimulationPlan.load(folder)):
                found = f"{folder} is not an empty folder: it has a run of another study, or on another corpus"
                raise StudyError(found, expected="the same command, to go on with it", fix="choose another --out")
            elif not reopen(folder):
                notify("The run has ended: nothing is left to do")
                return read_outcome(folder)
            return self._follow(folder, notify)

    def _follow(self, folder: Path, notify: Notify) -> Outcome:
        log, start = folder / LOG_FILE, time.monotonic()
        monitor = ProgressMonitor(folder, notify)
        with interruptible():
            try:
                notify("Starting Flower's simulation runtime")
                assert self._process.stdin is not None
                with suppress(BrokenPipeError), self._process.stdin as orders:
                    orders.write(f"{folder}\n")
                while self._process.poll() is None:
                    monitor.look(self.mark)
                monitor.look(self.mark)
            finally:
                end_marked(self.mark)
        if not monitor.ended:
            texts = (
                path.read_text(encoding="utf-8", errors="replace") for path in (log, self._errors) if path.exists()
            )
            cause = next(filter(None, map(last_error, texts)), "")
            raise RunError(
                f"the simulation ended with code {self._process.returncode}: {cause or 'no error is logged'}",
                expected="an outcome",
                fix=f"see {log}; with little memory, free some",
            )
        return conclude(folder, seconds=time.monotonic() - start, peak=monitor.peak, why=_causes_at_sites(folder))


def _what_matters(plan: SimulationPlan) -> SimulationPlan:
    return plan.model_copy(update={"command": "", "warnings": ()})


def _causes_at_sites(folder: Path) -> list[str]:
    """Last error of each site that the cause of a failed run names. Real sites keep these to themselves."""
    outcome = read_outcome(folder)
    if outcome.code in (ExitCode.OK, ExitCode.GATE):
        return []
    logs = {path.parent.name: path for path in sorted((folder / "sites").glob("*/site.log"))}
    named = {site: path for site, path in logs.items() if site in outcome.cause}
    return [f"{site}: {last_error(path.read_text(encoding='utf-8', errors='replace'))}" for site, path in named.items()]


def simulate(plan: SimulationPlan, folder: Path, notify: Notify) -> Outcome:
    """Run a simulation in a process that starts now; see `SimulationProcess.run`."""
    with SimulationProcess() as process:
        return process.run(plan, folder, notify)


class LocalGrid:
    """As much of Flower's grid as the server uses: the ClientApp that Flower would run is called directly.

    Flower's simulation runtime takes a minute to start and to end, whatever the study. A sweep runs hundreds of small
    studies; here each costs what its training costs. The rest is the same: the server's stages and requests, the
    strategies, the sites' app, their ledgers.
    """

    def __init__(self, run_folder: Path, sites: int) -> None:
        self._folder = run_folder
        ids = range(_FIRST_NODE, _FIRST_NODE + sites)
        self._nodes = [SimpleNamespace(node_id=node, last_activated_at="at the start") for node in ids]
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        """Ids of all sites, which are always there."""
        return [node.node_id for node in self._nodes]

    def get_nodes(self) -> Iterable[SimpleNamespace]:
        """All sites."""
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let the sites respond, one after the other; returns the ids of the messages."""
        from moretta.client.app import app

        ids = []
        for message in messages:
            self._sent += 1
            ids.append(str(self._sent))
            set_message_id(message, ids[-1])
            node = message.metadata.dst_node_id
            place: dict[str, Any] = {"partition-id": node - _FIRST_NODE, "num-partitions": len(self._nodes)}
            context = Context(1, node, place, RecordDict(), {"run-dir": str(self._folder)})
            self._replies[ids[-1]] = app(message, context)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The responses to these messages."""
        return [self._replies.pop(number) for number in list(message_ids) if number in self._replies]


def connect_locally(run: Run, sites: int) -> None:
    """Give a simulation's run its sites, in this process; one that does not respond is a RunError."""
    from moretta.server.grid.hello import connect

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # without them no message can be written
    run.site_grid = connect(run.context, cast("Grid", LocalGrid(run.context.folder, sites)))
