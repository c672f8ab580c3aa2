"""`moretta sweep`, `moretta choose` and `moretta zoo`: grids of studies, a choice by one, and one that is fixed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moretta.deploy.cli.console import (
    AsJson,
    AttackerNames,
    Processes,
    Settings,
    complain,
    figure,
    listed,
    note,
    read_study,
    show,
    show_table,
)
from moretta.shared.core.errors import ExitCode, StudyError

if TYPE_CHECKING:
    from moretta.deploy.sweep.choosing import Candidate, Choice
    from moretta.deploy.sweep.grid import GridFile
    from moretta.deploy.sweep.run_sweep import Worked


def sweep(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[list[Path], typer.Option(help="Folder of clips; may be given several times.")],
    grid: Annotated[Path | None, typer.Option(help="Grid file (TOML); see docs/sweep.md.")] = None,
    study: Annotated[Path | None, typer.Option(help="Base study, where the grid has none.")] = None,
    axis: Annotated[
        list[str] | None, typer.Option(metavar="KEY=V1,V2", help="Values of a key; the first axis is the line.")
    ] = None,
    set_: Settings = None,
    seeds: Annotated[str, typer.Option(help="Seeds with commas between; figures are averaged over them.")] = "",
    folds: Annotated[str | None, typer.Option(metavar="one|all", help="`all` tests every speaker once.")] = None,
    out: Annotated[Path, typer.Option(help="New folder, or that of a sweep that is to go on.")] = Path("sweep"),
    jobs: Processes = None,
    cluster: Annotated[str, typer.Option(metavar="ADDRESS", help="Ray cluster that sees the folders.")] = "",
    as_json: AsJson = False,
) -> None:
    """Run a grid of studies and draw what emotion recognition costs in identity. Goes on where it stopped.

    Example: moretta sweep --corpus CREMA-D --axis privacy.epsilon=1,2,4,8,inf --axis privacy.unit=clip,speaker
    """
    from moretta.deploy.runtime.run_folder import reproduce_command
    from moretta.deploy.sweep.grid import make_grid
    from moretta.deploy.sweep.jobs import plan_sweep
    from moretta.deploy.sweep.run_sweep import sweep as start
    from moretta.shared.audit.report.sweep_rows import HEADINGS, cell_text, table_cells

    made = make_grid(_grid(grid, study=study, axes=axis or [], fixed=set_ or [], seeds=seeds, folds=folds))
    command = reproduce_command(sys.argv[1:])
    plan = plan_sweep(made, corpus, command)
    found, worked = start(plan, out, jobs=jobs, command=command, notify=note, cluster=cluster)
    if as_json:
        facts = {"out": str(out), **_facts(worked), "rows": [row.model_dump(mode="json") for row in found.rows]}
        show(facts, (), as_json=True, indent=1)
    else:
        show_table(HEADINGS, map(table_cells, found.rows), fold=[""])
        for row in found.rows:
            if why := row.failed or row.note:
                typer.echo(f"{row.curve}, {cell_text(row)} ({row.modality}): {why}")
        typer.echo(f"Page: {out / 'sweep.html'}; curves: {out / 'curves.png'}, curves.svg")
        typer.echo(f"All figures: {out / 'sweep.csv'}, sweep.json")
    if worked.failures:
        complain(f"moretta: {sum(bool(row.failed) for row in found.rows)} of {len(found.rows)} rows failed")
        raise typer.Exit(int(ExitCode.RUN_FAILED))


def _facts(worked: Worked) -> dict[str, Any]:
    return {"done": worked.done, "reused": worked.reused, "failures": worked.failed}


def _grid(
    path: Path | None, *, study: Path | None, axes: list[str], fixed: list[str], seeds: str, folds: str | None
) -> GridFile:
    """The grid file with what the command line adds and changes."""
    from moretta.deploy.sweep.grid import GridFile, load_grid, parse_axis, parse_setting

    grid = load_grid(path) if path is not None else GridFile()
    changes: dict[str, object] = {
        "study": study or grid.study,
        "folder": grid.folder,
        "axes": {**grid.axes, **dict(parse_axis(text) for text in axes)},
        "set": {**grid.set, **dict(parse_setting(text) for text in fixed)},
        "folds": grid.folds if folds is None else folds,
    }
    try:
        if seeds:
            changes["seeds"] = tuple(int(seed) for seed in seeds.split(","))
        return GridFile.model_validate(grid.model_dump() | changes)
    except ValueError as error:
        raise StudyError(f"the command line: {error}", fix="see moretta sweep --help") from error


def choose(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path, typer.Option(help="The folder of the site's own clips.")],
    max_top1: Annotated[float, typer.Option(min=0.0, max=1.0, help="Cap on the strongest top-1, upper end.")],
    modality: Annotated[Literal["voice", "face"], typer.Option(help="Modality of the anonymizer.")] = "voice",
    attackers: AttackerNames = "",
    candidates: Annotated[Path | None, typer.Option(help="Grid file (TOML) of other candidates.")] = None,
    study: Annotated[Path | None, typer.Option(help="Study to take seed, labels and public data from.")] = None,
    set_: Settings = None,
    out: Annotated[Path, typer.Option(help="New folder, or that of a choice that is to go on.")] = Path("choice"),
    jobs: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Try the anonymizers on a site's own clips, and propose the one that keeps most emotion under a cap on top-1.

    Ends with 8 if none keeps the cap. Goes on where it stopped.

    Example: moretta choose --corpus CREMA-D --max-top1 0.2 --out choice
    """
    from moretta.deploy.runtime.run_folder import reproduce_command
    from moretta.deploy.sweep.choosing import choose_anonymizer, plan_choice

    command = reproduce_command(sys.argv[1:])
    note("reading the corpus and planning the candidates")
    plan = plan_choice(
        corpus,
        modality=modality,
        max_top1=max_top1,
        candidates=candidates,
        study=read_study(study, set_),
        attackers=listed(attackers),
        command=command,
    )
    found, worked = choose_anonymizer(
        plan, out, modality=modality, max_top1=max_top1, jobs=jobs, command=command, notify=note
    )
    code = found.code(worked)
    if as_json:
        facts = {"out": str(out), "exit_code": int(code), **_facts(worked), **found.model_dump(mode="json")}
        show(facts, (), as_json=True, indent=1)
    else:
        _print_choice(found, out)
    for what, why in worked.failed.items():
        complain(f"moretta: {what} failed: {why}")
    raise typer.Exit(int(code))


def zoo(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path, typer.Option(help="Folder of clips; with --split under CREMA-D's names.")],
    modality: Annotated[Literal["voice", "face"], typer.Option(help="Systems of voice or of faces.")] = "voice",
    public: Annotated[
        Path | None, typer.Option(help="Folder of clips of other people, under CREMA-D's names; faces need none.")
    ] = None,
    split: Annotated[
        bool, typer.Option("--split", help="Half of the people are public, the others released; then the reverse.")
    ] = False,
    systems: Annotated[
        str, typer.Option(metavar="NAME,...", help="Systems: of the grid, or of a plug-in; default the grid.")
    ] = "",
    study: Annotated[Path | None, typer.Option(help="Study to take seed, classes and audit from.")] = None,
    set_: Settings = None,
    out: Annotated[Path, typer.Option(help="New folder, or that of a zoo that is to go on.")] = Path("zoo"),
    jobs: Processes = None,
    as_json: AsJson = False,
) -> None:
    """Run the published systems and the anonymizers under one audit, as one table. Goes on where it stopped.

    Example: moretta zoo --corpus CREMA-D --split --out zoo
    """
    from moretta.deploy.runtime.run_folder import reproduce_command
    from moretta.deploy.sweep.zoo import run_zoo
    from moretta.shared.audit.report.zoo_page import ZOO_CSV, ZOO_JSON, ZOO_PAGE
    from moretta.shared.audit.report.zoo_rows import figure_text

    found_rows, worked = run_zoo(
        corpus,
        out,
        modality=modality,
        split=split,
        public=public,
        systems=listed(systems),
        study=read_study(study, set_),
        jobs=jobs,
        command=reproduce_command(sys.argv[1:]),
        notify=note,
    )
    if as_json:
        facts = {"out": str(out), **_facts(worked), **found_rows.model_dump(mode="json")}
        show(facts, (), as_json=True, indent=1)
    else:
        headings = ("system", "setting", "people", "emotion UAR", "top-1", "EER", "sex in loop", "sex")
        columns = ("uar", "top1_semi", "eer_semi", "sex_in_loop", "sex")
        lines = [
            (row.system, row.setting, row.half, *(figure_text(name, row.figures[name]) for name in columns))
            for row in found_rows.rows
        ]
        show_table(headings, lines)
        typer.echo(f"Page: {out / ZOO_PAGE}; all figures: {out / ZOO_CSV}, {ZOO_JSON}")
    for what, why in worked.failed.items():
        complain(f"moretta: {what} failed: {why}")
    if worked.failures:
        raise typer.Exit(int(ExitCode.RUN_FAILED))


def _print_choice(choice: Choice, out: Path) -> None:
    from moretta.deploy.sweep.choice_page import CHOICE_PAGE, state_of
    from moretta.deploy.sweep.choosing import AUDIT_PAGE, CAUTION, CHOICE_CSV, CHOICE_JSON, study_text

    headings = ("candidate", "emotion UAR", "top-1", "upper end", "EER", "strongest by", "verdict")
    rows = []
    for c in choice.candidates:
        figures = (figure(c.uar, c.uar_low, c.uar_high), *map(figure, (c.top1, c.top1_upper, c.eer)))
        rows.append((c.name, *figures, c.top1_by, state_of(c, choice)))
    show_table(headings, rows, fold=["verdict"])
    typer.echo(f"Page: {out / CHOICE_PAGE}; all figures: {out / CHOICE_JSON}, {out / CHOICE_CSV}")
    if choice.shown is not None:
        typer.echo(f"Proof: {out / AUDIT_PAGE}, the audit of “{choice.shown.name}”")
    if choice.chosen is not None:
        for line in [*_cautions(choice.chosen), f"\n{study_text(choice.chosen)}"]:
            typer.echo(line)
        return
    typer.echo(f"No candidate keeps top-1 at {choice.max_top1:g} or less.")
    if (near := choice.nearest) is not None:
        upper = f"top-1 {figure(near.top1)} with an upper end of {figure(near.top1_upper)}"
        typer.echo(f"Nearest: “{near.name}”, {upper}, emotion UAR {figure(near.uar)}. {CAUTION}")


def _cautions(chosen: Candidate) -> list[str]:
    """Warnings that the figures of the choice do not show."""
    lines = []
    if chosen.uar_low is None or chosen.uar_chance is None or chosen.uar_low <= chosen.uar_chance:
        lines.append(f"“{chosen.name}” keeps no emotion that can be distinguished from guessing.")
    if chosen.top1_pooled is not None:
        lines.append(
            f"With {chosen.pooled} clips known to be of one speaker, {figure(chosen.top1_pooled)} of speakers are "
            "re-identified: the cap is on one clip."
        )
    return lines
