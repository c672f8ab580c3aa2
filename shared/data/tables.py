"""Tables as people keep them, in any usual encoding, delimiter and spelling; and speakers' sex and age from them.

Every row knows its line. A value that is not understood counts as unknown and is named in a warning. Rows that
contradict each other make the value unknown.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moretta.shared.core.errors import CorpusError
from moretta.shared.core.labels import SpeakerId, in_order
from moretta.shared.data.clips import Speaker
from moretta.shared.release.release_format import age_group

MAX_TABLE_BYTES = 16 * 1024 * 1024
"""Most bytes of a table; CREMA-D's largest has 0.5 MB."""
DEMOGRAPHICS_FILE = "VideoDemographics.csv"
MIN_AGE, MAX_AGE = 1, 120
"""Ages in years that count as known. Tables write 0, 99 or 999 for unknown ages."""
_DELIMITERS = (",", ";", "\t", "|")
_LINES_BEFORE = 20  # titles and comments may stand above the names of the columns
_SAID = re.compile(r"sep=.\r?\n", re.IGNORECASE)  # as Excel writes which delimiter follows
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_PEOPLE = {
    "ActorID": ("actor", "actorno", "actornumber", "speaker", "speakerid", "subject", "subjectid", "participant", "id"),
    "Age": ("ageyears", "ageinyears", "agegroup", "agerange"),
    "Sex": ("gender",),
}
SEX_WORDS = {
    "female": ("f", "female", "females", "fem", "w", "woman", "women", "girl", "weiblich", "frau", "femme", "feminin"),
    "male": ("m", "male", "males", "man", "men", "boy", "maennlich", "männlich", "mann", "homme", "masculin"),
}
_SEX_OF = {word: sex for sex, words in SEX_WORDS.items() for word in words}
UNKNOWN = {"", "?", "-", ".", "na", "n/a", "nan", "none", "null", "unknown", "not known", "missing", "not available"}
"""Values that tables hold where nothing is known."""
_ACTOR = re.compile(r"(?:actor|speaker|subject|participant|id)?[ _-]*0*(\d{1,9})(?:[.,]0*)?", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})(?:[.,]\d*)?\s*(?:y|yr|yrs|years?)?(?: old)?", re.IGNORECASE)
_AGES = re.compile(r"[\[(]?(\d{1,3})\s*(?:-|\u2013|\u2014|to|\.\.)\s*(\d{1,3})[\])]?", re.IGNORECASE)

V = TypeVar("V")
Columns = Mapping[str, Sequence[str]]
"""Names of columns, each with its other names in small letters and digits."""


def listed(items: Sequence[object], most: int = 10) -> str:
    """The first of many, and how many more there are.

    >>> listed([1, 2, 3], most=2)
    '1, 2 and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def plain(name: str) -> str:
    """Small letters and digits alone."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def is_unknown(text: str) -> bool:
    """Whether a value says that nothing is known."""
    return text.casefold() in UNKNOWN or plain(text) in UNKNOWN


class Row(dict[str, str]):
    """One row that holds anything: values by column, empty where the table has not the column."""

    line: int

    def __missing__(self, column: str) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that was read."""

    rows: list[Row]
    columns: frozenset[str]
    """The requested columns that it has."""
    others: tuple[str, ...]
    """Its other columns, as it spells them."""


def read_table(path: Path, columns: Columns | Sequence[str]) -> list[Row]:
    """The rows of a table that must have all these columns; see `open_table`."""
    return open_table(path, columns if isinstance(columns, Mapping) else dict.fromkeys(columns, ())).rows


def open_table(path: Path, columns: Columns, *, optional: Collection[str] = ()) -> Table:
    """Read a table; its values come without spaces around them.

    The encoding is known by its mark; text that is not UTF-8 is read as Windows-1252. Columns may be divided by
    commas, semicolons, tabs or bars, and be spelt in any case. Titles and comments above the names of the columns are
    passed over.

    Args:
        path: of the table.
        columns: what it may have.
        optional: those of them that it need not have.

    Raises:
        CorpusError: the file cannot be read, is no table, lacks a column, or has one twice.
    """
    text = _decoded(path)
    said = _SAID.match(text)
    top = [line for line in text[said.end() if said else 0 :].splitlines() if line.strip()][:_LINES_BEFORE] or [""]
    delimiter = max(
        _DELIMITERS, key=lambda mark: max((len(_places(line.split(mark), columns)), line.count(mark)) for line in top)
    )
    needed = {column: names for column, names in columns.items() if column not in optional}
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise CorpusError(f"{path} is not a table ({error})", expected=f"columns {', '.join(needed)}") from error
    filled = [(line, cells) for line, cells in lines[1 if said else 0 :] if any(cells)]
    tops = enumerate(filled[:_LINES_BEFORE])
    header = next((place for place, (_, cells) in tops if len(_places(cells, needed)) == len(needed)), 0)
    return as_table(path, filled[header][1] if filled else [], filled[header + 1 :], columns, optional)


def as_table(
    path: Path,
    names: Sequence[str],
    lines: Iterable[tuple[int, Sequence[str]]],
    columns: Columns,
    optional: Collection[str],
) -> Table:
    """Rows under known names, of numbered lines; a CorpusError if the table lacks a column, or has one twice."""
    places = _places(names, columns)
    if missing := [column for column in columns if column not in places and column not in optional]:
        found = f"{path} has the columns {', '.join(name for name in names if name) or '(none)'}"
        raise CorpusError(found, expected=f"also {', '.join(missing)}")
    spelt = [plain(name) for name in names]
    if twice := [names[place] for place in places.values() if spelt.count(spelt[place]) > 1]:
        found = f"{path} has more than one column {', '.join(twice)}"
        raise CorpusError(found, expected="one of each", fix="take out the columns that do not count")
    rows = []
    for line, cells in lines:
        row = Row({column: cells[place] for column, place in places.items() if place < len(cells)})
        row.line = line
        rows.append(row)
    others = [name for place, name in enumerate(names) if name and place not in places.values()]
    return Table(rows, frozenset(places), tuple(others))


def _decoded(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise CorpusError(f"{path} is larger than {MAX_TABLE_BYTES} bytes", expected="a smaller table")
        content = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror})", fix="check its rights") from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:200]:
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"  # without its mark
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8":
            return content.decode("cp1252", errors="replace")
        found = f"{path} holds byte 0x{error.object[error.start]:02x} at offset {error.start}, which is not {encoding}"
        raise CorpusError(found, expected="a table in UTF-8", fix="export it again as CSV in UTF-8") from error


def _places(names: Sequence[str], columns: Columns) -> dict[str, int]:
    """Where each known column stands, by the first of its names that is there."""
    spelt = [plain(name) for name in names]
    wanted = {
        column: [name for name in (plain(column), *others) if name in spelt] for column, others in columns.items()
    }
    return {column: spelt.index(found[0]) for column, found in wanted.items() if found}


def not_understood(
    path: Path, column: str, found: Mapping[str, Sequence[int]], expected: str, then: str = "it counts as unknown"
) -> list[str]:
    """One warning for each value that was not understood, with the lines where it stands."""
    return [
        f"{path.name} line{'s' if len(lines) > 1 else ''} {listed(lines)}: "
        f"the {column} {value!r} is not understood; expected {expected}; {then}"
        for value, lines in found.items()
    ]


SpeakerRows = Sequence[tuple[SpeakerId, Row]]


def values_of(
    path: Path, rows: SpeakerRows, column: str, read: Callable[[str], V | None], expected: str
) -> tuple[dict[SpeakerId, set[V]], list[str]]:
    """The values of a column for each speaker, an empty set without any; and warnings of values not understood."""
    found: dict[SpeakerId, set[V]] = {speaker: set() for speaker, _ in rows}
    odd: dict[str, list[int]] = defaultdict(list)
    for speaker, row in rows:
        value = read(row[column])
        if value is not None:
            found[speaker].add(value)
        elif not is_unknown(row[column]):
            odd[row[column]].append(row.line)
    return found, not_understood(path, column.lower(), odd, expected)


def read_demographics(path: Path) -> tuple[dict[SpeakerId, Speaker], list[str]]:
    """Speakers by their number, and a warning for each value that says nothing usable. Errors: see `read_table`."""
    rows: list[tuple[SpeakerId, Row]] = []
    odd: dict[str, list[int]] = defaultdict(list)
    for row in read_table(path, _PEOPLE):
        if (match := _ACTOR.fullmatch(row["ActorID"])) is None:
            odd[row["ActorID"]].append(row.line)
        else:
            rows.append((str(int(match[1])), row))
    people, warnings = describe_people(path, rows)
    return people, [*not_understood(path, "ActorID", odd, "a number", "the row is ignored"), *warnings]


def describe_people(
    path: Path, rows: SpeakerRows, columns: Sequence[str] = ("Sex", "Age")
) -> tuple[dict[SpeakerId, Speaker], list[str]]:
    """Sex and age of speakers from the rows of a table, and a warning for each value that says nothing usable.

    Of the columns `Sex` and `Age`, those that the table has not are left out.
    """
    has_h = any(row["Sex"].casefold().rstrip(".") == "h" for _, row in rows)  # hombre: then `M` may be mujer
    sex_of = {word: sex for word, sex in _SEX_OF.items() if word != "m" or not has_h}
    readers: dict[str, tuple[Callable[[str], str | int | None], str]] = {
        "Sex": (lambda text: sex_of.get(text.casefold().rstrip(".")), "female or male"),
        "Age": (_age, f"years from {MIN_AGE} to {MAX_AGE}, or a range within one age group"),
    }
    known: dict[str, dict[SpeakerId, Any]] = {"Sex": {}, "Age": {}}
    wrong, contradicting, silent = [], [], []
    for column in columns:
        found, odd = values_of(path, rows, column, *readers[column])
        known[column] = {speaker: next(iter(values)) for speaker, values in found.items() if len(values) == 1}
        wrong += odd
        if several := [speaker for speaker, values in found.items() if len(values) > 1]:
            found_in = f"{path.name} has contradicting rows of {len(several)} speakers"
            contradicting.append(f"{found_in}, whose {column.lower()} counts as unknown: {listed(several)}")
        unknown = {speaker for speaker, row in rows if is_unknown(row[column])}
        if nothing := in_order(speaker for speaker in unknown if not found[speaker]):
            silent.append(f"{path.name} gives no {column.lower()} of {len(nothing)} speakers: {listed(nothing)}")
    people = {s: Speaker(s, known["Sex"].get(s), known["Age"].get(s)) for s, _ in rows}
    return people, [*wrong, *contradicting, *silent]


def _age(text: str) -> int | None:
    """Age in years; for a range its middle, if the whole range is in one of the groups that a release states."""
    match = _AGES.fullmatch(text) or _AGE.fullmatch(text)
    if match is None:
        return None
    low, high = int(match[1]), int(match[match.lastindex or 1])
    return (low + high) // 2 if MIN_AGE <= low <= high <= MAX_AGE and age_group(low) == age_group(high) else None
