"""A site reports that a person has withdrawn: what a run holds of that person is removed, and its report says so.

Released clips are removed from the release, and with them what was made of single ones: the site's last updates and the
audit's embeddings and scores. Figures and models that came of them stay, marked, unless the models are to go too.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from moretta.server.stages.lifecycle import working_pid
from moretta.server.stages.run import SITE_SCORES
from moretta.server.stages.state import RESUME_FILE, STATE_FILE
from moretta.shared.audit.report.report_file import REPORT_JSON, load_report, write_report
from moretta.shared.audit.score_files import SCORES_FILE
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError, RunError
from moretta.shared.release import Release, open_release
from moretta.shared.release.release_format import CLIPS_FILE, STATEMENT_FILE

WITHDRAWN_FILE = Path("server") / "withdrawn.jsonl"


@dataclass(frozen=True, slots=True)
class _Note:
    """One person who has withdrawn, by pseudonym, at a time in seconds since 1970."""

    at: int
    site: str
    speaker: str
    clips: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Outcome of a withdrawal: clips removed, models trained before, and whether there was a report to mark."""

    clips: int
    models: tuple[str, ...]
    models_removed: bool
    report: bool


def forget_person(folder: Path, site: str, speaker: str, *, models: bool = False) -> Forgotten:
    """Remove one person from a run that is over, and the global models, too, if `models` says so.

    Killed on the way, it is done again by the same call. Raises RunError where the run is at work, and ReleaseError
    where it has no release of the site, or nobody of this pseudonym in it.
    """
    if (pid := working_pid(folder)) is not None:
        raise RunError(f"process {pid} is at work on this run", fix="wait for its end, or end it")
    release = open_release(folder / "server" / "releases" / site)
    theirs = frozenset(clip.clip for clip in release.clips if clip.speaker == speaker)
    notes = folder / WITHDRAWN_FILE
    lines = notes.read_text(encoding="utf-8").splitlines(keepends=True) if notes.exists() else []
    earlier = (_Note(**json.loads(line)) for line in lines if line.strip())
    note = next((note for note in earlier if (note.site, note.speaker) == (site, speaker)), None)
    if not theirs and note is None:
        raise ReleaseError(
            f"no released clip of the pseudonym {speaker!r} from {site!r}",
            expected="a pseudonym as the site's notice has it",
            fix="the site's steward finds it with: moretta site withdraw --list",
        )
    if note is None:
        note = _Note(int(time.time()), site, speaker, len(theirs))
        write_atomic(notes, "".join(lines) + json.dumps(asdict(note)) + "\n")
    _shrink(release, speaker)
    (folder / SITE_SCORES / f"{site}.json").unlink(missing_ok=True)
    for path in (folder / "server" / "updates").glob(f"*/{site}.safetensors"):
        path.unlink()
    for made in ("embeddings", "attacks"):  # the second where an audit was interrupted
        shutil.rmtree(folder / "server" / made, ignore_errors=True)
    (folder / SCORES_FILE).unlink(missing_ok=True)
    trained = sorted((folder / "server" / "checkpoints").glob("*.safetensors"))
    for path in trained if models else ():
        path.unlink()
    text = (
        f"{site} reported that a person has withdrawn: {note.clips} released clips were removed on "
        f"{time.strftime('%Y-%m-%d', time.gmtime(note.at))}. Figures and models that are older still come of them"
    )
    _warn_state(folder, text)
    return Forgotten(note.clips, tuple(path.stem for path in trained), models, _warn_report(folder, text))


def _shrink(release: Release, speaker: str) -> None:
    """Remove a person from a release: first from the list, after which arrays cannot be found, then their arrays."""
    kept = [clip for clip in release.clips if clip.speaker != speaker]
    write_atomic(release.folder / CLIPS_FILE, "".join(clip.model_dump_json() + "\n" for clip in kept))
    counts = {"clips": len(kept), "speakers": len({clip.speaker for clip in kept})}
    statement = release.statement.model_copy(update=counts)
    write_atomic(release.folder / STATEMENT_FILE, statement.model_dump_json(indent=2))
    listed = frozenset(clip.clip for clip in kept)
    for pattern in ("voice-*.safetensors", "face-*.safetensors"):
        for path in sorted(release.folder.glob(pattern)):
            _without(path, listed)


def _without(path: Path, listed: frozenset[str]) -> None:
    """Keep only listed arrays, so that a command that was killed half-way leaves nothing behind."""
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ReleaseError(
            f"{path} cannot be read: {error}", fix="delete the file: its clips are then damaged"
        ) from error
    kept = {name: array for name, array in arrays.items() if name in listed}
    if len(kept) < len(arrays):
        write_atomic(path, save(kept))


def _warn_state(folder: Path, text: str) -> None:
    """Add the warning to the run's state, so that a report that is made later has it, too."""
    for path in (folder / STATE_FILE, folder / RESUME_FILE):
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            warnings = content.get("progress", content)["warnings"]  # older runs have them at the top
            if text not in warnings:
                warnings.append(text)
                write_atomic(path, json.dumps(content, indent=1))


def _warn_report(folder: Path, text: str) -> bool:
    if not (folder / REPORT_JSON).exists():
        return False
    report = load_report(folder)
    if text not in report.run.warnings:
        run = report.run.model_copy(update={"warnings": (text, *report.run.warnings)})
        write_report(report.model_copy(update={"run": run}), folder)
    return True
