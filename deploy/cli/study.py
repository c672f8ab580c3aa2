"""`moretta study`: run a study over enrolled sites, and see how it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from moretta.deploy.cli.outcome import print_outcome
from moretta.shared.core.printable import printable

app = typer.Typer(no_args_is_help=True, help="Run a study over the sites that are enrolled at a server.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (TOML); see docs/study.md.")],
    *,
    server: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the running server.")] = Path("moretta-server"),
    out: Annotated[
        Path | None,
        typer.Option(help="New or empty folder for the run and its report; default studies/NAME in the server's."),
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="A site that takes part; repeat for more. Default: all enrolled.")
    ] = None,
    corpus_name: Annotated[str | None, typer.Option(help="What the report calls the sites' clips.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole study over enrolled sites: release, train, evaluate there; attack and report here.

    Example: moretta study run study.toml --server moretta-server --out run1
    """
    from moretta.deploy.cli.runs import prepare_folder, read_outcome, reproduce_command
    from moretta.deploy.study.participants import plan_again, plan_deployment
    from moretta.deploy.study.study_run import StudyRun, connect, reopen
    from moretta.server.home import ServerHome
    from moretta.shared.study.schema import load_study

    home, chosen = ServerHome.open(server), load_study(study)
    folder = (out or home.studies / chosen.name.replace(" ", "-")).resolve()
    if resume:
        plan = plan_again(folder, home, chosen)
        if not reopen(folder):
            print_outcome(read_outcome(folder), as_json=as_json)
    else:
        plan = plan_deployment(
            home,
            chosen,
            command=reproduce_command(sys.argv[1:]),
            corpus_name=corpus_name,
            sites=tuple(dict.fromkeys(site or ())),
        )
        connect(home)  # before the folder is made: without a server there is nothing to do
        prepare_folder(folder)
    started = StudyRun(
        plan, folder, notify=lambda text: typer.echo(printable(text), err=True), control=lambda: connect(home)
    )
    print_outcome(started.run(), as_json=as_json)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Tell how far a study is, which sites take part, and what they missed. Nothing is asked of server or sites.

    Example: moretta study status run1
    """
    from moretta.deploy.study.study_status import status_lines, study_status

    found = study_status(folder)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else "\n".join(map(printable, status_lines(found))))


@app.command()
def withdraw(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that is over.")],
    *,
    site: Annotated[str, typer.Option(help="The site whose notice it is.")],
    speaker: Annotated[str, typer.Option(help="The person's pseudonym, as the site's notice has it.")],
    models: Annotated[bool, typer.Option("--models", help="Remove the trained models, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a person who has withdrawn from a run: released clips, and what was made of them alone; mark its report.

    Example: moretta study withdraw run1 --site clinic-a --speaker 0a1b2c3d4e5f6071
    """
    from dataclasses import asdict

    from moretta.server.stages.run_withdrawal import forget_person

    if not yes:
        typer.confirm(f"Remove the released clips of {speaker} from {folder}?", abort=True)
    done = forget_person(folder, site, speaker, models=models)
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(
        f"{done.clips} released clips are removed; {'the report says so' if done.report else 'there is no report'}"
    )
    if done.models:
        state = "removed" if done.models_removed else "still there, and were trained with these clips (--models)"
        typer.echo(f"The models {', '.join(done.models)} are {state}")
    typer.echo("Copies elsewhere, of the run or of its models, are yours to find")
