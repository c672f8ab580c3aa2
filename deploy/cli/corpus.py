"""`moretta corpus`, `moretta anonymize` and `moretta train-face`: what works on a folder of clips or pictures."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moretta.deploy.cli.console import AsJson, Device, Settings, StudyFile, note, progress, read_study, show
from moretta.shared.core.device import describe_device, resolve_device
from moretta.shared.core.errors import ExitCode, StudyError

if TYPE_CHECKING:
    from moretta.shared.data.check import CheckReport, Durations
    from moretta.shared.models.face_images import FaceImages
    from moretta.shared.models.training_state import Epoch

_LISTED = 10

app = typer.Typer(no_args_is_help=True, help="Look at a corpus, or make a synthetic one.")


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of clips.")],
    *,
    names: Annotated[Path | None, typer.Option(metavar="DIR", help="CREMA-D's own lists, to compare with.")] = None,
    labels: Annotated[Literal["intended", "vote"], typer.Option(help="Source of emotion labels.")] = "intended",
    as_json: AsJson = False,
) -> None:
    """Decode every file and show what is there, and which files cannot be used and why.

    Exits with 0 if every file can be used, with 4 if one cannot.

    Example: moretta corpus check ~/CREMA-D --names ~/CREMA-D
    """
    from moretta.shared.data.check import check_corpus

    with ExitStack() as stack:
        report = check_corpus(
            folder, labels=labels, names=names, progress=lambda total: stack.enter_context(progress("Decoding", total))
        )
    show(report.to_json(), _check_lines(report), as_json=as_json, indent=1)
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
    set_: Settings = None,
    media: Annotated[
        bool | None,
        typer.Option(help="Sound and pictures; default where the form is either. Sound of MFCC and tokens is made."),
    ] = None,
    seeded: Annotated[bool, typer.Option(help="Draw noise from the study's seed: for tests, protects nobody.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make one site's release, without training, as a data set for others. Goes on where it stopped.

    The folder `out/release` is what would leave the site: arrays, a manifest, media, a data sheet and checksums. The
    pseudonym key stays in `out/pseudonym.key`: its holder can name the people.

    Example: moretta anonymize --corpus CREMA-D --out anonymized --media
    """
    from moretta.deploy.runtime.anonymize_folder import anonymize_corpus
    from moretta.deploy.runtime.run_folder import interruptible

    chosen = read_study(study, set_)
    with interruptible(), progress("Anonymizing") as step:
        made = anonymize_corpus(corpus, out, chosen, media=media, seeded=seeded, step=step, notify=note)
    statement = made.statement
    lines = [f"{statement.clips} clips of {statement.speakers} speakers released in {made.folder}"]
    lines += [f"  not released: {count} ({reason})" for reason, count in sorted(statement.dropped.items())]
    lines.append(f"{out / 'pseudonym.key'} names the people: keep it, and share {made.folder} alone")
    show(statement.model_dump(mode="json"), lines, as_json=as_json, indent=1)


def _check_lines(report: CheckReport) -> list[str]:
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
    if found := report.published:
        lines += [
            "",
            f"Compared with CREMA-D's lists: {found.present_clips} of {found.listed_clips} listed clips are here",
            f"  clips not listed      {_some(found.unknown_clips)}",
            f"  clips missing         {_some(found.missing_clips)} of the speakers that are here",
            f"  speakers not listed   {_some(found.unknown_speakers)}",
            f"  speakers missing      {_some(found.missing_speakers)}",
            f"  other sex or age      {_some(found.different_speakers)}",
            f"  listed without a vote {found.without_vote}",
        ]
    faults = [f"{'fault' if same.fault else 'warning'}: {same}" for same in report.repeated]
    if entries := [*(f"warning: {warning}" for warning in report.warnings), *faults]:
        lines += ["", *entries]
    reasons = f": {_counts(report.reasons)}" if report.unusable else ""
    lines += ["", f"{len(report.unusable)} files cannot be used{reasons}"]
    return lines + [f"  {drop.file}  {drop.reason}: {drop.detail}" for drop in report.unusable]


def _some(items: list[str]) -> str:
    more = ", ..." if len(items) > _LISTED else ""
    return f"{len(items)}" + (f" ({', '.join(map(str, items[:_LISTED]))}{more})" if items else "")


def _durations(d: Durations | None) -> str:
    if d is None:
        return "none"
    return f"{d.files} files, {d.total / 60:.1f} min ({d.shortest:.2f} to {d.longest:.2f} s, median {d.median:.2f} s)"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counts.items())


def train_face(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Face images, in any depth; without it faces are drawn.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The file to write; face.weights of a study names it.")],
    preset: Annotated[
        Literal["exact", "small"], typer.Option(help="exact: 128 pixels, latent 4096; small: 64 pixels, latent 300.")
    ] = "exact",
    side: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16; overrides the preset.")] = None,
    latent: Annotated[int | None, typer.Option(min=1, help="Latent size; overrides the preset.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="The original project used 50, 100 and 150.")] = 50,
    batch: Annotated[int, typer.Option(min=2, help="32 or 64 in the original.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="0.01 or 0.001 in the original.")] = 0.001,
    optimizer: Annotated[Literal["adam", "sgd"], typer.Option(help="How the weights are updated.")] = "adam",
    noise: Annotated[float, typer.Option(help="Standard deviation of the corruption, for values in [0, 1].")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights on one machine.")] = 1,
    synthetic: Annotated[int, typer.Option(min=2, help="Pictures to draw if there is no DIR.")] = 600,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from the checkpoint beside --out, if there is one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train the face autoencoder on public faces, and write it as safetensors.

    Use faces that anybody may have: what the network learns is sent to every site.

    After every epoch, and at Ctrl-C or SIGTERM, a checkpoint is written beside the file. The same command with --resume
    goes on from it, to the same weights.

    Example: moretta train-face ffhq/ --out face.safetensors --epochs 50
    """
    from moretta.deploy.runtime.run_folder import asked_to_stop, prepare_output
    from moretta.shared.core.workers import cpu_count, keep_freed_memory, limit_threads
    from moretta.shared.models.autoencoder import AutoencoderSpec, save_autoencoder
    from moretta.shared.models.train_autoencoder import train_autoencoder, training_steps
    from moretta.shared.models.training_state import TrainOptions

    try:  # hours of training must not end in a file that cannot be written
        if out.is_dir():
            raise IsADirectoryError(f"{out} is a folder")
        prepare_output(out.parent)
    except OSError as error:
        raise StudyError(f"--out {out} cannot be written: {error}", fix="name a file in a folder of yours") from error
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    if checkpoint.exists() and not resume:
        found = f"a checkpoint of an earlier training, {checkpoint}"
        raise StudyError(found, expected="none", fix="go on from it with --resume, or delete it to begin anew")
    named, place = AutoencoderSpec.preset(preset), resolve_device(device)
    options = TrainOptions(
        spec=AutoencoderSpec(side=named.side if side is None else side, latent=latent or named.latent),
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        optimizer=optimizer,
        noise=noise,
        seed=seed,
    )
    note("rendering synthetic faces" if folder is None else f"reading the faces in {folder}")
    images = _images(folder, options.spec.side, synthetic, seed)
    limit_threads(cpu_count())  # nothing else runs now
    keep_freed_memory()
    batches = training_steps(options, len(images.pictures))
    with (
        asked_to_stop() as stopped,
        progress(f"Training on {describe_device(place)}", batches * batch, unit="images") as step,
    ):
        done = 0

        def learned(more: int) -> None:
            nonlocal done
            done += more
            step(done * batch, batches * batch)

        def epoch_done(number: int, epoch: Epoch) -> None:
            if not sys.stderr.isatty():
                note(f"epoch {number}/{epochs}: loss {epoch.loss:.6f}, PSNR {epoch.psnr:.2f} dB")

        trained = train_autoencoder(
            images.pictures,
            options,
            device=place,
            checkpoint=checkpoint,
            stopped=stopped,
            begun=learned,
            step=lambda: learned(1),
            epoch_done=epoch_done,
        )
    save_autoencoder(trained.model, out)
    checkpoint.unlink(missing_ok=True)
    facts = {
        "file": str(out),
        "source": "synthetic" if folder is None else str(folder),
        "side": options.spec.side,
        "latent": options.spec.latent,
        "pictures": len(images.pictures),
        "without_face": images.centred,
        "detector": images.detector,
        "dropped": [{"file": drop.file, "reason": drop.reason, "detail": drop.detail} for drop in images.dropped],
        "trained_on": trained.trained_on,
        "held_out": trained.held_out,
        "device": place.type,
        "psnr_db": round(trained.psnr, 2),
        "history": [{"loss": round(epoch.loss, 6), "psnr_db": round(epoch.psnr, 2)} for epoch in trained.history],
    }
    show(facts, _trained_lines(facts), as_json=as_json, indent=1)


def _images(folder: Path | None, side: int, synthetic: int, seed: int) -> FaceImages:
    from moretta.shared.models import face_images as faces

    if folder is not None:
        files = faces.image_files(folder)
        with progress("Reading faces", len(files)) as step:
            return faces.read_face_images(folder, files, side, step=step)
    people = -(-synthetic // faces.PICTURES_PER_PERSON)
    with progress("Drawing people", people) as step:
        return faces.render_face_images(people, side, seed=seed, step=step)


def _trained_lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"{facts['file']}: {facts['side']} x {facts['side']} pixels, latent size {facts['latent']}",
        f"trained on {facts['trained_on']} pictures ({facts['source']}), {facts['psnr_db']} dB PSNR on "
        f"{facts['held_out']} held out",
    ]
    if facts["without_face"]:
        lines.append(f"{facts['without_face']} pictures show no face ({facts['detector']}): their centre was taken")
    lines += [f"dropped {drop['file']}: {drop['detail']}" for drop in facts["dropped"][:10]]
    if len(facts["dropped"]) > 10:
        lines.append(f"... and {len(facts['dropped']) - 10} more (--json lists all)")
    return lines
