"""CREMA-D's tables: who the speakers are, and what the crowd heard."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from moretta.shared.corpus.clips import Speaker
from moretta.shared.corpus.names import VOTE_LETTERS, Emotion
from moretta.shared.errors import CorpusError

DEMOGRAPHICS_FILE = "VideoDemographics.csv"
VOTES_FILE = "summaryTable.csv"
SEXES = ("female", "male")
_MAX_TABLE_BYTES = 16 * 1024 * 1024  # CREMA-D's largest table has 0.5 MB


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a comma-separated UTF-8 file (with or without byte order mark) that has at least `columns`.

    Raises:
        CorpusError: the file cannot be read, is not UTF-8, is not comma-separated, or lacks a column.
    """
    try:
        if path.stat().st_size > _MAX_TABLE_BYTES:
            raise CorpusError(f"{path} is larger than {_MAX_TABLE_BYTES} bytes", expected="a table of CREMA-D")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", fix="check its rights") from error
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} holds byte 0x{error.object[error.start]:02x} at offset {error.start}, which is not UTF-8",
            expected="a CSV file in UTF-8",
            fix=f"convert it, for instance with `iconv -f latin1 -t utf-8 {path.name}`",
        ) from error
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        rows = [{key: (value or "").strip() for key, value in row.items() if isinstance(key, str)} for row in reader]
    except csv.Error as error:
        raise CorpusError(f"{path} is not a CSV file ({error})", expected=f"columns {', '.join(columns)}") from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise CorpusError(
            f"{path} has the columns {', '.join(header) or '(none)'}", expected=f"also {', '.join(missing)}"
        )
    return rows


def read_demographics(path: Path) -> tuple[dict[int, Speaker], list[str]]:
    """Speakers by number, and warnings about rows that say nothing usable.

    Raises:
        CorpusError: see `read_table`.
    """
    speakers: dict[int, Speaker] = {}
    warnings: list[str] = []
    for line, row in enumerate(read_table(path, ("ActorID", "Age", "Sex")), start=2):
        number = _whole_number(row["ActorID"])
        if number is None:
            warnings.append(f"{path.name} line {line}: ActorID {row['ActorID']!r} is not a number; the row is ignored")
            continue
        if number in speakers:
            warnings.append(f"{path.name} line {line}: speaker {number} stands twice; the first row is used")
            continue
        sex, age = row["Sex"].lower(), _whole_number(row["Age"])
        speakers[number] = Speaker(number, sex if sex in SEXES else None, age)
    return speakers, warnings


def find_votes(root: Path) -> Path:
    """Where the crowd's votes are: in the folder itself, or where CREMA-D's repository keeps them."""
    for path in (root / VOTES_FILE, root / "processedResults" / VOTES_FILE):
        if path.is_file():
            return path
    raise CorpusError(
        f"no {VOTES_FILE} in {root}, and the labels asked for are `vote`",
        fix="put CREMA-D's summaryTable.csv there, or use the labels `intended`",
    )


def read_votes(path: Path) -> dict[str, Emotion | None]:
    """What most people recognised in face and voice together, by clip name; None where they were tied.

    Raises:
        CorpusError: see `read_table`.
    """
    rows = read_table(path, ("FileName", "MultiModalVote"))
    return {row["FileName"]: VOTE_LETTERS.get(row["MultiModalVote"]) for row in rows}


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None
