"""What a corpus is once read: speakers, clips, and everything that could not be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from moretta.shared.data.clip_names import ClipName, Emotion


@dataclass(frozen=True, slots=True)
class Speaker:
    """One person, as far as `VideoDemographics.csv` tells. Unknown values are None."""

    id: int
    sex: str | None = None
    """`female` or `male`."""
    age: int | None = None
    """In years."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording of one speaker. At least one of `audio` and `video` is a path."""

    name: ClipName
    label: Emotion
    """The emotion under the labels that the study names: intended, or the crowd's vote."""
    audio: Path | None = None
    video: Path | None = None

    @property
    def speaker(self) -> int:
        """The speaker's number in the corpus. Never leaves a site."""
        return self.name.speaker


@dataclass(frozen=True, slots=True)
class Drop:
    """A file or clip that was not used, and why."""

    file: str
    """Relative to the corpus folder. Never leaves a site."""
    reason: str
    """A stable code, such as `bad-name`, `unreadable`, `silent`."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Clips in order of their names, their speakers, and what was dropped."""

    root: Path
    name: str
    synthetic: bool
    clips: tuple[Clip, ...]
    speakers: dict[int, Speaker]
    dropped: tuple[Drop, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())
    """What a reader of the report should know although no file was dropped for it. Never leaves a site."""

    def of(self, speakers: Iterable[int]) -> tuple[Clip, ...]:
        """The clips of some speakers, in order of their names."""
        wanted = set(speakers)
        return tuple(clip for clip in self.clips if clip.speaker in wanted)
