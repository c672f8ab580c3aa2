"""A site makes its release: read, anonymize, account, write. Nothing that failed on the way is in it.

The ledger has the loss before the release has a statement, and without a statement a release cannot be opened.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moretta.client.accounting.account import Audience, Cohort, Loss
from moretta.client.accounting.planning import cohorts, plan_training
from moretta.client.clips.provenance import Provenance, check_unchanged
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import SiteSettings, StudyPseudonyms
from moretta.client.training.data import of_released, save_public_scale
from moretta.shared.core.array_types import Array
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.terms import Modality
from moretta.shared.data import recordings
from moretta.shared.data.clips import Clip
from moretta.shared.data.clips import Speaker as Person
from moretta.shared.data.recordings import ClipStore
from moretta.shared.features.faces import check_frames
from moretta.shared.features.mfcc import check_samples
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from moretta.shared.release import AnonymizerStatement, Release, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.release.anonymizer import Anonymizer, Speaker, anonymizer_of, public_rules
from moretta.shared.release.release_format import STATEMENT_FILE, age_group, check_array
from moretta.shared.study.public_arrays import check_public, without_attackers
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

BATCH_CLIPS = 8


@dataclass
class Outgoing:
    """One modality of a release in the making, or of clips that are anonymized to be looked at here."""

    anonymizer: Anonymizer
    read: ClipStore
    """Reads the raw clip; None if it has not this modality."""
    sizes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Released frames of each clip, by speaker."""
    released: list[tuple[str, str]] = field(default_factory=list)
    """Speaker and clip of everything that is released, by their names on the ledger."""
    fitted_on: list[tuple[str, str]] = field(default_factory=list)
    """Pseudonyms of speaker and clip of every clip that the anonymizer was fitted on: the release depends on them."""
    readable: set[str] = field(default_factory=set)
    """Names of the clips that could be read: these may show in what is released."""

    def fit(self, settings: SiteSettings, clips: Sequence[Clip], classes: Sequence[str]) -> None:
        """Fit the anonymizer on this site's clips, and train it on their emotions, which a release states anyway."""
        key = settings.pseudonyms()

        def noted() -> Iterator[tuple[Speaker, Array]]:
            for clip, raw in self._read_all(clips):
                self.readable.add(clip.name)
                self.fitted_on.append((key.speaker(clip.speaker), key.clip(clip.name)))
                yield clip.speaker, raw

        self.anonymizer.keep_in(settings.remembered)
        self.anonymizer.fit(noted(), _noise(settings, self.anonymizer.modality, "fit"))
        if self.anonymizer.trains_on_emotions:
            labelled = ((clip.speaker, raw, classes.index(clip.label)) for clip, raw in self._read_all(clips))
            self.anonymizer.train_on_emotions(labelled)
        self.read.keeping = False  # what was not read to fit is read once

    def anonymized(self, settings: SiteSettings, clips: Sequence[Clip]) -> list[Array | ClipError]:
        """Released arrays of a batch; an error, with a stable reason, where the clip lacks the modality or failed."""
        modality, readable, out = self.anonymizer.modality, list[tuple[int, Array]](), list[Array | ClipError]()
        for index, clip in enumerate(clips):
            out.append(ClipError("missing", f"a clip without {modality}"))
            try:
                raw = self.read(clip)
            except Exception as error:  # a decoder's own defect must not cost the site its other clips
                out[index] = error if isinstance(error, ClipError) else ClipError("unreadable", type(error).__name__)
                continue
            if raw is not None:
                self.readable.add(clip.name)
                readable.append((index, raw))
        if not readable:
            return out
        theirs = [clips[index] for index, _ in readable]
        noise = [_noise(settings, modality, clip.name) for clip in theirs]
        try:
            released = self.anonymizer.release([raw for _, raw in readable], noise, [clip.speaker for clip in theirs])
            results = list(zip(readable, released, strict=True))
        except Exception as error:
            for index, _ in readable:
                out[index] = ClipError("anonymizer-failed", f"{self.anonymizer.name}: {type(error).__name__}")
            return out
        for (index, _), result in results:
            out[index] = self._checked(result)
        return out

    def statement(self, settings: SiteSettings) -> AnonymizerStatement:
        """The anonymizer's statement of the released clips."""
        return self.anonymizer.statement(self._sizes(), "system" if settings.simulated_seed is None else "seeded")

    def loss(self) -> Loss:
        """The loss by this release. DP-SGD accounts for a clip's own part in training, not for what it has moved in
        other clips' releases: where the anonymizer was fitted, models may reveal that, too."""
        losses = self.anonymizer.losses(self._sizes())
        audiences: tuple[Audience, ...] = ("server", "model") if self.fitted_on else ("server",)
        released_by = (self.anonymizer.modality, self.anonymizer.name)
        cohort = Cohort.of([*self.released, *self.fitted_on])
        return Loss(cohort, audiences, losses, released_by)

    def _sizes(self) -> dict[str, list[int]]:
        """Without the names of the speakers."""
        return {str(number): frames for number, frames in enumerate(self.sizes.values())}

    def _read_all(self, clips: Iterable[Clip]) -> Iterator[tuple[Clip, Array]]:
        for clip in clips:
            try:
                raw = self.read(clip)
            except Exception:  # noqa: S112 - counted when the clip's turn comes
                continue
            if raw is not None:
                yield clip, raw

    def _checked(self, result: Array | Exception) -> Array | ClipError:
        """An anonymizer's result for one clip, or why it must not be released."""
        if isinstance(result, ClipError):
            return result
        if not isinstance(result, np.ndarray):
            return ClipError("anonymizer-failed", f"{self.anonymizer.name}: {type(result).__name__}")
        size = None if self.anonymizer.codebook is None else len(self.anonymizer.codebook)
        try:
            check_array(self.anonymizer.modality, self.anonymizer.form, result, codebook_size=size)
        except ReleaseError as error:
            return ClipError("check-failed", error.message)
        return result


def make_release(
    settings: SiteSettings,
    study: Study,
    shared: dict[str, Array],
    *,
    folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Release:
    """Make this site's release for a study, or open the one that was made before: noise is drawn once.

    Args:
        shared: what the coordinator made in public, by name.
        folder: where to; default the site's own place for this study.

    Raises:
        StudyError: public arrays that the study's anonymizers do not take, or with values that cannot be.
        PolicyError: the site's policy refuses it; nothing is on the ledger then, and nothing can be opened.
    """
    policy, is_kept = settings.policy, settings.policy is not None and folder is None
    folder = folder or settings.release_of(study)
    if (folder / STATEMENT_FILE).exists():
        return open_release(folder)
    if folder.exists():
        shutil.rmtree(folder)  # half of a release, from a run that was ended
    if policy is not None:
        policy.check_study(study)
    outgoing = outgoing_parts(study, shared, settings.home)  # refuses arrays that cannot be, before a clip is read
    corpus, clips = site_corpus(settings, study)
    if policy is not None:
        policy.check_clips(len(clips), len({clip.speaker for clip in clips}))
        policy.check_codebook(study, len(clips))
    provenance = Provenance.take(settings, study, corpus, clips, tuple(outgoing)) if is_kept else None
    for part in outgoing.values():
        part.fit(settings, clips, study.classes)
    writer = ReleaseWriter(
        folder,
        forms={modality: part.anonymizer.form for modality, part in outgoing.items()},
        codebook=outgoing["voice"].anonymizer.codebook if "voice" in outgoing else None,
    )
    own = (drop for drop in corpus.dropped if not settings.speakers or drop.speaker in settings.speakers)
    writer.dropped.update(drop.reason for drop in own)
    names, people = settings.names(study), corpus.speakers if study.audit.attributes else {}
    if settings.simulated_seed is None:
        # A shard must not reveal where in the corpus a clip comes, in every study alike. A seeded site hides nothing.
        clips = tuple(sorted(clips, key=lambda clip: names.key.rank(f"order {study.digest()} {clip.name}")))
    for start in range(0, len(clips), BATCH_CLIPS):
        batch = clips[start : start + BATCH_CLIPS]
        arrays = {m: part.anonymized(settings, batch) for m, part in outgoing.items()}
        writer.dropped.update(f"{m}-{e.reason}" for m, out in arrays.items() for e in out if isinstance(e, ClipError))
        for index, clip in enumerate(batch):
            usable = {m: array for m, out in arrays.items() if not isinstance(array := out[index], ClipError)}
            _write(writer, outgoing, clip, usable, names=names, people=people)
        if progress is not None:
            progress(min(start + BATCH_CLIPS, len(clips)), len(clips))
    statements = tuple(part.statement(settings) for part in outgoing.values())
    if policy is not None:
        policy.check_clips(writer.clips, writer.speakers)
        policy.check_release(statements)
    if provenance is not None:
        check_unchanged(provenance, settings)
        provenance.of_those({modality: part.readable for modality, part in outgoing.items()}).save(folder)
    _account(settings, study, list(zip(outgoing.values(), statements, strict=True)))
    save_public_scale(folder, shared)
    writer.finish(site=settings.name, study=study.digest(), anonymizers=statements)
    return open_release(folder)


def _write(
    writer: ReleaseWriter,
    outgoing: dict[Modality, Outgoing],
    clip: Clip,
    usable: dict[Modality, Array],
    *,
    names: StudyPseudonyms,
    people: Mapping[SpeakerId, Person],
) -> None:
    """Add one clip to the release with what is known of these people, or count it if no modality came through."""
    if not usable:
        writer.dropped["clip-without-release"] += 1
        return
    own = (names.key.speaker(clip.speaker), names.key.clip(clip.name))
    person = people.get(clip.speaker)
    made = ReleasedClip(
        clip=names.released(own[1]),
        speaker=names.released(own[0]),
        emotion=clip.label,
        sentence=clip.sentence,
        level=clip.level,
        sex=person.sex if person and person.sex in ("female", "male") else None,  # type: ignore[arg-type]
        age_group=age_group(person.age) if person else None,
    )
    writer.add(made, usable)
    for modality, array in usable.items():
        outgoing[modality].sizes[clip.speaker].append(outgoing[modality].anonymizer.frames(array))
        outgoing[modality].released.append(own)


def _account(settings: SiteSettings, study: Study, made: Sequence[tuple[Outgoing, AnonymizerStatement]]) -> None:
    """Write what is released to the ledger, if that and the training that follows keep within the site's budget. Raises
    BudgetError: they would not; nothing is on the ledger then."""
    site_budget = settings.site_budget()
    planned = [part.loss() for part, _ in made if part.released]
    planned += training_ahead(settings, study, {statement.modality: part.released for part, statement in made})
    site_budget.check(planned)
    for part, statement in made:
        if part.released:
            site_budget.spend(
                "release",
                part.loss(),
                study=study.digest(),
                modality=statement.modality,
                anonymizer=statement.name,
                version=statement.version,
                noise=statement.noise,
                privacy=[p.model_dump() for p in statement.privacy],
            )


def training_ahead(
    settings: SiteSettings, study: Study, released: Mapping[Modality, Sequence[tuple[str, str]]]
) -> list[Loss]:
    """Losses by training on a release until the study's last round. `released`: the site's own pseudonyms of speaker
    and clip, by modality."""
    if not study.privacy.dp_sgd:
        return []
    pairs: dict[ModelKind, list[tuple[str, str]]] = {}
    for modality, theirs in released.items():
        tested = of_released(settings, study, frozenset(speaker for speaker, _ in theirs))
        pairs[modality] = [pair for pair in theirs if pair[0] not in tested]
    trained = cohorts(study, pairs, settings.names(study).released)
    return [
        plan_training(study, cohort.clips_per_speaker, kind).loss(cohort, study.train.rounds)
        for kind, cohort in trained.items()
        if cohort.clips
    ]


def check_arrays(study: Study, shared: dict[str, Array]) -> None:
    """Raise StudyError or ReleaseError if public arrays are not those that a study's anonymizers need."""
    outgoing_parts(study, shared, Path())


def outgoing_parts(study: Study, shared: dict[str, Array], home: Path) -> dict[Modality, Outgoing]:
    """The anonymizers of a study, none of which has seen a clip, by modality. Errors: see `check_arrays`."""
    check_public(without_attackers(shared), public_rules(study))
    readers: dict[Modality, Callable[[Clip], Array | None]] = {
        "voice": _read_voice,
        "face": lambda clip: _read_face(clip, study.face.fps),
    }
    return {
        m: Outgoing(anonymizer_of(study, m).from_study(study, shared), ClipStore(readers[m], home))
        for m in study.modalities
    }


def _read_voice(clip: Clip) -> Array | None:
    sound = recordings.read_sound(clip)
    return None if sound is None else check_samples(sound)


def _read_face(clip: Clip, fps: float) -> Array | None:
    if (frames := recordings.read_pictures(clip, fps=fps)) is not None:
        check_frames(frames)
    return frames


def _noise(settings: SiteSettings, modality: Modality, purpose: str) -> NoiseSource:
    if settings.simulated_seed is None:
        return SystemNoise()
    return SeededNoise(settings.simulated_seed, settings.name, modality, purpose)
