"""Flower's two processes under one server: SuperLink and SuperExec, kept alive together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from moretta.deploy.runtime import process_marks
from moretta.deploy.server.child import Child
from moretta.deploy.server.superlink_process import (
    SuperLinkFiles,
    flower_environment,
    free_port,
    superexec_command,
    superlink_command,
)
from moretta.server.relay.superlink_client import SuperLinkAddress
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.reproducibility import code_digest, versions

_FULL_LOG_BYTES = 32 << 20
Notify = Callable[[str, dict[str, object]], None]


class Flower:
    """What a server keeps running besides its port.

    Args:
        folder: of the SuperLink.
        port: loopback port; 0 takes the one of the last time, or a free one.
        tell: is told of starts and ends.
    """

    def __init__(self, folder: Path, *, port: int, notify: Notify) -> None:
        self.files = SuperLinkFiles(folder)
        last = _last(self.files)
        self.mark = str(last.get("mark") or process_marks.new_mark())
        self.port = int(str(last.get("port", 0)))
        # Processes of another version are not taken over: what they run is not what is installed
        self._take_over = last.get("code") == _code() and bool(_flowers(self.mark))
        if not self._take_over:
            process_marks.end_all_for_sure(self.mark)
            self.port = free_port(port or self.port)
        self.address: SuperLinkAddress = self.files.prepare(self.port)
        write_atomic(
            _facts(self.files), json.dumps({"mark": self.mark, "port": self.port, "code": _code()}), mode=0o600
        )
        self.superlink = self._child("superlink", superlink_command(self.files, self.port), notify)
        self.superexec = self._child("superexec", superexec_command(self.files, self.port), notify)

    @property
    def children(self) -> tuple[Child, Child]:
        """SuperLink and SuperExec."""
        return self.superlink, self.superexec

    def start(self) -> None:
        """Take over what a killed server has left running, and start the rest."""
        taken = [child for child in self.children if self._take_over and child.take_over()]
        pids = {child.pid for child in taken}
        for process in _flowers(self.mark):
            if process.pid not in pids:  # started a moment before the last server was killed, and not written down
                process.kill()
        for child in self.children:
            child.keep_alive()

    def keep_alive(self) -> bool:
        """Start again what has ended; whether the SuperLink was."""
        started = [child.keep_alive() for child in self.children]
        return started[0]

    def trim_logs(self) -> None:
        """Put a full log aside and begin it anew; Flower's processes append, so they need not be told."""
        for child in self.children:
            log = self.files.log(child.name)
            if log.exists() and log.stat().st_size > _FULL_LOG_BYTES:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                with log.open("r+b") as file:
                    file.truncate(0)

    def stop(self) -> None:
        """End both, and every process that they have started."""
        for child in self.children:
            child.ask_to_end()
        for child in self.children:
            child.end()
        process_marks.end_all_for_sure(self.mark)

    def _child(self, name: str, command: list[str], notify: Notify) -> Child:
        return Child(
            name,
            command=command,
            environment=flower_environment(self.files, self.mark),
            folder=self.files.folder / "work",
            log=self.files.log(name),
            record=self.files.children,
            identity=f"{_code()} {self.port}",
            notify=notify,
        )


def _flowers(mark: str) -> list[psutil.Process]:
    """SuperLinks and SuperExecs that carry the mark."""
    found = []
    for process in process_marks.processes(mark):
        with suppress(psutil.Error):
            if any(f"flower-{name}" in part for part in process.cmdline()[:5] for name in ("superlink", "superexec")):
                found.append(process)
    return found


def _facts(files: SuperLinkFiles) -> Path:
    return files.folder / "flower.json"


def _last(files: SuperLinkFiles) -> dict[str, object]:
    try:
        content = json.loads(_facts(files).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _code() -> str:
    return f"{code_digest()[:16]} flwr {versions()['flwr']}"
