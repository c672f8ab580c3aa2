"""Text from elsewhere, made fit for a terminal, a log and a page: it can move no cursor and forge no line.

What a site, a server or a file says is written down where people read it. Characters that are not shown as themselves
(control characters, line ends, marks that turn the direction of writing) are written as escapes.
"""

from __future__ import annotations

import logging
import traceback
from types import TracebackType
from typing import Any
from unicodedata import category

import tomli_w


def printable(text: object, *, lines: bool = False, most: int | None = None) -> str:
    r"""The text with everything escaped that is no visible character or space.

    Args:
        text: anything; `str` of it is taken.
        lines: whether line ends and tabs stay as they are.
        most: characters that are shown; dots stand for the rest.

    >>> print(printable("a\x1b[2Jb\nsite-b: all is well"))
    a\x1b[2Jb\nsite-b: all is well
    """
    whole, kept = str(text), "\n\t" if lines else ""
    shown = "".join(c if c.isprintable() or c in kept or category(c) == "Zs" else _escaped(c) for c in whole[:most])
    return shown if most is None or max(len(whole), len(shown)) <= most else f"{shown[:most]}..."


class PrintableRecord(logging.LogRecord):
    """A line of a log whose text is printable, whoever formats it.

    Line ends stay where a template has them and arguments follow: templates are code, arguments are data. A traceback
    keeps its lines, each behind a mark that no line of a log begins with.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if isinstance(self.exc_info, tuple):
            self.exc_text = printable_traceback(*self.exc_info)

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """The whole text."""
        if not self.args:
            return printable(self.msg, lines=not self.name.startswith("moretta"))
        arguments = self.args
        if isinstance(arguments, tuple):
            arguments = tuple(map(_argument, arguments))
        else:
            arguments = {key: _argument(value) for key, value in arguments.items()}
        return printable(str(self.msg) % arguments, lines=True)


def printable_traceback(
    kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> str:
    """A traceback; what the error says can begin no line of its own."""
    text = printable("".join(traceback.format_exception(kind, error, trace)), lines=True)
    return "\n".join(f"  | {line}" for line in text.splitlines())


def shown(value: object) -> object:
    """A value in a page's template: text is made printable, markup and numbers stay."""
    return printable(value, lines=True) if isinstance(value, str) and not hasattr(value, "__html__") else value


def log_printable() -> None:
    """Make every line that this process logs printable, Flower's included."""
    logging.setLogRecordFactory(PrintableRecord)


def _argument(value: Any) -> Any:
    """Numbers stay numbers, for `%d`."""
    return value if isinstance(value, int | float) else printable(value)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def to_toml(content: dict[str, Any]) -> str:
    """Nested values as TOML. Null values are left out, because TOML has none.

    >>> print(to_toml({"seed": 1, "voice": {"epsilon": 0.8, "weights": None}}), end="")
    seed = 1
    <BLANKLINE>
    [voice]
    epsilon = 0.8
    """
    return tomli_w.dumps(_without_nulls(content))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list | tuple) else value
