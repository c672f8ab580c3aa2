"""`site.log`: one line for each thing that left the site or was refused, and the whole of what failed.

An entry begins with its time and its run. The traceback of an unforeseen failure stands below, behind a mark: those who
follow the log, as `moretta site run` does, leave it out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from moretta.shared.core.printable import printable, run_id

SITE_LOG = "site.log"
MAX_LOG_BYTES = 16 * 2**20
"""Most bytes of the log, and of the one before it: messages without end must not fill the disk."""
MAX_NEW_BYTES = 64 * 2**10
"""Most bytes that a follower reads at once; of more it reads the end."""
_BEGINS = re.compile(r"\d{4}-\d\d-\d\dT\S+ run=\S+ (.*)")
_log = logging.getLogger(__name__)


def log_line(home: Path | None, text: str, details: str = "") -> None:
    """Append a line, and what belongs to it. Never raises: a full disk is reported to this process's own log.

    Args:
        home: the site's folder; None writes to the process's log alone.
        text: one line; what is not printable is escaped.
        details: more lines, of which none may look like the beginning of an entry: `printable_traceback` marks them.
    """
    at = datetime.now(UTC).isoformat(timespec="seconds")
    line = f"{at} run={run_id()} {printable(text)}\n" + (f"{details}\n" if details else "")
    try:
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
            path = home / SITE_LOG
            if path.exists() and path.stat().st_size > MAX_LOG_BYTES:  # every refused message adds to it
                path.replace(path.with_name(f"{SITE_LOG}.1"))
            with path.open("a", encoding="utf-8") as log:
                log.write(line)
            return
    except OSError as disk:  # Flower would send the server an error that came out of here, path and all
        line += f"and the site's log cannot be written: {disk}\n"
    _log.error(line)


class Follower:
    """Reads what others add to a site's log, from now on."""

    def __init__(self, home: Path) -> None:
        self._path = home / SITE_LOG
        self._place = self._path.stat().st_size if self._path.exists() else 0

    def lines(self) -> Iterator[str]:
        """The texts of whole new lines, without time, run and details; a log that was begun anew from its beginning."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                start = self._place if self._place <= size else 0
                place = file.seek(max(start, size - MAX_NEW_BYTES))
                content = file.read(MAX_NEW_BYTES)
                whole = content[: content.rfind(b"\n") + 1]
                self._place = place + len(whole)
                if place > start:  # within a line, of which the rest may look like an entry
                    whole = whole.partition(b"\n")[2]
        except OSError:
            return
        for line in whole.decode("utf-8", errors="replace").split("\n"):
            if (found := _BEGINS.fullmatch(line)) is not None:
                yield found[1]
