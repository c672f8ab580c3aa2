"""The process of the stages that need no site: central check, audit, report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moretta.deploy.runtime import marked
from moretta.deploy.runtime.proxies import without_proxies
from moretta.shared.core.threads import THREAD_VARIABLES


@dataclass(frozen=True, slots=True)
class DeskProcess:
    """A running `moretta.server.desk`."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path


@contextmanager
def desk_process(folder: Path) -> Iterator[DeskProcess]:
    """Start it for one run; on leaving, it and all its workers are ended."""
    mark = marked.new_mark()
    log = folder / "server" / "desk.log"
    environment = {
        **without_proxies(os.environ),
        **dict.fromkeys(THREAD_VARIABLES, "1"),
        marked.MARK: mark,
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    try:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "moretta.server.desk", str(folder)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        yield DeskProcess(process, mark, log)
    finally:
        marked.end_all_for_sure(mark)
