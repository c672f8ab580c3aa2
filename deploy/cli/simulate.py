"""`moretta simulate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from moretta.deploy.cli.outcome import print_outcome
from moretta.shared.core.printable import printable


def simulate(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path | None, typer.Option(help="Clips in CREMA-D layout; without it a synthetic corpus.")] = None,
    study: Annotated[Path | None, typer.Option(help="Study file (TOML); see docs/study.md.")] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Virtual sites; overrides the study.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Training rounds; overrides the study.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every random choice; overrides the study.")] = None,
    out: Annotated[Path, typer.Option(help="New or empty folder for the run and its report.")] = Path("out"),
    speakers: Annotated[int, typer.Option(min=2, help="Speakers of the synthetic corpus.")] = 12,
    clips: Annotated[int, typer.Option(min=1, help="Clips of each synthetic speaker.")] = 24,
    json_output: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Run a whole study on this machine: anonymize, train, attack, report.

    Example: moretta simulate --corpus CREMA-D --sites 6 --rounds 10 --out run1
    """
    from moretta.deploy.cli.runs import check_names, prepare_folder, reproduce_command
    from moretta.deploy.simulate import plan_simulation
    from moretta.deploy.simulate import simulate as start
    from moretta.shared.data.reader import read_corpus
    from moretta.shared.study.limits import check_limits
    from moretta.shared.study.schema import load_study

    chosen = load_study(study).with_changes(sites=sites, train__rounds=rounds, seed=seed)
    check_names(chosen)
    check_limits(chosen, sites=chosen.sites)  # before a corpus is made
    prepare_folder(out)
    if corpus is None:
        corpus = out / "corpus"
        _synthesize(corpus, speakers=speakers, clips=clips, seed=chosen.seed, video=chosen.face.enabled)
    found = read_corpus(corpus, labels=chosen.labels, classes=chosen.classes)
    plan = plan_simulation(found, chosen, reproduce_command(sys.argv[1:]))
    outcome = start(plan, out, lambda text: typer.echo(printable(text), err=True))
    print_outcome(outcome, as_json=json_output)


def _synthesize(folder: Path, *, speakers: int, clips: int, seed: int, video: bool) -> None:
    from moretta.deploy.cli.progress import progress
    from moretta.deploy.synth.corpus import synthesize_corpus

    with progress("Making synthetic clips", speakers * clips) as step:
        synthesize_corpus(folder, speakers=speakers, clips=clips, seed=seed, video=video, progress=step)
