"""The few SVG marks the figures are drawn with. Colours come from classes, so that dark mode and print can change them.

No `style` attribute is written: the report's content security policy forbids them.
"""

from __future__ import annotations

from html import escape

from moretta.shared.core.printable import printable


def _safe(text: str) -> str:
    return escape(printable(text, lines=True))


def number(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def attributes(**values: str | float | None) -> str:
    """Attributes with their names' underscores as dashes (`class_` is `class`), values escaped, None left out."""
    parts = []
    for key, value in values.items():
        if value is None or value == "":
            continue
        name = key.rstrip("_").replace("_", "-")
        parts.append(f' {name}="{number(value) if isinstance(value, int | float) else _safe(value)}"')
    return "".join(parts)


def text(x: float, y: float, label: str, *, class_: str = "", anchor: str = "start") -> str:
    """Text with its baseline at (x, y)."""
    return f"<text{attributes(x=x, y=y, class_=class_, text_anchor=anchor)}>{_safe(label)}</text>"


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> str:
    """A straight line."""
    return f"<line{attributes(x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)}/>"


def rectangle(x: float, y: float, width: float, height: float, *, class_: str, opacity: float | None = None) -> str:
    """A filled rectangle. `opacity` is that of the fill, 0 to 1."""
    shade = None if opacity is None else f"{opacity:.3f}"
    return f"<rect{attributes(x=x, y=y, width=width, height=height, class_=class_, fill_opacity=shade)}/>"


def polyline(points: list[tuple[float, float]], *, class_: str) -> str:
    """An open line through points."""
    return f"<polyline{attributes(points=_path(points), class_=class_)}/>"


def polygon(points: list[tuple[float, float]], *, class_: str) -> str:
    """A closed area."""
    return f"<polygon{attributes(points=_path(points), class_=class_)}/>"


def marker(x: float, y: float, *, shape: str, class_: str, tip: str = "", size: float = 5.0) -> str:
    """A mark: `circle`, `square`, `diamond` or `triangle`, with words that show on hover."""
    title = f"<title>{_safe(tip)}</title>" if tip else ""
    if shape == "circle":
        return f"<circle{attributes(cx=x, cy=y, r=size, class_=class_)}>{title}</circle>"
    s = size * 1.15
    points = {
        "square": [(x - size, y - size), (x + size, y - size), (x + size, y + size), (x - size, y + size)],
        "diamond": [(x, y - 1.15 * s), (x + 1.15 * s, y), (x, y + 1.15 * s), (x - 1.15 * s, y)],
        "triangle": [(x, y - s), (x + s, y + s), (x - s, y + s)],
    }[shape]
    return f"<polygon{attributes(points=_path(points), class_=class_)}>{title}</polygon>"


def figure(width: float, height: float, body: list[str], *, name: str, title: str, description: str) -> str:
    """A whole drawing, with a title and a description for readers who do not see it.

    Args:
        width: in user units; shown at most this wide in CSS pixels.
        height: in user units.
        body: the marks.
        name: unique in the page; letters, digits and dashes.
        title: what it is.
        description: what it shows.
    """
    head = attributes(
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    described = f'<title id="{name}-title">{_safe(title)}</title><desc id="{name}-desc">{_safe(description)}</desc>'
    return f"<svg{head}>{described}{''.join(body)}</svg>"


def spread(positions: list[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart to at least `gap`, in their order, inside [low, high] where there is room.

    >>> spread([10, 11, 40], gap=10, low=0, high=100)
    [10.0, 20.0, 40.0]
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = [0.0] * len(positions)
    floor = low
    for index in order:
        placed[index] = max(float(positions[index]), floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        if placed[index] <= ceiling:
            break
        placed[index] = ceiling
        ceiling -= gap
    return placed


def _path(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)
