"""The process of the stages that need no site: central check, audit, report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moretta.deploy.runtime import process_marks
from moretta.deploy.runtime.proxies import without_proxies
from moretta.shared.core.threads import THREAD_VARIABLES


@dataclass(frozen=True, slots=True)
class CentralProcess:
    """A running process of `moretta.server.app`."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path


@contextmanager
def central_process(folder: Path) -> Iterator[CentralProcess]:
    """Start it for one run; on leaving, it and all its workers are ended."""
    mark = process_marks.new_mark()
    log = folder / "server" / "desk.log"
    environment = {
        **without_proxies(os.environ),
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        process_marks.MARK: mark,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "moretta.server.app", str(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        yield CentralProcess(process, mark, log)
    finally:
        process_marks.end_all_for_sure(mark)
