"""`moretta simulate` and `moretta study`: run a whole study, see how far it is."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.deploy.cli.console import (
    AsJson,
    Settings,
    StudyArgument,
    StudyFile,
    Yes,
    complain,
    end_with,
    note,
    parsed_settings,
    progress,
    read_study,
    show,
    showing,
)
from moretta.shared.core.device import DeviceName, resolve_device
from moretta.shared.core.errors import ExitCode, StorageError, StudyError

if TYPE_CHECKING:
    from moretta.shared.study.schema import Study
_LOOK_SECONDS = 2.0

app = typer.Typer(no_args_is_help=True, help="Write and check study files; run a study over enrolled sites.")


def simulate(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path | None, typer.Option(help="Folder of clips; without it a synthetic corpus.")] = None,
    study: StudyFile = None,
    set_: Settings = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Virtual sites; overrides the study.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Training rounds; overrides the study.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random choice; overrides the study.")] = None,
    out: Annotated[Path, typer.Option(help="New folder for the run, or that of a run that is to go on.")] = Path("out"),
    speakers: Annotated[int, typer.Option(min=2, help="Speakers of the synthetic corpus.")] = 12,
    clips: Annotated[int, typer.Option(min=1, help="Clips of each synthetic speaker.")] = 24,
    device: Annotated[DeviceName | None, typer.Option(help="Where networks run; overrides the study.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole study on this machine: anonymize, train, attack, report. Goes on where it stopped.

    Example: moretta simulate --corpus CREMA-D --sites 6 --rounds 10 --out run1
    """
    from moretta.deploy.runtime.planning import check_names, plan_simulation
    from moretta.deploy.runtime.run_folder import prepare_folder, reproduce_command
    from moretta.deploy.runtime.simulation import SimulationProcess
    from moretta.shared.data.reader import read_corpus
    from moretta.shared.study.limits import check_limits
    from moretta.shared.study.run_plan import PLAN_FILE

    with SimulationProcess() as process:  # it imports what it needs while the study is checked
        chosen = read_study(study, set_).with_changes(sites=sites, train__rounds=rounds, seed=seed, run__device=device)
        check_names(chosen)
        check_limits(chosen, sites=chosen.sites)  # before a corpus is made
        resolve_device(chosen.run.device)
        prepare_folder(out, begun=PLAN_FILE)
        if corpus is None:
            corpus = out / "corpus"
            if not corpus.exists():
                synthesize(corpus, speakers, clips, chosen)
        found = read_corpus(corpus, labels=chosen.labels, classes=chosen.classes)
        outcome = process.run(plan_simulation(found, chosen, reproduce_command(sys.argv[1:])), out, note)
    end_with(outcome, as_json=as_json)


def synthesize(corpus: Path, speakers: int, clips: int, study: Study) -> None:
    """A whole synthetic corpus, or none: the same command makes it from the start."""
    from moretta.deploy.synth.corpus import synthesize_corpus

    video = study.face.enabled
    try:
        with progress("Making synthetic clips", speakers * clips) as step:
            synthesize_corpus(corpus, speakers=speakers, clips=clips, seed=study.seed, video=video, progress=step)
    except BaseException:
        shutil.rmtree(corpus, ignore_errors=True)
        raise


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="A new study file.")] = Path("study.toml"),
) -> None:
    """Write a starting study: every key with its default and what it means, as comments.

    Example: moretta study init study.toml
    """
    from moretta.deploy.runtime.study_file import starting_study
    from moretta.shared.core.atomic import write_atomic

    if file.exists():
        raise StudyError(f"{file} is there already", expected="a new file", fix="choose another name, or remove it")
    try:
        write_atomic(file, starting_study(file), mode=0o644)
    except FileNotFoundError as error:
        raise StorageError(f"no file can be made in {file.parent}", fix="choose another place") from error
    typer.echo(f"Change what you need in {file}, then: moretta study validate {file}")


@app.command()
def validate(study: StudyArgument, *, set_: Settings = None, as_json: AsJson = False) -> None:
    """Look for everything that is wrong with a study file, before a corpus or a site is there. Exits with 3 if it is.

    Example: moretta study validate study.toml
    """
    from moretta.deploy.runtime.study_file import study_problems

    problems = study_problems(study, parsed_settings(set_))
    good = None if problems else read_study(study, set_)
    facts = {"study": str(study), "digest": None if good is None else good.digest(), "problems": problems}
    fine = [] if good is None else [f"{study} is a study, {facts['digest']}"]
    show(facts, fine, as_json=as_json, indent=1)
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(int(ExitCode.STUDY))


@app.command("show")
def show_(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="Study file; without it the defaults.")
    ] = None,
    *,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Print the effective study: all keys, with defaults and what --set changes.

    Example: moretta study show study.toml --set train.rounds=20
    """
    from moretta.deploy.runtime.study_file import effective_study

    found = read_study(study, set_)
    facts = {"digest": found.digest(), "study": found.model_dump(mode="json")}
    show(facts, [f"# digest {found.digest()}", *effective_study(found).splitlines()], as_json=as_json, indent=1)


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors that complete and check TOML.

    Example: moretta study schema
    """
    from moretta.deploy.runtime.study_file import study_json_schema

    typer.echo(study_json_schema(), nl=False)


@app.command()
def run(
    study: StudyArgument,
    *,
    set_: Settings = None,
    server: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the running server.")] = Path("moretta-server"),
    out: Annotated[
        Path | None,
        typer.Option(help="New or empty folder for the run and its report; default studies/NAME in the server's."),
    ] = None,
    site: Annotated[list[str] | None, typer.Option(help="A site; repeat for more. Default: all.")] = None,
    corpus_name: Annotated[str | None, typer.Option(help="Name of the sites' clips in the report.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a whole study over enrolled sites: release, train, evaluate there; attack and report here.

    Example: moretta study run study.toml --server moretta-server --out run1
    """
    from moretta.deploy.runtime.run_folder import prepare_folder, read_outcome, reopen, reproduce_command
    from moretta.deploy.server.study_run import StudyRun, connect, plan_again, plan_deployment
    from moretta.server.home import ServerHome

    home, chosen = ServerHome.open(server), read_study(study, set_)
    folder = (out or home.studies / chosen.name.replace(" ", "-")).resolve()
    if resume:
        plan = plan_again(folder, home, chosen)
        if not reopen(folder):
            end_with(read_outcome(folder), as_json=as_json)
    else:
        command, sites = reproduce_command(sys.argv[1:]), tuple(dict.fromkeys(site or ()))
        plan = plan_deployment(home, chosen, command=command, corpus_name=corpus_name, sites=sites)
        connect(home)  # before the folder is made: without a server there is nothing to do
        prepare_folder(folder)
    end_with(StudyRun(plan, folder, note, control=lambda: connect(home)).run(), as_json=as_json)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it anew at each change, until the study is over.")
    ] = False,
    listen: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65_535, help="Serve a page and /metrics on this port of 127.0.0.1."),
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print metrics in Prometheus' text format.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far a study is: stage, round, time left, and of each site its part, epsilon, and what it missed.

    It reads files and calls nobody. With --watch and --json it prints one line a change.

    Example: moretta study status run1 --watch
    """
    from moretta.deploy.server.study_status import study_status

    if watch + metrics + (listen is not None) > 1:
        raise StudyError("two of --watch, --metrics and --listen", expected="one of them")
    if listen is not None:
        from moretta.deploy.server.live_view import serve_live

        serve_live(folder, listen, on_address=lambda address: note(f"The study at {address}, until Ctrl-C"))
    elif metrics:
        from moretta.deploy.server.live_view import metrics_text

        typer.echo(metrics_text(folder), nl=False)
    elif watch:
        from moretta.deploy.server.study_status import changes

        with showing() as display:
            for found in changes(folder, seconds=_LOOK_SECONDS):
                show(found.to_json(), (), as_json=True) if as_json else display(found.lines())
    else:
        found = study_status(folder)
        show(found.to_json(), found.lines(), as_json=as_json, indent=1)


@app.command()
def withdraw(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that is over.")],
    *,
    site: Annotated[str, typer.Option(help="The site whose notice it is.")],
    speaker: Annotated[str, typer.Option(help="The person's pseudonym, from the site's notice.")],
    models: Annotated[bool, typer.Option("--models", help="Remove the trained models, too.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a person who has withdrawn from a run: released clips, and what was made of them alone; mark its report.

    Example: moretta study withdraw run1 --site clinic-a --speaker 0a1b2c3d4e5f6071
    """
    from moretta.server.stages.run_withdrawal import forget_person

    if not yes:
        typer.confirm(f"Remove the released clips of {speaker} from {folder}?", abort=True)
    done = forget_person(folder, site, speaker, models=models)
    report = "the report says so" if done.report else "there is no report"
    lines = [f"{done.clips} released clips are removed; {report}"]
    if done.models:
        state = "removed" if done.models_removed else "still there, and were trained with these clips (--models)"
        lines.append(f"The models {', '.join(done.models)} are {state}")
    show(asdict(done), [*lines, "Copies elsewhere, of the run or of its models, are yours to find"], as_json=as_json)
