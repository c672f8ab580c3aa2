"""The state of a round of secure aggregation, on the site's disk: a request may reach a new process, or come twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.study.fusion import ModelKind
from moretta.shared.study.schema import Study

Pair = tuple[str, str]
_UNMASKED = TypeAdapter(dict[int, str])


class Session(BaseModel):
    """One attempt at one round. Bytes are hexadecimal."""

    model_config = ConfigDict(extra="forbid")

    number: str
    """The server's name for it."""
    round: int
    mask_key: str
    """Private: for the masks that this site shares with each other site."""
    share_key: str
    """Private: for what the sites send each other through the server."""
    public: Pair
    """The public keys of both."""
    seed: str = ""
    """Of this site's own mask."""
    peers: dict[str, Pair] = {}
    """Public keys of every participant, this site included."""
    sent: dict[str, str] = {}
    """Encrypted shares for the others: the response to a repeated request."""
    held: dict[str, Pair] = {}
    """A share of the seed and of the mask key of each site, this one's own included."""
    question: str = ""
    """Digest of the round of training."""
    unmasked: dict[str, str] | None = None
    """Shares that were handed out: the secrets above are erased then."""

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

    def find(self, number: str) -> Session | None:
        """The session of this number; None if there is none, or another one."""
        try:
            session = Session.model_validate_json(self._session.read_bytes())
        except (OSError, ValidationError):
            return None
        return session if session.number == number else None

    def get(self, number: str) -> Session:
        """The session of this number.

        Raises:
            RefusedError: there is none.
        """
        session = self.find(number)
        if session is None:
            raise RefusedError("a step of secure aggregation whose start this site has not seen, or has seen end")
        return session

    def keep(self, session: Session) -> None:
        """Replace any other session."""
        write_atomic(self._session, session.model_dump_json(), mode=0o600)

    def allow_unmasking(self, round_number: int, request: str) -> None:
        """Record that a round is unmasked, before it is.

        Raises:
            RefusedError: it was unmasked for other sites or updates before: the difference would reveal one.
        """
        try:
            known = _UNMASKED.validate_json(self._rounds.read_bytes())
        except FileNotFoundError:
            known = {}
        except (OSError, ValidationError) as error:
            raise RefusedError(f"the record of unmasked rounds cannot be read: {error}") from error
        if known.setdefault(round_number, request) != request:
            raise RefusedError(
                f"round {round_number} is to be unmasked once more, with other sites or other weights",
                expected="each round once: the difference of two sums reveals a single update",
                fix="go on with the run that had it, or start a study of another name or seed",
            )
        write_atomic(self._rounds, _UNMASKED.dump_json(known), mode=0o600)

    @property
    def _session(self) -> Path:
        return self.folder / f"{self.kind}.json"

    @property
    def _rounds(self) -> Path:
        return self.folder / f"{self.kind}-unmasked.json"
