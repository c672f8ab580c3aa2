"""Finds one recording under several names, by what was decoded: whatever its file is called, or is stored as."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from moretta.shared.data.clips import Clip
from moretta.shared.data.listing import listed
from moretta.shared.data.recordings import Kind


@dataclass(frozen=True, slots=True)
class Seen:
    """One usable file of a clip."""

    clip: Clip
    kind: Kind
    file: str
    digest: str
    """Of its samples or pictures."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """One recording under several names: whatever is counted by clip counts it several times."""

    kind: Kind
    files: list[str]
    speakers: list[int]
    emotions: list[str]

    @property
    def fault(self) -> bool:
        """Whether nobody can tell whose recording it is."""
        return len(self.speakers) > 1

    def __str__(self) -> str:
        whose = f"speakers {listed(self.speakers)}" if self.fault else f"{len(self.files)} names"
        emotions = f", labelled {' and '.join(self.emotions)}" if len(self.emotions) > 1 else ""
        return f"the same {self.kind} under {whose}{emotions}: {listed(self.files)}"


def find_repeated(seen: Iterable[Seen]) -> list[Repeated]:
    """What stands more than once, in order of the first."""
    same: dict[tuple[Kind, str], list[Seen]] = defaultdict(list)
    for one in seen:
        same[one.kind, one.digest].append(one)
    return [
        Repeated(
            kind,
            [one.file for one in several],
            sorted({one.clip.speaker for one in several}),
            sorted({str(one.clip.label) for one in several}),
        )
        for (kind, _), several in same.items()
        if len(several) > 1
    ]
