"""What a site says of itself, held against what it released and against the study."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.server.stages.run_context import Run, RunSite
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.terms import Modality
from moretta.shared.data.clip_names import EMOTIONS, Emotion
from moretta.shared.release import Release
from moretta.shared.release.release_format import AnonymizerStatement, ReleasedClip
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import Study

Table = npt.NDArray[np.int64]
RecomputeStatement = Callable[[Study, Mapping[str, npt.NDArray[Any]], Release], AnonymizerStatement]
"""What the study's voice anonymizer states of a release, by the study, the public arrays and the release's sizes."""
_ROUNDING = 1e-3
_OF: dict[str, tuple[Modality, ...]] = {"voice": ("voice",), "face": ("face",)}
_THREE = (Emotion.ANG, Emotion.HAP, Emotion.SAD)
_AS_IN_STUDY = (
    *("preset", "epsilon", "sensitivity", "budget_epsilon", "segments", "coefficients"),
    *("code_size", "code_noise", "code_encoder", "labels_from", "label_epsilon", "noise", "clip_noise", "frame_noise"),
)
"""Parameters that a statement repeats from the study, where its anonymizer has them."""


def check_statement(study: Study, release: Release) -> None:
    """A release was made as the study says.

    Raises:
        ReleaseError: naming what differs.
    """
    stated = [statement.modality for statement in release.statement.anonymizers]
    if len(set(stated)) != len(stated) or set(stated) - set(study.modalities):
        raise ReleaseError(
            f"statements of {', '.join(stated)}", expected=f"of {', '.join(study.modalities)}, each once"
        )
    for statement in release.statement.anonymizers:
        for name, found, wanted in _compared(study, statement):
            if found != wanted:
                raise ReleaseError(
                    f"a {statement.modality} release made with {name} {str(found)[:60]!a}",
                    expected=f"{wanted!r}, as the study says",
                )


def _compared(study: Study, statement: AnonymizerStatement) -> list[tuple[str, Any, Any]]:
    section = study.section(statement.modality)
    form = study.voice.form if statement.modality == "voice" else "frames"
    pairs = [("the anonymizer", statement.name, section.anonymizer), ("the form", statement.form, form)]
    for name in _AS_IN_STUDY:
        if name in statement.parameters and hasattr(section, name):
            pairs.append((name, statement.parameters[name], getattr(section, name)))
    return pairs


class _Recomputing:
    """How statements are computed again; nothing where the anonymizers are not installed."""

    how: RecomputeStatement | None = None


def recompute_statements_with(how: RecomputeStatement) -> None:
    """Have statements of voice releases computed again by this."""
    _Recomputing.how = how


def note_epsilons(run: Run, site: str, release: Release) -> None:
    """Compute the epsilons of a voice release again. Where the site states less, what was computed counts."""
    stated = release.anonymizer("voice")
    if stated is None or _Recomputing.how is None:
        return
    try:
        again = _Recomputing.how(run.study, run.public, release)
    except Exception as error:  # an anonymizer that this server cannot build, such as a plug-in of the sites
        run.warn(f"the epsilons that {site} states were not computed again ({type(error).__name__})")
        return
    epsilons = {(row.mechanism, row.unit): row.epsilon for row in stated.privacy}
    run.sites[site].recomputed = {}
    for row in again.privacy:
        found, wanted = epsilons.get((row.mechanism, row.unit), 0.0), row.epsilon
        if found is None or (wanted is not None and found >= wanted * (1 - _ROUNDING)):
            continue
        run.sites[site].recomputed[f"{row.mechanism}/{row.unit}"] = wanted
        run.warn(
            f"{site} states epsilon {found:.4g} of a {row.unit} for {row.mechanism}, which by the study and the sizes "
            f"of its release is {'not bounded' if wanted is None else f'{wanted:.4g}'}: the report has that"
        )


def check_others(run: Run, release: Release) -> None:
    """No two sites release the same people or clips: pseudonyms are made under a key of each site's own.

    Raises:
        ReleaseError: another site has released some of them; it is named.
    """
    clips = {clip.clip for clip in release.clips}
    speakers = {clip.speaker for clip in release.clips}
    for site, other in sorted(run.releases.items()):
        same = sum(clip.clip in clips for clip in other.clips)
        people = len({clip.speaker for clip in other.clips} & speakers)
        if same or people:
            raise ReleaseError(
                f"{same} clips and {people} speakers under the pseudonyms that {site} has released",
                expected="people of its own, under a key of its own",
                fix="let each site have a folder, and with it a pseudonym key, of its own",
            )


def check_announced(run: Run, site: str, release: Release) -> None:
    """Cut what a site says of its clips to what it released; whatever was said beyond that is named.

    Raises:
        ReleaseError: it weighed more in training the code than it has released.
    """
    record, speakers = run.sites[site], {clip.speaker for clip in release.clips}
    if strangers := len(set(record.held_out) - speakers):
        run.warn(f"{site} holds out {strangers} speakers whom it has not released")
    record.held_out = tuple(sorted(set(record.held_out) & speakers))
    _note_split(run, site, len(speakers))
    for kind, stated in record.training.items():
        there = _training_clips(release, record, kind)
        if stated > there:
            run.warn(f"{site} states {stated} training clips of {kind} and released {there}: it weighs as {there}")
        record.training[kind] = min(stated, there)
    most = len(speakers) if run.study.voice.code_unit == "speaker" else len(release.clips)
    if record.code_weight > most:
        raise ReleaseError(
            f"{record.code_weight} {run.study.voice.code_unit}s in training the code and {most} in the release",
            expected="no more than are released",
            fix="the code is what that weight has made it: run the study anew without this site",
        )


def _training_clips(release: Release, record: RunSite, kind: str) -> int:
    modalities = _OF.get(kind, ("voice", "face"))
    return sum(_has(clip, modalities) and clip.speaker not in record.held_out for clip in release.clips)


def _has(clip: ReleasedClip, modalities: tuple[Modality, ...]) -> bool:
    return any(getattr(clip, modality) is not None for modality in modalities)


def _note_split(run: Run, site: str, speakers: int) -> None:
    """Name a site that holds out nobody, everybody, or not as many as the study's folds say."""
    stated, folds = len(run.sites[site].held_out), min(run.study.split.folds, speakers)
    if speakers < 2 or not isinstance(run.plan, DeploymentPlan):
        return
    least, most = speakers // folds, -(-speakers // folds)
    if not least <= stated <= most:
        run.warn(
            f"{site} holds out {stated} of its {speakers} speakers, where the study's folds hold out "
            f"{least if least == most else f'{least} or {most}'}: its part of the test is what it chose"
        )


def tested_clips(run: Run, site: str, output: str) -> dict[str, Table]:
    """How many held-out clips of each emotion a site can have tested: int64 [classes] by pseudonymous speaker.

    Args:
        run: whose releases count.
        site: whose clips.
        output: such as `voice`, or `fused/3` for the three classes of the original.
    """
    name, _, three = output.partition("/")
    classes = _THREE if three else EMOTIONS
    modalities, held_out = _OF.get(name, ("voice", "face")), run.held_out()
    found: dict[str, Table] = defaultdict(lambda: np.zeros(len(classes), np.int64))
    for clip in run.releases[site].clips:
        if clip.speaker in held_out and clip.emotion in classes and _has(clip, modalities):
            found[clip.speaker][classes.index(clip.emotion)] += 1
    return dict(found)


def check_counts(released: Mapping[str, Table], output: str, counted: Mapping[str, Table]) -> int:
    """Confusion counts are of the site's own held-out speakers, and of no more clips of an emotion than it released.

    Returns:
        How many clips it left out.

    Raises:
        ReleaseError: they are not.
    """
    for speaker, table in counted.items():
        if speaker not in released:
            raise ReleaseError(f"{output} counts of a speaker whom this site does not hold out", expected="its own")
        if (table.sum(axis=1) > released[speaker]).any():
            raise ReleaseError(
                f"{output} counts of {int(table.sum())} clips of a speaker",
                expected=f"those that were released, {int(released[speaker].sum())}, by emotion",
            )
    return int(sum(t.sum() for t in released.values()) - sum(t.sum() for t in counted.values()))
