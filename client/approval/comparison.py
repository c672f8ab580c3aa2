"""Public arrays compared with what follows from their study: made here again, and held against what was sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import numpy as np

from moretta.client.approval.offers import Offer
from moretta.client.policy import Policy
from moretta.shared.core.atomic import write_atomic
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.study.public_arrays import Array
from moretta.shared.study.schema import Study

Verdict = Literal["equal", "close", "different", "unknown"]
"""`close`: within a part in 10,000, as another machine rounds. `unknown`: it cannot be made here."""
TOLERANCE = 1e-4
COMPARED = "compared.json"


def compared(study: Study, arrays: Mapping[str, Array]) -> dict[str, Verdict]:
    """What each array is, compared with the one that follows from the study alone.

    An array that no other machine makes alike, bit by bit, is unknown.
    """
    verdicts: dict[str, Verdict] = dict.fromkeys(arrays, "different")
    for modality in study.modalities:
        anonymizer = anonymizer_of(study, modality)
        if not anonymizer.is_reproducible:
            verdicts |= {name: "unknown" for name in anonymizer.public_rules(study) if name in arrays}
            continue
        ours = anonymizer.prepare_public(study, _quiet)
        verdicts |= {name: _verdict(arrays[name], array) for name, array in ours.items() if name in arrays}
    return verdicts


def _quiet(text: str) -> None:
    del text


def compared_once(offer: Offer) -> dict[str, Verdict]:
    """The same of an offer; it is noted beside it, since it can take a minute."""
    path = offer.folder / COMPARED
    if not path.exists():
        write_atomic(path, json.dumps(compared(offer.study, offer.arrays())), mode=0o600)
    found: dict[str, Verdict] = json.loads(path.read_text(encoding="utf-8"))
    return found


def may_pass_unseen(offer: Offer, policy: Policy) -> bool:
    """Whether nobody need look at these arrays: they follow from the study, or the policy lists them together."""
    if offer.arrays_digest in policy.public_arrays:
        return True
    return all(verdict in ("equal", "close") for verdict in compared_once(offer).values())


def _verdict(theirs: Array, ours: Array) -> Verdict:
    if theirs.dtype != ours.dtype or theirs.shape != ours.shape:
        return "different"
    if np.array_equal(theirs, ours):
        return "equal"
    scale = float(np.abs(ours).max(initial=0.0))
    near = ours.dtype.kind == "f" and np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE * scale)
    return "close" if near else "different"
