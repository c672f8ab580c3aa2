"""Text from elsewhere, made fit for terminals, logs, pages and tables: it moves no cursor, forges no line. Logging too.

Every process of a run logs under the same id: Flower's, once the run is submitted; until then one of the command.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import secrets
import sys
import tomllib
import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any
from unicodedata import category, normalize

import tomli_w

_RUN, _LEVEL = "MORETTA_RUN_ID", "MORETTA_LOG_LEVEL"
_FORMAT = "%(asctime)s %(levelname)s run=%(run)s %(name)s: %(message)s"


def printable(text: object, *, lines: bool = False, most: int | None = None) -> str:
    r"""The text with everything escaped that is no visible character or space: control characters, turned text.

    Args:
        text: anything; `str` of it is taken.
        lines: whether line ends and tabs stay as they are.
        most: characters that are shown; dots stand for the rest.

    >>> print(printable("a\x1b[2Jb\nsite-b: all is well"))
    a\x1b[2Jb\nsite-b: all is well
    """
    whole, kept = str(text), "\n\t" if lines else ""
    shown = "".join(
        c
        if c.isprintable() or c in kept or category(c) == "Zs"
        else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in whole[:most]
    )
    return shown if most is None or max(len(whole), len(shown)) <= most else f"{shown[:most]}..."


def printable_traceback(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> str:
    """A traceback; what the error says can begin no line of its own."""
    text = printable("".join(traceback.format_exception(kind, error, trace)), lines=True)
    return "\n".join(f"  | {line}" for line in text.splitlines())


def shown(value: object) -> object:
    """A value in a page's template: text is made printable, markup and numbers stay."""
    return printable(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value


def from_toml(text: str) -> dict[str, Any]:
    """TOML as nested values. Raises tomllib.TOMLDecodeError: it is none, or its brackets are nested deeper than Python
    can follow."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("brackets are nested too deeply") from error


def to_csv(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    r"""Rows as CSV: null is empty, numbers stay numbers, and no spreadsheet takes a text for a formula.

    >>> to_csv(["name", "value"], [["=1+1", -1.5], ["a\nb", None]]).splitlines()
    ['name,value', "'=1+1,-1.5", 'a\\nb,']
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows(map(_cell, row) for row in (headings, *rows))
    return buffer.getvalue()


def _cell(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    text = printable(value)
    # Wide forms of these characters begin a formula, too (OWASP, "CSV injection")
    return f"'{text}" if normalize("NFKC", text.lstrip()[:1]) in ("=", "+", "-", "@") else text


def to_toml(content: dict[str, Any]) -> str:
    """Nested values as TOML. Null values are left out, because TOML has none."""
    return tomli_w.dumps(_without_nulls(content))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list | tuple) else value


class PrintableRecord(logging.LogRecord):
    """A line of a log whose text is printable. Line ends of templates with arguments stay: templates are code.

    A traceback keeps its lines, each behind a mark that no line of a log begins with.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if isinstance(self.exc_info, tuple):
            self.exc_text = printable_traceback(*self.exc_info)

    def getMessage(self) -> str:  # noqa: N802, D102 - logging's name
        if not self.args:
            return printable(self.msg, lines=not self.name.startswith("moretta"))
        if isinstance(self.args, tuple):
            return printable(str(self.msg) % tuple(map(_argument, self.args)), lines=True)
        return printable(str(self.msg) % {key: _argument(value) for key, value in self.args.items()}, lines=True)


def _argument(value: Any) -> Any:
    """Numbers stay numbers, for `%d`."""
    return value if isinstance(value, int | float) else printable(value)


def log_printable() -> None:
    """Make every line that this process logs printable, Flower's included."""
    logging.setLogRecordFactory(PrintableRecord)


def set_up_logging(level: int = logging.WARNING, *, verbose: bool = False) -> None:
    """Log to standard error: Moretta from `level` on, libraries from warnings on. Another call may lower the level.

    `verbose` writes every step, in this process and in those that it starts.
    """
    log_printable()
    if verbose:
        os.environ[_LEVEL] = "DEBUG"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(_is_written)
    logging.basicConfig(handlers=[handler])
    wanted = os.environ.get(_LEVEL, level)
    if wanted != logging.WARNING:  # the root's own level
        logging.getLogger("moretta").setLevel(wanted)


def _is_written(record: logging.LogRecord) -> bool:
    """Lines of Moretta, and warnings of libraries; Flower's logger writes its own."""
    record.run = run_id()
    library = record.name.partition(".")[0]
    return library == "moretta" or (record.levelno >= logging.WARNING and library != "flwr")


def run_id() -> str:
    """The id of the run that this process belongs to; a new one where there is none."""
    return os.environ.setdefault(_RUN, secrets.token_hex(4))


def use_run_id(number: object) -> None:
    """Log under this id from now on, here and in child processes that start later."""
    os.environ[_RUN] = str(number)
