"""What has left the site, for which study, to which server, about whom: a line on disk before each answer leaves.

The ledger says what was lost; this says where it is, so that a steward can write to a coordinator when a person
withdraws. It also knows which runs of a study saw which release: a run whose release was removed gets no other one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moretta.client.settings import SiteSettings
from moretta.shared.core.atomic import append_line, naming, sync_folder
from moretta.shared.core.errors import HomeError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.study.schema import Study

What = Literal["release", "code", "voice", "face", "fusion", "counts"]
"""A release, an update of the code or of a model, or counts of the evaluation."""
REMOVED = "removed"
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sent:
    """The lines of one study."""

    path: Path
    server: tuple[str, str]

    @classmethod
    def of(cls, settings: SiteSettings, study: str) -> Sent:
        """Those of a study, by its digest."""
        return cls(settings.home / "sent" / f"{study[:16]}.jsonl", settings.server)

    def lines(self) -> list[Line]:
        """Oldest first. A last line without its end, of a site that was killed, is no line.

        Raises:
            HomeError: they cannot be read.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise _damaged(self.path) from error
        try:
            found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        except ValueError as error:
            raise _damaged(self.path) from error
        if not all(isinstance(line, dict) and isinstance(line.get("what"), str) for line in found):
            raise _damaged(self.path)
        return found

    def runs_before_removal(self) -> frozenset[int]:
        """Runs that were answered from what has been removed since."""
        lines = self.lines()
        removed = [number for number, line in enumerate(lines) if line["what"] == REMOVED]
        return frozenset(line["run"] for line in lines[: removed[-1] if removed else 0] if line["what"] != REMOVED)

    def runs_now(self) -> frozenset[int]:
        """Runs that were answered from what is kept now."""
        return frozenset(line["run"] for line in self._since_removal() if line["what"] != REMOVED)

    @property
    def waits_for_release(self) -> bool:
        """Whether what was kept has been removed, and nothing has taken its place."""
        lines = self.lines()
        return bool(lines) and lines[-1]["what"] == REMOVED

    def note(
        self, what: What, study: Study, *, run: int, speakers: Mapping[SpeakerId, str], round_number: int = 0
    ) -> None:
        """Write that an answer is about to leave, unless the same line is there.

        Args:
            what: it is.
            study: for which it is.
            run: Flower's number of the run that gets it.
            speakers: whom it is about, with the pseudonyms that the server knows them by; empty where it knows none.
            round_number: of training; 0 for what has no rounds.
        """
        address, fingerprint = self.server
        line = {
            "what": what,
            "run": run,
            "round": round_number,
            "study": study.digest(),
            "name": study.name,
            "server": address,
            "ca_fingerprint": fingerprint,
            "speakers": {speaker: speakers[speaker] for speaker in in_order(speakers)},
        }
        if not any(line.items() <= known.items() for known in self._since_removal()):
            self._append(line)

    def note_removal(self, why: str) -> None:
        """Write that what was kept for this study is used no more."""
        self._append({"what": REMOVED, "why": why})

    def _since_removal(self) -> list[Line]:
        lines = self.lines()
        removed = [number for number, line in enumerate(lines) if line["what"] == REMOVED]
        return lines[removed[-1] + 1 :] if removed else lines

    def _append(self, line: Line) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            os.ftruncate(descriptor, content.rfind(b"\n") + 1)  # what a kill left of a line: its answer never left
            with naming(self.path):
                append_line(descriptor, json.dumps({"at": int(time.time()), **line}))
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(self.path.parent)


def all_sent(settings: SiteSettings) -> Iterator[Sent]:
    """Of every study."""
    for path in sorted((settings.home / "sent").glob("*.jsonl")):
        yield Sent(path, settings.server)


def about(lines: Iterable[Line], speaker: SpeakerId) -> list[Line]:
    """The lines about one person."""
    return [line for line in lines if str(speaker) in line.get("speakers", {})]


def _damaged(path: Path) -> HomeError:
    return HomeError(
        f"the record of what has left, {path}, cannot be read",
        expected="one line of JSON for each answer",
        fix="put it back from a backup, or move it away: what has left can then be seen in the ledger only",
    )
