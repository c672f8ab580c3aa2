"""Flower's SuperNode and its executor as children of the site: started, watched, started again, and ended.

The executor takes the SuperNode's tasks and starts a ClientApp for each. It is a process of our own next to the
SuperNode (`--isolation process`), since only then does Flower require a secret of it: a SuperNode that starts its
executor itself gives its tasks to any local account.

A SuperNode that was killed is refused by the SuperLink for up to a minute, because there it still counts as online. So
one that ends is started again after a while, and again, and never given up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from moretta.client.site_home import SITE_HOME, SiteHome
from moretta.client.transport.connector import self_signed
from moretta.deploy.runtime.processes import (
    HOST,
    ManagedProcess,
    end_marked,
    flower_command,
    flower_environment,
    free_port,
    last_error,
    new_mark,
    trim_log,
)
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError

BASE_SECONDS, CAP_SECONDS = 8.0, 30.0
_SETTLED_SECONDS = 120.0
"""Seconds of life after which the next end of a SuperNode counts as a first one."""
_END_SECONDS = 15.0
_POLL_SECONDS = 0.1
_LOG_BYTES, _TAIL_BYTES = 10 * 2**20, 64 * 2**10
"""Bytes from which on a log is put aside at a start; bytes at its end in which the reason of an end is searched."""
_STILL_ONLINE = "[code: 2004]"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """Address of a SuperNode's tasks, and how both ends authenticate; new at each start."""

    port: int
    """Port on loopback."""
    certificate: Path
    """The SuperNode's certificate. A task decides which code a ClientApp runs, so it must come from the SuperNode."""
    key: Path
    secret: Path
    """Secret of the executor, without which it gets no task."""

    @classmethod
    def new(cls, folder: Path) -> Runtime:
        """A runtime with a free port, and files in `folder` that only this account can read."""
        folder = folder.absolute()
        made = cls(free_port(), folder / "runtime.pem", folder / "runtime.key", folder / "runtime.secret")
        certificate, key = self_signed()
        for path, content in ((made.certificate, certificate), (made.key, key), (made.secret, secrets.token_hex(32))):
            write_atomic(path, content)
        return made


@dataclass(frozen=True, slots=True)
class SuperNodeCommand:
    """How a SuperNode of this site is started."""

    home: SiteHome
    connector_port: int
    """The connector's port on loopback."""
    root_certificate: Path
    """Authority of the connector's certificate."""
    node_key: Path
    """File with the node key, in OpenSSH form."""
    trusted_entities: Path
    """The one signer whose bundles are taken."""

    def arguments(self, runtime: Runtime) -> list[str]:
        """The SuperNode's command line. Nothing secret stands in it."""
        return flower_command(
            *("flower-supernode", "--superlink", f"{HOST}:{self.connector_port}"),
            *("--root-certificates", str(self.root_certificate)),
            *("--auth-supernode-private-key", str(self.node_key)),
            *("--trusted-entities", str(self.trusted_entities)),
            *("--host", HOST, "--port", str(runtime.port)),
            *("--ssl-ca-certfile", str(runtime.certificate), "--ssl-certfile", str(runtime.certificate)),
            *("--ssl-keyfile", str(runtime.key)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(runtime.secret)),
            *("--node-config", f"{SITE_HOME}={_quoted(str(self.home.root.absolute()))}"),
        )

    def executor_arguments(self, runtime: Runtime, supernode: int) -> list[str]:
        """The executor's command line; it ends when the SuperNode of this pid has."""
        return flower_command(
            *("flower-superexec", "flwr-clientapp"),
            *("--runtime-api-address", f"{HOST}:{runtime.port}"),
            *("--root-certificates", str(runtime.certificate)),
            *("--superexec-auth-secret-file", str(runtime.secret)),
            *("--parent-pid", str(supernode)),
        )

    def environment(self, mark: str) -> dict[str, str]:
        """The environment that the SuperNode, its executor and the ClientApps inherit."""
        return {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"} | flower_environment(mark, self.home.flower)


class SuperNodeKeeper:
    """Keeps one SuperNode alive.

    Args:
        jitter: uniform in [0, 1).
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        command: SuperNodeCommand,
        *,
        on_start: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command, self._on_start = command, on_start
        self._sleep, self._jitter, self._clock = sleep, jitter, clock
        self._log_file = command.home.logs / "supernode.log"
        self._mark_file = command.home.keys / ".run-mark"
        self._supernode: ManagedProcess | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the SuperNode; None while none runs."""
        return None if self._supernode is None else self._supernode.pid

    async def keep(self) -> None:
        """Start it, and start it again, until this is cancelled; then it and all its processes are ended."""
        failures = 0
        try:
            while True:
                await asyncio.to_thread(self._end_left_over)
                began = self._clock()
                why = await self._live()
                failures = 1 if self._clock() - began > _SETTLED_SECONDS else failures + 1
                wait = (0.5 + self._jitter() / 2) * min(CAP_SECONDS, BASE_SECONDS * 2 ** min(failures - 1, 8))
                _log.warning("the SuperNode ended with %s; it starts again in %.0f s", why, wait)
                await self._sleep(wait)
        finally:
            # While the connector still listens: a node that signs off can come back at once
            if self._supernode is not None:
                await asyncio.to_thread(self._supernode.end, _END_SECONDS)
            await asyncio.to_thread(self._end_left_over)

    async def _live(self) -> str:
        """One life of SuperNode and executor; returns how it ended."""
        self._on_start()
        mark = new_mark()
        write_atomic(self._mark_file, mark)
        trim_log(self._log_file, _LOG_BYTES)
        start = self._log_file.stat().st_size if self._log_file.exists() else 0
        runtime = Runtime.new(self._command.home.keys)
        self._supernode = supernode = self._started("supernode", self._command.arguments(runtime), mark)
        arguments = self._command.executor_arguments(runtime, supernode.pid or 0)
        executor = self._started("executor", arguments, mark)
        self.starts += 1
        while supernode.alive() and executor.alive():
            await asyncio.sleep(_POLL_SECONDS)
        if supernode.alive():  # without its executor a SuperNode is of no use, and signs off
            await asyncio.to_thread(supernode.end, _END_SECONDS)
            return f"code {executor.exit_code} (its executor ended)"
        return f"code {supernode.exit_code}{_explained(self._log_file, start)}"

    def _started(self, name: str, arguments: list[str], mark: str) -> ManagedProcess:
        environment, folder = self._command.environment(mark), self._command.home.flower
        return ManagedProcess(name, arguments, environment=environment, log=self._log_file, folder=folder).start()

    def _end_left_over(self) -> None:
        """End what an earlier SuperNode of this site started, one of a killed supervisor included."""
        try:
            mark = self._mark_file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return
        if len(mark) >= 32:
            end_marked(mark)
        self._mark_file.unlink(missing_ok=True)


def _quoted(path: str) -> str:
    """A path as a value of Flower's `--node-config`, which knows TOML's two kinds of quotes and no escaped ones."""
    if "'" not in path and path.isprintable():
        return f"'{path}'"
    if '"' not in path and "\\" not in path and path.isprintable():
        return f'"{path}"'
    raise HomeError(
        f"a folder whose name Flower cannot read: {path!r}",
        expected="no line ends, and one kind of quotes at most",
        fix="choose another --home",
    )


def _explained(log: Path, start: int) -> str:
    """The reason why a SuperNode ended, in brackets, from its log after byte `start`; empty if it is unknown."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode(errors="replace")
    if _STILL_ONLINE in text:
        return " (the server still counts the last one as online, for up to a minute)"
    error = last_error(text)
    return f" ({error})" if error else ""
