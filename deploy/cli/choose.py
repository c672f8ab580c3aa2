"""`moretta choose`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.deploy.cli.console import AsJson, figure, note, show_table

if TYPE_CHECKING:
    from moretta.deploy.choose.candidates import Candidate, Choice
    from moretta.deploy.choose.choosing import Chosen


class Modalities(StrEnum):
    """What an anonymizer can be chosen for."""

    voice = "voice"
    face = "face"


def choose(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path, typer.Option(help="The folder of the site's own clips.")],
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
    as_json: AsJson = False,
) -> None:
    """Try the anonymizers on a site's own clips, and propose the one that keeps most emotion under a cap on top-1.

    Ends with 8 if none keeps the cap. Goes on where it stopped.

    Example: moretta choose --corpus CREMA-D --max-top1 0.2 --out choice
    """
    from moretta.deploy.choose.candidates import plan_choice
    from moretta.deploy.choose.choosing import choose_anonymizer
    from moretta.deploy.runtime.run_folder import reproduce_command

    command = reproduce_command(sys.argv[1:])
    note("reading the corpus and planning the candidates")
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
        notify=note,
    )
    if as_json:
        typer.echo(json.dumps(_facts(found), indent=1))
    else:
        _print(found)
    for what, why in found.failures.items():
        note(f"moretta: {what} failed: {why}")
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
    headings = ("candidate", "emotion UAR", "top-1", "upper end", "EER", "strongest by", "verdict")
    rows = [
        (c.name, figure(c.uar, c.uar_low, c.uar_high), figure(c.top1), figure(c.top1_upper), figure(c.eer), c.top1_by)
        for c in found.choice.candidates
    ]
    verdicts = [_verdict(c, found.choice) for c in found.choice.candidates]
    show_table(headings, [(*row, verdict) for row, verdict in zip(rows, verdicts, strict=True)], fold=["verdict"])
    _print_verdict(found)


def _print_verdict(found: Chosen) -> None:
    from moretta.deploy.choose.choosing import AUDIT_PAGE, CAUTION, CHOICE_CSV, CHOICE_JSON, study_text

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
            f"Nearest: “{near.name}”, top-1 {figure(near.top1)} with an upper end of {figure(near.top1_upper)}, "
            f"emotion UAR {figure(near.uar)}. {CAUTION}"
        )


def cautions(chosen: Candidate) -> list[str]:
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


def _verdict(candidate: Candidate, choice: Choice) -> str:
    if candidate.excluded:
        return candidate.excluded
    if candidate == choice.chosen:
        return "chosen"
    return "above the cap" if (candidate.top1_upper or 0.0) > choice.max_top1 else "keeps the cap"
