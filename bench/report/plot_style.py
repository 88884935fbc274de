"""Colours, markers and legends of the plots, and ticks that are plain numbers.

A colour stands for runtime and precision, a marker for the model, so that a row is known by the two. Where that does not
tell all rows apart, each row has a combination of its own, and its own line in the legend.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .columns import runs_on
from .schema import ReportRow

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# The first six are Okabe and Ito's (2008), which the colour-blind can tell apart; more are rarely needed.
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#7F7F7F", "#8C564B", "#9467BD", "#999933", "#B22222", "#4FB3A5"),
)
MARKERS = ("o", "D", "s", "^", "v", "P", "X", "p", "*", "<", ">", "h")

STEPS = {3.0: (), 30.0: (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), 1000.0: (1.0, 2.0, 5.0), float("inf"): (1.0,)}
"""Ticks in a decade of a log axis whose ends have at most such a ratio; () is round numbers at even distances."""

INK = "#1b1f24"  # what becomes the page's own text colour where a plot stands in a page

WIDTH = 8.0  # inches, of every plot
LINE = 0.21  # inches, a line of a legend

Series = tuple[str, str, str, str, str]


def series_of(row: ReportRow) -> Series:
    """What rows of one model run one way have in common, whatever their batch size."""
    return row.path, row.format, row.role, row.precision, row.device


@dataclass(frozen=True)
class Mark:
    """How one series is drawn."""

    colour: str
    marker: str


@dataclass
class Styles:
    """The marks of a report's series, and the legend that says what they stand for.

    Attributes:
        marks: One for each series, all different up to 144 of them.
        colours: What each colour stands for.
        markers: What each marker stands for.
        lines: What each mark stands for, where colours and markers alone do not tell all series apart.
    """

    marks: dict[Series, Mark] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    markers: dict[str, str] = field(default_factory=dict)
    lines: dict[str, Mark] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[ReportRow]) -> Styles:
        """The styles of these rows, in their order."""
        series = {series_of(row): row for row in reversed(rows)}
        each = list({series_of(row): series[series_of(row)] for row in rows}.values())
        ways = list(dict.fromkeys(map(_way, each)))
        models = list(dict.fromkeys(map(_bare_name, each)))
        told_apart = len({(_way(row), _bare_name(row)) for row in each}) == len(each)
        if told_apart and len(ways) <= len(PALETTE) and len(models) <= len(MARKERS):
            colours, markers = dict(zip(ways, PALETTE, strict=False)), dict(zip(models, MARKERS, strict=False))
            marks = {series_of(row): Mark(colours[_way(row)], markers[_bare_name(row)]) for row in each}
            return cls(marks, colours, markers)
        combinations = [Mark(colour, marker) for marker in MARKERS for colour in PALETTE]
        all_marks = [combinations[index % len(combinations)] for index in range(len(each))]
        lines = dict(zip(names(each, full=True), all_marks, strict=True))
        return cls(dict(zip(map(series_of, each), all_marks, strict=True)), lines=lines)

    def __getitem__(self, row: ReportRow) -> Mark:
        return self.marks[series_of(row)]

    @property
    def height(self) -> float:
        """Inches that the legend takes."""
        return LINE * -(-len(self._labels) // self._columns)

    @property
    def _labels(self) -> list[str]:
        return [*self.colours, *self.markers, *self.lines]

    @property
    def _columns(self) -> int:
        longest = max(map(len, self._labels), default=1)
        return max(1, int(WIDTH / (0.075 * longest + 0.55)))

    def legend(self, figure: Figure) -> None:
        """Write above the axes of `figure` what colours and markers stand for."""
        from matplotlib.lines import Line2D

        handles = [
            *(Line2D([], [], color=colour, linewidth=5) for colour in self.colours.values()),
            *(Line2D([], [], linestyle="", marker=marker, color=INK) for marker in self.markers.values()),
            *(Line2D([], [], linestyle="", marker=mark.marker, color=mark.colour) for mark in self.lines.values()),
        ]
        figure.legend(
            handles,
            self._labels,
            loc="outside upper left",
            ncols=self._columns,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.2,
            labelspacing=0.3,
        )


def _way(row: ReportRow) -> str:
    return f"{runs_on(row)}, {row.precision}"


def _bare_name(row: ReportRow) -> str:
    """The model's name without what its colour says already, and without the images' size."""
    return re.sub(rf"-\d+x\d+\b|-{re.escape(row.precision)}\b", "", row.model)


def names(rows: Sequence[ReportRow], full: bool = False) -> list[str]:
    """Names that tell the rows apart; the runtime is in them where `full`, or where the model alone does not."""
    models = [row.model for row in rows]
    where = [f"{row.model}, {runs_on(row)}" for row in rows]
    found = []
    for row, there in zip(rows, where, strict=True):
        name = there if full or models.count(row.model) > 1 else row.model
        precision = row.precision not in row.model and (full or where.count(there) > 1)
        found.append(f"{name}, {row.precision}" if precision else name)
    return found


def log_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Plain numbers on a log axis, about as many however wide the range of `values` is."""
    from matplotlib import ticker

    ratio = max(values) / min(values)
    steps = next(steps for most, steps in STEPS.items() if ratio < most)
    even = ticker.MaxNLocator(6, steps=[1, 2, 5, 10])
    axis.set_major_locator(ticker.LogLocator(subs=steps) if steps else even)
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())
