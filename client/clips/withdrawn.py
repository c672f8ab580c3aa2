"""Who has withdrawn: `withdrawn.json` in the site's folder. Their clips are never read again, wherever they are.

A clip is known by its speaker, and by a keyed digest of its content: clips that are moved to another speaker, or copied
back from a backup, stay out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import CorpusError, HomeError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.data.clips import Clip

WITHDRAWN_FILE = "withdrawn.json"


class WithdrawnFile(BaseModel):
    """The content of one file of a person who has withdrawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    """Bytes: only files of such a size are ever read to be compared."""
    digest: str
    """As `content_digest` has it."""


class WithdrawnSpeaker(BaseModel):
    """One person who has withdrawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    speaker: SpeakerId
    at: int
    """Seconds since 1970."""
    files: tuple[WithdrawnFile, ...] = ()


class _WithdrawnSpeakers(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    people: tuple[WithdrawnSpeaker, ...] = ()


def content_digest(key: PseudonymKey, path: Path) -> str:
    """Keyed digest of a file's content, 64 hexadecimal digits.

    Raises:
        CorpusError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", fix="check the corpus and its rights") from error
    return key.digest(f"content {content}")


@dataclass(frozen=True)
class Withdrawn:
    """Everybody who has withdrawn from one site."""

    people: tuple[WithdrawnSpeaker, ...] = ()
    key: PseudonymKey | None = None
    """The site's, under which digests were made."""

    @classmethod
    def load(cls, home: Path, key: Callable[[], PseudonymKey]) -> Withdrawn:
        """Read a site's list; nobody has withdrawn where there is none.

        Raises:
            HomeError: there is one that cannot be read. Nothing may be answered then.
        """
        path = home / WITHDRAWN_FILE
        try:
            return cls(_WithdrawnSpeakers.model_validate_json(path.read_bytes()).people, key())
        except FileNotFoundError:
            return cls()
        except (OSError, ValidationError) as error:
            raise HomeError(
                f"the list of people who have withdrawn, {path}, cannot be read: {type(error).__name__}",
                expected="the file that `moretta site withdraw` wrote",
                fix="put it back from a backup, or withdraw those people again: moretta site withdraw SPEAKER",
            ) from error

    @cached_property
    def speakers(self) -> frozenset[SpeakerId]:
        """As the corpus calls them."""
        return frozenset(person.speaker for person in self.people)

    @cached_property
    def digests(self) -> frozenset[str]:
        """Of their files."""
        return frozenset(file.digest for person in self.people for file in person.files)

    @cached_property
    def _sizes(self) -> frozenset[int]:
        return frozenset(file.size for person in self.people for file in person.files)

    def covers(self, clip: Clip) -> bool:
        """Whether a clip is of somebody who has withdrawn.

        Raises:
            CorpusError: a file that may be theirs cannot be read.
        """
        return clip.speaker in self.speakers or any(map(self._is_theirs, clip.files))

    def _is_theirs(self, path: Path) -> bool:
        try:
            size = path.stat().st_size
        except OSError:
            return False  # gone since it was listed: it will not be read
        return self.key is not None and size in self._sizes and content_digest(self.key, path) in self.digests


NOBODY = Withdrawn()
"""Has withdrawn."""


def add(home: Path, key: PseudonymKey, speaker: SpeakerId, files: frozenset[WithdrawnFile]) -> Withdrawn:
    """Put a person on the list, or add files to theirs."""
    known = Withdrawn.load(home, lambda: key).people
    before = next((person for person in known if person.speaker == speaker), None)
    kept = frozenset() if before is None else frozenset(before.files)
    at = int(time.time()) if before is None else before.at
    files_now = tuple(sorted(kept | files, key=lambda file: file.digest))
    others = tuple(person for person in known if person.speaker != speaker)
    return _save(home, key, (*others, WithdrawnSpeaker(speaker=speaker, at=at, files=files_now)))


def remove(home: Path, key: PseudonymKey, speaker: SpeakerId) -> Withdrawn:
    """Take a person off the list: consent was given again.

    Raises:
        HomeError: the person is not on it.
    """
    known = Withdrawn.load(home, lambda: key).people
    others = tuple(person for person in known if person.speaker != speaker)
    if len(others) == len(known):
        raise HomeError(
            f"speaker {speaker} is not on the list of people who have withdrawn",
            expected=", ".join(person.speaker for person in known) or "somebody on it",
        )
    return _save(home, key, others)


def _save(home: Path, key: PseudonymKey, people: tuple[WithdrawnSpeaker, ...]) -> Withdrawn:
    write_atomic(home / WITHDRAWN_FILE, _WithdrawnSpeakers(people=people).model_dump_json(indent=1), mode=0o600)
    return Withdrawn(people, key)
