"""Figures of a released face beyond its emotion: landmarks, picture, identity, expression, and diversity of outputs.

All but the last compare a release with its original. Where a public face with the same expression was released,
landmarks and picture are far from the original by intent; then `landmark_movement` and expression show what was kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.metrics.intervals import bootstrap_rows, bootstrap_values
from moretta.shared.audit.pretrained.face_encoders import FACE_ENCODERS
from moretta.shared.audit.pretrained.face_network import ExpressionEvaluator
from moretta.shared.audit.protocol import SetName
from moretta.shared.audit.result import Result
from moretta.shared.audit.utility.content import NOTHING_TO_COMPARE, MeterInput, sampled
from moretta.shared.audit.utility.kept_face import (
    kept_movement,
    landmark_error,
    same_moments,
    structural_similarity,
)
from moretta.shared.core.array_types import Float32, Float64, Int64
from moretta.shared.features.landmarks import FaceMesh

FRAMES = 6
"""Frames of a clip, evenly spread, in which landmarks and pictures are compared."""
NO_PICTURE = "codes were released: there is no picture in them"
_COMPARED = "ignorant"
_T = TypeVar("_T")


def landmarks(given: MeterInput) -> list[Result]:
    """How far the points of a face moved, and whether they still move together; by chance: another person's face."""
    metrics = ("landmark_error", "landmark_movement")
    about = {m: given.result("face-mesh", "landmarks", m, _COMPARED) for m in metrics}
    original, released, reason = _pair(given, FaceMesh.missing())
    if original is None:
        return [row.invalidated(reason) for row in about.values()]
    mesh = FaceMesh.load()
    table, tracks = [], list[Float32 | None]()
    for index in range(len(released)):
        pairs = []
        for one, two in zip(*same_moments(original.frames(index), released.frames(index), FRAMES), strict=True):
            points = mesh.points(one)
            moved = mesh.points(two) if points is not None else None
            if points is not None and moved is not None:
                pairs.append((points, moved))
        found = [np.stack(side) for side in zip(*pairs, strict=True)]
        tracks.append(found[0] if pairs else None)
        errors = [landmark_error(one, two) for one, two in pairs]
        table.append((float(np.mean(errors)), kept_movement(*found)) if pairs else (np.nan, np.nan))
    why = f"fewer than half of {len(released)} clips show a face in original and release"
    error, movement = np.array(table, np.float64).T
    unlike = _of_others(tracks, released.labels, lambda one, two: landmark_error(one[0], two[0]))
    moving = _of_others(tracks, released.labels, _movement_of_both)
    return [
        _averaged(given, about["landmark_error"], error, released, why, chance=unlike),
        _averaged(given, about["landmark_movement"], movement, released, f"{why}, and move", chance=moving),
    ]


def _movement_of_both(one: Float32, two: Float32) -> float:
    frames = min(len(one), len(two))
    return kept_movement(one[:frames], two[:frames])


def picture(given: MeterInput) -> list[Result]:
    """Structural similarity of frames; by chance: to another person's original."""
    about = given.result("SSIM", "picture", "ssim", _COMPARED)
    original, released, reason = _pair(given, None)
    if original is None:
        return [about.invalidated(reason)]
    values, firsts = [], []
    for index in range(len(released)):
        frames = same_moments(original.frames(index), released.frames(index), FRAMES)
        firsts.append(frames[0][0])
        values.append(float(np.mean([structural_similarity(*pair) for pair in zip(*frames, strict=True)])))
    others = _of_others(firsts, released.labels, structural_similarity)
    return [_averaged(given, about, np.array(values), released, "", chance=others)]


def identity(given: MeterInput, encoder: str) -> list[Result]:
    """Cosine of a face encoder between original and release; and how unlike the faces of different people are.

    Such a distance, of the releases against that of the originals, shows an anonymizer that gives everybody one face.
    """
    cls = next(cls for cls in FACE_ENCODERS if cls.name == encoder)
    like = given.result(encoder, "identity", "identity_cosine", _COMPARED)
    apart = {
        s: given.result(encoder, "diversity", "identity_distance", s)
        for s, of in (("unprotected", "original"), (_COMPARED, "released"))
        if of in given.sets
    }
    released, original = sampled(given.sets["released"]), given.sets.get("original")
    if reason := cls.missing() or (NO_PICTURE if released.holds_codes else ""):
        return [row.invalidated(reason) for row in (like, *apart.values())]
    network = cls.load()
    sides: dict[SetName, ClipSet] = {"released": released}
    if original is not None:
        sides["original"] = original.among(released)
    vectors = {name: network.embed_many([clips.frames(i) for i in range(len(clips))]) for name, clips in sides.items()}
    people, found = released.labels, []
    for scenario, row in apart.items():
        own = vectors["original" if scenario == "unprotected" else "released"]
        distance = partial(_mean_distance, own, people)
        if (value := distance(np.arange(len(people)))) is None:
            found.append(row.invalidated("one person: there is nobody to be unlike"))
            continue
        interval = bootstrap_rows(distance, people, resamples=given.draws, seed=given.seed)
        found.append(row.with_value(value, interval, clips=len(people)))
    if original is None:
        return [like.invalidated(NOTHING_TO_COMPARE), *found]
    cosines = (vectors["original"] * vectors["released"]).sum(axis=1).astype(np.float64)
    far = _mean_distance(vectors["original"], people, np.arange(len(people)))
    others = None if far is None else 1 - far
    return [_averaged(given, like, cosines, released, "", chance=others), *found]


def expression(given: MeterInput) -> list[Result]:
    """In how many clips a network of expressions sees the same one before and after; by chance: as often as both occur.

    Agreement is no correctness: that is the evaluators'.
    """
    about = given.result(ExpressionEvaluator.name, "expression", "expression_agreement", _COMPARED)
    original, released, reason = _pair(given, ExpressionEvaluator.missing())
    if original is None:
        return [about.invalidated(reason)]
    network = ExpressionEvaluator.load()
    shares = [network.probabilities([c.frames(i) for i in range(len(c))]) for c in (original, released)]
    before, after = (found.argmax(axis=1) for found in shares)
    by_chance = float(sum((before == e).mean() * (after == e).mean() for e in range(shares[0].shape[1])))
    return [_averaged(given, about, (before == after).astype(np.float64), released, "", chance=by_chance)]


def _pair(given: MeterInput, missing: str | None) -> tuple[ClipSet | None, ClipSet, str]:
    """Few originals and releases of the same clips; or no originals, and why nothing can be compared."""
    released, original = given.sets["released"], given.sets.get("original")
    reason = NOTHING_TO_COMPARE if original is None else NO_PICTURE if released.holds_codes else missing or ""
    if original is None or reason:
        return None, released, reason
    chosen = sampled(released)
    return original.among(chosen), chosen, ""


def _averaged(
    given: MeterInput, about: Result, values: Float64, clips: ClipSet, why: str, *, chance: float | None
) -> Result:
    """The mean of one value a clip, NaN where there is none: `why` if it is so in more than half."""
    known = np.flatnonzero(np.isfinite(values))
    about = about.model_copy(update={"clips": len(known), "chance": chance})
    if len(known) < max(1, len(values) / 2):
        return about.invalidated(why)
    interval = bootstrap_values(values[known], clips.labels[known], resamples=given.draws, seed=given.seed)
    return about.with_value(float(values[known].mean()), interval)


def _of_others(items: list[_T | None], people: Int64, compare: Callable[[_T, _T], float]) -> float | None:
    """The mean of a comparison of each clip with the next one of another person; None without two people."""
    shown = [(item, person) for item, person in zip(items, people, strict=True) if item is not None]
    found = []
    for place, (one, person) in enumerate(shown):
        other = next((item for item, whose in shown[place + 1 :] + shown[:place] if whose != person), None)
        if other is not None:
            found.append(compare(one, other))
    known = [value for value in found if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _mean_distance(vectors: Float32, people: Int64, rows: Int64) -> float | None:
    """1 - cosine, over all pairs of rows of different people; None where all are of one."""
    left, right = np.triu_indices(len(rows), 1)
    unlike = people[rows][left] != people[rows][right]
    if not unlike.any():
        return None
    cosines = (vectors[rows][left[unlike]] * vectors[rows][right[unlike]]).sum(axis=1)
    return max(0.0, float(1 - cosines.mean()))  # of one face, rounding alone is below


FACE_METERS: dict[str, Callable[[MeterInput], list[Result]]] = {
    "landmarks": landmarks,
    "picture": picture,
    **{f"identity by {cls.name}": partial(identity, encoder=cls.name) for cls in FACE_ENCODERS},
    "expression": expression,
}
"""Meters of faces, by the content that they measure."""
