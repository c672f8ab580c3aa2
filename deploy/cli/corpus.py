"""`moretta corpus check`, `moretta corpus synth` and `moretta anonymize`: look at clips, make them, anonymize them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moretta.deploy.cli.console import AsJson, StudyFile, note, progress, progress_of, show
from moretta.shared.core.errors import ExitCode

if TYPE_CHECKING:
    from moretta.shared.data.check import CheckReport, Durations
    from moretta.shared.data.comparison import PublishedComparison

_LISTED = 10

app = typer.Typer(no_args_is_help=True, help="Look at a corpus, or make a synthetic one.")


class LabelChoice(StrEnum):
    """Whose emotion labels count."""

    INTENDED = "intended"
    VOTE = "vote"


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of clips.")],
    *,
    names: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with CREMA-D's own lists, to compare with.")
    ] = None,
    labels: Annotated[LabelChoice, typer.Option(help="Whose emotion labels count.")] = LabelChoice.INTENDED,
    as_json: AsJson = False,
) -> None:
    """Decode every file and show what is there, and which files cannot be used and why.

    Exits with 0 if every file can be used, with 4 if one cannot.

    Example: moretta corpus check ~/CREMA-D --names ~/CREMA-D
    """
    from moretta.shared.data.check import check_corpus

    with ExitStack() as stack:

        def start(total: int) -> Callable[[], None]:
            return stack.enter_context(progress("Decoding", total))

        report = check_corpus(folder, labels=labels.value, names=names, progress=start)
    show(report.to_json(), _lines(report), as_json=as_json, indent=1)
    if not report.ok:
        raise typer.Exit(ExitCode.CORPUS)


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    *,
    speakers: Annotated[int, typer.Option(min=1, help="How many people.")] = 24,
    clips: Annotated[int, typer.Option(min=1, max=82, help="Clips of each person.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same corpus.")] = 0,
    video: Annotated[bool, typer.Option("--video/--no-video", help="Render faces too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make a synthetic corpus: people with their own voice and face, six emotions in both.

    Its emotion rules are Moretta's own: accuracy on it says nothing about recordings of people.

    Example: moretta corpus synth corpus --speakers 24 --clips 24 --seed 1
    """
    from moretta.deploy.synth.corpus import synthesize_corpus

    with progress("Making clips", speakers * clips) as step:
        corpus = synthesize_corpus(folder, speakers=speakers, clips=clips, seed=seed, video=video, progress=step)
    facts = {"folder": str(folder), "name": corpus.name, "clips": len(corpus.clips), "speakers": len(corpus.speakers)}
    line = f"{facts['clips']} clips of {facts['speakers']} speakers in {folder}"
    show({**facts, "synthetic": True}, line, as_json=as_json)


def anonymize(  # noqa: PLR0917 - typer reads the options from the signature
    corpus: Annotated[Path, typer.Option(help="A folder of clips.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the release.")],
    study: StudyFile = None,
    media: Annotated[bool, typer.Option(help="Write what a person can hear and see, too: wav and video.")] = False,
    seeded: Annotated[bool, typer.Option(help="Draw noise from the study's seed: for tests, protects nobody.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make one site's release, without training.

    The folder `out/release` is what would leave the site. The pseudonym key stays in `out/pseudonym.key`.

    Example: moretta anonymize --corpus CREMA-D --out anonymized --media
    """
    from moretta.deploy.runtime.anonymize_folder import anonymize_corpus
    from moretta.shared.study.schema import load_study

    chosen = load_study(study)
    with progress_of("Anonymizing") as step:
        made = anonymize_corpus(corpus, out, chosen, media=media, seeded=seeded, step=step, notify=note)
    statement = made.statement
    lines = [f"{statement.clips} clips of {statement.speakers} speakers released in {made.folder}"]
    lines += [f"  not released: {count} ({reason})" for reason, count in sorted(statement.dropped.items())]
    show(statement.model_dump(mode="json"), lines, as_json=as_json, indent=1)


def _lines(report: CheckReport) -> list[str]:
    kind = "SYNTHETIC corpus" if report.synthetic else "Corpus"
    lines = [
        f"{kind} {report.name}: {report.clips} usable clips of {len(report.speakers)} speakers",
        f"audio     {_durations(report.audio)}",
        f"video     {_durations(report.video)}",
        f"emotions  {_counts(report.emotions)} ({report.labels} labels)",
        f"levels    {_counts(report.levels) or 'none'}",
    ]
    if report.inside_videos:
        lines.append(f"sound     of {report.inside_videos} clips without a sound file is that of their video")
    if report.faces:
        seen = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.faces.items() if count)
        lines.append(f"faces     {seen}")
    if report.converted:
        lines.append(f"converted {_counts(report.converted)}")
    lines += ["", f"{'speaker':>8} {'sex':>7} {'age':>4} {'clips':>6} {'audio':>6} {'video':>6}  emotions"]
    lines += [
        f"{row.speaker:>8} {row.sex or '?':>7} {'?' if row.age is None else row.age:>4} {row.clips:>6} {row.audio:>6} "
        f"{row.video:>6}  {_counts(row.emotions)}"
        for row in report.speakers
    ]
    if report.published:
        lines += ["", *_published_lines(report.published)]
    entries = [
        *(f"warning: {warning}" for warning in report.warnings),
        *(f"{'fault' if same.fault else 'warning'}: {same}" for same in report.repeated),
    ]
    lines += ["", *entries] if entries else []
    lines += [
        "",
        f"{len(report.unusable)} files cannot be used" + (f": {_counts(report.reasons)}" * bool(report.unusable)),
    ]
    lines += [f"  {drop.file}  {drop.reason}: {drop.detail}" for drop in report.unusable]
    return lines


def _published_lines(published: PublishedComparison) -> list[str]:
    def some(items: list[str]) -> str:
        more = ", ..." if len(items) > _LISTED else ""
        return f"{len(items)}" + (f" ({', '.join(map(str, items[:_LISTED]))}{more})" if items else "")

    return [
        f"Compared with CREMA-D's lists: {published.present_clips} of {published.listed_clips} listed clips are here",
        f"  clips not listed      {some(published.unknown_clips)}",
        f"  clips missing         {some(published.missing_clips)} of the speakers that are here",
        f"  speakers not listed   {some(published.unknown_speakers)}",
        f"  speakers missing      {some(published.missing_speakers)}",
        f"  other sex or age      {some(published.different_speakers)}",
        f"  listed without a vote {published.without_vote}",
    ]


def _durations(durations: Durations | None) -> str:
    if durations is None:
        return "none"
    return (
        f"{durations.files} files, {durations.total / 60:.1f} min "
        f"({durations.shortest:.2f} to {durations.longest:.2f} s, median {durations.median:.2f} s)"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counts.items())
