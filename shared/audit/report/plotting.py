"""One style for every chart: drawn by matplotlib, put into a page as inline SVG or written as a file.

A page's content security policy forbids `style` attributes, and its colours change in dark mode and print. So `inline`
turns matplotlib's styles into plain SVG attributes, and each colour of the palette into the page's CSS variable.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from moretta.shared.core.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

PAPER, INK, SOFT, LINE, FAINT = "#ffffff", "#1c2126", "#5a6570", "#d9dee3", "#98a2ab"
HEAT, ALARM = "#3f7ec0", "#b3261e"
TONES = ("#24578f", "#a4501b", "#3c7a3f", "#6d4a93", "#a32a5b", SOFT)
"""Colours of series."""
_VARIABLES = {
    PAPER: "paper", INK: "ink", SOFT: "soft", LINE: "line", FAINT: "faint", HEAT: "heat", ALARM: "alarm",
    **dict(zip(TONES[:5], ("accent", "second", "third", "fourth", "fifth"), strict=True)),
}  # fmt: skip
"""The page's CSS variables, by their colour on paper."""
MARKERS = ("o", "s", "D", "^")
SMALL = 11  # font size of what is read second, in px
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 12,
    "axes.titlesize": 12, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlecolor": INK,
    "axes.labelsize": SMALL, "axes.labelcolor": SOFT, "axes.edgecolor": LINE, "axes.grid": True, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "grid.color": LINE, "grid.linewidth": 0.8, "text.color": INK,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": SOFT, "ytick.labelcolor": SOFT,
    "xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "legend.fontsize": SMALL, "legend.frameon": False,
    "legend.labelcolor": INK,
}  # fmt: skip
_PIXELS_PER_INCH = 72  # an SVG of matplotlib has one unit a point: sizes here are CSS pixels
_LABEL_PIXELS = 15


@dataclass(frozen=True, slots=True)
class ReferenceLine:
    """A line across a panel, or without dashes only its label."""

    value: float
    label: str
    colour: str = SOFT
    dashes: tuple[float, ...] = (4, 4)


@dataclass
class Chart:
    """A drawing, with a description for readers who do not see it."""

    title: str
    width: float
    height: float  # CSS pixels
    tips: dict[str, str] = field(default_factory=dict)
    """Texts of the marks, by id: shown on hover, and together the description of the chart."""
    figure: Figure = field(init=False)

    def __post_init__(self) -> None:
        size = (self.width / _PIXELS_PER_INCH, self.height / _PIXELS_PER_INCH)
        self.figure = Figure(figsize=size, layout="constrained")

    def tip(self, mark: Any, text: str, *, key: str = "") -> None:
        """Say what a mark stands for. `key` is its id in a file."""
        key = key or f"mark {len(self.tips)}"
        mark.set_gid(key)
        self.tips[key] = printable(text)

    def file(self, form: str, **options: Any) -> bytes:
        """A PNG or SVG file: the same chart gives the same bytes."""
        return self._saved("moretta", format=form, metadata={"Date": None} if form == "svg" else None, **options)

    def inline(self, name: str) -> Markup:
        """An `<svg>` for a page; `name` is unique in it (letters, digits, dashes)."""
        drawing = self._saved(name, format="svg", transparent=True, metadata={"Date": None})
        root = ET.fromstring(drawing)  # noqa: S314 - matplotlib's own output
        _make_plain(root, self.tips, set(re.findall(rb'href="#([^"]+)"', drawing)))
        width, height = root.attrib["viewBox"].split()[2:]
        root.attrib.update({"width": width, "height": height, "role": "img"})
        root.set("aria-labelledby", f"{name}-title {name}-desc")
        for index, (tag, text) in enumerate((("title", self.title), ("desc", "; ".join(self.tips.values())))):
            element = ET.Element(tag, id=f"{name}-{tag}")
            element.text = printable(text)
            root.insert(index, element)
        return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - ElementTree escapes texts and attributes

    def _saved(self, salt: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        with styled(salt):
            self.figure.savefig(buffer, **options)
        return buffer.getvalue()


@contextmanager
def styled(salt: str = "") -> Iterator[None]:
    """Draw in the one style. `salt` makes an SVG's ids the same in each run and unlike those of other charts."""
    with rc_context({**STYLE, "svg.hashsalt": salt}):
        yield


def percent_axis(axis: Axis, low: float, high: float, step: float) -> None:
    """Ticks at whole steps, in percent."""
    axis.set_ticks([low + index * step for index in range(round((high - low) / step) + 1)])
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def draw_references(axes: Axes, lines: Sequence[ReferenceLine]) -> None:
    """Lines across, each labelled at its right end; labels keep their distance from each other."""
    low, high = axes.get_ylim()
    gap = _LABEL_PIXELS / (axes.get_window_extent().height * _PIXELS_PER_INCH / axes.figure.dpi)
    ends = [(line.value - low) / (high - low) for line in lines]
    for line, place in zip(lines, spread(ends, gap=gap, low=0, high=1), strict=True):
        if line.dashes:
            axes.axhline(line.value, color=line.colour, linewidth=1.3, linestyle=(0, line.dashes), zorder=1.5)
        axes.annotate(
            printable(line.label), (1, place), (6, 0), xycoords="axes fraction", textcoords="offset points",
            va="center", color=line.colour, fontsize=SMALL, fontweight="normal" if line.dashes else "bold",
            annotation_clip=False,
        )  # fmt: skip


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart to at least `gap`, in their order, inside [low, high] where there is room.

    >>> spread([10, 11, 40], gap=10, low=0, high=100)
    [10.0, 20.0, 40.0]
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = [0.0] * len(positions)
    for index in order:
        placed[index] = max(float(positions[index]), low)
        low = placed[index] + gap
    for index in reversed(order):
        placed[index] = min(placed[index], high)
        high = placed[index] - gap
    return placed


def _make_plain(element: ET.Element, tips: Mapping[str, str], shared: set[bytes]) -> None:
    """Leave what a page allows: no style, no clipping, no namespace, no id but of shapes that are referred to."""
    element.tag = element.tag.rpartition("}")[2]
    for child in list(element):
        if child.tag.rpartition("}")[2] in {"metadata", "style", "clipPath"}:
            element.remove(child)
        else:
            _make_plain(child, tips, shared)
    values = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
    styles = (part.partition(":") for part in values.pop("style", "").split(";") if part.strip())
    values |= {key.strip(): value.strip() for key, _, value in styles}
    identity = values.get("id", "")
    dropped = {"clip-path", "font-family", "version"} | ({"id"} if identity.encode() not in shared else set())
    element.attrib = {
        key: f"var(--{_VARIABLES[v]})" if v in _VARIABLES else v for key, v in values.items() if key not in dropped
    }
    if identity in tips:
        title = ET.Element("title")
        title.text = tips[identity]
        element.insert(0, title)
