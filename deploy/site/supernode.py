"""Flower's SuperNode and its executor as children of the site: started, watched, started again, and ended.

The executor takes the SuperNode's tasks and starts a ClientApp for each. It is a process of our own beside the
SuperNode (`--isolation process`), since only then does Flower ask it for a secret: a SuperNode that starts its executor
itself gives its tasks to any local account that asks for them.

A SuperNode that was killed is refused by the SuperLink for up to a minute, because there it still counts as online. So
one that ends is started again after a while, and again, and never given up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moretta.client.site_home import SITE_HOME, SiteHome
from moretta.client.transport.loopback import HOST, self_signed
from moretta.deploy.runtime import flower_program, process_marks
from moretta.deploy.runtime.proxies import without_proxies
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError
from moretta.shared.core.threads import THREAD_VARIABLES

BASE_SECONDS, CAP_SECONDS = 8.0, 30.0
_SETTLED_SECONDS = 120.0
"""A SuperNode that lived so long was well: the next end is counted as a first one."""
_END_SECONDS = 15.0
_LOG_BYTES, _TAIL_BYTES = 10 * 2**20, 64 * 2**10
"""A longer log is put aside at a start; so much of its end is looked through for why a SuperNode has ended."""
_STILL_ONLINE = "[code: 2004]"
_log = logging.getLogger("moretta.site")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a SuperNode gives its tasks out, and what both ends of that prove themselves with; new at each start."""

    port: int
    """On loopback."""
    certificate: Path
    """That the SuperNode is known by: a task is what code a ClientApp runs, so not everybody may give it one."""
    key: Path
    secret: Path
    """Of the executor: who does not know it is given no task."""

    @classmethod
    def new(cls, folder: Path) -> Runtime:
        """With a free port, and files in `folder` that only this account can read."""
        folder = folder.absolute()
        made = cls(_free_port(), folder / "runtime.pem", folder / "runtime.key", folder / "runtime.secret")
        certificate, key = self_signed()
        for path, content in ((made.certificate, certificate), (made.key, key), (made.secret, secrets.token_hex(32))):
            write_atomic(path, content, mode=0o600)
        return made


@dataclass(frozen=True, slots=True)
class SuperNodeCommand:
    """How a SuperNode of this site is started.

    Args:
        home: the site's folder.
        connector_port: on loopback.
        root_certificate: that the connector is known by.
        node_key: file with the node key in OpenSSH form.
        trusted_entities: file with the one signer whose bundles are taken.
    """

    home: SiteHome
    connector_port: int
    root_certificate: Path
    node_key: Path
    trusted_entities: Path

    def arguments(self, runtime: Runtime) -> list[str]:
        """The SuperNode's command line. Nothing secret stands in it."""
        return [
            *flower_program.command("flower-supernode"),
            "--superlink",
            f"{HOST}:{self.connector_port}",
            "--root-certificates",
            str(self.root_certificate),
            "--auth-supernode-private-key",
            str(self.node_key),
            "--trusted-entities",
            str(self.trusted_entities),
            "--host",
            HOST,
            "--port",
            str(runtime.port),
            "--ssl-ca-certfile",
            str(runtime.certificate),
            "--ssl-certfile",
            str(runtime.certificate),
            "--ssl-keyfile",
            str(runtime.key),
            "--isolation",
            "process",
            "--superexec-auth-secret-file",
            str(runtime.secret),
            "--node-config",
            f"{SITE_HOME}={_quoted(str(self.home.root.absolute()))}",
        ]

    def executor_arguments(self, runtime: Runtime, supernode: int) -> list[str]:
        """The executor's command line; it ends when the SuperNode of this pid has."""
        return [
            *(sys.executable, "-P", "-m", "moretta.deploy.site.executor"),  # -P: nothing is imported from its folder
            *("--runtime-api-address", f"{HOST}:{runtime.port}"),
            *("--root-certificates", str(runtime.certificate)),
            *("--superexec-auth-secret-file", str(runtime.secret)),
            *("--parent-pid", str(supernode)),
        ]

    def environment(self, mark: str) -> dict[str, str]:
        """What the SuperNode, its executor and the ClientApps inherit."""
        binaries = str(Path(sys.executable).parent)
        return {
            **without_proxies(os.environ),
            **dict.fromkeys(THREAD_VARIABLES, "1"),
            process_marks.MARK: mark,
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self.home.flower.absolute()),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_COLOR": "1",
        }


class SuperNodeKeeper:
    """Keeps one SuperNode alive.

    Args:
        command: how it is started.
        sleep: between an end and the next start.
        jitter: uniform in [0, 1).
        clock: seconds that only go forward.
        on_start: called before each start.
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
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Of the SuperNode that runs; None while none does."""
        return None if self._process is None else self._process.pid

    async def keep(self) -> None:
        """Start it, and start it again, until this is cancelled; then it and all its processes are ended."""
        failures = 0
        try:
            while True:
                await asyncio.to_thread(self._end_left_over)
                began = self._clock()
                code, cause = await self._lived()
                failures = 1 if self._clock() - began > _SETTLED_SECONDS else failures + 1
                wait = (0.5 + self._jitter() / 2) * min(CAP_SECONDS, BASE_SECONDS * 2 ** min(failures - 1, 8))
                _log.warning("the SuperNode ended with code %s%s; it starts again in %.0f s", code, cause, wait)
                await self._sleep(wait)
        finally:
            await self._stop()

    async def _lived(self) -> tuple[int, str]:
        self._on_start()
        mark = process_marks.new_mark()
        write_atomic(self._mark_file, mark, mode=0o600)
        _rotate(self._log_file)
        start = self._log_file.stat().st_size if self._log_file.exists() else 0
        runtime = Runtime.new(self._command.home.keys)
        with self._log_file.open("ab") as output:
            supernode = await self._started(self._command.arguments(runtime), mark, output)
            self._process = supernode
            arguments = self._command.executor_arguments(runtime, supernode.pid)
            executor = await self._started(arguments, mark, output)
        self.starts += 1
        code, cause = await _first_end(supernode, executor)
        self._process = None
        return code, cause or _explained(self._log_file, start)

    async def _started(self, arguments: list[str], mark: str, output: BinaryIO) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *arguments,
            env=self._command.environment(mark),
            cwd=self._command.home.flower,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which ends all in order
        )

    async def _stop(self) -> None:
        """Ask it to end while the connector still listens: a node that signs off can come back at once."""
        process, self._process = self._process, None
        if process is not None:
            await _end(process)
        await asyncio.to_thread(self._end_left_over)

    def _end_left_over(self) -> None:
        """End what an earlier SuperNode of this site started, one of a killed supervisor included."""
        try:
            mark = self._mark_file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return
        if len(mark) >= 32:
            process_marks.end_all_for_sure(mark)
        self._mark_file.unlink(missing_ok=True)


async def _first_end(supernode: asyncio.subprocess.Process, executor: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait until one of the two ends; without its executor a SuperNode is of no use, and signs off."""
    waiting = [asyncio.create_task(process.wait()) for process in (supernode, executor)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    if supernode.returncode is None:
        await _end(supernode)
        return executor.returncode or 0, " (its executor ended)"
    return supernode.returncode, ""


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_END_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _quoted(path: str) -> str:
    """A path as a value of Flower's `--node-config`, which knows TOML's two kinds of quotes and no escaped ones.

    Raises:
        HomeError: the path has both kinds in it, or an end of line.
    """
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
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - _TAIL_BYTES))
        text = file.read(_TAIL_BYTES).decode(errors="replace")
    if _STILL_ONLINE in text:
        return " (the server still counts the last one as online, for up to a minute)"
    errors = [line.strip() for line in text.splitlines() if "Exit Code" in line or "Error" in line]
    return f" ({errors[-1][:200]})" if errors else ""


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
