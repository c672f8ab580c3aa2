"""Nothing is answered that was not approved: what a site says of an offer, and which arrays it uses afterwards."""

from __future__ import annotations

from typing import Literal

from moretta.client.approval.comparison import may_pass_unseen
from moretta.client.approval.offers import How, NotApprovedError, Offer, Offers
from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings
from moretta.shared.core.errors import RefusedError
from moretta.shared.release.anonymizer import site_training_of
from moretta.shared.study.public_arrays import Array, approval_digest, described
from moretta.shared.study.schema import Study

State = Literal["approved", "pending", "refused", "unknown"]


def respond_to_offer(settings: SiteSettings, study: Study, digest: str, arrays: dict[str, Array] | None) -> State:
    """What the steward has said of an offer, which is kept for the steward to see if it is new.

    Args:
        settings: of the site.
        study: as it came; the policy lets it take part.
        digest: of the offer, as the coordinator has it.
        arrays: public ones; None where the offer was made before.

    Raises:
        RefusedError: the digest is of another offer, or the arrays cannot be those of the study.
        PolicyError: rule `max_pending` or `min_face_error`.
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
    """The public arrays that a release is made by: those that were approved, and nothing else that comes in a message.

    Args:
        settings: of the site.
        study: which.
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


def _kept(offers: Offers, policy: Policy, study: Study, digest: str, arrays: dict[str, Array]) -> Offer:
    from moretta.client.clips.release import fits

    if approval_digest(study, described(arrays)) != digest:
        raise RefusedError("an offer with the digest of another one", expected="one digest of study and arrays")
    policy.check_pending(len(offers.pending()))
    fits(study, arrays)
    policy.check_public(study, arrays)
    return offers.keep(study, arrays)


def _without_steward(policy: Policy, offer: Offer) -> How | None:
    how: How = "studies" if offer.study.digest() in policy.studies else "auto_approve"
    wanted = how == "studies" or policy.auto_approve
    return how if wanted and may_pass_unseen(offer, policy) else None
