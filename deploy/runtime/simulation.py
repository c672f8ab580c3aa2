"""A whole study on one machine, over virtual sites, through Flower's simulation engine or in this very process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self, cast

from moretta.deploy.runtime.processes import end_marked, flower_environment, last_error, new_mark
from moretta.deploy.runtime.run_folder import Notify, Outcome, ProgressMonitor, conclude, interruptible
from moretta.shared.core.errors import RunError
from moretta.shared.study.run_plan import SimulationPlan

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

    from moretta.server.stages.run import Run

LOG_FILE = Path("server") / "flower.log"
_PROGRAM = "from moretta.deploy.runtime.simulated_sites import main; main()"
"""Not as `-m`, since every worker process of the audit would import the main module."""
_FIRST_NODE = 2
"""Of virtual sites; 1 is the server."""


class SimulationProcess:
    """The process that runs a study over virtual sites, see `moretta.deploy.runtime.simulated_sites`.

    It starts with the block, and imports meanwhile. On leaving, whatever the reason, every process of it is ended.
    """

    def __init__(self) -> None:
        self.mark = new_mark()
        """In the environment of every process of the run."""

    def __enter__(self) -> Self:
        self._scratch = tempfile.TemporaryDirectory(prefix="moretta-")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            env=flower_environment(self.mark, Path(self._scratch.name) / "flwr"),
            cwd=self._scratch.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends all in order
        )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            end_marked(self.mark)
            self._process.wait()
        finally:
            self._scratch.cleanup()

    def run(self, plan: SimulationPlan, folder: Path, notify: Notify) -> Outcome:
        """Run a planned study in `folder`, which `prepare_folder` made, and wait for its end.

        Raises:
            RunError: the process died.
            Interrupted: Ctrl-C or SIGTERM; every process of the run has ended and no report is left half-written.
        """
        folder = folder.resolve()
        log = folder / LOG_FILE
        log.parent.mkdir(parents=True, exist_ok=True)
        plan.save(folder)
        start = time.monotonic()
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
            cause = last_error(log.read_text(encoding="utf-8", errors="replace") if log.exists() else "")
            raise RunError(
                f"the simulation ended with code {self._process.returncode}: {cause or 'no error is logged'}",
                expected="an outcome",
                fix=f"see {log}; with little memory, free some",
            )
        return conclude(folder, seconds=time.monotonic() - start, peak=monitor.peak)


def simulate(plan: SimulationPlan, folder: Path, notify: Notify) -> Outcome:
    """As `SimulationProcess.run`, in a process that starts now."""
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
        from flwr.app import Context, RecordDict

        from moretta.client.app import app
        from moretta.shared.core.flower_private import set_message_id

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
    from moretta.shared.core.flower_private import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # without them no message can be written
    run.site_grid = connect(run.context, cast("Grid", LocalGrid(run.context.folder, sites)))
