"""A real `moretta site run` for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from commands import command_lines
from servers import MORETTA, ServerProcess, eventually, moretta

from moretta.deploy.runtime.processes import MARK


@dataclass
class SiteProcess:
    """One enrolled site in a folder of its own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def join(cls, server: ServerProcess, name: str, folder: Path, corpus: Path, *options: object) -> SiteProcess:
        string = folder.with_suffix(".join")
        string.write_text(server.token(name).encode())
        moretta("site", "join", f"@{string}", "--home", folder, "--corpus", corpus, *options)
        return cls(folder)

    def start(self, *, online: bool = True, seconds: float = 400.0) -> SiteProcess:
        with (self.folder / "logs" / "run.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*MORETTA, "site", "run", "--home", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        if online:
            self.wait_online(seconds)
        return self

    def wait_online(self, seconds: float = 400.0) -> dict[str, Any]:
        def online() -> dict[str, Any] | None:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            state = self.state
            return state if state and state["online"] and state["pid"] == self.process.pid else None

        found: dict[str, Any] = eventually(online, seconds)
        return found

    @property
    def state(self) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        except (OSError, ValueError):
            return None
        return content

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "run.log").read_text()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(200)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def children(self) -> list[psutil.Process]:
        """The SuperNode and all that it started, by the mark that they carry."""
        try:
            mark = (self.folder / "keys" / ".run-mark").read_text()
        except OSError:
            return []
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def connector_port(self) -> int:
        """Address that its SuperNode calls."""
        for line in command_lines(self.children()).values():
            if "--superlink" in line:
                return int(line[line.index("--superlink") + 1].rpartition(":")[2])
        raise AssertionError("no SuperNode runs")
