"""`moretta anonymize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def anonymize(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path, typer.Option(help="Clips in CREMA-D layout.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the release.")],
    study: Annotated[Path | None, typer.Option(help="Study file (TOML); see docs/study.md.")] = None,
    media: Annotated[bool, typer.Option(help="Write what a person can hear and see, too: wav and video.")] = False,
    seeded: Annotated[bool, typer.Option(help="Draw noise from the study's seed: for tests, protects nobody.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was released as JSON.")] = False,
) -> None:
    """Make one site's release, without training.

    The folder `out/release` is what would leave the site. The pseudonym key stays in `out/pseudonym.key`.

    Example: moretta anonymize --corpus CREMA-D --out anonymized --media
    """
    from moretta.deploy.cli.anonymize_folder import anonymize_corpus
    from moretta.deploy.cli.progress import ProgressOfClips, line_on_stderr
    from moretta.shared.study.schema import load_study

    with ProgressOfClips("Anonymizing") as step:
        made = anonymize_corpus(
            corpus,
            out,
            load_study(study),
            media=media,
            seeded=seeded,
            step=step,
            note=lambda text: typer.echo(f"moretta: {text}", err=True),
            notify=line_on_stderr,
        )
    statement = made.statement
    if json_output:
        typer.echo(statement.model_dump_json(indent=1))
        return
    typer.echo(f"{statement.clips} clips of {statement.speakers} speakers released in {made.folder}")
    for reason, count in sorted(statement.dropped.items()):
        typer.echo(f"  not released: {count} ({reason})")
