"""A site makes its release: read, anonymize, account, write. Nothing that failed on the way is in it.

The ledger has the loss before the release has a statement, and without a statement a release cannot be opened.
"""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moretta.client.accounting.account import Audience, Cohort, Loss
from moretta.client.accounting.planning import cohorts, plan_training
from moretta.client.clips.provenance import Provenance, check_unchanged
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import SiteSettings, StudyPseudonyms
from moretta.client.training.data import of_released, save_public_scale
from moretta.shared.core.errors import ClipError, ReleaseError
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.data.recordings import ClipStore
from moretta.shared.features.faces import check_frames
from moretta.shared.features.mfcc import check_samples
from moretta.shared.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from moretta.shared.release import (
    AnonymizerStatement,
    Release,
    ReleasedClip,
    ReleaseWriter,
    open_release,
)
from moretta.shared.release.anonymizer import Anonymizer, Speaker, anonymizer_of, public_rules
from moretta.shared.release.release_format import STATEMENT_FILE, age_group, check_array
from moretta.shared.study.public_arrays import check_public
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Array = npt.NDArray[Any]
BATCH_CLIPS = 8


@dataclass
class _Outgoing:
    """One modality of a release in the making."""

    anonymizer: Anonymizer
    read: ClipStore
    """Reads the raw clip; None if it has not this modality."""
    sizes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Released frames of each clip, by speaker."""
    released: list[tuple[str, str]] = field(default_factory=list)
    """Speaker and clip of everything that is released, by their names on the ledger."""
    fitted_on: list[tuple[str, str]] = field(default_factory=list)
    """Those of every clip that the anonymizer was fitted on: what is released depends on them too."""
    readable: set[str] = field(default_factory=set)
    """Names of the clips that could be read: these may show in what is released."""

    @property
    def modality(self) -> Modality:
        """Of the anonymizer."""
        return self.anonymizer.modality

    def fit(self, settings: SiteSettings, clips: Sequence[Clip], classes: Sequence[str]) -> None:
        """Fit the anonymizer on this site's clips, and train it on their emotions, which a release states anyway."""
        key = settings.pseudonyms()

        def noted() -> Iterator[tuple[Speaker, Array]]:
            for clip, raw in self._read_all(clips):
                self.readable.add(clip.name)
                self.fitted_on.append((key.speaker(clip.speaker), key.clip(clip.name)))
                yield clip.speaker, raw

        self.anonymizer.keep_in(settings.remembered)
        self.anonymizer.fit(noted(), _noise(settings, self.modality, "fit"))
        if self.anonymizer.trains_on_emotions:
            labelled = ((clip.speaker, raw, classes.index(clip.label)) for clip, raw in self._read_all(clips))
            self.anonymizer.train_on_emotions(labelled)
        self.read.keeping = False  # what was not read to fit is read once

    def anonymized(self, settings: SiteSettings, clips: Sequence[Clip], dropped: Counter[str]) -> list[Array | None]:
        """Released arrays of a batch; None where the clip lacks the modality or failed (counted)."""
        readable: list[tuple[int, Array]] = []
        for index, clip in enumerate(clips):
            try:
                raw = self.read(clip)
            except ClipError as error:
                dropped[f"{self.modality}-{error.reason}"] += 1
                continue
            except Exception:  # a decoder's own defect must not cost the site its other clips
                dropped[f"{self.modality}-unreadable"] += 1
                continue
            if raw is None:
                dropped[f"{self.modality}-missing"] += 1
            else:
                self.readable.add(clip.name)
                readable.append((index, raw))
        out: list[Array | None] = [None] * len(clips)
        if not readable:
            return out
        theirs = [clips[index] for index, _ in readable]
        try:
            released = self.anonymizer.release(
                [raw for _, raw in readable],
                [_noise(settings, self.modality, clip.name) for clip in theirs],
                [clip.speaker for clip in theirs],
            )
            results = list(zip(readable, released, strict=True))
        except Exception:
            dropped[f"{self.modality}-anonymizer-failed"] += len(readable)
            return out
        for (index, _), result in results:
            try:
                out[index] = self._checked(result)
            except ClipError as error:
                dropped[f"{self.modality}-{error.reason}"] += 1
        return out

    def statement(self, settings: SiteSettings) -> AnonymizerStatement:
        """Of what was released."""
        return self.anonymizer.statement(self._sizes(), "system" if settings.simulated_seed is None else "seeded")

    def loss(self) -> Loss:
        """The loss by this release. DP-SGD accounts for a clip's own part in training, not for what it has moved in
        other clips' releases: where the anonymizer was fitted, models may reveal that, too."""
        losses = self.anonymizer.losses(self._sizes())
        audiences: tuple[Audience, ...] = ("server", "model") if self.fitted_on else ("server",)
        named = (self.modality, self.anonymizer.name)
        return Loss(Cohort.of([*self.released, *self.fitted_on]), audiences, losses["clip"], losses["speaker"], named)

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

    def _checked(self, result: Array | Exception) -> Array:
        """An anonymizer's result for one clip, if it may be released.

        Raises:
            ClipError: the anonymizer's own, or reason `anonymizer-failed` or `check-failed`.
        """
        if isinstance(result, ClipError):
            raise result
        if not isinstance(result, np.ndarray):
            raise ClipError("anonymizer-failed", f"{type(result).__name__} in place of an array")
        codebook = self.anonymizer.codebook
        size = None if codebook is None else len(codebook)
        try:
            check_array(self.modality, self.anonymizer.form, result, codebook_size=size)
        except ReleaseError as error:
            raise ClipError("check-failed", error.message) from error
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
        progress: called with clips done and in all.

    Raises:
        StudyError: public arrays that the study's anonymizers do not take, or with values that cannot be.
        PolicyError: the site's policy refuses it; nothing is on the ledger then, and nothing can be opened.
    """
    is_kept = settings.policy is not None and folder is None
    folder = folder or settings.releases / study.digest()[:16]
    if (folder / STATEMENT_FILE).exists():
        return open_release(folder)
    if folder.exists():
        shutil.rmtree(folder)  # half of a release, from a run that was ended
    if settings.policy is not None:
        settings.policy.check_study(study)
    outgoing = _outgoing(study, shared, settings.home)  # refuses arrays that cannot be, before a clip is read
    corpus, clips = site_corpus(settings, study)
    if settings.policy is not None:
        settings.policy.check_clips(len(clips), len({clip.speaker for clip in clips}))
        settings.policy.check_codebook(study, len(clips))
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
    describe = _Describer(corpus, settings.names(study), attributes=study.audit.attributes)
    ordered = _ordered(clips, settings, study)
    for start in range(0, len(ordered), BATCH_CLIPS):
        batch = ordered[start : start + BATCH_CLIPS]
        arrays = {m: part.anonymized(settings, batch, writer.dropped) for m, part in outgoing.items()}
        for index, clip in enumerate(batch):
            _write(writer, outgoing, clip, describe, {m: out[index] for m, out in arrays.items()})
        if progress is not None:
            progress(min(start + BATCH_CLIPS, len(ordered)), len(ordered))
    statements = tuple(part.statement(settings) for part in outgoing.values())
    if settings.policy is not None:
        settings.policy.check_clips(writer.clips, writer.speakers)
        settings.policy.check_release(statements)
    if provenance is not None:
        check_unchanged(provenance, settings)
        provenance.of_those({modality: part.readable for modality, part in outgoing.items()}).save(folder)
    _account(settings, study, list(zip(outgoing.values(), statements, strict=True)))
    save_public_scale(folder, shared)
    writer.finish(site=settings.name, study=study.digest(), anonymizers=statements)
    return open_release(folder)


def _ordered(clips: Sequence[Clip], settings: SiteSettings, study: Study) -> Sequence[Clip]:
    """Clips in an order that the site's key gives for this study alone. Otherwise its shard would reveal where in
    the corpus a clip comes, in every study alike. A seeded site hides nothing, and keeps the order of its corpus."""
    if settings.simulated_seed is not None:
        return clips
    key = settings.pseudonyms()
    return sorted(clips, key=lambda clip: key.rank(f"order {study.digest()} {clip.name}"))


@dataclass(frozen=True, slots=True)
class _Describer:
    """What is released beside a clip's arrays: pseudonyms, labels and, if the study audits them, sex and age group."""

    corpus: Corpus
    names: StudyPseudonyms
    attributes: bool

    def __call__(self, clip: Clip) -> ReleasedClip:
        speaker = self.corpus.speakers.get(clip.speaker) if self.attributes else None
        who, what = map(self.names.released, self.own(clip))
        return ReleasedClip(
            clip=what,
            speaker=who,
            emotion=clip.label,
            sentence=clip.sentence,
            level=clip.level,
            sex=speaker.sex if speaker and speaker.sex in ("female", "male") else None,  # type: ignore[arg-type]
            age_group=age_group(speaker.age) if speaker else None,
        )

    def own(self, clip: Clip) -> tuple[str, str]:
        """The ledger's names of the speaker and of the clip."""
        return self.names.key.speaker(clip.speaker), self.names.key.clip(clip.name)


def _write(
    writer: ReleaseWriter,
    outgoing: dict[Modality, _Outgoing],
    clip: Clip,
    describe: _Describer,
    arrays: dict[Modality, Array | None],
) -> None:
    """Add one clip to the release, or count it if no modality of it came through."""
    usable: dict[Modality, Array] = {m: a for m, a in arrays.items() if a is not None}
    if not usable:
        writer.dropped["clip-without-release"] += 1
        return
    writer.add(describe(clip), usable)
    for modality, array in usable.items():
        outgoing[modality].sizes[clip.speaker].append(outgoing[modality].anonymizer.frames(array))
        outgoing[modality].released.append(describe.own(clip))


def _account(settings: SiteSettings, study: Study, made: Sequence[tuple[_Outgoing, AnonymizerStatement]]) -> None:
    """Write what is released to the ledger, if that and the training that follows keep within the site's budget.

    Raises:
        BudgetError: they would not; nothing is on the ledger then.
    """
    site_budget = settings.site_budget()
    losses = [part.loss() for part, _ in made if part.released]
    site_budget.check([*losses, *_training(settings, study, [part for part, _ in made])])
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


def _training(settings: SiteSettings, study: Study, outgoing: Sequence[_Outgoing]) -> Iterator[Loss]:
    """Losses by training on this release until the study's last round."""
    if not study.privacy.dp_sgd:
        return
    pairs: dict[ModelKind, list[tuple[str, str]]] = {}
    for part in outgoing:
        tested = of_released(settings, study, frozenset(speaker for speaker, _ in part.released))
        pairs[part.modality] = [pair for pair in part.released if pair[0] not in tested]
    for kind, cohort in cohorts(study, pairs, settings.names(study).released).items():
        if cohort.clips:
            yield plan_training(study, cohort.clips_per_speaker, kind).loss(cohort, study.train.rounds)


def fits(study: Study, shared: dict[str, Array]) -> None:
    """Whether public arrays are those that a study's anonymizers need.

    Raises:
        StudyError: they are not.
        ReleaseError: they are no arrays of this kind.
    """
    _outgoing(study, shared, Path())


def _outgoing(study: Study, shared: dict[str, Array], home: Path) -> dict[Modality, _Outgoing]:
    check_public(shared, public_rules(study))
    readers: dict[Modality, Callable[[Clip], Array | None]] = {
        "voice": _read_voice,
        "face": lambda clip: _read_face(clip, study.face.fps),
    }
    return {
        m: _Outgoing(anonymizer_of(study, m).from_study(study, shared), ClipStore(readers[m], home))
        for m in study.modalities
    }


def _read_voice(clip: Clip) -> Array | None:
    from moretta.shared.data.recordings import read_sound

    sound = read_sound(clip)
    return None if sound is None else check_samples(sound)


def _read_face(clip: Clip, fps: float) -> Array | None:
    from moretta.shared.data.recordings import read_pictures

    frames = read_pictures(clip, fps=fps)
    if frames is not None:
        check_frames(frames)
    return frames


def _noise(settings: SiteSettings, modality: Modality, purpose: str) -> NoiseSource:
    if settings.simulated_seed is None:
        return SystemNoise()
    return SeededNoise(settings.simulated_seed, settings.name, modality, purpose)
