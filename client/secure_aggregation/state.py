"""What a site remembers of a round of secure aggregation, on its own disk: each of its questions may come to a new
process, and may come twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

Pair = tuple[str, str]


class Session(BaseModel):
    """One round, tried once. Bytes are hexadecimal."""

    model_config = ConfigDict(extra="forbid")

    number: str
    """As the server calls it."""
    round: int
    mask_key: str
    """Private: the masks that this site has in common with each other one."""
    share_key: str
    """Private: for what the sites send each other through the server."""
    public: Pair
    """The public keys of both."""
    seed: str = ""
    """Of the mask that is this site's alone."""
    peers: dict[str, Pair] = {}
    """Public keys of everybody who takes part, this site included."""
    sent: dict[str, str] = {}
    """Shares for the others, encrypted: told again if asked again."""
    held: dict[str, Pair] = {}
    """A share of the seed and of the mask key of each site, this one's own included."""
    question: str = ""
    """What was trained."""
    unmasked: dict[str, str] | None = None
    """Shares that were handed out: with them the secrets above are gone."""

    def __repr__(self) -> str:
        return f"Session({self.number!r}, round={self.round})"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class SessionStore:
    """The sessions of one model in one study, one at a time, and which rounds were unmasked."""

    folder: Path
    kind: ModelKind

    @classmethod
    def of(cls, home: Path, study: Study, kind: ModelKind) -> SessionStore:
        """Under a site's home."""
        return cls(home / "secure" / study.digest()[:16], kind)

    def find(self, number: Any) -> Session | None:
        """The session of this number; None if there is none, or another one."""
        try:
            session = Session.model_validate_json(self._session.read_bytes())
        except (OSError, ValidationError):
            return None
        return session if session.number == number else None

    def get(self, number: Any) -> Session:
        """The same, where it must be there.

        Raises:
            RefusedError: it is not.
        """
        session = self.find(number)
        if session is None:
            raise RefusedError("a step of secure aggregation whose start this site has not seen, or has seen end")
        return session

    def keep(self, session: Session) -> None:
        """In the place of any other."""
        write_atomic(self._session, session.model_dump_json(), mode=0o600)

    def let_unmask(self, round_number: int, what: str) -> None:
        """Note that a round's masks are taken off, before they are.

        Raises:
            RefusedError: they were taken off a sum of other sites or updates before: the difference would tell one.
        """
        try:
            known = TypeAdapter(dict[int, str]).validate_json(self._rounds.read_bytes())
        except FileNotFoundError:
            known = {}
        except (OSError, ValidationError) as error:
            raise RefusedError(f"the record of unmasked rounds cannot be read: {error}") from error
        if known.setdefault(round_number, what) != what:
            raise RefusedError(
                f"round {round_number} is to be unmasked once more, with other sites or other weights",
                expected="each round once: the difference of two sums tells a single update",
                fix="go on with the run that had it, or start a study of another name or seed",
            )
        write_atomic(self._rounds, TypeAdapter(dict[int, str]).dump_json(known), mode=0o600)

    @property
    def _session(self) -> Path:
        return self.folder / f"{self.kind}.json"

    @property
    def _rounds(self) -> Path:
        return self.folder / f"{self.kind}-unmasked.json"
