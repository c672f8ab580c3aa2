"""What a running server tells the commands and processes beside it, by a file in its folder.

A server keeps `server.pid` locked for as long as it lives: the lock tells whether it runs, and goes with the process
however that ends. `server.json` tells the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from moretta.server.enrollment.site_registry import Registry
from moretta.server.home import ServerHome
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError

CONNECTION = "moretta"
"""Name of the SuperLink's connection in the FLWR_HOME that the server keeps."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that runs."""

    pid: int
    started: float
    updated: float
    """Seconds since 1970. A server updates this every few seconds: one that is much older hangs."""
    listen: str
    """HOST:PORT of the guarded port, as it was bound."""
    address: str
    """HOST:PORT that sites reach it at."""
    superlink: str
    """HOST:PORT of Flower's SuperLink, on loopback, TLS."""
    superlink_ca: str
    """File with the certificate that the SuperLink is known by, PEM."""
    flwr_home: str
    """FLWR_HOME in which the connection `moretta` leads to the SuperLink."""
    problems: Mapping[str, str | None]
    """By part (`registry`, `authority`, `superlink`): what is wrong with it, or None."""
    mark: str
    """In the environment of every process that belongs to this server."""

    @property
    def healthy(self) -> bool:
        """Whether everything that a study needs is there."""
        return not any(self.problems.values())

    def write(self, home: ServerHome) -> None:
        """Tell the others."""
        write_atomic(home.state_file, json.dumps(asdict(self), indent=1) + "\n", mode=0o600)


def running_server(home: ServerHome) -> RunningServer:
    """The server that runs on a folder.

    Raises:
        HomeError: none does, or it has not told yet where it listens.
    """
    pid = running_pid(home)
    if pid is None:
        raise HomeError(f"no server runs on {home.root}", fix=f"start it with: moretta server up {home.root}")
    try:
        content: dict[str, Any] = json.loads(home.state_file.read_text(encoding="utf-8"))
        state = RunningServer(**content)
    except (OSError, ValueError, TypeError):
        state = None
    if state is None or state.pid != pid:
        raise HomeError(f"the server on {home.root} is still starting", fix="try again in a few seconds")
    return state


def running_pid(home: ServerHome) -> int | None:
    """Process id of the server that runs on a folder, or None."""
    try:
        descriptor = os.open(home.lock_file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(descriptor, 20) or b"0")
    finally:
        os.close(descriptor)
    return None


@contextmanager
def only_server(home: ServerHome) -> Iterator[None]:
    """Hold a folder for this process.

    Raises:
        HomeError: another process holds it.
    """
    descriptor = os.open(home.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(descriptor, 20).decode(errors="replace")
            raise HomeError(
                f"a server runs on {home.root} already, as process {pid}", fix="stop it first, or leave it running"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def site_names(home: ServerHome) -> dict[int, str]:
    """Flower's node id to the name of the site, for every node key that this server ever registered.

    Names come from the registry alone, never from what a site says of itself.

    Raises:
        HomeError: the registry cannot be opened.
    """
    registry = Registry.open(home.registry)
    try:
        return registry.node_names()
    finally:
        registry.close()
