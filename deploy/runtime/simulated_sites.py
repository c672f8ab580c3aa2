"""The program of a simulation: it imports once what all need, and forks the virtual sites and Flower's engine.

It imports everything first, and only then reads the folder of a planned run from its standard input. Its caller can
check the study meanwhile.

Flower's engine runs the study: its ServerApp, its state of messages, its worker threads. A `Backend` of that engine
runs the ClientApps. Flower's own backend starts Ray, and each of Ray's processes imports torch and Moretta anew, which
takes longer than a small study. Here the ClientApps are forks of this process. They take messages as the bytes that
Flower sends to real sites. After the sites' part they end, and the stages that need no site follow in this process.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue

from flwr.app import Context, Error, Message, RecordDict

from moretta.client.app import app as client_app
from moretta.deploy.runtime.flower_programs import end_at_once, preload
from moretta.deploy.runtime.simulation import LOG_FILE
from moretta.server.app import app as server_app
from moretta.server.app import run_central_stages
from moretta.server.stages.lifecycle import OUTCOME_FILE
from moretta.server.stages.state import STATE_FILE
from moretta.shared.core import flower_private
from moretta.shared.core.atomic import leave_sync_to_system
from moretta.shared.core.errors import RunError
from moretta.shared.core.printable import log_printable, use_run_id
from moretta.shared.core.workers import cpu_count, end_with_parent, limit_threads, own_randomness, prepare_workers
from moretta.shared.study.run_plan import SimulationPlan

_CENTRAL = (
    "sklearn.ensemble",
    "moretta.shared.audit.report.page",
    "moretta.shared.audit.runner",
    "moretta.shared.audit.utility.evaluators",
)
"""Modules that the stages without sites import, beyond those of the sites' part."""
_POLL_SECONDS = 0.02
Respond = Callable[[Message, Context], Message]


class SiteProcesses(flower_private.Backend):
    """A backend of Flower's simulation engine: `count` processes, forked at once, that respond to sites' messages.

    It must be made before this process starts a thread. One that dies, most likely because memory ran out, costs its
    message; the others go on.
    """

    def __init__(self, count: int, respond: Respond) -> None:
        self._alive = count
        self._ends: list[Connection] = []
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        for _ in range(count):
            ours, theirs = Pipe()
            self._ends.append(ours)
            if os.fork() == 0:
                self.terminate()
                end_at_once(partial(_serve, theirs, respond))
            theirs.close()
            self._idle.put(ours)

    def build(self, app_fn: Callable[[], object]) -> None:
        """Nothing: all processes have the app."""

    @property
    def num_workers(self) -> int:
        """Number of messages that are handled at once."""
        return len(self._ends)

    def is_worker_idle(self) -> bool:
        """Whether a process waits for a message."""
        return not self._idle.empty()

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """The response of one site, and its context afterwards; raises RunError where the process died."""
        connection = self._idle.get()
        try:
            _send(connection, message, context)
            response = _receive(connection)
        except (EOFError, OSError) as error:
            self._alive -= 1
            if self._alive <= 0:
                self._idle.put(connection)  # so that nobody waits for one
            raise RunError("a process of simulated sites died", expected="all to live", fix="free memory") from error
        self._idle.put(connection)
        return response

    def terminate(self) -> None:
        """Let the processes end."""
        for connection in self._ends:
            connection.close()


def _serve(requests: Connection, respond: Respond) -> None:
    """Respond to messages until the engine is gone."""
    own_randomness()
    leave_sync_to_system()
    while True:
        try:
            message, context = _receive(requests)
        except EOFError:
            return
        try:
            response = respond(message, context)
        except Exception as error:  # as Flower's own process of a ClientApp
            code = flower_private.ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            response = Message(Error(code, f"{type(error).__name__}: {error}"), reply_to=message)
        _send(requests, response, context)


def _send(connection: Connection, message: Message, context: Context) -> None:
    """Send both in the form in which Flower gives them to a ClientApp in another process."""
    of_flower = flower_private
    messages = of_flower.PullAppMessagesResponse(messages_list=[of_flower.message_to_proto(message)])
    given = of_flower.PullTaskInputResponse(context=of_flower.context_to_proto(context))
    connection.send_bytes(messages.SerializeToString())
    connection.send_bytes(given.SerializeToString())


def _receive(connection: Connection) -> tuple[Message, Context]:
    messages = flower_private.PullAppMessagesResponse.FromString(connection.recv_bytes()).messages_list
    context = flower_private.PullTaskInputResponse.FromString(connection.recv_bytes()).context
    return flower_private.message_from_proto(messages[0]), flower_private.context_from_proto(context)


def run_engine(folder: Path, run_id: int, backend: SiteProcesses, parent: int) -> None:
    """Run the study's stages that need sites in Flower's simulation engine, in a fork of the process `parent`."""
    from moretta.deploy.runtime.control import BUNDLE

    end_with_parent(parent)
    sites = len(SimulationPlan.load(folder).sites)
    run = flower_private.Run.create_empty(run_id)
    run.override_config = {"run-dir": str(folder), "central-stages": "later"}
    run.primary_task_id, run.federation_id = 1, flower_private.NOOP_FEDERATION_ID
    flower_private.use_backend(backend)
    flower_private._run_simulation(
        num_supernodes=sites,
        exit_event=flower_private.EventType.FLWR_SIMULATION_RUN_LEAVE,
        client_app=client_app,
        server_app=server_app,
        server_app_context=Context(run_id, flower_private.SUPERLINK_NODE_ID, {}, RecordDict(), run.override_config),
        app_dir=str(BUNDLE),
        is_app=True,
        run=run,
    )


def _simulate(folder: Path, parent: int) -> None:
    """The run in this folder, up to its outcome. It ends with the process `parent`, which waits for it."""
    run_id = secrets.randbits(63)
    use_run_id(run_id)
    identity = flower_private.TaskIdentity  # without it no message can be written
    identity.task_id, identity.run_id, identity.node_id = 1, run_id, flower_private.SUPERLINK_NODE_ID
    limit_threads(1)
    state, outcome = folder / STATE_FILE, folder / OUTCOME_FILE
    if not state.exists():
        _run_sites(folder, run_id, parent)
    if state.exists() and not outcome.exists():
        run_central_stages(folder)


def _run_sites(folder: Path, run_id: int, parent: int) -> None:
    """The stages that need sites: until the state that the others need is there, or an outcome."""
    count = min(len(SimulationPlan.load(folder).sites), cpu_count())
    backend = SiteProcesses(count, lambda message, context: client_app(message=message, context=context))
    this, engine = os.getpid(), os.fork()
    if engine == 0:
        end_at_once(lambda: run_engine(folder, run_id, backend, this))
    end_with_parent(parent)
    backend.terminate()
    for name in _CENTRAL:  # while the sites are at work
        import_module(name)
    ended, status, state, outcome = 0, 0, folder / STATE_FILE, folder / OUTCOME_FILE
    while not (ended or state.exists() or outcome.exists()):
        time.sleep(_POLL_SECONDS)
        ended, status = os.waitpid(engine, os.WNOHANG)
    if os.WIFSIGNALED(status) and not state.exists():
        killed = f"Flower's engine was ended by signal {os.WTERMSIG(status)}"
        raise RunError(killed, expected="to go on while sites are at work", fix="with little memory, free some")
    if not ended:  # its threads would notice within a second that the ServerApp is over
        os.kill(engine, signal.SIGKILL)
        os.waitpid(engine, 0)


def main() -> None:
    """Import, wait for the folder, and run what is planned in it; without a folder nothing is run."""
    parent = os.getppid()
    log_printable()
    prepare_workers()
    preload("flwr-clientapp", "flwr-serverapp")
    folder = Path(sys.stdin.readline().rstrip("\n"))
    if not folder.is_absolute():
        return
    log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for standard in (sys.stdout, sys.stderr):
        os.dup2(log, standard.fileno())
    end_at_once(lambda: _simulate(folder, parent))


if __name__ == "__main__":
    main()
