"""A site's statements, checked against its release and against the study."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np

from moretta.server.stages.run import Arrays, Releases, RunContext, SiteFacts, Tables
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.labels import ORIGINAL_CLASSES
from moretta.shared.core.terms import Modality, PrivacyStatement
from moretta.shared.features.public_speech import MfccOptions
from moretta.shared.release import Release
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.release.release_format import AnonymizerStatement, ReleasedClip
from moretta.shared.study.run_plan import DeploymentPlan
from moretta.shared.study.schema import Study

_ROUNDING = 1e-3


def check_release(
    context: RunContext, public: Arrays, releases: Releases, site: str, release: Release, *, code_units: int
) -> None:
    """Check a release as a whole, against those kept before, and fill in what the server knows of it: its `facts`.

    Numbers of clips that a site overstates are cut to those of its release. Where it states a stronger guarantee than
    the server computes, the report has the server's.

    Raises ReleaseError where the release is another site's, is for another study, was made otherwise than the study
    says, or does not match the other sites' releases or this site's training.
    """
    if release.statement.site != site:
        raise ReleaseError(f"a release of {release.statement.site!r} from {site!r}", expected="the site's own")
    if release.statement.study != context.study.digest():
        raise ReleaseError("a release that was made for another study", expected="this study's digest")
    check_statement(context.study, release)
    _check_others(releases, release)
    _check_arrays(context.study, release)
    _check_announced(context, releases.facts[site], site, release, code_units)
    facts = releases.facts[site]
    facts.recomputed = recomputed_rows(context, public, site, release)
    facts.clips, facts.speakers = len(release.clips), len({clip.speaker for clip in release.clips})
    dropped = Counter(release.statement.dropped)
    dropped.update(release.damaged)
    facts.dropped = dict(dropped)


def check_statement(study: Study, release: Release) -> None:
    """Check that a release was made as the study says; raises ReleaseError with the difference."""
    stated = [statement.modality for statement in release.statement.anonymizers]
    if len(set(stated)) != len(stated) or set(stated) - set(study.modalities):
        raise ReleaseError(
            f"statements of {', '.join(stated)}", expected=f"of {', '.join(study.modalities)}, each once"
        )
    if silent := set(study.trained_modalities) - set(stated):  # the training of a code stands in these statements
        raise ReleaseError(f"no statement of {', '.join(sorted(silent))}", expected="one, as its code was trained")
    for statement in release.statement.anonymizers:
        section, anonymizer = study.section(statement.modality), anonymizer_of(study, statement.modality)
        options = section.options.model_dump(exclude=set(anonymizer.not_from_options))
        pairs = [("the anonymizer", statement.name, section.anonymizer), ("the form", statement.form, section.form)]
        pairs += [(name, statement.parameters[name], options[name]) for name in options.keys() & statement.parameters]
        for name, found, wanted in pairs:
            if found != wanted:
                raise ReleaseError(
                    f"a {statement.modality} release made with {name} {str(found)[:60]!a}",
                    expected=f"{wanted!r}, as the study says",
                )
    if other := sorted({clip.emotion for clip in release.clips} - set(study.classes)):
        raise ReleaseError(f"clips labelled {', '.join(other)[:200]}", expected=f"one of {', '.join(study.classes)}")


def recomputed_statement(study: Study, public: Arrays, release: Release, modality: Modality) -> AnonymizerStatement:
    """The statement that the study's own anonymizer makes for a release of these sizes."""
    anonymizer = anonymizer_of(study, modality).from_study(study, public)
    sizes: dict[str, list[int]] = defaultdict(list)
    for clip, array in release.arrays(modality):
        sizes[clip.speaker].append(anonymizer.frames(array))
    return anonymizer.statement(dict(sizes), "system")


def recomputed_rows(context: RunContext, public: Arrays, site: str, release: Release) -> dict[str, PrivacyStatement]:
    """The server's guarantees of a release where the site states stronger ones, by modality/mechanism/unit."""
    recomputed: dict[str, PrivacyStatement] = {}
    for stated in release.statement.anonymizers:
        try:
            again = recomputed_statement(context.study, public, release, stated.modality)
        except Exception as error:  # public arrays that this anonymizer cannot be built of
            about = f"the epsilons that {site} states of {stated.modality}"
            context.warn(f"{about} were not computed again ({type(error).__name__})")
            continue
        known = {(row.mechanism, row.unit): row for row in stated.privacy}
        for row in again.privacy:
            found = known.get((row.mechanism, row.unit))
            if _is_kept(found, row):
                continue
            recomputed[f"{stated.modality}/{row.mechanism}/{row.unit}"] = row
            context.warn(
                f"{site} states {_guarantee(found)} of a {row.unit} for {row.mechanism} ({stated.modality}), which by "
                f"the study and the sizes of its release is {_guarantee(row)}: the report has that"
            )
    return recomputed


def _is_kept(stated: PrivacyStatement | None, wanted: PrivacyStatement) -> bool:
    """Whether what is stated promises no more than what was computed."""
    if stated is None:
        return wanted.epsilon == 0
    if stated.epsilon is None:
        return True
    if wanted.epsilon is None or stated.epsilon < wanted.epsilon * (1 - _ROUNDING):
        return False
    return stated.delta >= wanted.delta * (1 - _ROUNDING)


def _guarantee(row: PrivacyStatement | None) -> str:
    if row is None:
        return "no epsilon"
    if row.epsilon is None:
        return "not bounded"
    return f"epsilon {row.epsilon:.4g}" + (f" at delta {row.delta:.2g}" if row.delta else "")


def _check_others(releases: Releases, release: Release) -> None:
    """Check that no two sites release the same pseudonyms, which are made under a key of each site's own."""
    clips = {clip.clip for clip in release.clips}
    speakers = {clip.speaker for clip in release.clips}
    for site, other in sorted(releases.kept.items()):
        same = sum(clip.clip in clips for clip in other.clips)
        people = len({clip.speaker for clip in other.clips} & speakers)
        if same or people:
            raise ReleaseError(
                f"{same} clips and {people} speakers under the pseudonyms that {site} has released",
                expected="people of its own, under a key of its own",
                fix="let each site have a folder, and with it a pseudonym key, of its own",
            )


def _check_arrays(study: Study, release: Release) -> None:
    """Read every array once, on arrival: damaged ones are counted. Models take only arrays of one size together."""
    for modality in study.modalities:
        statement = release.anonymizer(modality)
        sizes = {_size(statement.form, array) for _, array in release.arrays(modality)} if statement else set()
        options, is_mfcc = study.section(modality).options, statement is not None and statement.form == "mfcc"
        expected = options.coefficients if is_mfcc and isinstance(options, MfccOptions) else None
        if len(sizes) > 1 or (expected is not None and sizes - {(), (expected,)}):
            raise ReleaseError(f"{modality} arrays of the sizes {sorted(sizes)}", expected="the size of the study")


def _size(form: str, array: Array) -> tuple[int, ...]:
    if form == "code":
        return array.shape
    return () if form in ("tokens", "waveform", "code-tokens") else array.shape[1:]


def _check_announced(context: RunContext, facts: SiteFacts, site: str, release: Release, code_units: int) -> None:
    """Cut what a site states of its clips to what it released, and warn of what was stated in excess."""
    speakers = {clip.speaker for clip in release.clips}
    if strangers := len(set(facts.held_out) - speakers):
        context.warn(f"{site} holds out {strangers} speakers whom it has not released")
    facts.held_out = tuple(sorted(set(facts.held_out) & speakers))
    _note_split(context, site, len(facts.held_out), len(speakers))
    for kind, stated in facts.training.items():
        there = sum(_has(clip, kind) and clip.speaker not in facts.held_out for clip in release.clips)
        if stated > there:
            context.warn(f"{site} states {stated} training clips of {kind} and released {there}: it weighs as {there}")
        facts.training[kind] = min(stated, there)
    training = context.study.site_training
    unit = "speaker" if training is None else training.unit
    most = len(speakers) if unit == "speaker" else len(release.clips)
    if code_units > most:
        raise ReleaseError(
            f"{code_units} {unit}s in training the code and {most} in the release",
            expected="no more than are released",
            fix="the code is what that weight has made it: run the study anew without this site",
        )


def _note_split(context: RunContext, site: str, held_out: int, speakers: int) -> None:
    """Warn of a site that holds out nobody, everybody, or not as many as the study's folds say."""
    folds = min(context.study.split.folds, speakers)
    if speakers < 2 or not isinstance(context.plan, DeploymentPlan):
        return
    least, most = speakers // folds, -(-speakers // folds)
    if not least <= held_out <= most:
        context.warn(
            f"{site} holds out {held_out} of its {speakers} speakers, where the study's folds hold out "
            f"{least if least == most else f'{least} or {most}'}: its part of the test is what it chose"
        )


def _has(clip: ReleasedClip, output: str) -> bool:
    """Whether a clip has what a model or output needs: its own modality, or either one for a fusion."""
    modalities = (output,) if output in ("voice", "face") else ("voice", "face")
    return any(getattr(clip, modality) is not None for modality in modalities)


def tested_clips(release: Release, held_out: frozenset[str], output: str, classes: tuple[str, ...]) -> Tables:
    """How many held-out clips of each emotion a site can have tested: int64 [classes] by pseudonymous speaker.

    An output is such as `voice`, or `fused/3` for the three classes of the original.
    """
    name, _, three = output.partition("/")
    classes = ORIGINAL_CLASSES if three else classes
    found: Tables = defaultdict(lambda: np.zeros(len(classes), np.int64))
    for clip in release.clips:
        if clip.speaker in held_out and clip.emotion in classes and _has(clip, name):
            found[clip.speaker][classes.index(clip.emotion)] += 1
    return dict(found)


def check_counts(released: Tables, output: str, counted: Tables) -> int:
    """Check that counts are of the site's own held-out speakers, and of no more clips of an emotion than it released.

    Returns how many clips it left out; raises ReleaseError where they are not.
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
