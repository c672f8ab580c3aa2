"""`moretta sweep`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.deploy.cli.console import AsJson, note, show_table

if TYPE_CHECKING:
    from moretta.deploy.sweep.grid import GridFile
    from moretta.deploy.sweep.run_sweep import Swept


def sweep(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[list[Path], typer.Option(help="Folder of clips; may be given several times.")],
    grid: Annotated[Path | None, typer.Option(help="Grid file (TOML); see docs/sweep.md.")] = None,
    study: Annotated[Path | None, typer.Option(help="Base study, where the grid has none.")] = None,
    axis: Annotated[
        list[str] | None, typer.Option(metavar="KEY=V1,V2", help="Values of a key; the first axis is the line.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=V", help="One value, for all cells.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds with commas between; figures are averaged over them.")] = "",
    folds: Annotated[
        str | None, typer.Option(metavar="one|all", help="`all`: every speaker is tested once; default one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="New folder, or that of a sweep that is to go on.")] = Path("sweep"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default one for each CPU.")] = None,
    cluster: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Ray cluster to compute on; all its machines must see the folders.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run a grid of studies and draw what emotion recognition costs in identity. Goes on where it stopped.

    Example: moretta sweep --corpus CREMA-D --axis privacy.epsilon=1,2,4,8,inf --axis privacy.unit=clip,speaker
    """
    from moretta.deploy.runtime.run_folder import reproduce_command
    from moretta.deploy.sweep.grid import GridFile, load_grid, make_grid
    from moretta.deploy.sweep.jobs import plan_sweep
    from moretta.deploy.sweep.run_sweep import sweep as start
    from moretta.shared.core.errors import ExitCode

    written = load_grid(grid) if grid is not None else GridFile()
    made = make_grid(_changed(written, study=study, axes=axis or [], fixed=set_ or [], seeds=seeds, folds=folds))
    command = reproduce_command(sys.argv[1:])
    plan = plan_sweep(made, corpus, command)
    found = start(plan, out, jobs=jobs, command=command, notify=note, cluster=cluster)
    if as_json:
        typer.echo(json.dumps(_facts(found), indent=1))
    else:
        _print(found)
    if found.failures:
        note(f"moretta: {len(found.failed_rows)} of {len(found.report.rows)} rows failed")
        raise typer.Exit(int(ExitCode.RUN_FAILED))


def _changed(
    grid: GridFile, *, study: Path | None, axes: list[str], fixed: list[str], seeds: str, folds: str | None
) -> GridFile:
    """The grid file with what the command line adds and changes."""
    from moretta.deploy.sweep.grid import GridFile, parse_axis, parse_setting
    from moretta.shared.core.errors import StudyError

    changes: dict[str, object] = {}
    if study is not None:
        changes["study"] = study
    if axes:
        changes["axes"] = {**grid.axes, **dict(parse_axis(text) for text in axes)}
    if fixed:
        changes["set"] = {**grid.set, **dict(parse_setting(text) for text in fixed)}
    if folds is not None:
        changes["folds"] = folds
    try:
        if seeds:
            changes["seeds"] = tuple(int(seed) for seed in seeds.split(","))
        return GridFile.model_validate(grid.model_dump() | changes)
    except ValueError as error:
        raise StudyError(f"the command line: {error}", fix="see moretta sweep --help") from error


def _facts(found: Swept) -> dict[str, object]:
    return {
        "out": str(found.folder),
        "done": found.done,
        "reused": found.reused,
        "failures": found.failures,
        "rows": [row.model_dump(mode="json") for row in found.report.rows],
    }


def _print(found: Swept) -> None:
    from moretta.shared.audit.report.sweep_rows import HEADINGS, cell_text, table_cells

    show_table(HEADINGS, map(table_cells, found.report.rows), fold=[""])
    for row in found.report.rows:
        if why := row.failed or row.note:
            typer.echo(f"{row.curve}, {cell_text(row)} ({row.modality}): {why}")
    typer.echo(f"Page: {found.folder / 'sweep.html'}; curves: {found.folder / 'curves.png'}, curves.svg")
    typer.echo(f"All figures: {found.folder / 'sweep.csv'}, sweep.json")
