"""What takes the SuperNode's tasks at a site: Flower's SuperExec, with two things changed. Started as a program.

It runs ClientApps and nothing else: Flower's own would also run agents and connectors, which read files and the web.
And a task's token, with which anybody could fetch what a ClientApp is sent and respond in its place, does not stand on
a command line, where every local account could read it.

What this relies on in Flower 1.41: `SubprocessExecutor` in `flwr.supercore.superexec.executor.factory`, and the option
`--token-file` of `flwr-clientapp`.
"""

from __future__ import annotations

import os
import subprocess
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


class ClientAppExecutor(SubprocessExecutor):
    """Starts a process for each task."""

    def get_eligible_capacity(
        self,
        supported_task_types: set[TaskType],
        *,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> tuple[set[TaskType], set[str]]:
        """Which tasks it takes."""
        del insecure, root_certificates_path
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a ClientApp, its token in a file that has no name and that only this process and that one have open."""
        if spec.task_type is not TaskType.CLIENT_APP or spec.insecure or spec.root_certificates_path is None:
            return LaunchResult.failed(f"a site runs ClientApps over TLS, and no {spec.task_type}")
        token = os.memfd_create("task-token")
        try:
            os.write(token, spec.token.encode())
            subprocess.Popen(
                [
                    *(TASK_TYPE_TO_COMMAND[spec.task_type], TASK_TYPE_TO_APPIO_API_ADDRESS_ARG[spec.task_type]),
                    *(spec.runtime_api_address, "--token-file", f"/dev/fd/{token}"),
                    *("--root-certificates", spec.root_certificates_path, "--parent-pid", str(os.getpid())),
                ],
                pass_fds=(token,),
            )
        finally:
            os.close(token)
        return LaunchResult.accepted()


def main() -> None:
    """Flower's SuperExec, with this executor."""
    from moretta.shared.core.flower_private import flower_superexec

    log_printable()
    factory.SubprocessExecutor = ClientAppExecutor  # type: ignore[attr-defined]
    flower_superexec()


if __name__ == "__main__":
    main()
