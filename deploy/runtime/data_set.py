"""A release becomes a data set for others: manifest, data sheet and checksums; and an audit is attached to it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from moretta.deploy.runtime.audit_folder import release_folders
from moretta.deploy.runtime.audit_sets import FIGURES_FILE, PAGE_FILE, Audited
from moretta.deploy.runtime.data_sheet import data_sheet
from moretta.shared.audit.report import summary, tables, verdict
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import ReleaseError
from moretta.shared.core.printable import to_csv
from moretta.shared.data.reader import SYNTHETIC_MARKER
from moretta.shared.release import Release, open_release
from moretta.shared.release.data_set import (
    AUDIT_FOLDER,
    CHECKSUMS_FILE,
    MANIFEST_FILE,
    MEDIA_ENDINGS,
    SHEET_FILE,
    check_files,
    media_of,
    write_checksums,
)
from moretta.shared.release.release_format import shard_of

_FIELDS = ("clip", "speaker", "label", "sentence", "level", "sex", "age_band", *MEDIA_ENDINGS, "voice", "face")
_PSEUDONYM = re.compile(r"[0-9a-f]{16}")


def finish_data_set(release: Release, *, synthetic: bool) -> str:
    """Write what a release lacks as a data set, the checksums last. Returns the SHA-256 of their list."""
    folder = release.folder
    if synthetic:
        write_atomic(folder / SYNTHETIC_MARKER, json.dumps({"name": "synthetic"}) + "\n")
    rows, media = list[list[Any]](), set[str]()
    for clip in release.clips:
        files = {column: path.relative_to(folder).as_posix() for column, path in media_of(folder, clip.clip).items()}
        files |= {m: shard_of(clip, m) or "" for m in ("voice", "face")}
        about = clip.model_dump() | {"label": clip.emotion, "age_band": clip.age_group} | files
        rows.append([about.get(name) for name in _FIELDS])
        media |= files.keys() & MEDIA_ENDINGS.keys()
    write_atomic(folder / MANIFEST_FILE, to_csv(_FIELDS, rows))
    return _seal(release, [column for column in MEDIA_ENDINGS if column in media], ())


def data_set_in(releases: Path, out: Path) -> Path:
    """The one data set to which an audit of these releases can be attached.

    Args:
        out: where the audit is to be written.

    Raises:
        ReleaseError: there is none, there are several, its files are not those that were listed, or `out` is inside.
    """
    found = [folder for folder in release_folders(releases) if (folder / CHECKSUMS_FILE).is_file()]
    if len(found) != 1:
        raise ReleaseError(
            f"{len(found)} data sets in {releases}",
            expected="one, which `moretta anonymize` finished, to attach the audit to",
            fix="name its folder, or audit without attaching",
        )
    if out.resolve().is_relative_to(found[0].resolve()):
        raise ReleaseError(
            f"an audit written to {out}, inside the data set",
            expected="a folder elsewhere: trials and figures of single people are not for others",
            fix="choose another --out",
        )
    check_files(found[0], but=(AUDIT_FOLDER, SHEET_FILE))  # half of an earlier attachment is written anew
    return found[0]


def attach_audit(folder: Path, audited: Path, found: Audited) -> str:
    """Put the page and the figures of an audit into a data set, quote it in the data sheet, and list all files anew.

    Figures of single people are left out: they would name who is recognised most easily.

    Args:
        audited: where the audit wrote them.

    Returns:
        The SHA-256 of the new list of checksums.
    """
    content = json.loads((audited / FIGURES_FILE).read_text(encoding="utf-8"))
    for part in ("audit", "inference", "utility"):
        kept = (row for row in content[part] if not _PSEUDONYM.fullmatch(row["subset"]))
        content[part] = [{**row, "by_speaker": {}} for row in kept]
    if (folder / AUDIT_FOLDER).is_symlink():  # of whoever made the data set: it would lead the files elsewhere
        (folder / AUDIT_FOLDER).unlink()
    shutil.rmtree(folder / AUDIT_FOLDER, ignore_errors=True)  # what else lies in it would be listed as if it belonged
    write_atomic(folder / AUDIT_FOLDER / PAGE_FILE, (audited / PAGE_FILE).read_bytes())
    write_atomic(folder / AUDIT_FOLDER / FIGURES_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    leaks = tables.inference_sentence(found.findings)
    said = [*verdict.lines(found.gate), *found.sentences, *([leaks] if leaks else [])]
    release = open_release(folder)
    media = {column for clip in release.clips for column in media_of(folder, clip.clip)}
    used = [column for column in MEDIA_ENDINGS if column in media]
    return _seal(release, used, [*said, *summary.utility_sentences(found.utility)])


def _seal(release: Release, media: list[str], measured: list[str] | tuple[str, ...]) -> str:
    synthetic = (release.folder / SYNTHETIC_MARKER).is_file()
    write_atomic(release.folder / SHEET_FILE, data_sheet(release, media, synthetic=synthetic, measured=measured))
    return write_checksums(release.folder)
