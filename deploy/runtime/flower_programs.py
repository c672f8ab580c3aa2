"""Flower's programs as Moretta starts them. Run as a program: the name of Flower's program, and its own arguments.

Two things differ from Flower's own. What they log is printable, because it holds what other machines send. And a
SuperExec runs one kind of app, since Flower's would also run agents and connectors, which read files and the web. It
passes a task's token in a file without a name: a token lets its holder read what the app is sent and respond in its
place, and every local account can read a command line.

This relies on Flower 1.41: `SubprocessExecutor` in `flwr.supercore.superexec.executor.factory`, and the option
`--token-file` of `flwr-serverapp` and `flwr-clientapp`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from moretta.shared.core.flower_private import (
    TASK_TYPE_TO_APPIO_API_ADDRESS_ARG,
    TASK_TYPE_TO_COMMAND,
    LaunchResult,
    SubprocessExecutor,
    TaskType,
    factory,
)
from moretta.shared.core.printable import log_printable

if TYPE_CHECKING:
    from moretta.shared.core.flower_private import ExecutionSpec


class AppExecutor(SubprocessExecutor):
    """Starts a process for each task of one type, and for no other."""

    def __init__(self, app: TaskType) -> None:
        self._app = app

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
        """Start an app; only it and this process have the file of its token open."""
        if spec.task_type is not self._app or spec.insecure or spec.root_certificates_path is None:
            return LaunchResult.failed(f"found a {spec.task_type}, expected a {self._app} over TLS")
        token = os.memfd_create("task-token")
        try:
            os.write(token, spec.token.encode())
            subprocess.Popen(
                [
                    *(TASK_TYPE_TO_COMMAND[self._app], TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[self._app]),
                    *(spec.runtime_api_address, "--token-file", f"/dev/fd/{token}"),
                    *("--root-certificates", spec.root_certificates_path, "--parent-pid", str(os.getpid())),
                ],
                pass_fds=(token,),
            )
        finally:
            os.close(token)
        return LaunchResult.accepted()


def main() -> None:
    """Start the program that the first argument names; `flower-superexec` is followed by the app that it runs."""
    sys.argv = sys.argv[1:]
    log_printable()
    if sys.argv[0] == "flower-superexec":
        factory.SubprocessExecutor = partial(AppExecutor, TaskType(sys.argv.pop(1)))  # type: ignore
    (program,) = metadata.distribution("flwr").entry_points.select(group="console_scripts", name=sys.argv[0])
    program.load()()


if __name__ == "__main__":
    main()
