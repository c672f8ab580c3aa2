"""A site responds to nothing that was not approved: its response to an offer, and the arrays it uses afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import numpy as np

from moretta.client.approval.offers import How, NotApprovedError, Offer, Offers
from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.release.anonymizer import anonymizer_of, pinned_public, site_training_of
from moretta.shared.study.public_arrays import approval_digest, described
from moretta.shared.study.schema import Study

State = Literal["approved", "pending", "refused", "unknown"]
Verdict = Literal["equal", "close", "different", "unknown"]
"""`close`: within a part in 10,000, as another machine rounds. `unknown`: it cannot be made here."""
TOLERANCE = 1e-4
_COMPARED = "compared.json"


def respond_to_offer(settings: SiteSettings, study: Study, digest: str, arrays: dict[str, Array] | None) -> State:
    """The steward's decision about an offer; a new offer is kept for the steward to see.

    Args:
        study: as it came; the policy lets the site take part.
        digest: of the offer, as the coordinator has it.
        arrays: public ones; None where the offer was made before.

    Raises:
        RefusedError: the digest is of another offer, or the arrays cannot be those of the study.
        PolicyError: rule `max_pending` or one of `[mechanisms]`.
    """
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
        offer = _kept(offers, settings.policy, study, digest, arrays)
    if offer.study != study:
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
    approved = Offers(settings.home).approved(study, digest or "0" * 64).arrays()
    training = site_training_of(study)
    if sent and training is None:
        raise NotApprovedError(f"{len(sent)} arrays in a request for a release", expected="those that were approved")
    for name, array in sent.items():
        if training is None or not training.may_become(name, approved.get(name), array):
            raise RefusedError("arrays that sites cannot have trained", expected="those of the code that was approved")
    return approved | sent


def compared_once(offer: Offer) -> dict[str, Verdict]:
    """`compared` for an offer; the result is stored with it, since it can take a minute."""
    path = offer.folder / _COMPARED
    if not path.exists():
        write_atomic(path, json.dumps(compared(offer.study, offer.arrays())), mode=0o600)
    found: dict[str, Verdict] = json.loads(path.read_text(encoding="utf-8"))
    return found


def compared(study: Study, arrays: Mapping[str, Array]) -> dict[str, Verdict]:
    """Each array compared with the one that follows from the study alone, which is made here again.

    What no other machine makes alike is unknown, unless all of it is what comes with the package.
    """
    verdicts: dict[str, Verdict] = dict.fromkeys(arrays, "different")
    for modality in study.modalities:
        anonymizer, ours = anonymizer_of(study, modality), pinned_public(study, modality)
        if ours is None and anonymizer.is_reproducible:
            ours = anonymizer.prepare_public(study, lambda text: None)  # noqa: ARG005
        found = {name: _verdict(arrays[name], array) for name, array in (ours or {}).items() if name in arrays}
        if not anonymizer.is_reproducible and (not found or "different" in found.values()):
            found = dict.fromkeys(anonymizer.public_rules(study).keys() & arrays.keys(), "unknown")
        verdicts |= found
    return verdicts


def _verdict(theirs: Array, ours: Array) -> Verdict:
    if theirs.dtype != ours.dtype or theirs.shape != ours.shape:
        return "different"
    if np.array_equal(theirs, ours):
        return "equal"
    scale = float(np.abs(ours).max(initial=0.0))
    near = ours.dtype.kind == "f" and np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE * scale)
    return "close" if near else "different"


def _kept(offers: Offers, policy: Policy, study: Study, digest: str, arrays: dict[str, Array]) -> Offer:
    from moretta.client.clips.release import fits

    if approval_digest(study, described(arrays)) != digest:
        raise RefusedError("an offer with the digest of another one", expected="one digest of study and arrays")
    policy.check_pending(len(offers.pending()))
    fits(study, arrays)
    policy.check_public(study, arrays)
    return offers.keep(study, arrays)


def _without_steward(policy: Policy, offer: Offer) -> How | None:
    """How the policy approves an offer by itself: its arrays must follow from the study, or be listed together."""
    how: How = "studies" if offer.study.digest() in policy.studies else "auto_approve"
    if how == "auto_approve" and not policy.auto_approve:
        return None
    listed = offer.arrays_digest in policy.public_arrays
    return how if listed or set(compared_once(offer).values()) <= {"equal", "close"} else None
