"""Names beside the points of a plot, not one on top of another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels

SIZE = 8.0  # points: the names' height
NEAR = 11.0  # pixels from the point to its name, where there is room
STEP, RINGS = 7.0, 40  # pixels between the rings of places that are tried, and how many there are
CROSSING = 4.0  # pixels of distance that a name goes to avoid one dot of a line


def place(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    colours: Sequence[str],
    bars: Sequence[Sequence[float] | None],
) -> None:
    """Write each of `names` near its point (data coordinates), clear of every other name and point, and lead a thin line
    of its colour to it.

    `bars` are intervals in y that names keep off where they can. A name for which there is no free place at all is left
    out.
    """
    _settle(axes)
    at = axes.transData.transform(np.asarray(points, np.float64))
    window = axes.get_window_extent()
    frame = window.x0, window.y0, window.x1, window.y1
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in at]
    lines = [_dots(axes, x, bar) for (x, _), bar in zip(points, bars, strict=True) if bar is not None]
    crossed = np.concatenate([np.empty((0, 2)), *lines])
    # The crowded ones last: they have to give way anyhow.
    near = [np.sort(np.hypot(*(at - point).T))[min(3, len(at) - 1)] for point in at]
    for index in np.argsort(near)[::-1]:
        point, size = at[index], _size(axes, names[index])
        box = _best(point, size, frame, taken, crossed)
        if box is None:
            continue
        taken.append(box)
        line = _line(point, box)
        _write(axes, box, names[index])
        ends = axes.transData.inverted().transform(line[[0, -1]])
        axes.plot(*ends.T, color=colours[index], linewidth=0.8, zorder=1)
        crossed = np.concatenate([crossed, line])


def _best(point: Floats, size: tuple[float, float], frame: Box, taken: Sequence[Box], crossed: Floats) -> Box | None:
    """The free box inside the frame that is nearest, where each dot crossed counts as some distance; None without."""
    best, least = None, math.inf
    for reach, box in _around(point, size):
        if reach >= least:
            break
        if _inside(box, frame) and not any(_overlap(box, other) for other in taken):
            cost = reach + CROSSING * (_within(crossed, box) + _through(taken, _line(point, box)))
            best, least = (box, cost) if cost < least else (best, least)
    return best


def spread(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str]) -> None:
    """Write each of `names` to the right of the axes at the height of its point, or as near to that as leaves each its
    own line, with a thin line between the two."""
    _settle(axes)
    at = axes.transData.transform(np.asarray(points, np.float64))
    frame = axes.get_window_extent()
    need = 1.25 * max(_size(axes, name)[1] for name in names)
    order = np.argsort(at[:, 1])
    heights = apart(at[order, 1], need, frame.y0, frame.y1)
    for index, height in zip(order, heights, strict=True):
        across, up = axes.transAxes.inverted().transform((frame.x1, height))
        axes.annotate(
            names[index],
            points[index],
            (across + 0.025, up),
            textcoords="axes fraction",
            fontsize=SIZE,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[index], "linewidth": 0.8, "shrinkB": 4, "relpos": (0, 0.5)},
        )


def apart(wanted: Floats, need: float, low: float, high: float) -> Floats:
    """The ascending heights `wanted`, moved as little as makes neighbours at least `need` apart.

    They stay between `low` and `high` where there is room for all. Least squares under an order: pool adjacent violators.
    """
    steps = need * np.arange(len(wanted))
    groups: list[list[float]] = []
    for value in wanted - steps:
        groups.append([float(value)])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    level = np.concatenate([np.full(len(group), np.mean(group)) for group in groups])
    top = max(low, high - float(steps[-1]))
    return np.asarray(np.clip(level, low, top) + steps)


def _settle(axes: Axes) -> None:
    """Lay the figure out, so that pixels are what they will be."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()


def _size(axes: Axes, name: str) -> tuple[float, float]:
    """Width and height in pixels, with what keeps two names apart."""
    text = axes.text(0, 0, name, fontsize=SIZE)
    extent = text.get_window_extent()
    text.remove()
    return float(extent.width) + 5, float(extent.height) + 1


def _around(point: Floats, size: tuple[float, float]) -> Iterator[tuple[float, Box]]:
    """Boxes of that size round the point, the nearest first: (distance in pixels, box)."""
    width, height = size
    for ring in range(RINGS):
        reach = NEAR + STEP * ring
        for angle in np.linspace(0, 2 * np.pi, 8 if ring < 2 else 16, endpoint=False):
            x = point[0] + (reach + width / 2) * np.cos(angle)
            y = point[1] + (reach + height / 2) * np.sin(angle)
            yield reach, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _line(point: Floats, box: Box) -> Floats:
    """Dots (n, 2) from the point to the nearest place of the box."""
    end = np.clip(point, box[:2], box[2:])
    return np.asarray(np.linspace(point, end, 2 + int(math.dist(point, end) / 4)))


def _dots(axes: Axes, x: float, bar: Sequence[float]) -> Floats:
    low, high = axes.transData.transform([(x, bar[0]), (x, bar[1])])
    return np.asarray(np.linspace(low, high, 2 + int(math.dist(low, high) / 4)))


def _within(dots: Floats, box: Box) -> int:
    x, y = dots.T
    return int(((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).sum())


def _through(boxes: Sequence[Box], line: Floats) -> int:
    """Dots of a line that lie in other names and points; its own point's, which it starts in, are not counted."""
    left, bottom, right, top = np.asarray(boxes).T[:, :, None]
    x, y = line[4:].T
    return int(((x > left) & (x < right) & (y > bottom) & (y < top)).sum())


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _inside(box: Box, frame: Box) -> bool:
    return frame[0] < box[0] and frame[1] < box[1] and box[2] < frame[2] and box[3] < frame[3]


def _write(axes: Axes, box: Box, name: str) -> None:
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    across, up = axes.transAxes.inverted().transform(middle)
    axes.text(across, up, name, fontsize=SIZE, ha="center", va="center", transform=axes.transAxes)
