"""Python API of `import moretta`: a study's steps as functions, and their results as records for a data frame."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moretta.shared.audit.report.report_schema import Report
from moretta.shared.core.device import computing_on
from moretta.shared.core.errors import ExitCode, RunError
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.clips import Corpus
from moretta.shared.data.reader import Labels, read_corpus
from moretta.shared.release import Release, open_release
from moretta.shared.study.schema import Study, parse_study
from moretta.shared.study.schema import load_study as load_study_file

if TYPE_CHECKING:
    from moretta.shared.release.torch_dataset import ReleasedClips

Record = dict[str, Any]  # one row: plain values by column, as `pandas.DataFrame(records)` takes them
StudyLike = Study | Mapping[str, Any] | Path | str | None
"""A study; its content, as a study file has it; the path of a study file; None for the defaults."""
Say = Callable[[str], None]


def load_study(study: StudyLike = None) -> Study:
    """Check a study.

    Raises:
        StudyError: every problem in one message.
    """
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return parse_study(dict(study))
    return load_study_file(None if study is None else Path(study))


def load_corpus(folder: Path | str, *, labels: Labels = "intended", classes: Sequence[str] | None = EMOTIONS) -> Corpus:
    """List the clips of a folder: CREMA-D, RAVDESS names, a manifest, or a layout that a plug-in reads.

    Args:
        labels: CREMA-D's `intended` emotions, or the crowd's `vote`.
        classes: the labels to keep; None keeps all, under the corpus's own names.

    Raises:
        CorpusError: no such folder, no usable clip in it, or a table that cannot be read.
    """
    return read_corpus(Path(folder), labels=labels, classes=classes)


def make_corpus(
    folder: Path | str, *, speakers: int = 24, clips: int = 24, seed: int = 0, video: bool = True
) -> Corpus:
    """Make a synthetic corpus in a new or empty folder. Its emotion rules are Moretta's own.

    Args:
        speakers: how many people, half of them of either sex.
        clips: of each person, at most 82.

    Raises:
        CorpusError: the folder is not empty, or the numbers are impossible.
    """
    from moretta.deploy.synth.corpus import synthesize_corpus

    return synthesize_corpus(Path(folder), speakers=speakers, clips=clips, seed=seed, video=video)


def anonymize(
    corpus: Path | str, out: Path | str, study: StudyLike = None, *, media: bool | None = None, seeded: bool = False
) -> Release:
    """Anonymize all clips of a corpus, as a site would.

    Args:
        out: a new or empty folder, or that of the same call, interrupted. `out/release` is a data set for others; the
            pseudonym key stays beside it.
        media: write what was released as sound and pictures too; None does so where the form is sound or pictures.
        seeded: draw noise from the study's seed, which anybody who knows it can subtract.

    Raises:
        MorettaError: the corpus, the study or the folder cannot be used.
    """
    from moretta.deploy.runtime.anonymize_folder import anonymize_corpus

    return anonymize_corpus(Path(corpus), Path(out), load_study(study), media=media, seeded=seeded)


def audit(
    released: Path | str,
    *,
    originals: Path | str | None = None,
    key: Path | str | None = None,
    out: Path | str | None = None,
    attackers: Sequence[str] = (),
    seed: int = 0,
    bootstrap: int = 200,
    workers: int | None = None,
    everything: bool = True,
    parallel: Path | str | None = None,
    sentences: Mapping[str, str] | None = None,
    device: str = "cpu",
) -> list[Record]:
    """Attack what was released, by Moretta or by any other tool.

    Args:
        released: a release, a folder of releases, or sound and video files named as the originals.
        originals: the corpus that was released. Without it there is no unprotected anchor, and no attacker that is
            trained on originals.
        key: pseudonym key of the site that made the release; default the one beside it.
        out: where the page, the trial lists and `audit.json` go; None keeps none of them.
        attackers: names; empty means all.
        bootstrap: resamples of each interval, over speakers.
        workers: processes; None takes one for each core.
        everything: attribute inference, inversion, linkage and utility too, and not re-identification alone. Their
            figures are in `audit.json`.
        parallel: a corpus of the same clips as they should sound in the voice that is wanted, where that is known:
            utility has the distortion, too.
        sentences: texts by the code of the sentence, where codes are neither CREMA-D's nor RAVDESS's: utility has the
            words that are still recognised.
        device: where networks of attackers run: `cpu`, `cuda`, `mps`, or `auto` for the first GPU that is there.

    Returns:
        One record for each attacker, scenario and metric.

    Raises:
        MorettaError: nothing to attack, originals that do not belong to the releases, or a sentence that cannot be.
    """
    from moretta.deploy.runtime.audit_folder import audit_folder

    corpus, site_key, wanted = (None if path is None else Path(path) for path in (originals, key, parallel))
    given = dict(sentences) if isinstance(sentences, Mapping) else sentences
    texts = None if given is None else parse_study({"audit": {"sentences": given}}).audit.sentences
    with tempfile.TemporaryDirectory(prefix="moretta-audit-") as scratch, computing_on(device):
        found = audit_folder(
            Path(released),
            corpus=corpus,
            key=site_key,
            out=Path(scratch) / "out" if out is None else Path(out),
            attackers=attackers,
            seed=seed,
            bootstrap=bootstrap,
            workers=workers,
            inference=everything,
            utility=everything,
            parallel=wanted,
            sentences=texts,
        )
    return [row.model_dump(mode="json") for row in found.rows]


def load_release(folder: Path | str, *, digest: str = "") -> Release:
    """Open a data set that `anonymize` made, wherever it lies now, after every file of it was checked.

    `records` gives its clips as rows, `torch_dataset` its arrays.

    Args:
        folder: the folder `release`, or a copy of it.
        digest: SHA-256 of its `SHA256SUMS`, as the maker published it. Without it, damage is found, but not forgery.

    Raises:
        ReleaseError: a file is missing, changed or not listed; another digest; or it breaks the format.
    """
    from moretta.shared.release.data_set import check_files

    check_files(Path(folder), digest=digest)
    return open_release(Path(folder))


def torch_dataset(release: Release | Path | str, modality: Literal["voice", "face"]) -> ReleasedClips:
    """The clips of one modality as a `torch.utils.data.Dataset` of (array, number of the class).

    `clips` has their records in the same order, with the `speaker` to split people by; `classes` the names of the
    labels. Clips have different lengths, so a loader with batches needs a `collate_fn`.

    Raises:
        ReleaseError: nothing of this modality was released; a folder: see `load_release`.
    """
    from moretta.shared.release.torch_dataset import ReleasedClips

    return ReleasedClips(release if isinstance(release, Release) else load_release(release), modality)


def simulate(study: StudyLike = None, *, corpus: Path | str, out: Path | str, notify: Say | None = None) -> Report:
    """Run a whole study on this machine, over virtual sites: anonymize, train, attack, report.

    `out` is a new folder, or that of an interrupted run of the same study, which goes on; `notify` is called with lines
    about the progress.

    Raises:
        MorettaError: the study or the corpus cannot be used, or the run failed.
    """
    from moretta.deploy.runtime.planning import check_names, plan_simulation
    from moretta.deploy.runtime.run_folder import prepare_folder
    from moretta.deploy.runtime.simulation import simulate as start
    from moretta.shared.study.run_plan import PLAN_FILE

    chosen, folder = load_study(study), Path(out)
    check_names(chosen)
    found = read_corpus(Path(corpus), labels=chosen.labels, classes=chosen.classes)
    plan = plan_simulation(found, chosen, "moretta.simulate")
    prepare_folder(folder, begun=PLAN_FILE)
    outcome = start(plan, folder, notify or (lambda _: None))
    if outcome.code not in (ExitCode.OK, ExitCode.GATE):
        raise RunError(f"the study failed in {outcome.stage}: {outcome.cause}", fix=f"see the logs in {folder}")
    return read_report(folder)


def export_model(run: Path | str, out: Path | str) -> Record:
    """Write the trained model of a finished study to `out`, a new or empty folder, and return its card.

    Raises:
        MorettaError: no finished study, or one without a trained model.
    """
    from moretta.deploy.model.export_model import export_model as export

    return export(Path(run), Path(out)).model_dump(mode="json")


def predict(model: Path | str, files: Sequence[Path | str] | Path | str, *, speaker: str = "") -> list[Record]:
    """Predict emotions with a delivered model. Recordings are anonymized on this machine first, as at a site.

    Args:
        model: a folder that `export_model` wrote.
        files: sound and video, of which those of one name are one clip; or one folder, a corpus or a release.
        speaker: any name of the one person in all files, where an anonymizer measures clips against each other.

    Returns:
        One record for each clip and output: `label`, and the probability of each class under its name in
        `probabilities`. A clip of which nothing can be predicted has a `label` of None, and the `problem`.

    Raises:
        MorettaError: the model was changed, or cannot be used on such files.
    """
    from moretta.deploy.model.delivered_model import load_model
    from moretta.deploy.model.predict import predict as start

    paths = [Path(path) for path in ((files,) if isinstance(files, Path | str) else files)]
    found = start(load_model(Path(model)), paths, speaker=speaker)
    nothing: Record = {"output": None, "label": None, "calibrated": False, "probabilities": {}}
    return [
        *({**asdict(row), "problem": "; ".join(found.problems.get(row.clip, ()))} for row in found.rows),
        *({"clip": clip, **nothing, "problem": "; ".join(found.problems[clip])} for clip in found.without),
    ]


def read_report(folder: Path | str) -> Report:
    """Read what a study found: `report.json` in the folder of the finished study.

    Raises:
        MorettaError: there is none, or it cannot be read.
    """
    from moretta.shared.audit.report.report_file import load_report

    return load_report(Path(folder))


def budget(study: StudyLike = None, *, clips: int, speakers: int, seconds: float = 2.6) -> list[Record]:
    """Privacy loss that a study will cost the people of one site, computed before any clip is read.

    Args:
        study: the study, or its file; None is the default study.
        clips: number of the site's clips that are released and trained on.
        speakers: number of people in them.
        seconds: length of the longest clip.

    Returns:
        One record for each loss (`release` or `training`, and both composed), `audience` and `unit`. A unit is a clip,
        or all clips of a speaker. An `epsilon` of None is no finite guarantee.

    Raises:
        StudyError: the study cannot be used, or there are fewer clips than speakers.
    """
    from moretta.client.accounting.planning import estimate_cost
    from moretta.deploy.cli.budget import clips_of_each

    planned = estimate_cost(load_study(study), clips_of_each(clips, speakers), seconds=seconds)
    privacy, rounds = planned.study.privacy, planned.study.train.rounds
    rows: list[tuple[str, str | None, str, str, float | None]] = []
    for unit in ("clip", "speaker"):
        rows += [("release", m, "server", unit, planned.release_epsilon(m, unit)) for m in planned.releases]
        if planned.trainings:
            rows.append(("training", None, "model", unit, planned.training_epsilon(unit, rounds)))
    for audience, by_unit in planned.composed().items():
        rows += [("composed", None, audience, unit, epsilon) for unit, epsilon in by_unit.items()]
    names = ("what", "modality", "audience", "unit", "epsilon")
    return [{**dict(zip(names, row, strict=True)), "delta": privacy.delta} for row in rows]


def records(found: Corpus | Report | Release) -> list[Record]:
    """The rows of what was loaded: clips of a corpus or of a release, or attacks of a report."""
    if isinstance(found, Corpus):
        return [
            {
                "clip": clip.name,
                **{key: getattr(clip, key) for key in ("speaker", "label", "sentence", "level")},
                "sex": found.speakers[clip.speaker].sex,
                "age": found.speakers[clip.speaker].age,
                "audio": None if clip.audio is None else str(clip.audio),
                "video": None if clip.video is None else str(clip.video),
            }
            for clip in found.clips
        ]
    if isinstance(found, Report):
        return [row.model_dump(mode="json") for row in found.audit]
    from moretta.shared.release.data_set import MEDIA_ENDINGS, media_of

    none: Record = dict.fromkeys(MEDIA_ENDINGS)
    return [
        {**clip.model_dump(mode="json"), **none, **{k: str(p) for k, p in media_of(found.folder, clip.clip).items()}}
        for clip in found.clips
    ]
