"""A corpus of one's own: a folder with `manifest.csv` (or `manifest.parquet`), one row for each clip.

Columns: `audio`, `video`, or `path` (one file, sound or video by its ending), relative to the folder; `speaker`;
`label`; and, if the corpus has them, `sentence`, `sex`, `age`, `site`, `split`. A manifest may come from somebody
else, so no row can name a file outside the folder.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from moretta.shared.core.errors import ClipError, CorpusError
from moretta.shared.core.labels import Code, SpeakerId, in_order
from moretta.shared.data import reader, tables
from moretta.shared.data.clips import Clip, Corpus, Drop

MANIFEST_FILES = ("manifest.csv", "manifest.parquet")
MAX_ROWS = 1_000_000
_MAX_TEXT = 200
"""Characters of a speaker or a label."""
_COLUMNS = {
    "speaker": ("speakerid", "actor", "actorid", "subject", "subjectid", "participant", "participantid"),
    "label": ("emotion", "class", "target"),
    "path": ("file", "filename", "filepath"),
    "audio": ("audiopath", "audiofile", "wav", "sound"),
    "video": ("videopath", "videofile"),
    "sentence": ("sentenceid", "prompt"),
    "Sex": ("gender",),
    "Age": ("ageyears", "ageinyears", "agegroup", "agerange"),
    "site": ("centre", "center"),
    "split": ("partition", "subset"),
}
_NEEDED = ("speaker", "label")
_FILES: dict[str, tuple[str, ...]] = {"audio": (), "video": (), "path": (*reader.AUDIO_ENDINGS, *reader.VIDEO_ENDINGS)}
"""The endings that files of each column may have; in `audio` and `video` any that PyAV decodes."""
_TESTED = {"test": True, "testing": True, "heldout": True, "train": False, "training": False}
_CODE: TypeAdapter[str] = TypeAdapter(Code)


@reader.corpus_reader("manifest")
class Manifest(reader.CorpusReader):
    """Every row is a clip, or is dropped and counted by its reason."""

    layout = "manifest.csv (columns audio, video or path; speaker; label) and the files that it names"

    explicit = True

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Whether there is a manifest."""
        return any((root / name).is_file() for name in MANIFEST_FILES)

    @classmethod
    def read(cls, root: Path, labels: reader.Labels) -> Corpus:
        """List the clips of the manifest."""
        path = next(root / name for name in MANIFEST_FILES if (root / name).is_file())
        if labels != "intended":
            raise CorpusError(f"a manifest has one label a clip, and not {labels!r}", fix='set labels = "intended"')
        table = _read(path)
        clips: dict[str, Clip] = {}
        drops: list[Drop] = []
        rows: list[tuple[SpeakerId, tables.Row]] = []
        used: set[Path] = set()
        odd: dict[str, list[int]] = defaultdict(list)
        for row in table.rows:
            try:
                clip = _clip(root, row, odd)
                if repeated := [file.relative_to(root).as_posix() for file in clip.files if file in used]:
                    raise ClipError("duplicate", f"{repeated[0]} is in a row above")
            except ClipError as error:
                named = next((row[column] for column in _FILES if row[column]), "")
                drops.append(Drop(f"{path.name} line {row.line}: {named}", error.reason, error.message, _speaker(row)))
                continue
            used.update(clip.files)
            clips[clip.name] = clip
            rows.append((clip.speaker, row))
        if not clips:
            raise reader.no_clip(root, drops, expected=cls.layout, fix=drops[0].detail if drops else "")
        columns = [column for column in ("Sex", "Age") if column in table.columns]
        people, warnings = tables.describe_people(path, rows, columns)
        if table.others:
            warnings.append(f"{path.name} has columns that are ignored: {tables.listed(table.others)}")
        code = "a code of letters, digits, dots, dashes and underscores"
        warnings += tables.not_understood(path, "sentence", odd, code)
        tested, sites = _tested(path, rows, warnings), _sites(path, rows, warnings)
        more = {"tables": MANIFEST_FILES, "sites": sites, "tested": tested}
        return reader.corpus_of(root, clips.values(), people, drops, warnings, **more)


def _read(path: Path) -> tables.Table:
    optional = [column for column in _COLUMNS if column not in _NEEDED]
    table = tables.open_table(path, _COLUMNS, optional=optional) if path.suffix == ".csv" else _parquet(path, optional)
    if not table.columns & _FILES.keys():
        raise CorpusError(f"{path} has no column of files", expected=f"one of {', '.join(_FILES)}")
    if len(table.rows) > MAX_ROWS:
        raise CorpusError(f"{path} has {len(table.rows)} rows", expected=f"at most {MAX_ROWS}")
    return table


def _parquet(path: Path, optional: list[str]) -> tables.Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        fix = "pip install pyarrow, or save it as manifest.csv"
        raise CorpusError(f"{path} needs pyarrow, which is not installed", fix=fix) from error
    try:
        with parquet.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)]
            if file.metadata.num_rows > MAX_ROWS or sum(sizes) > 8 * tables.MAX_TABLE_BYTES:
                found = f"{path} has {file.metadata.num_rows} rows of {sum(sizes)} bytes"
                raise CorpusError(found, expected=f"at most {MAX_ROWS} rows of {8 * tables.MAX_TABLE_BYTES} bytes")
            names = list(file.schema_arrow.names)
            # A column of another meaning may be of any type and size: only its name is read.
            wanted = {tables.plain(name) for column, others in _COLUMNS.items() for name in (column, *others)}
            read = file.read([name for name in names if tables.plain(name) in wanted]).to_pydict()
    except (ArrowException, OSError) as error:
        raise CorpusError(f"{path} cannot be read ({error})", expected="a Parquet file") from error
    values = [read.get(name, []) for name in names]
    count = max(map(len, values), default=0)
    lines = ((i + 1, [_text(column[i]) if column else "" for column in values]) for i in range(count))
    return tables.as_table(path, names, lines, _COLUMNS, optional)


def _text(value: Any) -> str:
    """A whole number without its `.0`: columns with gaps are kept as floats."""
    if value is None or (isinstance(value, float) and not value.is_integer()):
        return "" if value is None or value != value else str(value)  # noqa: PLR0124 - NaN
    return str(int(value)) if isinstance(value, float) else str(value).strip()


def _speaker(row: tables.Row) -> SpeakerId | None:
    text = row["speaker"]
    known = text.casefold() not in tables.UNKNOWN and len(text) <= _MAX_TEXT and text.isprintable()
    return text if known else None


def _clip(root: Path, row: tables.Row, odd: dict[str, list[int]]) -> Clip:
    """The clip of one row; else a ClipError `bad-row`, `outside`, `missing` or `wrong-kind`."""
    speaker, label, sentence = _speaker(row), row["label"], row["sentence"]
    if speaker is None or label.casefold() in tables.UNKNOWN or len(label) > _MAX_TEXT or not label.isprintable():
        raise ClipError("bad-row", f"the speaker {row['speaker'][:50]!r} and the label {label[:50]!r}", expected="both")
    files = {column: _file(root, row[column], endings) for column, endings in _FILES.items() if row[column]}
    if not files:
        raise ClipError("bad-row", "a row without a file", expected=f"one of {', '.join(_FILES)}")
    if (one := files.pop("path", None)) is not None:
        files.setdefault("audio" if one.suffix.lower() in reader.AUDIO_ENDINGS else "video", one)
    if sentence:
        try:
            _CODE.validate_python(sentence)
        except ValidationError:
            odd[sentence[:50]].append(row.line)
            sentence = ""
    audio, video = files.get("audio"), files.get("video")
    name = (audio or video or root).relative_to(root).as_posix()
    return Clip(name, speaker, label, sentence, "", audio, video)


def _file(root: Path, text: str, endings: tuple[str, ...]) -> Path:
    """The file that a row names, which lies in the folder; else a ClipError `outside`, `missing` or `wrong-kind`."""
    named = PurePosixPath(text.replace("\\", "/"))
    if named.is_absolute() or ".." in named.parts or ":" in named.parts[0] or "\0" in text:
        raise ClipError("outside", f"the path {text[:100]!r}", expected="one relative to the folder of the manifest")
    path = root / named
    try:
        if not path.exists():
            raise ClipError("missing", f"no file {text[:100]!r}", expected="a file in the folder of the manifest")
        wrong = reader.wrong_kind(path, endings)
    except (OSError, ValueError) as error:
        raise ClipError("missing", f"the path {text[:100]!r} cannot be a file ({type(error).__name__})") from error
    if wrong is not None:
        raise ClipError("wrong-kind", wrong)
    return path


def _tested(path: Path, rows: tables.SpeakerRows, warnings: list[str]) -> frozenset[SpeakerId]:
    """Speakers of the test split. A speaker in both splits counts as a test speaker."""
    found, odd = tables.values_of(path, rows, "split", lambda text: _TESTED.get(tables.plain(text)), "train or test")
    warnings += odd
    if both := in_order(speaker for speaker, values in found.items() if len(values) > 1):
        warnings.append(f"{path.name} has speakers in train and in test, who count as test: {tables.listed(both)}")
    return frozenset(speaker for speaker, values in found.items() if True in values)


def _sites(path: Path, rows: tables.SpeakerRows, warnings: list[str]) -> dict[SpeakerId, str]:
    """The site of every speaker; nothing where some have none; a CorpusError if one is at two sites."""
    found, _ = tables.values_of(path, rows, "site", lambda text: None if tables.is_unknown(text) else text, "")
    if several := in_order(speaker for speaker, sites in found.items() if len(sites) > 1):
        at = tables.listed(several)
        raise CorpusError(f"{path} has speakers at several sites: {at}", expected="one site a speaker")
    without = [speaker for speaker, sites in found.items() if not sites]
    if 0 < len(without) < len(found):
        warnings.append(f"{path.name} names no site of {len(without)} speakers, so its sites are not used")
    return {} if without else {speaker: site for speaker, (site,) in found.items()}
