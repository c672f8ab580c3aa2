"""Inference of sex and age group from clips, by attackers trained on other people and by a public network for faces."""

from __future__ import annotations

from collections import Counter

import numpy as np

from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.inference.classes import balanced_accuracy, infer_attribute
from moretta.shared.audit.pretrained.face_network import AgeSexReader
from moretta.shared.audit.result import Result
from moretta.shared.audit.runner import NOTHING_TO_READ
from moretta.shared.audit.views import face_gradients, face_pixels, voice_statistics
from moretta.shared.core.array_types import Array, Float32
from moretta.shared.release.release_format import age_group

TARGETS = ("sex", "age group")
MIN_PER_CLASS = 4
"""People of each class that attribute inference must have."""
_CHUNK = 16


def features_of(clips: ClipSet) -> Float32:
    """[n, d] of clips of either modality."""
    is_seen = clips.holds_pictures
    return np.hstack([face_pixels(clips), face_gradients(clips)]) if is_seen else voice_statistics(clips)


def infer_from_clips(clips: ClipSet, about: Result, *, seed: int, bootstrap: int) -> list[Result]:
    """`about.target` by all attackers of `infer_attribute`; invalid where too few people of two classes are there."""
    known, label = _stated(clips, about.target)
    if (invalid := _too_few(known, label, about)) is not None:
        return [invalid]
    about = about.model_copy(update={"metric": "balanced_accuracy", "clips": len(known)})
    return infer_attribute(features_of(known), label, known.labels, about=about, resamples=bootstrap, seed=seed)


def read_off_faces(clips: ClipSet, about: Result, *, seed: int, bootstrap: int) -> list[Result]:
    """All `TARGETS` by face-api's network, which is trained on neither these people nor an anonymizer.

    An age is put into its group. Of all clips of a person the means of ages and of probabilities decide. Clips are
    read once for all targets. A group that nobody here belongs to is a wrong choice.
    """
    by_target = {
        target: about.model_copy(update={"target": target, "attacker": AgeSexReader.name, "kind": "pretrained"})
        for target in TARGETS
    }
    reason = NOTHING_TO_READ if clips.holds_codes else AgeSexReader.missing()
    if reason is not None:
        return [of.invalidated(reason) for of in by_target.values()]
    stated = {target: _stated(clips, target) for target in TARGETS}
    few = {target: _too_few(*stated[target], of) for target, of in by_target.items()}
    found = [invalid for invalid in few.values() if invalid is not None]
    if len(found) == len(TARGETS):
        return found
    reader = AgeSexReader.load()
    parts = [reader.read([clips.frames(i) for i in chunk]) for chunk in clips.batches(_CHUNK)]
    age, sex = (np.concatenate(side) for side in zip(*parts, strict=True))
    place = {clip.clip: i for i, clip in enumerate(clips.clips)}
    how = {"resamples": bootstrap, "seed": seed}
    for target in (target for target, invalid in few.items() if invalid is None):
        known, label = stated[target]
        rows = [place[clip.clip] for clip in known.clips]
        read = sex[rows] if target == "sex" else age[rows, None]
        people, first, person = np.unique(known.labels, return_index=True, return_inverse=True)
        pooled = np.stack([read[person == number].mean(axis=0) for number in range(len(people))])
        truth = np.unique(label, return_inverse=True)[1]
        of = by_target[target].model_copy(update={"metric": "balanced_accuracy", "clips": len(known)})
        together = of.model_copy(update={"attacker": f"{of.attacker}, all clips"})
        found.append(balanced_accuracy(of, _named(read) == label, truth, known.labels, **how))
        found.append(balanced_accuracy(together, _named(pooled) == label[first], truth[first], people, **how))
    return found


def _named(read: Array) -> Array:
    """Classes [n] of ages [n, 1], or of probabilities of the sexes [n, 2]."""
    from moretta.shared.audit.pretrained.face_api_nets import SEXES

    if read.shape[1] == 1:
        return np.array([age_group(round(years)) for years in read[:, 0]])
    return np.asarray(np.array(SEXES)[read.argmax(axis=1)])


def _stated(clips: ClipSet, target: str) -> tuple[ClipSet, Array]:
    """Clips whose speaker states it, and what each states."""
    stated = [clip.sex if target == "sex" else clip.age_group for clip in clips.clips]
    known = clips.subset(i for i, value in enumerate(stated) if value is not None)
    return known, np.array([value for value in stated if value is not None])


def _too_few(known: ClipSet, label: Array, about: Result) -> Result | None:
    """The invalid result of an attack that has too few people; None if there are enough."""
    count = Counter({clip.speaker: value for clip, value in zip(known.clips, label, strict=True)}.values())
    if known and len(count) > 1 and min(count.values()) >= MIN_PER_CLASS:
        return None
    held = ", ".join(f"{n} {value}" for value, n in sorted(count.items())) or "none stated"
    reason = f"needs {MIN_PER_CLASS} people of each of two classes or more, there are: {held}"
    return about.invalidated(reason, speakers=count.total())
