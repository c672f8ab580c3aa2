"""`moretta export` and `moretta predict`: the model of a study, delivered and used."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.deploy.cli.console import AsJson, complain, note, progress, show, show_table
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.printable import to_csv

if TYPE_CHECKING:
    from moretta.deploy.model.predict import Predictions


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished study, simulated or over sites.")],
    *,
    out: Annotated[Path, typer.Option(help="New or empty folder for the model.")],
    as_json: AsJson = False,
) -> None:
    """Write the trained model of a study: weights, what it takes, and a card with its figures and limits.

    Example: moretta export run1 --out model1
    """
    from moretta.deploy.model.delivered_model import CARD_FILE
    from moretta.deploy.model.export_model import export_model

    card = export_model(run, out)
    takes = ", ".join(f"{e.modality} by {e.anonymizer} ({e.form})" for e in card.expects)
    uncalibrated = [f"{output} ({c.note})" for output, c in card.calibration.items() if c.temperature is None]
    lines = [
        f"The model {', '.join(card.models)} of {card.name} is in {out}; it takes {takes}",
        *(f"not calibrated: {text}" for text in uncalibrated),
        f"digest {card.digest}",
        f"Read {out / CARD_FILE} before you use it",
    ]
    show(card.model_dump(mode="json"), lines, as_json=as_json, indent=1)


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `moretta export` wrote.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Sound and video; or one folder, a corpus or a release.")
    ],
    *,
    speaker: Annotated[str, typer.Option(help="Any name of the one person in all files, where it matters.")] = "",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Predict emotions with a delivered model. Recordings are anonymized here first, as at a site; nothing is sent.

    Sound and video of one name are one clip. Exits with 4 if nothing could be predicted of a clip.

    Example: moretta predict model1 hello.wav hello.mp4
    """
    from moretta.deploy.model.delivered_model import load_model
    from moretta.deploy.model.predict import predict as start

    delivered = load_model(model)
    with progress("Predicting") as step:
        found = start(delivered, files, speaker=speaker, step=step)
    classes = delivered.card.classes
    if as_csv:
        typer.echo(_as_csv(found, classes), nl=False)
    elif not as_json:
        cells = [
            (
                r.clip,
                r.output,
                r.label,
                *(f"{r.probabilities[c]:.3f}" for c in classes),
                "yes" if r.calibrated else "no",
            )
            for r in found.rows
        ]
        show_table(("clip", "output", "label", *classes, "calibrated"), cells, fold=["clip"])
    facts = {
        "model": delivered.card.digest,
        "predictions": [asdict(row) for row in found.rows],
        "problems": dict(found.problems),
    }
    if as_json:
        show(facts, (), as_json=True, indent=1)
    for clip, problems in found.problems.items():
        complain(f"{clip}: {'; '.join(problems)}")
    if delivered.card.corpus.synthetic:
        note("The model was trained on synthetic people: it says nothing about recordings of people.")
    if found.without:
        raise typer.Exit(int(ExitCode.CORPUS))


def _as_csv(found: Predictions, classes: tuple[str, ...]) -> str:
    rows = ((r.clip, r.output, r.label, r.calibrated, *(r.probabilities[c] for c in classes)) for r in found.rows)
    return to_csv(("clip", "output", "label", "calibrated", *classes), rows)
