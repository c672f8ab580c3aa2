"""`moretta demo`: a demonstration of Moretta on synthetic people."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from moretta.deploy.cli.console import AsJson, end_with, note, show
from moretta.deploy.cli.study import synthesize
from moretta.shared.core.errors import ExitCode


def demo(
    *,
    out: Annotated[Path, typer.Option(help="New folder, or that of a demonstration that is to go on.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Show emotion and re-identification of the same synthetic people under two pairs of anonymizers, on one page.

    Goes on where it stopped. It takes some minutes on two CPUs, and 2.4 GB of memory.

    Example: moretta demo --out demo
    """
    from moretta.deploy.runtime.demonstration import CLIPS, SPEAKERS, run_studies, write_demo
    from moretta.deploy.runtime.run_folder import reproduce_command
    from moretta.shared.audit.report.demo_page import emotion_figures, figure_lines, identity_figures

    start, command = time.monotonic(), reproduce_command(sys.argv[1:])
    outcomes = run_studies(
        out,
        lambda corpus, study: synthesize(corpus, SPEAKERS, CLIPS, study),
        command=command,
        notify=note,
    )
    if outcomes[-1].code not in (ExitCode.OK, ExitCode.GATE):
        end_with(outcomes[-1], as_json=as_json)
    page, studies = write_demo(out, command=command)
    facts = {
        "page": str(page),
        "seconds": round(time.monotonic() - start, 2),
        "peak_memory_bytes": max(outcome.peak_memory_bytes for outcome in outcomes),
        "studies": {
            study.folder: {
                "anonymizers": study.anonymizers,
                "emotion": {m: figure.to_json() for m, figure in emotion_figures(study.report).items()},
                "identity": {m: figure.to_json() for m, figure in identity_figures(study.report).items()},
            }
            for study in studies
        },
    }
    lines = [line for study in studies for line in figure_lines(study)]
    show(facts, [*lines, f"Page: {page}"], as_json=as_json, indent=1)
