"""`moretta server status`: whether a server runs, by its lock; how it is, by its own word and by knocking."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from moretta.server.home import RunningServer, ServerHome, running_pid, running_server
from moretta.shared.core.errors import HomeError

_STALE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Status:
    """What was found."""

    folder: Path
    server: RunningServer | None
    problems: dict[str, str | None]
    """By part (`server`, `registry`, `authority`, `superlink`); None where all is well."""

    @property
    def healthy(self) -> bool:
        """Whether everything that a study needs is there."""
        return not any(self.problems.values())

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        server = self.server
        return {
            "folder": str(self.folder),
            "healthy": self.healthy,
            "problems": self.problems,
            "pid": server.pid if server else None,
            "listen": server.listen if server else None,
            "address": server.address if server else None,
            "superlink": server.superlink if server else None,
            "uptime_seconds": round(time.time() - server.started, 1) if server else None,
        }


def server_status(root: Path) -> Status:
    """Look at the server of a folder.

    Raises:
        HomeError: there is no such folder.
    """
    home = ServerHome.open(root)
    try:
        server = running_server(home)
    except HomeError as error:
        pid = running_pid(home)
        return Status(home.root, None, {"server": error.found if pid else "it does not run"})
    stale = time.time() - server.updated
    hangs = f"it has said nothing for {stale:.0f} s" if stale > _STALE_SECONDS else None
    problems = {"server": hangs, **server.problems}
    if problems.get("superlink") is None and not _responds(server):
        problems["superlink"] = "Flower's SuperLink does not answer"
    return Status(home.root, server, problems)


def status_lines(status: Status) -> list[str]:
    """For people."""
    server = status.server
    if server is None:
        return [f"{status.folder}: {status.problems['server']}"]
    lines = [
        f"server     process {server.pid}, listening on {server.listen}, sites dial {server.address}",
        f"superlink  {server.superlink}, loopback only",
    ]
    return [*lines, *(f"{part:<10} {problem or 'well'}" for part, problem in status.problems.items())]


def _responds(server: RunningServer) -> bool:
    try:
        tls = ssl.create_default_context(cafile=server.superlink_ca)
        return httpx.get(f"https://{server.superlink}/health", verify=tls, timeout=3.0, trust_env=False).is_success
    except (httpx.HTTPError, OSError):
        return False
