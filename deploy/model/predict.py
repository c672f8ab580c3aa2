"""`moretta predict`: a delivered model on recordings or on releases.

Recordings are anonymized on this machine as a site would, in a folder that is removed again; nothing is sent, so
nothing goes on a ledger. An anonymizer that measures a clip against the speaker's other clips needs those here, too.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moretta.client.clips.release import BATCH_CLIPS, Outgoing, outgoing_parts
from moretta.client.settings import SiteSettings
from moretta.deploy.model.delivered_model import DeliveredModel
from moretta.server.stages.statement_checks import check_statement
from moretta.shared.core.array_types import Float32
from moretta.shared.core.errors import ClipError, CorpusError, ReleaseError, StudyError
from moretta.shared.core.terms import Modality
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.clips import Clip
from moretta.shared.data.reader import AUDIO_ENDINGS, VIDEO_ENDINGS, read_corpus
from moretta.shared.data.recordings import has_sound
from moretta.shared.models.emotion import PublicScale, study_model
from moretta.shared.models.outputs import outputs_of
from moretta.shared.models.reliability import tempered
from moretta.shared.release import open_release
from moretta.shared.release.anonymizer import anonymizer_of
from moretta.shared.release.release_format import STATEMENT_FILE

FEWEST_OF_SPEAKER = 2
"""Fewest clips of one speaker, where a clip is measured against the others."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Prediction by one output for one clip: the likeliest label, and the probability of each."""

    clip: str
    output: str
    label: str
    calibrated: bool
    probabilities: dict[str, float]


@dataclass
class Predictions:
    """All predictions, and the problems of clips that could not be used, or not whole."""

    rows: list[Prediction] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Problems of each clip."""

    @property
    def without(self) -> list[str]:
        """Clips of which nothing could be predicted."""
        known = {row.clip for row in self.rows}
        return [clip for clip in self.problems if clip not in known]


_Inputs = dict[Modality, tuple[list[str], list[Float32]]]


def predict(
    model: DeliveredModel,
    paths: Sequence[Path],
    *,
    speaker: str = "",
    settings: SiteSettings | None = None,
    step: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Predictions:
    """Predict the labels of sound and video files, of a corpus, or of the clips of a release.

    Args:
        paths: files, of which those of one name are one clip; or one folder, a corpus or a release.
        speaker: who all files are of, for anonymizers that measure a clip against the speaker's other clips.
        settings: a site's, for tests; default one without a name, whose noise is the system's.

    Raises:
        CorpusError: a file that is neither sound nor video, or no clip; or too few clips of a speaker.
        ReleaseError: a release that was made otherwise than the model expects.
        StudyError: an anonymizer that cannot run here, or that no prediction from recordings is possible with.
    """
    limit_threads(1)
    found = Predictions()
    folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else None
    if folder is not None and (folder / STATEMENT_FILE).is_file():
        inputs = _of_release(model, folder, found)
    else:
        clips = _clips_of_files(paths, speaker) if folder is None else _clips_of_corpus(model, folder)
        has_speaker = bool(speaker) or folder is not None
        with tempfile.TemporaryDirectory(prefix="moretta-predict-") as home:
            own = settings or SiteSettings("predict", Path(home), Path(home), (), frozenset(), None)
            inputs = _of_clips(model, own, clips, found, has_speaker=has_speaker, step=step)
    stacked = {modality: (names, np.stack(rows)) for modality, (names, rows) in inputs.items() if names}
    for output, rows_of in outputs_of(model.study, model.models, stacked).items():
        calibration = model.card.calibration.get(output)
        temperature = None if calibration is None else calibration.temperature
        for clip, row in rows_of.items():
            shown = row / row.sum() if temperature is None else tempered(row[None], temperature)[0]
            label = model.card.classes[int(row.argmax())]
            probabilities = dict(zip(model.card.classes, map(float, shown), strict=True))
            found.rows.append(Prediction(clip, output, label, temperature is not None, probabilities))
    found.rows.sort(key=lambda row: row.clip)
    return found


def _of_release(model: DeliveredModel, folder: Path, found: Predictions) -> _Inputs:
    release, scale = open_release(folder), PublicScale.of(model.public)
    check_statement(model.study, release)
    inputs: _Inputs = {}
    for expected in model.card.expects:
        statement = release.anonymizer(expected.modality)
        if statement is None:
            continue
        if statement.version != expected.version:
            raise ReleaseError(
                f"a {expected.modality} release of version {statement.version} of {statement.name}",
                expected=f"version {expected.version}, as the model card says",
            )
        reader = study_model(model.study, expected.modality)
        names, rows = inputs.setdefault(expected.modality, ([], []))
        for clip, array in release.arrays(expected.modality):
            names.append(clip.clip)
            rows.append(reader.input_of(statement.form, array, release.codebook, scale))
    there = {name for names, _ in inputs.values() for name in names}
    for clip in release.clips:
        if clip.clip not in there:
            found.problems[clip.clip].append(_lacking(model))
    return inputs


def _of_clips(
    model: DeliveredModel,
    settings: SiteSettings,
    clips: Sequence[Clip],
    found: Predictions,
    *,
    has_speaker: bool,
    step: Callable[[int, int], None],
) -> _Inputs:
    scale, inputs = PublicScale.of(model.public), _Inputs()
    parts = _fitted(model, settings, clips, has_speaker=has_speaker)
    for start in range(0, len(clips), BATCH_CLIPS):
        batch = clips[start : start + BATCH_CLIPS]
        usable = set[str]()
        for modality, part in parts.items():
            reader = study_model(model.study, modality)
            names, rows = inputs.setdefault(modality, ([], []))
            for clip, array in zip(batch, part.anonymized(settings, batch), strict=True):
                if isinstance(array, ClipError):
                    if array.reason != "missing":
                        found.problems[clip.name].append(f"{modality}: {array.message}")
                    continue
                usable.add(clip.name)
                names.append(clip.name)
                rows.append(reader.input_of(part.anonymizer.form, array, part.anonymizer.codebook, scale))
        for clip in batch:
            if clip.name not in usable and clip.name not in found.problems:
                found.problems[clip.name].append(_lacking(model))
        step(min(start + BATCH_CLIPS, len(clips)), len(clips))
    return inputs


def _lacking(model: DeliveredModel) -> str:
    return f"it has no {' and no '.join(e.modality for e in model.card.expects)}, which is all that the model reads"


def _fitted(
    model: DeliveredModel, settings: SiteSettings, clips: Sequence[Clip], *, has_speaker: bool
) -> dict[Modality, Outgoing]:
    """The anonymizers that the model expects, fitted on these clips where they measure clips against each other."""
    study, parts = model.study, dict[Modality, Outgoing]()
    for modality, part in outgoing_parts(study, model.public, settings.home).items():
        if modality not in model.models or not any(
            clip.video if modality == "face" else has_sound(clip) for clip in clips
        ):
            continue
        name = part.anonymizer.name
        if (why := anonymizer_of(study, modality).missing(study)) is not None:
            raise StudyError(f"{name} cannot run here: {why}", expected="its public network")
        if part.anonymizer.trains_on_emotions:
            raise StudyError(
                f"{modality} in the form of {name}, which is made of a clip's own label and says whether the clip "
                "sounds like it",
                expected="a release, as a site makes it of labelled clips",
                fix="give the folder of a release in place of recordings",
            )
        part.fit(settings, clips, study.classes)
        _check_fit(part, len(part.fitted_on), anonymizer_of(study, modality).fewest_clips(study), has_speaker)
        parts[modality] = part
    return parts


def _check_fit(part: Outgoing, clips: int, fewest: int, has_speaker: bool) -> None:
    """Refuse a single clip of a speaker, where clips are measured against others: its prediction would mean nothing."""
    if not clips:
        return
    name, modality = part.anonymizer.name, part.anonymizer.modality
    of_each = Counter(speaker for speaker, _ in part.fitted_on)
    fix = "give several files of one person, in several emotions, with --speaker; or a corpus folder, or a release"
    if not has_speaker:
        raise CorpusError(
            f"{modality} in the form of {name}, which measures a clip against other clips of its speaker",
            expected="a speaker, and several clips of that speaker",
            fix=fix,
        )
    if min(of_each.values()) < FEWEST_OF_SPEAKER or clips < fewest:
        raise CorpusError(
            f"{clips} clips, {min(of_each.values())} of the speaker with fewest, for {modality} by {name}",
            expected=f"at least {max(fewest, FEWEST_OF_SPEAKER)} clips, and {FEWEST_OF_SPEAKER} of each speaker",
            fix=fix,
        )


def _clips_of_corpus(model: DeliveredModel, folder: Path) -> tuple[Clip, ...]:
    return read_corpus(folder, labels=model.study.labels, classes=None).clips


def _clips_of_files(paths: Sequence[Path], speaker: str) -> tuple[Clip, ...]:
    """Clips of files: sound and video of one name are one clip."""
    files: dict[str, dict[str, Path]] = {}
    for path, kind in _kinds(paths):
        if (other := files.setdefault(path.stem, {}).setdefault(kind, path)) != path:
            raise CorpusError(
                f"{other} and {path}, two {kind} files of one name",
                expected="one sound and one video file at most of each name",
                fix="predict them one after the other, or rename one",
            )
    return tuple(
        Clip(name, speaker or name, label="", audio=found.get("audio"), video=found.get("video"))
        for name, found in files.items()
    )


def _kinds(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        ending = path.suffix.lower()
        if not path.is_file():
            raise CorpusError(
                f"{path} is {'a folder among files' if path.is_dir() else 'not there'}",
                expected="files, or one folder alone",
            )
        if ending not in (*AUDIO_ENDINGS, *VIDEO_ENDINGS):
            raise CorpusError(
                f"{path} ends in {ending or 'nothing'}",
                expected=f"sound ({' '.join(AUDIO_ENDINGS[:4])} ...) or video ({' '.join(VIDEO_ENDINGS[:4])} ...)",
            )
        yield path, "audio" if ending in AUDIO_ENDINGS else "video"
