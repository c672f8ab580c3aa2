"""Studies that were offered to this site with their public arrays, and the steward's decisions about them.

`offers/DIGEST` has a study and its arrays, as they came; `approvals/DIGEST.json` the decision, `approvals/DIGEST` the
list of approved clips; `approvals.jsonl` every decision ever, one a line. A study uses only what lies here: later
messages carry no array that was not approved. Everything is readable by its owner only, and bounded.
"""

from __future__ import annotations

import getpass
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings
from moretta.client.site_home import OwnRecord, read_own
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import append_durably, private_folder, write_atomic
from moretta.shared.core.errors import HomeError, RefusedError
from moretta.shared.release.anonymizer import anonymizer_of, pinned_public, site_training_of
from moretta.shared.study.public_arrays import (
    OF_ATTACKER,
    approval_digest,
    are_finite,
    arrays_digest,
    described,
    without_attackers,
)
from moretta.shared.study.schema import Study, parse_study

if TYPE_CHECKING:
    from moretta.client.clips.provenance import Provenance

MAX_ARRAYS, MAX_ARRAY_BYTES, MAX_STORE_BYTES = 400, 256 * 2**20, 2 * 2**30
"""Most arrays and bytes of one offer; most bytes of all offers together."""
TOLERANCE = 1e-4
How = Literal["steward", "auto_approve", "studies"]
Verdict = Literal["equal", "close", "different", "unknown"]
"""`close`: within a part in 10,000, as another machine rounds. `unknown`: it cannot be made here."""
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NotApprovedError(RefusedError):
    """Nobody at the site has approved the study, or these arrays for it."""

    public_message: ClassVar[str] = "the site's steward has not approved this study with these arrays"


class Decision(OwnRecord):
    """The steward's or the policy's decision about one offer."""

    digest: _Digest
    study: _Digest
    name: str
    decision: Literal["approved", "refused"]
    how: How
    at: int
    """Seconds since 1970."""
    by: str = ""
    """The account that decided; empty where the policy did."""
    clips: int | None = None
    """Number of clips that were approved by a list; None where all are."""
    excluded: int = 0
    """Number of the site's clips that were not approved."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A study and its arrays, on this site's disk."""

    folder: Path
    study: Study
    facts: dict[str, Any]
    """Facts of the arrays, by `described`."""
    at: int
    """When it came, in seconds since 1970."""

    @property
    def digest(self) -> str:
        """The digest that a steward approves or refuses: of the study with all its arrays, hexadecimal."""
        return self.folder.name

    @property
    def arrays_digest(self) -> str:
        """Digest of all arrays together, without the study."""
        return arrays_digest(self.facts)

    def arrays(self) -> dict[str, Array]:
        """The arrays. Raises HomeError if they cannot be read, or are not those that were approved."""
        try:
            found = dict(load_file(self.folder / "arrays.safetensors")) if self.facts else {}
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder) from error
        if described(found) != self.facts or approval_digest(self.study, self.facts) != self.digest:
            raise _damaged(self.folder)
        return found

    def compared(self) -> dict[str, Verdict]:
        """`compare` for its arrays; the result is stored with it, since it can take a minute."""
        path = self.folder / "compared.json"
        if not path.exists():
            write_atomic(path, json.dumps(compare(self.study, self.arrays())), mode=0o600)
        found: dict[str, Verdict] = json.loads(path.read_text(encoding="utf-8"))
        return found


@dataclass(frozen=True, slots=True)
class Offers:
    """All offers of one site. Raises HomeError where a file cannot be read."""

    home: Path

    def find(self, digest: str) -> Offer | None:
        """One offer; None if it is not here."""

        def parse(data: bytes) -> Offer:
            content = json.loads(data)
            return Offer(folder, parse_study(content["study"]), content["arrays"], int(content["at"]))

        folder = self.home / "offers" / digest
        return read_own(folder / "offer.json", parse, _damaged(folder))

    def all(self) -> list[Offer]:
        """Every offer, oldest first."""
        found = (self.find(path.parent.name) for path in (self.home / "offers").glob("*/offer.json"))
        return sorted(filter(None, found), key=lambda offer: (offer.at, offer.digest))

    def pending(self) -> list[Offer]:
        """Offers without a decision."""
        return [offer for offer in self.all() if self.decision(offer.digest) is None]

    def decision(self, digest: str) -> Decision | None:
        """The decision about an offer; None while there is none."""
        path = self.home / "approvals" / f"{digest}.json"
        return read_own(path, Decision.model_validate_json, _damaged(path))

    def approvals(self, study: str) -> list[Decision]:
        """The approvals of a study, by its digest, of any arrays; the newest first."""
        # A kill may leave a hidden part of a file
        names = [path.stem for path in (self.home / "approvals").glob("[!.]*.json")]
        found = (d for d in map(self.decision, names) if d and d.decision == "approved" and d.study == study)
        return sorted(found, key=lambda decision: decision.at, reverse=True)

    def approved(self, study: Study, digest: str | None = None) -> Offer:
        """The approved offer of a study, by its digest, or the newest one. Raises NotApprovedError if there is none."""
        for made in self.approvals(study.digest()):
            offer = self.find(made.digest) if digest in (None, made.digest) else None
            if offer is not None and offer.study == study:
                return offer
        raise NotApprovedError(
            f"the study {study.digest()[:16]} that was not approved with these arrays",
            expected="an approved offer",
            fix="moretta site pending, moretta site review DIGEST, moretta site approve DIGEST",
        )

    def keep(self, study: Study, arrays: dict[str, Array]) -> Offer:
        """Put an offer on disk, whole or not at all. Raises RefusedError for impossible arrays, or a full store."""
        size, store = sum(array.nbytes for array in arrays.values()), self.home / "offers"
        if len(arrays) > MAX_ARRAYS or size > MAX_ARRAY_BYTES:
            found = f"{len(arrays)} public arrays of {size} bytes"
            raise RefusedError(found, expected=f"{MAX_ARRAYS} and {MAX_ARRAY_BYTES} at most")
        if not all(array.dtype.kind in "fiu" and are_finite(array) for array in arrays.values()):
            raise RefusedError("a public array that is not of finite numbers", expected="numbers")
        if (used := sum(path.stat().st_size for path in store.glob("*/*"))) + size > MAX_STORE_BYTES:
            expected = f"{MAX_STORE_BYTES} at most"
            raise RefusedError(f"offers of {used} bytes", expected=expected, fix="moretta site refuse DIGEST")
        facts, at = described(arrays), int(time.time())
        folder = private_folder(store / approval_digest(study, facts))
        store.chmod(0o700)
        if arrays:
            content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            write_atomic(folder / "arrays.safetensors", content, mode=0o600)
        offer = json.dumps({"study": study.model_dump(mode="json"), "arrays": facts, "at": at}, indent=1)
        write_atomic(folder / "offer.json", offer, mode=0o600)  # last: with it the offer is whole
        return Offer(folder, study, facts, at)

    def decide(
        self,
        offer: Offer,
        decision: Literal["approved", "refused"],
        how: How,
        *,
        clips: Provenance | None = None,
        excluded: int = 0,
    ) -> Decision:
        """Write down what was decided; the arrays of a refused offer are removed.

        Args:
            clips: those that are approved; None approves all that there are when a release is made.
            excluded: how many of the site's clips are not among them.
        """
        made = Decision(
            digest=offer.digest,
            study=offer.study.digest(),
            name=offer.study.name,
            decision=decision,
            how=how,
            at=int(time.time()),
            by=_account() if how == "steward" else "",
            clips=None if clips is None else len(clips.clips),
            excluded=excluded,
        )
        folder = self.home / "approvals"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        append_durably(self.home / "approvals.jsonl", made.model_dump_json())
        if clips is not None:  # before the decision: one that names a list never stands without it
            (folder / offer.digest).mkdir(mode=0o700, exist_ok=True)
            clips.save(folder / offer.digest)
        write_atomic(folder / f"{offer.digest}.json", made.model_dump_json(indent=1), mode=0o600)
        if clips is None:
            shutil.rmtree(folder / offer.digest, ignore_errors=True)
        if decision == "refused":
            shutil.rmtree(offer.folder, ignore_errors=True)
        return made

    def last_approved(self, name: str) -> Offer | None:
        """The offer that was approved last among studies of this name; None if none was."""
        made = [(self.decision(offer.digest), offer) for offer in self.all() if offer.study.name == name]
        approved = [(d.at, offer) for d, offer in made if d is not None and d.decision == "approved"]
        return max(approved, key=lambda each: each[0])[1] if approved else None


def respond_to_offer(
    settings: SiteSettings, study: Study, digest: str, arrays: dict[str, Array] | None
) -> Literal["approved", "pending", "refused", "unknown"]:
    """The steward's decision about an offer; a new offer is kept for the steward to see.

    Args:
        digest: of the offer, as the coordinator has it.
        arrays: public ones; None where the offer was made before.

    Raises:
        RefusedError: the digest is of another offer, or the arrays cannot be those of the study.
        PolicyError: rule `max_pending` or one of `[mechanisms]`.
    """
    from moretta.client.clips.release import check_arrays
    from moretta.shared.audit.site_attacks import check_learned

    if settings.policy is None:  # whoever runs the study holds the clips
        return "approved"
    offers = Offers(settings.home)
    decision = offers.decision(digest)
    if decision is not None and decision.decision == "refused":
        return "refused"
    offer = offers.find(digest)
    if offer is None:
        if arrays is None:
            return "unknown"
        if approval_digest(study, described(arrays)) == digest:
            settings.policy.check_pending(len(offers.pending()))
            check_arrays(study, arrays)
            check_learned(study, arrays)
            settings.policy.check_public(study, arrays)
            offer = offers.keep(study, arrays)
    if offer is None or offer.study != study:
        raise RefusedError("an offer with the digest of another one", expected="one digest of study and arrays")
    if decision is None and (how := _without_steward(settings.policy, offer)) is not None:
        offers.decide(offer, "approved", how)
        return "approved"
    return "pending" if decision is None else "approved"


def arrays_for(settings: SiteSettings, study: Study, digest: str, sent: dict[str, Array]) -> dict[str, Array]:
    """The public arrays of a release: those that were approved, and none that merely comes in a message.

    Args:
        digest: of the approved offer.
        sent: arrays that the study's sites have trained together since, if it has any.

    Raises:
        NotApprovedError: this offer was not approved for this study.
        RefusedError: arrays in the message that no site has trained, or others than were approved in type or shape.
    """
    if settings.policy is None:
        return sent
    approved = without_attackers(Offers(settings.home).approved(study, digest or "0" * 64).arrays())
    training = site_training_of(study)
    if sent and training is None:
        raise NotApprovedError(f"{len(sent)} arrays in a request for a release", expected="those that were approved")
    for name, array in sent.items():
        if training is None or not training.may_become(name, approved.get(name), array):
            raise RefusedError("arrays that sites cannot have trained", expected="those of the code that was approved")
    return approved | sent


def compare(study: Study, arrays: Mapping[str, Array]) -> dict[str, Verdict]:
    """Each array compared with the one that follows from the study alone, which is made here again.

    Arrays that other machines cannot reproduce are `unknown`, unless all of them are shipped with the package.
    """
    verdicts: dict[str, Verdict] = dict.fromkeys(arrays, "different")
    for modality in study.modalities:
        anonymizer, ours = anonymizer_of(study, modality), pinned_public(study, modality)
        pinned = ours is not None
        if ours is None and anonymizer.is_reproducible:
            ours = anonymizer.prepare_public(study, lambda text: None)  # noqa: ARG005
        found = {name: _verdict(arrays[name], array) for name, array in (ours or {}).items() if name in arrays}
        if pinned:  # no rounding of another machine is in a file: whatever is close was changed
            found = {name: "different" if verdict == "close" else verdict for name, verdict in found.items()}
        if not anonymizer.is_reproducible and (not found or "different" in found.values()):
            found = dict.fromkeys(anonymizer.public_rules(study).keys() & arrays.keys(), "unknown")
        verdicts |= found
    return verdicts | {name: "unknown" for name in arrays if name.startswith(OF_ATTACKER)}


def _verdict(theirs: Array, ours: Array) -> Verdict:
    if theirs.dtype != ours.dtype or theirs.shape != ours.shape:
        return "different"
    if np.array_equal(theirs, ours):
        return "equal"
    scale = float(np.abs(ours).max(initial=0.0))
    near = ours.dtype.kind == "f" and np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE * scale)
    return "close" if near else "different"


def _without_steward(policy: Policy, offer: Offer) -> How | None:
    """How the policy approves an offer by itself: its arrays must follow from the study, or be listed together."""
    how: How = "studies" if offer.study.digest() in policy.studies else "auto_approve"
    if how == "auto_approve" and not policy.auto_approve:
        return None
    listed = offer.arrays_digest in policy.public_arrays
    return how if listed or set(offer.compared().values()) <= {"equal", "close"} else None


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # one without a name
        return ""


def _damaged(path: Path) -> HomeError:
    return HomeError(
        f"what was offered or decided, {path}, cannot be used",
        expected="the files that this version wrote",
        fix="remove it, and approve the study again when it is offered",
    )
