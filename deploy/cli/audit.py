"""`moretta audit RELEASES`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moretta.deploy.cli.audit_folder import AuditedFolder
    from moretta.shared.audit.result import Result

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
    inference: Annotated[
        bool,
        typer.Option("--inference/--no-inference", help="Attack sex, age, inversion and links of voice and face too."),
    ] = True,
    utility: Annotated[
        bool, typer.Option("--utility/--no-utility", help="Measure how much emotion utility evaluators still read.")
    ] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one for each CPU.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the headline as JSON.")] = False,
) -> None:
    """Attack what was released, as a determined adversary would. Originals stay where they are.

    Example: moretta audit anonymized --corpus CREMA-D --attackers voice-logistic,voice-wccn
    """
    from moretta.deploy.cli.audit_folder import PAGE_FILE, audit_folder
    from moretta.shared.audit.result import strongest_of_each
    from moretta.shared.pretrained import cache_folder

    def notify(what: str, done: int, total: int) -> None:
        typer.echo(f"{done}/{total} {what}", err=True)

    typer.echo("reading the releases", err=True)
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
        inference=inference,
        utility=utility,
        command=shlex.join(["moretta", *sys.argv[1:]]),
        progress=notify,
    )
    if json_output:
        strongest = [finding.model_dump(mode="json") for finding in strongest_of_each(found.findings)]
        content = {
            "headline": found.headline_json(),
            "inference": strongest,
            "utility": [row.model_dump(mode="json") for row in found.utility],
            "unused": found.unused,
            "audit": str(out / "audit.json"),
        }
        typer.echo(json.dumps(content, indent=1))
        return
    _print(found)
    _print_inference(found.findings)
    _print_utility(found.utility)
    typer.echo(f"Page: {out / PAGE_FILE}; all figures: {out / 'audit.json'}")
    for line in headline_lines(found):
        typer.echo(line)


def headline_lines(found: AuditedFolder) -> list[str]:
    """What the strongest attackers reached, one sentence each; last, because it is what to remember."""
    lines = [
        f"{count} {modality} clips could not be used: {reason}"
        for modality, reasons in found.unused.items()
        for reason, count in sorted(reasons.items())
    ]
    if not found.headline:
        lines.append("Every attacker is invalid: nothing is known of what these releases leak.")
    for part in found.headline:
        for row in (part["top1"], part["eer"]):
            if row is not None:
                lines.append(
                    f"{row.modality}: strongest {row.metric} {_figure(row)} by {row.attacker} ({row.scenario}), "
                    f"chance {row.chance:.3f}, {row.speakers} speakers"
                )
    return lines


def _print(found: AuditedFolder) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for heading in ("modality", "attacker", "scenario", "top-1", "EER"):
        table.add_column(heading, no_wrap=True)
    table.add_column("invalid because", overflow="fold")
    figures: dict[tuple[str, str, str], dict[str, Result]] = {}
    for row in found.rows:
        if row.subset == "all" and row.pooled == 1:
            figures.setdefault((row.modality, row.attacker, row.scenario), {})[row.metric] = row
    for names, by_metric in figures.items():
        top1, eer = by_metric.get("top1"), by_metric.get("eer")
        reason = next((row.reason for row in (top1, eer) if row is not None and row.invalid), "")
        table.add_row(*names, _figure(top1), _figure(eer), reason)
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_COLUMNS
    console.print(table)


def _print_inference(findings: Sequence[Result]) -> None:
    """The strongest attack on each target; what has none that counts, with the first reason."""
    from rich.console import Console
    from rich.table import Table

    from moretta.shared.audit.result import strongest_of_each

    if not findings:
        return
    table = Table(
        "attack", "modality", "target", "strongest by", "metric", "value", "chance", "invalid because", box=None
    )
    shown = strongest_of_each(findings)
    for f in shown:
        table.add_row(f.attack, f.modality, f.target, f.attacker, f.metric, _figure(f), f"{f.chance:.3g}", "")
    counted = {(f.attack, f.modality, f.target) for f in shown}
    for (attack, modality, target), reason in invalid_targets(findings).items():
        if (attack, modality, target) not in counted:
            table.add_row(attack, modality, target, "-", "-", "-", "-", reason)
    Console().print(table)


def _print_utility(rows: Sequence[Result]) -> None:
    """The figures of utility evaluators, and why one has none."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table("emotion", "evaluator", "kind", "scenario", "UAR", "chance", "no figure because", box=None)
    for row in rows:
        reason = row.reason if row.value is None else ""
        table.add_row(row.modality, row.attacker, row.kind, row.scenario, _figure(row), f"{row.chance:.3f}", reason)
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_COLUMNS
    console.print(table)


def invalid_targets(findings: Sequence[Result]) -> dict[tuple[str, str, str], str]:
    """By attack, modality and target: the first reason for which a figure of it is invalid."""
    reasons: dict[tuple[str, str, str], str] = {}
    for f in findings:
        if f.invalid and not f.is_anchor:
            reasons.setdefault((f.attack, f.modality, f.target), f.reason)
    return reasons


def _figure(row: Result | Result | None) -> str:
    if row is None or row.value is None:
        return "-"
    interval = "" if row.low is None or row.high is None else f" [{row.low:.3f}, {row.high:.3f}]"
    return f"{row.value:.3f}{interval}"
