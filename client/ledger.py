"""The privacy ledger of a site: every loss on disk before the data leaves, append-only, hash-chained.

A crash between writing an entry and sending the data over-counts; nothing under-counts. Losses of one mechanism compose
by the accountant whose history is kept here, so that epsilon grows over rounds, runs and restarts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moretta.shared.errors import RefusedError

_START = "0" * 64


class Ledger:
    """An append-only JSON-lines file in which every line carries the hash of the one before.

    Raises:
        RefusedError: on opening, if the chain is broken; the site then releases nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = list(self._read())

    @property
    def head(self) -> str:
        """Hash of the last entry, 64 hexadecimal digits."""
        return str(self._entries[-1]["hash"]) if self._entries else _START

    def entries(self, kind: str, **match: Any) -> list[dict[str, Any]]:
        """Entries of one kind whose fields equal `match`, oldest first."""
        return [
            e["entry"]
            for e in self._entries
            if e["entry"]["kind"] == kind and all(e["entry"].get(k) == v for k, v in match.items())
        ]

    def spend(self, kind: str, **entry: Any) -> None:
        """Write one entry and return only when it is on disk."""
        content = {"kind": kind, **entry}
        record = {"entry": content, "previous": self.head, "hash": _digest(self.head, content)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, (json.dumps(record, sort_keys=True, allow_nan=False) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._entries.append(record)

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        # A kill during the last write leaves a line without its end: its data never left, so it is cut off.
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            os.truncate(self._path, len(whole))
        previous = _START
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                record = json.loads(line)
                intact = record["previous"] == previous and record["hash"] == _digest(previous, record["entry"])
            except (ValueError, KeyError, TypeError):
                intact = False
            if not intact:
                raise RefusedError(
                    f"the privacy ledger {self._path} is broken at line {number}",
                    expected="an unchanged chain of entries",
                    fix="restore the ledger from a backup that is not older; never delete it",
                )
            previous = record["hash"]
            yield record


def _digest(previous: str, entry: dict[str, Any]) -> str:
    text = json.dumps(entry, sort_keys=True, allow_nan=False)
    return hashlib.sha256(f"{previous}\n{text}".encode()).hexdigest()
