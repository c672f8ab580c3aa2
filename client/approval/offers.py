"""Studies that were offered to this site, with the arrays that they would use, and the steward's decisions.

`offers/DIGEST` has a study and its arrays, as they came; `approvals/DIGEST.json` the decision; `approvals.jsonl` every
decision ever, one a line. A study uses only what lies here: later messages carry no array that was not approved.
Everything is readable by its owner only, and bounded.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import append_durably, write_atomic
from moretta.shared.core.errors import HomeError, RefusedError, StudyError
from moretta.shared.study.public_arrays import approval_digest, arrays_digest, described
from moretta.shared.study.schema import Study, parse_study

OFFERS, APPROVALS, LOG = "offers", "approvals", "approvals.jsonl"
MAX_ARRAYS, MAX_ARRAY_BYTES, MAX_STORE_BYTES = 400, 256 * 2**20, 2 * 2**30
"""Of one offer; of all offers together."""
How = Literal["steward", "auto_approve", "studies"]
_OFFER, _ARRAYS = "offer.json", "arrays.safetensors"
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NotApprovedError(RefusedError):
    """Nobody at the site has approved the study, or these arrays for it."""

    public_message: ClassVar[str] = "the site's steward has not approved this study with these arrays"


class Decision(BaseModel):
    """What was decided about one offer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: _Digest
    study: _Digest
    name: str
    decision: Literal["approved", "refused"]
    how: How
    at: int
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A study and its arrays, on this site's disk."""

    folder: Path
    study: Study
    facts: dict[str, Any]
    """As `described` has them."""
    at: int
    """When it came, in seconds since 1970."""

    @property
    def digest(self) -> str:
        """What is approved or refused."""
        return self.folder.name

    @property
    def arrays_digest(self) -> str:
        """Of all arrays together, without the study."""
        return arrays_digest(self.facts)

    def arrays(self) -> dict[str, Array]:
        """The arrays, compared with what was approved.

        Raises:
            HomeError: they cannot be read, or are others.
        """
        try:
            found = dict(load_file(self.folder / _ARRAYS)) if self.facts else {}
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder) from error
        if described(found) != self.facts or approval_digest(self.study, self.facts) != self.digest:
            raise _damaged(self.folder)
        return found


@dataclass(frozen=True, slots=True)
class Offers:
    """All offers of one site."""

    home: Path

    def find(self, digest: str) -> Offer | None:
        """One offer; None if it is not here.

        Raises:
            HomeError: it cannot be read.
        """
        folder = self.home / OFFERS / digest
        try:
            content = json.loads((folder / _OFFER).read_bytes())
            return Offer(folder, parse_study(content["study"]), content["arrays"], int(content["at"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, StudyError) as error:
            raise _damaged(folder) from error

    def all(self) -> Iterator[Offer]:
        """Every offer, oldest first."""
        paths = (self.home / OFFERS).glob(f"*/{_OFFER}")
        found = [offer for path in paths if (offer := self.find(path.parent.name)) is not None]
        yield from sorted(found, key=lambda offer: (offer.at, offer.digest))

    def pending(self) -> list[Offer]:
        """Those about which nothing was decided."""
        return [offer for offer in self.all() if self.decision(offer.digest) is None]

    def decision(self, digest: str) -> Decision | None:
        """What was decided about an offer; None if nothing was.

        Raises:
            HomeError: it cannot be read.
        """
        path = self.home / APPROVALS / f"{digest}.json"
        try:
            return Decision.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise _damaged(path) from error

    def approved(self, study: Study, digest: str | None = None) -> Offer:
        """The approved offer of a study, by its digest, or the newest one.

        Raises:
            NotApprovedError: there is none.
        """
        names = [digest] if digest else [path.stem for path in (self.home / APPROVALS).glob("*.json")]
        for made in sorted(filter(None, map(self.decision, names)), key=lambda made: made.at, reverse=True):
            if made.decision == "approved" and made.study == study.digest():
                offer = self.find(made.digest)
                if offer is not None and offer.study == study:
                    return offer
        raise NotApprovedError(
            f"the study {study.digest()[:16]} that was not approved with these arrays",
            expected="an approved offer",
            fix="moretta site pending, moretta site review DIGEST, moretta site approve DIGEST",
        )

    def keep(self, study: Study, arrays: dict[str, Array]) -> Offer:
        """Put an offer on disk: whole, or not at all.

        Raises:
            RefusedError: arrays that no study has, or a store that is full.
        """
        _check(arrays)
        facts = described(arrays)
        folder = self.home / OFFERS / approval_digest(study, facts)
        used = sum(path.stat().st_size for path in (self.home / OFFERS).glob("*/*"))
        if used + sum(array.nbytes for array in arrays.values()) > MAX_STORE_BYTES:
            raise RefusedError(
                f"offers of {used} bytes", expected=f"{MAX_STORE_BYTES} at most", fix="moretta site refuse DIGEST"
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.parent.chmod(0o700)
        if arrays:
            write_atomic(folder / _ARRAYS, save({n: np.ascontiguousarray(a) for n, a in arrays.items()}), mode=0o600)
        content = {"study": study.model_dump(mode="json"), "arrays": facts, "at": int(time.time())}
        write_atomic(folder / _OFFER, json.dumps(content, indent=1), mode=0o600)  # last: with it the offer is whole
        return Offer(folder, study, facts, content["at"])  # type: ignore[arg-type]

    def decide(self, offer: Offer, decision: Literal["approved", "refused"], how: How) -> None:
        """Write down what was decided; the arrays of a refused offer are removed."""
        made = Decision(
            digest=offer.digest,
            study=offer.study.digest(),
            name=offer.study.name,
            decision=decision,
            how=how,
            at=int(time.time()),
        )
        (self.home / APPROVALS).mkdir(mode=0o700, parents=True, exist_ok=True)
        append_durably(self.home / LOG, made.model_dump_json())
        write_atomic(self.home / APPROVALS / f"{offer.digest}.json", made.model_dump_json(indent=1), mode=0o600)
        if decision == "refused":
            shutil.rmtree(offer.folder, ignore_errors=True)

    def last_approved(self, name: str) -> Offer | None:
        """What was approved last of the studies of a name."""
        approved = [offer for offer in self.all() if offer.study.name == name]
        made = [(d.at, o) for o in approved if (d := self.decision(o.digest)) is not None and d.decision == "approved"]
        return max(made, key=lambda each: each[0])[1] if made else None


def _check(arrays: dict[str, Array]) -> None:
    size = sum(array.nbytes for array in arrays.values())
    if len(arrays) > MAX_ARRAYS or size > MAX_ARRAY_BYTES:
        raise RefusedError(
            f"{len(arrays)} public arrays of {size} bytes", expected=f"{MAX_ARRAYS} and {MAX_ARRAY_BYTES} at most"
        )
    for array in arrays.values():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise RefusedError("a public array that is not of finite numbers", expected="numbers")


def _damaged(path: Path) -> HomeError:
    return HomeError(
        f"what was offered or decided, {path}, cannot be used",
        expected="the files that this version wrote",
        fix="remove it, and approve the study again when it is offered",
    )
