"""`moretta choose`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from moretta.deploy.choose.choose_anonymizer import Chosen
    from moretta.deploy.choose.rule import Candidate, Choice

_FILE_COLUMNS = 180


class Modalities(StrEnum):
    """What an anonymizer can be chosen for."""

    voice = "voice"
    face = "face"


def choose(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path, typer.Option(help="The site's own clips in CREMA-D layout.")],
    max_top1: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Cap on the upper end of what the strongest attacker names rightly.")
    ],
    modality: Annotated[Modalities, typer.Option(help="What to choose an anonymizer for.")] = Modalities.voice,
    attackers: Annotated[str, typer.Option(help="Names with commas between; default all.")] = "",
    candidates: Annotated[
        Path | None, typer.Option(help="Grid file (TOML) in place of the candidates shipped.")
    ] = None,
    study: Annotated[Path | None, typer.Option(help="Study to take seed, labels and public data from.")] = None,
    out: Annotated[Path, typer.Option(help="New folder, or that of a choice that is to go on.")] = Path("choice"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default one for each CPU.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the choice as JSON.")] = False,
) -> None:
    """Try the anonymizers on a site's own clips, and propose the one that keeps most emotion under a cap on top-1.

    Ends with 8 if none keeps the cap. Goes on where it stopped.

    Example: moretta choose --corpus CREMA-D --max-top1 0.2 --out choice
    """
    from moretta.deploy.choose.choice_plan import plan_choice
    from moretta.deploy.choose.choose_anonymizer import choose_anonymizer
    from moretta.deploy.runtime.run_folder import reproduce_command

    command = reproduce_command(sys.argv[1:])
    typer.echo("reading the corpus and planning the candidates", err=True)
    plan = plan_choice(
        corpus,
        modality=modality.value,
        max_top1=max_top1,
        candidates=candidates,
        study=study,
        attackers=tuple(name.strip() for name in attackers.split(",") if name.strip()),
        command=command,
    )
    found = choose_anonymizer(
        plan,
        out,
        modality=modality.value,
        max_top1=max_top1,
        jobs=jobs,
        command=command,
        notify=lambda text: typer.echo(text, err=True),
    )
    if json_output:
        typer.echo(json.dumps(_facts(found), indent=1))
    else:
        _print(found)
    for what, why in found.failures.items():
        typer.echo(f"moretta: {what} failed: {why}", err=True)
    raise typer.Exit(int(found.code))


def _facts(found: Chosen) -> dict[str, object]:
    return {
        "out": str(found.folder),
        "exit_code": int(found.code),
        "done": found.done,
        "reused": found.reused,
        "failures": found.failures,
        **found.choice.model_dump(mode="json"),
    }


def _print(found: Chosen) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("candidate", "emotion UAR", "top-1", "upper end", "EER", "strongest by", "verdict", box=None)
    for c in found.choice.candidates:
        eer = "-" if c.eer is None else f"{c.eer:.3f}"
        figures = (f"{_summary(c.uar)}{_between(c)}", _summary(c.top1), _summary(c.top1_upper), eer)
        table.add_row(c.name, *figures, c.top1_by, _verdict(c, found.choice))
    console = Console()
    if not console.is_terminal:
        console.width = _FILE_COLUMNS
    console.print(table)
    _print_verdict(found)


def _print_verdict(found: Chosen) -> None:
    from moretta.deploy.choose.choice_files import AUDIT_PAGE, CAUTION, CHOICE_CSV, CHOICE_JSON, study_text

    choice = found.choice
    typer.echo(f"All figures: {found.folder / CHOICE_JSON}, {found.folder / CHOICE_CSV}")
    if choice.shown is not None:
        typer.echo(f"Proof: {found.folder / AUDIT_PAGE}, the audit of “{choice.shown.name}”")
    if choice.chosen is not None:
        for line in cautions(choice.chosen):
            typer.echo(line)
        typer.echo(f"\n{study_text(choice.chosen)}")
        return
    typer.echo(f"No candidate keeps top-1 at {choice.max_top1:g} or less.")
    if choice.nearest is not None:
        near = choice.nearest
        typer.echo(
            f"Nearest: “{near.name}”, top-1 {_summary(near.top1)} with an upper end of {_summary(near.top1_upper)}, "
            f"emotion UAR {_summary(near.uar)}. {CAUTION}"
        )


def cautions(chosen: Candidate) -> list[str]:
    """What a reader should know beside the figures that it was chosen by."""
    lines = []
    if chosen.uar_low is None or chosen.uar_chance is None or chosen.uar_low <= chosen.uar_chance:
        lines.append(f"“{chosen.name}” keeps no emotion that can be told from guessing.")
    if chosen.top1_pooled is not None:
        lines.append(
            f"Who knows {chosen.pooled} clips to be of one person names {_summary(chosen.top1_pooled)} of people: "
            "the cap is on one clip."
        )
    return lines


def _verdict(candidate: Candidate, choice: Choice) -> str:
    if candidate.excluded:
        return candidate.excluded
    if candidate == choice.chosen:
        return "chosen"
    return "above the cap" if (candidate.top1_upper or 0.0) > choice.max_top1 else "keeps the cap"


def _summary(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _between(candidate: Candidate) -> str:
    if candidate.uar_low is None or candidate.uar_high is None:
        return ""
    return f" [{candidate.uar_low:.3f}, {candidate.uar_high:.3f}]"
