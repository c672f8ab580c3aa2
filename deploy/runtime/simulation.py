"""A whole study on one machine, over virtual sites, through Flower's simulation runtime or in this very process.

Each run has its own SuperLink, FLWR_HOME, port and temporary folder, which end with it. A shared SuperLink would import
the sites' code from wherever it was first started, and outlive the run.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import httpx

from moretta.deploy.runtime.control import Control
from moretta.deploy.runtime.processes import (
    HOST,
    ManagedProcess,
    end_marked,
    flower_environment,
    free_port,
    last_error,
    new_mark,
    running_programs,
)
from moretta.deploy.runtime.run_folder import Notify, Outcome, ProgressMonitor, conclude, interruptible
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import use_run_id
from moretta.shared.core.workers import cpu_count
from moretta.shared.study.run_plan import SimulationPlan

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

    from moretta.server.stages.run import Run

_START_SECONDS = 60.0
_LAUNCH_SECONDS = 90.0
_COMMAND_SECONDS = 120.0
_CONNECTION = "run"
_FIRST_NODE = 2
"""Of virtual sites; 1 is the server."""
_log = logging.getLogger(__name__)


def simulate(plan: SimulationPlan, folder: Path, notify: Notify) -> Outcome:
    """Run a planned study in `folder`, which `prepare_folder` made, and wait for its end.

    Raises:
        RunError: Flower did not start, refused the run, or died.
        Interrupted: Ctrl-C or SIGTERM; every process of the run has ended and no report is left half-written.
    """
    folder = folder.resolve()
    plan.save(folder)
    start = time.monotonic()
    monitor = ProgressMonitor(folder, notify)
    with interruptible():
        with _superlink(folder / "server") as superlink:
            notify("Starting Flower's simulation runtime")
            superlink.run_sites(monitor, sites=len(plan.sites))
        monitor.finish()
    return conclude(folder, seconds=time.monotonic() - start, peak=monitor.peak)


@dataclass(frozen=True, slots=True)
class _SuperLink:
    """A SuperLink in simulation mode that serves one run."""

    mark: str
    scratch: Path
    port: int
    environment: dict[str, str]
    process: ManagedProcess

    def run_sites(self, monitor: ProgressMonitor, *, sites: int) -> None:
        """Submit the run and wait for the stages that need sites."""
        cpus = {"client_resources_num_cpus": 1, "init_args_num_cpus": min(sites, cpu_count())}
        config: dict[str, str | int] = {"run-dir": str(monitor.folder), "central-stages": "later"}
        run_id = Control(f"{HOST}:{self.port}").submit(config, federation={"num_supernodes": sites, **cpus})
        use_run_id(run_id)
        _log.info("the run in %s is Flower's run %d", monitor.folder, run_id)
        launched, running = time.monotonic(), False
        while not monitor.sites_finished:
            if monitor.look(self.mark):
                simulating = bool(running_programs(self.mark, "flwr-simulation"))
                running = running or simulating
                late = time.monotonic() - launched > _LAUNCH_SECONDS
                alive = self.process.alive()
                if (running or late) and not (alive and simulating) and not monitor.sites_finished:
                    gone = "simulation process" if alive else f"SuperLink (code {self.process.exit_code})"
                    logs = f"see {self.process.log.parent}/*.log"
                    raise RunError(f"Flower's {gone} ended: {self._cause(run_id)}", expected="an outcome", fix=logs)

    def _cause(self, run_id: int) -> str:
        """The last error in the run's own log, which is written next to Flower's."""
        done = subprocess.run(
            [_script("flwr"), "log", str(run_id), _CONNECTION, "--show"],
            env=self.environment,
            cwd=self.scratch,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        (self.process.log.parent / "run.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        return last_error(done.stdout) or "its log names no error"


@contextmanager
def _superlink(logs: Path) -> Iterator[_SuperLink]:
    """Start a SuperLink for one run; on leaving, whatever the reason, every process of it is ended."""
    mark, port = new_mark(), free_port()
    # Ray's sockets live here, and a socket's path may have 107 characters at most
    scratch = Path(tempfile.mkdtemp(prefix="moretta-", dir="/tmp" if Path("/tmp").is_dir() else None))  # noqa: S108
    logs.mkdir(parents=True, exist_ok=True)
    try:
        home = scratch / "flwr"
        environment = {
            **flower_environment(mark, home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(scratch),
            "RAY_DEDUP_LOGS": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }
        home.mkdir(parents=True)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
            f'address = "{HOST}:{port}"\ninsecure = true\n',
            encoding="utf-8",
        )
        process = ManagedProcess(
            "superlink",
            [
                *(_script("flower-superlink"), "--insecure", "--simulation"),
                *("--disable-runtime-dependency-installation", "--host", HOST, "--port", str(port)),
            ],
            environment=environment,
            log=logs / "flower.log",
            folder=scratch,  # an empty folder: simulated sites import from here first
        ).start()
        _wait_until_healthy(port, process)
        yield _SuperLink(mark, scratch, port, environment, process)
    finally:
        try:
            end_marked(mark)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _wait_until_healthy(port: int, superlink: ManagedProcess) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and superlink.alive():
        with suppress(httpx.HTTPError):
            if httpx.get(f"http://{HOST}:{port}/health", timeout=1.0, trust_env=False).is_success:
                return
        time.sleep(0.1)
    expected, fix = "a healthy SuperLink within a minute", f"see {superlink.log}"
    raise RunError("Flower's SuperLink did not start", expected=expected, fix=fix)


def _script(name: str) -> str:
    return str(Path(sys.executable).parent / name)


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
