"""`moretta audit RELEASES`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moretta.deploy.audit import Audited
    from moretta.server.audit.rows import AuditRow

_FILE_COLUMNS = 160


def audit(  # noqa: PLR0917 - typer reads the options from the signature
    releases: Annotated[
        Path, typer.Argument(metavar="RELEASES", help="Releases, or wav and video files under CREMA-D names.")
    ],
    corpus: Annotated[Path | None, typer.Option(help="The originals, to judge the attackers by.")] = None,
    key: Annotated[
        Path | None, typer.Option(help="Pseudonym key of the site; default the one beside the release.")
    ] = None,
    attackers: Annotated[str, typer.Option(help="Names with commas between; default all.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for audit.json and the trial lists.")] = Path("audit"),
    seed: Annotated[int, typer.Option(min=0, help="Of trials and training; for simulated sites, the study's.")] = 1,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of each interval.")] = 200,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one for each CPU.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the headline as JSON.")] = False,
) -> None:
    """Attack what was released, as a determined adversary would. Originals stay where they are.

    Example: moretta audit anonymized --corpus CREMA-D --attackers voice-logistic,voice-wccn
    """
    from moretta.deploy.audit import audit_folder
    from moretta.shared.pretrained import cache_folder

    def tell(what: str, done: int, total: int) -> None:
        typer.echo(f"{done}/{total} {what}", err=True)

    found = audit_folder(
        releases,
        corpus=corpus,
        key=key,
        out=out,
        attackers=tuple(name.strip() for name in attackers.split(",") if name.strip()),
        seed=seed,
        bootstrap=bootstrap,
        workers=workers,
        cache_dir=cache_folder(),
        progress=tell,
    )
    if json_output:
        parts = [part.model_dump(mode="json") for part in found.headline]
        typer.echo(json.dumps({"headline": parts, "unused": found.unused, "audit": str(out / "audit.json")}, indent=1))
        return
    _print(found)
    typer.echo(f"All figures: {out / 'audit.json'}")
    for line in headline_lines(found):
        typer.echo(line)


def headline_lines(found: Audited) -> list[str]:
    """What the strongest attackers reached, one sentence each; last, because it is what to remember."""
    lines = [
        f"{count} {modality} clips could not be used: {reason}"
        for modality, reasons in found.unused.items()
        for reason, count in sorted(reasons.items())
    ]
    if not found.headline:
        lines.append("Every attacker is void: nothing is known of what these releases leak.")
    for part in found.headline:
        for row in (part.top1, part.eer):
            if row is not None:
                lines.append(
                    f"{part.modality}: strongest {row.metric} {_figure(row)} by {row.attacker} ({row.scenario}), "
                    f"chance {row.chance:.3f}, {row.speakers} speakers"
                )
    return lines


def _print(found: Audited) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for heading in ("modality", "attacker", "scenario", "top-1", "EER"):
        table.add_column(heading, no_wrap=True)
    table.add_column("void because", overflow="fold")
    figures: dict[tuple[str, str, str], dict[str, AuditRow]] = {}
    for row in found.rows:
        if row.subset == "all" and row.pooled == 1:
            figures.setdefault((row.modality, row.attacker, row.scenario), {})[row.metric] = row
    for names, by_metric in figures.items():
        top1, eer = by_metric.get("top1"), by_metric.get("eer")
        reason = next((row.reason for row in (top1, eer) if row is not None and row.void), "")
        table.add_row(*names, _figure(top1), _figure(eer), reason)
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_COLUMNS
    console.print(table)


def _figure(row: AuditRow | None) -> str:
    if row is None or row.value is None:
        return "-"
    interval = "" if row.low is None or row.high is None else f" [{row.low:.3f}, {row.high:.3f}]"
    return f"{row.value:.3f}{interval}"
