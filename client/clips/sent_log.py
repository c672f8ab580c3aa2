"""The record of what has left the site, for which study and server, about whom: a line before each response leaves.

The ledger says what was lost; this says where it is, so that a steward can write to a coordinator when a person
withdraws. It also knows which runs of a study saw which release: a run whose release was removed gets no other one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from moretta.client.settings import SiteSettings
from moretta.shared.core.atomic import append_durably
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
        """Oldest first. A last line without its end, of a site that was killed, does not count."""
        try:
            text = self.path.read_text(encoding="utf-8")
            found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            if all(isinstance(line, dict) and isinstance(line.get("what"), str) for line in found):
                return found
            cause = None
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            cause = error
        raise HomeError(
            f"the record of what has left, {self.path}, cannot be read",
            expected="one line of JSON for each response",
            fix="put it back from a backup, or move it away: what has left can then be seen in the ledger only",
        ) from cause

    def runs(self) -> tuple[frozenset[int], frozenset[int]]:
        """Runs with a response from what has been removed since, and runs with one from what is stored now."""
        lines, start = self._split()
        before, now = (
            frozenset(line["run"] for line in part if line["what"] != REMOVED)
            for part in (lines[:start], lines[start:])
        )
        return before, now

    @property
    def waits_for_release(self) -> bool:
        """Whether what was stored has been removed, and nothing has taken its place."""
        lines, start = self._split()
        return 0 < start == len(lines)

    def note(
        self, what: What, study: Study, *, run: int, speakers: Mapping[SpeakerId, str], round_number: int = 0
    ) -> None:
        """Write that a response is about to leave, unless the same line is there.

        Args:
            what: leaves.
            study: of the response.
            run: Flower's number of the run that gets it.
            speakers: whom it is about, with the pseudonyms that the server has; empty where it has none.
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
        lines, start = self._split()
        if not any(line.items() <= known.items() for known in lines[start:]):
            self._append(line)

    def note_removal(self, why: str) -> None:
        """Write that what was stored for this study is used no more."""
        self._append({"what": REMOVED, "why": why})

    def _split(self) -> tuple[list[Line], int]:
        """All lines, and how many come up to the last removal."""
        lines = self.lines()
        return lines, max((n for n, line in enumerate(lines, start=1) if line["what"] == REMOVED), default=0)

    def _append(self, line: Line) -> None:
        append_durably(self.path, json.dumps({"at": int(time.time()), **line}))


def all_sent(settings: SiteSettings) -> Iterator[Sent]:
    """Of every study."""
    for path in sorted((settings.home / "sent").glob("*.jsonl")):
        yield Sent(path, settings.server)


def about(lines: Iterable[Line], speaker: SpeakerId) -> list[Line]:
    """The lines about one person."""
    return [line for line in lines if speaker in line.get("speakers", {})]
