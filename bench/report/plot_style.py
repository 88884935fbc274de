"""What a row looks like in a plot: its colour, its marker, its name; and ticks that are plain numbers.

Okabe and Ito's palette (2008), which the colour-blind can tell apart, is for runtimes; the marker is for the precision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .schema import Row
from .table import runs_on

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = {"fp32": "o", "tf32": "p", "fp16": "^", "bf16": "s", "int8": "D", "fp8": "v"}
FEW = 8  # points that have room for long names
OTHER = "X"  # the marker of any other precision
STEPS = {3.0: (), 30.0: (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), 1000.0: (1.0, 2.0, 5.0), float("inf"): (1.0,)}
"""Ticks in a decade of a log axis whose ends have at most such a ratio; () is round numbers at even distances."""

INK = "#1b1f24"  # what becomes the page's own text colour where a plot stands in a page


Look = Callable[[Row], tuple[str, str]]  # (colour, marker)


def looks(rows: Sequence[Row]) -> Look:
    """(colour, marker) of a row: one colour for each runtime in order of appearance, going round when there are more."""
    runtimes = list(dict.fromkeys(map(runs_on, rows)))

    def look(row: Row) -> tuple[str, str]:
        return PALETTE[runtimes.index(runs_on(row)) % len(PALETTE)], MARKERS.get(row.precision, OTHER)

    return look


def short(rows: Sequence[Row]) -> list[str]:
    """Names beside points whose colour says the runtime and whose marker the precision: in a crowd no more than needed."""
    if len(rows) <= FEW:
        return names(rows)
    bare = [re.sub(rf"-\d+x\d+\b|-{re.escape(row.precision)}\b", "", row.model) for row in rows]
    seen = [(name, runs_on(row), row.precision) for name, row in zip(bare, rows, strict=True)]
    clear = len(set(seen)) == len(rows) and len(set(map(runs_on, rows))) <= len(PALETTE)
    return bare if clear else names(rows)


def names(rows: Sequence[Row], full: bool = False) -> list[str]:
    """Names that tell the rows apart; the runtime is in them where `full`, or where the model alone does not."""
    models = [row.model for row in rows]
    where = [f"{row.model}, {runs_on(row)}" for row in rows]
    found = []
    for row, there in zip(rows, where, strict=True):
        name = there if full or models.count(row.model) > 1 else row.model
        precision = row.precision not in row.model and (full or where.count(there) > 1)
        found.append(f"{name}, {row.precision}" if precision else name)
    return found


def legend(figure: Figure, rows: Sequence[Row], look: Look) -> None:
    from matplotlib.lines import Line2D

    runtimes = {runs_on(row): Line2D([], [], color=look(row)[0], linewidth=5) for row in rows}
    markers = {row.precision: Line2D([], [], linestyle="", marker=look(row)[1], color=INK) for row in rows}
    handles = {**runtimes, **markers}
    figure.legend(
        list(handles.values()), list(handles), loc="outside upper left", ncols=5, frameon=False, handlelength=1.2
    )


def log_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Plain numbers on a log axis, about as many however wide the range of `values` is."""
    from matplotlib import ticker

    ratio = max(values) / min(values)
    steps = next(steps for most, steps in STEPS.items() if ratio < most)
    even = ticker.MaxNLocator(6, steps=[1, 2, 5, 10])
    axis.set_major_locator(ticker.LogLocator(subs=steps) if steps else even)
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(ticker.NullLocator())
