"""Public arrays compared with what follows from their study: made here again, and held against what was sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import numpy as np

from moretta.client.approval.offers import Offer
from moretta.client.policy import Policy, PolicyError
from moretta.shared.core.atomic import write_atomic
from moretta.shared.study.offer import Array
from moretta.shared.study.schema import Study

Verdict = Literal["equal", "close", "different", "unknown"]
"""`close`: within a part in 10,000, as another machine rounds. `unknown`: it cannot be made here."""
TOLERANCE = 1e-4
COMPARED = "compared.json"
_FACE = "face/"
_FACES, _SEED = 2, 20_240_607


def compared(study: Study, arrays: Mapping[str, Array]) -> dict[str, Verdict]:
    """What each array is, held against the one that the study's own synthetic speech gives.

    An autoencoder comes of minutes of training that no other machine repeats bit by bit, so it is not known.
    """
    from moretta.shared.models.public_arrays import public_voice_arrays

    ours = public_voice_arrays(study) if study.voice.enabled else {}
    known = {name: array for name, array in arrays.items() if not name.startswith(_FACE)}
    unknown: dict[str, Verdict] = dict.fromkeys(arrays, "unknown")
    return unknown | {name: _verdict(array, ours.get(name)) for name, array in known.items()}


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


def check_autoencoder(study: Study, arrays: Mapping[str, Array], policy: Policy) -> None:
    """Refuse a network that gives back what it is shown: such a face is released as it is.

    Raises:
        PolicyError: rule `min_face_error`.
        StudyError: the arrays are no autoencoder of this study.
    """
    if not any(name.startswith(_FACE) for name in arrays):
        return
    error = reconstruction_error(study, arrays)
    if not error >= policy.mechanisms.min_face_error:
        raise PolicyError(
            "min_face_error",
            f"an autoencoder that gives faces back with an error of {error:.3f}",
            expected=f"at least {policy.mechanisms.min_face_error}",
        )


def reconstruction_error(study: Study, arrays: Mapping[str, Array]) -> float:
    """Root mean square difference, for values in [0, 1], between public drawn faces and what is made of them.

    Other colours, contrast or a negative hide nobody: what is made of the faces is first brought as near to them as a
    linear map of colours can.
    """
    from moretta.client.anonymizers.autoencoder import trained_autoencoder
    from moretta.shared.models.face_images import render_face_images
    from moretta.shared.models.reconstruct import Reconstructor

    model = trained_autoencoder(study, dict(arrays))
    pictures = np.asarray(render_face_images(_FACES, model.spec.side, seed=_SEED, workers=1).pictures)
    values = pictures.astype(np.float32) / np.float32(255)
    return _unlike(values, Reconstructor(model)(values).astype(np.float64) / 255)


def _unlike(faces: Array, made: Array) -> float:
    """[pictures, height, width, 3] each."""
    shown, wanted = np.ones((made.size // 3, 4)), faces.reshape(-1, 3).astype(np.float64)
    shown[:, :3] = made.reshape(-1, 3)
    solved = np.linalg.lstsq(shown, wanted, rcond=None)[0]
    return min(rms(faces, made), rms(wanted, shown @ solved))


def rms(one: Array, other: Array) -> float:
    """Root mean square difference."""
    return float(np.sqrt(np.mean(np.square(one.astype(np.float64) - other.astype(np.float64)))))


def _verdict(theirs: Array, ours: Array | None) -> Verdict:
    if ours is None or theirs.dtype != ours.dtype or theirs.shape != ours.shape:
        return "different"
    if np.array_equal(theirs, ours):
        return "equal"
    scale = float(np.abs(ours).max(initial=0.0))
    near = ours.dtype.kind == "f" and np.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE * scale)
    return "close" if near else "different"
