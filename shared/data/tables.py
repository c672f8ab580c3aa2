"""Tables as people keep them, in any usual encoding, delimiter and spelling of columns; every row knows its line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moretta.shared.core.errors import CorpusError

MAX_TABLE_BYTES = 16 * 1024 * 1024
"""CREMA-D's largest table has 0.5 MB."""
_DELIMITERS = (",", ";", "\t", "|")
_LINES_BEFORE = 20  # titles and comments may stand above the names of the columns
_SAID = re.compile(r"sep=.\r?\n", re.IGNORECASE)  # as Excel writes which delimiter follows
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def listed(items: Sequence[object], most: int = 10) -> str:
    """The first of many, and how many more there are.

    >>> listed([1, 2, 3], most=2)
    '1, 2 and 1 more'
    """
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


Columns = Mapping[str, Sequence[str]]
"""Names of columns, each with its other names in small letters and digits."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row that holds anything."""

    line: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")


@dataclass(frozen=True, slots=True)
class Table:
    """A table that was read."""

    rows: list[Row]
    columns: frozenset[str]
    """Those of the columns asked for that it has."""
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
        _DELIMITERS, key=lambda mark: max((_columns(line.split(mark), columns), line.count(mark)) for line in top)
    )
    needed = {column: names for column, names in columns.items() if column not in optional}
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise CorpusError(f"{path} is not a table ({error})", expected=f"columns {', '.join(needed)}") from error
    filled = [(line, cells) for line, cells in lines[1 if said else 0 :] if any(cells)]
    top_rows = enumerate(filled[:_LINES_BEFORE])
    header = next((place for place, (_, cells) in top_rows if _columns(cells, needed) == len(needed)), 0)
    return as_table(path, filled[header][1] if filled else [], filled[header + 1 :], columns, optional)


def as_table(
    path: Path,
    names: Sequence[str],
    lines: Iterable[tuple[int, Sequence[str]]],
    columns: Columns,
    optional: Collection[str],
) -> Table:
    """Rows under known names, from the names that a table has and its numbered lines.

    Raises:
        CorpusError: it lacks a column, or has one twice.
    """
    places = {column: place for column in columns if (place := _place(names, column, columns)) is not None}
    if missing := [column for column in columns if column not in places and column not in optional]:
        found = f"{path} has the columns {', '.join(name for name in names if name) or '(none)'}"
        raise CorpusError(found, expected=f"also {', '.join(missing)}")
    spelt = [_plain(name) for name in names]
    if twice := [names[place] for place in places.values() if spelt.count(spelt[place]) > 1]:
        found = f"{path} has more than one column {', '.join(twice)}"
        raise CorpusError(found, expected="one of each", fix="take out the columns that do not count")
    rows = [
        Row(line, {column: cells[place] if place < len(cells) else "" for column, place in places.items()})
        for line, cells in lines
    ]
    others = [name for place, name in enumerate(names) if name and place not in places.values()]
    return Table(rows, frozenset(places), tuple(others))


def not_understood(
    path: Path, column: str, found: Mapping[str, Sequence[int]], expected: str, then: str = "it counts as unknown"
) -> list[str]:
    """One warning for each value that was not understood, with the lines where it stands."""
    return [
        f"{path.name} line{'s' if len(lines) > 1 else ''} {listed(lines)}: "
        f"the {column} {value!r} is not understood; expected {expected}; {then}"
        for value, lines in found.items()
    ]


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


def _place(names: Sequence[str], column: str, known: Columns) -> int | None:
    spelt = [_plain(name) for name in names]
    for wanted in (_plain(column), *known[column]):
        if wanted in spelt:
            return spelt.index(wanted)
    return None


def _columns(names: Sequence[str], known: Columns) -> int:
    return sum(_place(names, column, known) is not None for column in known)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
