"""`moretta report`: read what a study found, in several forms, and compare two studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer

from moretta.deploy.cli.console import AsJson, CommandGroup, show


class ShowByDefault(CommandGroup):
    """`moretta report RUN` is `moretta report show RUN`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name of the command in, where it is not there."""
        if not args or args[0] not in (*self.commands, "-h", "--help"):
            args = ["show", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=ShowByDefault, help="Read what a study found, or compare two studies.")


@app.command("show")
def report(
    out: Annotated[Path | None, typer.Argument(metavar="OUT", help="Folder of a finished study.")] = None,
    *,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every figure as CSV instead.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the first page as Markdown instead.")] = False,
    card: Annotated[bool, typer.Option("--card", help="Print the privacy card as JSON instead.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of report.json instead; with --card, the card's.")
    ] = False,
) -> None:
    """Render OUT/report.html from OUT/report.json, and print the key figures. The format before is read, too.

    Example: moretta report show out, for which moretta report out is short
    """
    from moretta.shared.audit.report import privacy_card, text_forms, verdict
    from moretta.shared.audit.report.report_file import load_report, report_json_schema, write_html
    from moretta.shared.audit.report.summary import findings, what_was_run

    if schema:
        typer.echo(privacy_card.card_json_schema() if card else report_json_schema(), nl=False)
        return
    if out is None:
        raise typer.BadParameter("name the folder of a finished study", param_hint="OUT")
    found = load_report(out)
    if as_csv or markdown:
        typer.echo((text_forms.as_csv if as_csv else text_forms.as_markdown)(found), nl=False)
        return
    if card:
        typer.echo(privacy_card.privacy_card(found).model_dump_json(indent=1))
        return
    page = write_html(found, out)
    facts = {
        "synthetic": found.corpus.synthetic,
        "headline": [part.model_dump(mode="json") for part in found.headline],
        "gate": found.gate.model_dump(mode="json"),
        "report": str(page),
    }
    first = ["SYNTHETIC INPUT: these figures say nothing about people."] if found.corpus.synthetic else []
    lines = [*first, *verdict.lines(found.gate), what_was_run(found), *findings(found), f"Page: {page}"]
    show(facts, lines, as_json=as_json, indent=1)


@app.command("compare")
def compare_reports(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a finished study.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one, of the same people.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Compare what the strongest attackers do to the same people in two studies, with paired intervals.

    Pseudonyms must agree: simulations of one seed and one division into sites, or studies with `linkage = "site"`.

    Example: moretta report compare run1 run2
    """
    from moretta.shared.audit.report.compare import compare, lines
    from moretta.shared.audit.report.report_file import load_report

    reports = load_report(first), load_report(second)
    found = compare(*reports)
    synthetic = any(part.corpus.synthetic for part in reports)
    notes = ["SYNTHETIC INPUT: these figures say nothing about people."] if synthetic else []
    facts = {"synthetic": synthetic, "differences": [difference.model_dump(mode="json") for difference in found]}
    show(facts, [*notes, *lines(found)], as_json=as_json, indent=1)
