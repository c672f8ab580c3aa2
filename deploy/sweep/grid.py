"""Grid of a sweep: a base study, and curves along which some of its keys take several values."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moretta.shared.core.errors import StudyError
from moretta.shared.core.printable import from_toml
from moretta.shared.study.schema import Study, load_study, parse_study

Scalar = str | int | float | bool
Folds = Literal["one", "all"]
EPSILON = "privacy.epsilon"
INFINITY = "inf"
_FIX = "see docs/sweep.md"


class CurveSection(BaseModel):
    """`[[curve]]`: a line of the plot, or several."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    set: dict[str, Any] = Field(default_factory=dict)  # keys of the study that all its cells share
    axes: dict[str, Any] = Field(default_factory=dict)
    """Keys and the values they take. The first runs along a line; each choice of the others is a line of its own."""


class GridFile(BaseModel):
    """A whole grid file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")
    study: Path | None = None  # the base study, relative to the grid file
    base: dict[str, Any] = Field(default_factory=dict)  # the base study's content, in its place
    folder: Path | None = Field(default=None, exclude=True)  # that paths in it are relative to: where the file lies
    folds: Folds = "one"
    seeds: tuple[int, ...] = ()  # empty means the base study's
    set: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)
    curve: tuple[CurveSection, ...] = ()


@dataclass(frozen=True, slots=True)
class GridCell:
    """One study of the grid, for one seed. Its seed is in the study."""

    curve: str
    settings: tuple[tuple[str, Scalar], ...]
    """Keys and values that differ between cells, in the order of the axes; an epsilon without DP-SGD is `inf`."""
    study: Study

    @property
    def label(self) -> str:
        """The curve's name, and the settings that are not in it."""
        left = [pair for pair in self.settings if _short(*pair) not in self.curve.split(", ")]
        text = ", ".join(f"{key} = {value}" for key, value in left)
        return f"{self.curve}: {text}" if text and self.curve != text else self.curve or text


@dataclass(frozen=True)
class Grid:
    """All cells, in order."""

    name: str
    folds: Folds
    cells: tuple[GridCell, ...]
    content: dict[str, Any] = field(default_factory=dict)  # as it was written, for the report


def load_grid(path: Path) -> GridFile:
    """Read a grid file; paths in it are relative to it.

    Raises:
        StudyError: it is missing, not TOML, or has unknown keys.
    """
    try:
        grid = GridFile.model_validate(from_toml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        fix = "correct the path" if isinstance(error, OSError) else _FIX
        raise StudyError(f"the grid file {path} cannot be used: {error}", expected="a grid in TOML", fix=fix) from error
    study = None if grid.study is None else (path.parent / grid.study).resolve()
    return grid.model_copy(update={"study": study, "folder": path.parent.resolve()})


def make_grid(grid: GridFile) -> Grid:
    """All cells of a grid: every study in it is checked before anything is computed.

    Raises:
        StudyError: a key or value that no study can have, an empty axis, or nothing to sweep.
    """
    for one, other in (("study", "base"), ("axes", "curve")):
        if getattr(grid, one) and getattr(grid, other):
            raise StudyError(f"a grid with both `{one}` and `{other}`", expected="one of them", fix=_FIX)
    if grid.study is not None:
        base = load_study(grid.study)
    else:
        base = parse_study(grid.base, source="[base] of the grid", folder=grid.folder)
    cells: dict[tuple[Any, ...], GridCell] = {}
    for curve in grid.curve or (CurveSection(axes=grid.axes),):
        fixed = {**_flat(grid.set), **_flat(curve.set)}
        for seed in grid.seeds or (base.seed,):
            for name, settings in _combinations(curve):
                where = tuple(settings.items())
                study = _study(base, {**fixed, **settings, "seed": seed}, name)
                cells.setdefault((name, where, seed), GridCell(name, where, study))
    return Grid(grid.name, grid.folds, tuple(cells.values()), _plain(grid.model_dump(exclude_defaults=True)))


def parse_axis(text: str) -> tuple[str, list[Scalar]]:
    """`KEY=V1,V2` of the command line; values are TOML, or text.

    >>> parse_axis("privacy.epsilon=1,2.5,inf")
    ('privacy.epsilon', [1, 2.5, inf])

    Raises:
        StudyError: no key or no value.
    """
    key, values = _split(text, example="privacy.epsilon=1,2,4")
    return key, [_parsed(value.strip()) for value in values.split(",")]


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` of the command line; the value is TOML, or text.

    >>> parse_setting("privacy.dp_sgd=true"), parse_setting("privacy.unit=clip")
    (('privacy.dp_sgd', True), ('privacy.unit', 'clip'))

    Raises:
        StudyError: no key or no value.
    """
    key, value = _split(text, example="privacy.epsilon=4", fix="see docs/study.md")
    return key, _parsed(value)


def _parsed(text: str) -> Any:
    try:
        return from_toml(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _split(text: str, *, example: str, fix: str = _FIX) -> tuple[str, str]:
    key, _, value = (part.strip() for part in text.partition("="))
    if not (key and value):
        raise StudyError(f"{text!r}", expected=f"KEY=VALUE, such as {example}", fix=fix)
    return key, value


def _short(key: str, value: Scalar) -> str:
    return f"{key.rpartition('.')[2]} {value}"


def _combinations(curve: CurveSection) -> Iterator[tuple[str, dict[str, Scalar]]]:
    """Name of the line and settings of each cell of a curve, line by line."""
    axes = {key: _values(key, values) for key, values in _flat(curve.axes).items()}
    if not axes:
        yield curve.name or "base", {}
        return
    (along, steps), *others = axes.items()
    for chosen in itertools.product(*(values for _, values in others)):
        rest = dict(zip((key for key, _ in others), chosen, strict=True))
        name = ", ".join(part for part in (curve.name, *itertools.starmap(_short, rest.items())) if part) or along
        for step in steps:
            yield name, {along: step, **rest}


def _values(key: str, values: Any) -> list[Scalar]:
    listed = values if isinstance(values, list) else [values]
    if not listed or not all(isinstance(value, str | int | float | bool) for value in listed):
        raise StudyError(f"the axis {key} = {values!r}", expected="a list of numbers, texts or truth values", fix=_FIX)
    if key in ("seed", "split.test_fold"):
        raise StudyError(f"an axis of {key}", expected="`seeds` or `folds`: figures are pooled over them", fix=_FIX)
    return [INFINITY if key == EPSILON and _infinite(value) else value for value in listed]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys: TOML reads `a.b = 1` and `"a.b" = 1` differently, and both are meant alike."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _plain(content: Any) -> Any:
    """Content for JSON, which has no infinity, and TOML, which has no null."""
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    return INFINITY if _infinite(content) else content


def _infinite(value: Any) -> bool:
    return value == INFINITY or (isinstance(value, float) and math.isinf(value))


def _study(base: Study, settings: Mapping[str, Any], name: str) -> Study:
    """The base study with keys changed. An infinite epsilon means training without DP-SGD."""
    changed = {key: value for key, value in settings.items() if key != EPSILON or not _infinite(value)}
    if len(changed) < len(settings):
        changed["privacy.dp_sgd"] = False
    content = base.content_with(changed)
    return parse_study(content, source=f"the cell {name!r} ({', '.join(f'{k} = {v}' for k, v in settings.items())})")
