"""`moretta zoo`: a fixed grid of published systems and anonymizers, each trained on some people and audited on others.

Each cell is one whole study. Public people and released people never overlap: either public people are another corpus,
or one corpus is cut in two halves of people, and each half is public once. Most systems of faces are trained on drawn
people, and need neither.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moretta.deploy.runtime.run_folder import Notify
from moretta.deploy.sweep.choosing import SHIPPED, check_speakers, of_modality
from moretta.deploy.sweep.grid import CurveSection, GridFile, load_grid, make_grid
from moretta.deploy.sweep.jobs import PlannedCell, SweepPlan, plan_sweep
from moretta.deploy.sweep.run_sweep import Worked, at_work, do_missing
from moretta.deploy.sweep.sweep_results import ResultFolder, Studied
from moretta.deploy.sweep.zoo_figures import zoo_row
from moretta.shared.audit.report.zoo_page import write_zoo
from moretta.shared.audit.report.zoo_rows import ZooReport, ZooRow, mean_row
from moretta.shared.core.errors import StudyError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.terms import Modality
from moretta.shared.data.clips import Corpus
from moretta.shared.data.reader import SYNTHETIC_MARKER, link_or_copy, read_corpus
from moretta.shared.data.tables import DEMOGRAPHICS_FILE
from moretta.shared.features.public_speech import public_people
from moretta.shared.release.anonymizer import anonymizer_names
from moretta.shared.study.options import ANONYMIZERS
from moretta.shared.study.schema import Study

GRIDS: dict[Modality, Path] = {"voice": SHIPPED / "zoo.toml", "face": SHIPPED / "zoo-face.toml"}
HALVES = ("first half", "second half")
"""Names of the two halves of the people, by id; a row has the name of the half that is released."""
FEWEST = 3
"""Public people of each sex: two train an adversary, one is held out."""
PEOPLE = "people"  # folder of the clips of each half
_PUBLIC: Mapping[Modality, str] = {"voice": "public_speech", "face": "public_faces"}
_AUDIO = "AudioWAV"


@dataclass(frozen=True)
class Half:
    """People whose clips are released (`corpus`), and the folder of public people; None where these are drawn."""

    name: str
    corpus: Path
    public: Path | None
    described: str


def run_zoo(
    corpus: Path,
    out: Path,
    *,
    modality: Modality = "voice",
    split: bool,
    public: Path | None,
    systems: Sequence[str],
    study: Study,
    jobs: int | None,
    command: str,
    notify: Notify,
) -> tuple[ZooReport, Worked]:
    """Do what is not done yet, and write `zoo.json`, `zoo.csv` and `zoo.html` into `out`.

    Args:
        corpus: what is released and attacked.
        out: a new or empty folder, or that of an earlier zoo, whose results are used again where they still hold.
        modality: which anonymizers, and what of the corpus.
        split: cut the corpus in two halves, each of which is public once.
        public: clips of other people; without them and `split`, anonymizers of faces are trained on drawn people.
        systems: names of the anonymizers, of those in the grid; empty means all.
        study: seed, classes and audit are taken from it.
        jobs: processes; None takes one for each CPU.
        command: how to do it again, for the page.
        notify: called with a line of text for every finished job.

    Raises:
        CorpusError: a corpus cannot be used.
        StudyError: public speech without what adversaries need, people in both, an unknown system, a public network
            that is absent, or `out` holds something else. Nothing has been computed then.
        RunError, Interrupted: as `sweep` does.
    """
    started = time.monotonic()
    if (public is not None) + split != 1 and (modality == "voice" or split):
        found = "both --public and --split" if split else "neither --public nor --split"
        raise StudyError(found, expected="one of them: public people and released people never overlap")
    grid = zoo_grid(study, systems, modality)
    read = read_corpus(corpus, classes=study.classes)
    check_speakers(read, modality)
    cut = check_split(read, modality) if split else None
    if public is not None:
        sexes = _sexes(public, modality)
        check_public(sexes, str(public))
        check_apart(read, sexes)
    with at_work(out):
        drawn = f"{corpus.name}: its people are released, and what needs training is trained on drawn people."
        halves = [Half("", corpus, public, "" if public else drawn)]
        if cut is not None:
            halves = link_halves(read, cut, out / PEOPLE)
        plans = [plan_half(grid, half, command, modality) for half in halves]
        cells = tuple(cell for plan in plans for cell in plan.cells)
        whole = replace(plans[0], cells=cells)
        worked = do_missing(whole, out, jobs=jobs, notify=notify)
        report = ZooReport(
            name=grid.name,
            synthetic=any(cell.corpus.synthetic for cell in cells),
            rows=_rows(plans, halves, ResultFolder(out), worked.failures),
            people=tuple(half.described for half in halves if half.described),
            command=command,
            versions=versions(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - started, 2),
            warnings=tuple(dict.fromkeys(warning for plan in plans for warning in plan.warnings)),
        )
        write_zoo(report, out)
    return report, worked


def zoo_grid(study: Study, systems: Sequence[str] = (), modality: Modality = "voice") -> GridFile:
    """The grid that comes with Moretta, of what is installed, with seed, classes and audit of a study.

    An anonymizer that is installed and not in the grid, such as one of a plug-in, is a row of its own where it is
    named: in the form and with the options of the study's `[voice]` or `[face]`, if that names it, else by default.

    Raises:
        StudyError: a system that is not installed.
    """
    grid, known = load_grid(GRIDS[modality]), anonymizer_names(modality)
    curves = [curve for curve in grid.curve if system_of(curve) in known]
    names = list(dict.fromkeys([*map(system_of, curves), *known]))
    if unknown := [name for name in systems if name not in names]:
        raise StudyError(f"no system {', '.join(unknown)} in the zoo", expected=f"one or more of: {', '.join(names)}")
    others = [name for name in dict.fromkeys(systems) if name not in map(system_of, curves)]
    curves += [_of_plug_in(name, study, modality) for name in others]
    given = study.model_dump(exclude_unset=True)
    shared: dict[str, Any] = {key: given[key] for key in ("seed", "classes", "sites", "train") if key in given}
    audit = {**grid.base.get("audit", {}), **given.get("audit", {})}
    chosen = tuple(curve for curve in curves if not systems or system_of(curve) in systems)
    return grid.model_copy(update={"curve": chosen, "base": {**grid.base, **shared, "audit": audit}})


def _of_plug_in(name: str, study: Study, modality: Modality) -> CurveSection:
    """A curve of an anonymizer that the grid does not have."""
    own = study.section(modality)
    if own.anonymizer != name:
        return CurveSection(name=f"{name}: default", set={modality: {"anonymizer": name}})
    options = own.options.model_dump(mode="json", exclude_unset=True)
    section = {"anonymizer": name, "form": own.form, "options": options}
    return CurveSection(name=f"{name}: by the study", set={modality: section})


def system_of(curve: CurveSection) -> str:
    """The anonymizer of a curve of the grid."""
    return curve.name.partition(": ")[0]


def plan_half(grid: GridFile, half: Half, command: str, modality: Modality) -> SweepPlan:
    """Whole studies on the released people of a half; errors: see `plan_sweep`."""
    trained = grid if half.public is None else with_public(grid, half.public, modality)
    plan = plan_sweep(make_grid(trained), [half.corpus], command, whole=True)
    if not half.name:
        return plan

    def named(cell: PlannedCell) -> PlannedCell:
        job = cell.release
        return replace(cell, release=job.model_copy(update={"label": f"{job.label}, {half.name}"}))

    return replace(plan, cells=tuple(map(named, plan.cells)))


def with_public(grid: GridFile, public: Path, modality: Modality) -> GridFile:
    """The grid with public people for every anonymizer that takes any; one of a plug-in may take none."""
    option = _PUBLIC[modality]
    people = {f"{modality}.options.{option}": str(public.resolve())}
    curves = [
        curve.model_copy(update={"set": {**curve.set, **people}})
        if option in ANONYMIZERS.get(system_of(curve), scope=modality).Options.model_fields
        else curve
        for curve in grid.curve
    ]
    return grid.model_copy(update={"curve": tuple(curves)})


def check_public(sexes: Mapping[SpeakerId, str | None], what: str) -> None:
    """Refuse public people without whom no adversary against sex can be trained.

    Args:
        sexes: of each person; None or empty where it is not known.
        what: which people these are, for the error.

    Raises:
        StudyError: nobody's sex is known, all have one sex, or too few have either.
    """
    counts = {sex: sum(own == sex for own in sexes.values()) for sex in ("female", "male")}
    if min(counts.values()) >= FEWEST:
        return
    each = ", ".join(f"{count} {sex}" for sex, count in counts.items())
    found = f"public clips of {len(sexes)} people ({what}), of whom {each}"
    if not any(counts.values()):
        found = f"public clips of {len(sexes)} people ({what}), of nobody of whom the sex is known"
    elif not min(counts.values()):
        found = f"public clips of {len(sexes)} people ({what}), of one sex alone: {each}"
    fix = f"add people, and {DEMOGRAPHICS_FILE} with the columns ActorID, Age and Sex"
    raise StudyError(found, expected=f"at least {FEWEST} of each sex", fix=fix)


def check_split(corpus: Corpus, modality: Modality = "voice") -> tuple[tuple[SpeakerId, ...], tuple[SpeakerId, ...]]:
    """The people of both halves, by id; a StudyError where either could not be public."""
    clips = of_modality(corpus, modality)
    if modality == "voice":
        clips = [clip for clip in clips if clip.audio and clip.audio.suffix.lower() == ".wav"]
    people = in_order(Counter(clip.speaker for clip in clips))
    if corpus.tables[:1] != (DEMOGRAPHICS_FILE,) or not people:
        files = "wav files" if modality == "voice" else "videos"
        found = f"{corpus.name}, whose clips are not {files} under CREMA-D's names"
        expected = f"{_AUDIO}/*.wav, to be public speech" if modality == "voice" else "the folders of CREMA-D"
        raise StudyError(found, expected=expected, fix="name other people with --public")
    cut = tuple(people[: len(people) // 2]), tuple(people[len(people) // 2 :])
    for name, own in zip(HALVES, cut, strict=True):
        check_public({speaker: corpus.speakers[speaker].sex for speaker in own}, name)
    return cut


def _sexes(public: Path, modality: Modality) -> Mapping[SpeakerId, str | None]:
    """Sex of all people of a public folder."""
    if not public.is_dir():
        raise StudyError(
            f"no folder {public}", expected="clips of other people", fix="correct --public, or use --split"
        )
    if modality == "voice":
        return public_people(public)
    read = read_corpus(public)
    return {clip.speaker: read.speakers[clip.speaker].sex for clip in of_modality(read, modality)}


def check_apart(corpus: Corpus, public: Mapping[SpeakerId, str | None]) -> None:
    """Refuse, with a StudyError, public people who are released."""
    if both := in_order(corpus.speakers.keys() & public.keys()):
        found = f"{len(both)} people in both {corpus.name} and the public folder: {', '.join(both[:10])}"
        expected = "other people: what is trained on them would be quoted on them"
        raise StudyError(found, expected=expected, fix="take other people, number them differently, or use --split")


def link_halves(corpus: Corpus, cut: Sequence[Sequence[SpeakerId]], folder: Path) -> list[Half]:
    """Folders of the clips of each half, made anew, with the corpus's tables: hard links, or copies on another disk.

    They are no symbolic links: a corpus has none to places outside.
    """
    shutil.rmtree(folder, ignore_errors=True)
    places = [folder / name.replace(" ", "-") for name in HALVES]
    for place, people in zip(places, cut, strict=True):
        files = [path for clip in corpus.of(people) for path in clip.files]
        files += [corpus.root / name for name in (*corpus.tables, SYNTHETIC_MARKER)]
        for path in files:
            if path.is_file():
                link_or_copy(path, place / path.relative_to(corpus.root))
    return [
        Half(HALVES[i], places[i], places[1 - i], _described(corpus.name, cut[1 - i], cut[i])) for i in range(len(cut))
    ]


def _described(corpus: str, public: Sequence[SpeakerId], released: Sequence[SpeakerId]) -> str:
    def span(people: Sequence[SpeakerId]) -> str:
        return f"{len(people)} people ({people[0]} to {people[-1]})"

    return f"{corpus}: {span(public)} are public, {span(released)} are released."


def _rows(
    plans: Sequence[SweepPlan], halves: Sequence[Half], folder: ResultFolder, failures: Mapping[str, str]
) -> tuple[ZooRow, ...]:
    """Rows of each cell: one for each half, and their mean."""
    rows: list[ZooRow] = []
    for cells in zip(*(plan.cells for plan in plans), strict=True):
        own = [
            zoo_row(cell, half.name, folder.get(cell.release, Studied), failures.get(cell.release.key, ""))
            for cell, half in zip(cells, halves, strict=True)
        ]
        rows += own if len(own) < 2 else [*own, mean_row(own)]
    return tuple(rows)
