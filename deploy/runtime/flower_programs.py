"""Flower's programs as Moretta starts them. Run as a program: the name of Flower's program, and its own arguments.

Four things differ from Flower's own:

- Logs are made printable, because they hold text that other machines send.
- A SuperExec runs one kind of app. Flower's would also run agents and connectors, which read files and the web.
- Each app is a fork of one process that has imported what apps need: a new interpreter takes seconds per message.
- An app gets its task's token in a file without a name. Every local account can read a command line, and with a token
  it could read what the app is sent and respond in its place.

This relies on Flower 1.41: `SubprocessExecutor` in `flwr.supercore.superexec.executor.factory`, and the option
`--token-file` of `flwr-serverapp` and `flwr-clientapp`.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module, metadata
from typing import NoReturn

from moretta.deploy.runtime.processes import flower_command
from moretta.shared.core.flower_private import (
    TASK_TYPE_TO_APPIO_API_ADDRESS_ARG,
    TASK_TYPE_TO_COMMAND,
    ExecutionSpec,
    LaunchResult,
    SubprocessExecutor,
    TaskType,
    factory,
    look_more_often,
)
from moretta.shared.core.printable import log_printable
from moretta.shared.core.reproducibility import code_digest
from moretta.shared.core.workers import own_randomness
from moretta.shared.study.options import ANONYMIZERS

_PRELOADED = {
    "flwr-clientapp": (
        "httpcore",
        "moretta.client.app",
        "moretta.client.clips.release",
        "moretta.client.training.masked_rounds",
        "moretta.client.training.code_training",
        "moretta.client.training.evaluation",
        "moretta.client.training.local_training",
        "opacus",
        "torch._dynamo",
    ),
    "flwr-serverapp": (
        "cv2",
        "httpcore",
        "moretta.server.app",
        "moretta.server.stages.train",
        "moretta.shared.models.emotion",
        "moretta.shared.models.speech",
        "sklearn.cluster",
        "torch._dynamo",
        "torchaudio.transforms",
    ),
}
"""Modules that an app imports, besides the anonymizers; none of these starts a thread, which a fork would lose."""
_FORKED_FROM = "--forked-from"
_MOST_BYTES = 64 * 2**10
_LOOK_SECONDS = 0.02


class AppExecutor(SubprocessExecutor):
    """Starts a process for each task of one type, and for no other."""

    def __init__(self, app: TaskType) -> None:
        self._app = app
        self._requests: socket.socket | None = None
        """Socket to the process that forks the apps; it starts with the first task, and ends with this process."""

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        """Which tasks it takes."""
        del insecure, root_certificates_path
        return supported_task_types & {self._app}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start an app; the file of its token is never on a disk, and only Moretta's own processes have it open."""
        if spec.task_type is not self._app or spec.insecure or spec.root_certificates_path is None:
            return LaunchResult.failed(f"found a {spec.task_type}, expected a {self._app} over TLS")
        arguments = [
            *(TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[self._app], spec.runtime_api_address),
            *("--root-certificates", spec.root_certificates_path, "--parent-pid", str(os.getpid())),
        ]
        token = os.memfd_create("task-token")
        try:
            os.write(token, spec.token.encode())
            self._request(json.dumps(arguments).encode(), token)
        finally:
            os.close(token)
        return LaunchResult.accepted()

    def _request(self, arguments: bytes, token: int) -> None:
        """Have an app forked, by a new process if there is none or it was killed."""
        if self._requests is not None:
            try:
                socket.send_fds(self._requests, [arguments], [token])
            except OSError:
                self._requests.close()
            else:
                return
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = flower_command(TASK_TYPE_TO_COMMAND[self._app], _FORKED_FROM, str(theirs.fileno()))
            subprocess.Popen(command, pass_fds=(theirs.fileno(),))
        socket.send_fds(self._requests, [arguments], [token])


def _fork(requests: socket.socket) -> None:
    """Fork an app for each request until the executor ends. Returns in each of them, with its arguments in place.

    An app starts as a new process would: the system's signal handlers, no thread, random numbers of its own.
    """
    preload(sys.argv[0])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system removes apps that have ended
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 1)
        if not message:
            sys.exit()
        if os.fork() == 0:
            break
        os.close(descriptors[0])
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    own_randomness()
    sys.argv[1:] = [*json.loads(message), "--token-file", f"/dev/fd/{descriptors[0]}"]


def preload(*apps: str) -> None:
    """Import what these apps need, in a process that will be forked."""
    with suppress(Exception):  # an app fails at the same place, and its run gets the reason
        for app in apps:
            for name in _PRELOADED[app]:
                import_module(name)
        ANONYMIZERS.load()
    gc.freeze()  # a collection in an app would copy every page
    code_digest()  # of the code that was imported, whatever is installed later


def end_at_once(run: Callable[[], object]) -> NoReturn:
    """Run a program and end as the processes of `multiprocessing` do: to take torch apart costs more than a message."""
    code: object = 0
    try:
        run()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(bool(code)))


def main() -> None:
    """Start the program that the first argument names; `flower-superexec` is followed by the app that it runs."""
    sys.argv = sys.argv[1:]
    log_printable()
    if sys.argv[0] == "flower-superexec":
        factory.SubprocessExecutor = partial(AppExecutor, TaskType(sys.argv.pop(1)))  # type: ignore
    if sys.argv[0] == "flower-supernode":
        look_more_often(_LOOK_SECONDS)
    (program,) = metadata.distribution("flwr").entry_points.select(group="console_scripts", name=sys.argv[0])
    run = program.load()
    if sys.argv[1:2] == [_FORKED_FROM]:
        _fork(socket.socket(fileno=int(sys.argv[2])))
        run = partial(end_at_once, run)
    run()


if __name__ == "__main__":
    main()
