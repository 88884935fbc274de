"""Three plots of a report: latency against SRCC, the distribution of latencies, images/s over batch size.

The legend says what colours and markers stand for, see `musiq_bench.report.plot_style`.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from musiq.errors import MusiqError, pip_install

from .latency import Latency
from .plot_style import INK, WIDTH, Mark, Series, Styles, log_ticks, names, series_of
from .schema import Report, ReportRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: Any = {
    "font.size": 9,
    "text.parse_math": False,  # a $ in a model's name is a $
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "svg.hashsalt": "musiq-bench",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": INK,
    "grid.alpha": 0.12,
}


@dataclass(frozen=True)
class Plot:
    """`name` is that of its file without ending; `svg` is an <svg> element for a page, its text in `currentColor`."""

    name: str
    title: str
    caption: str
    png: bytes
    svg: str


NAMES = ("latency-srcc", "latencies", "images-per-second")
TITLES = ("Latency and quality", "Latencies of single calls", "Images per second over batch size")


def draw(report: Report) -> list[Plot]:
    """Draw the plots for which the report has figures.

    Args:
        report: Its rows need a latency, for the first plot an SRCC as well, and for the last two batch sizes of a model.

    Returns:
        At most one plot for each of NAMES, in their order.

    Raises:
        MusiqError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as problem:
        raise MusiqError(f"Plots need matplotlib, which is missing: {pip_install('bench')}.") from problem
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells when it looks for fonts first
    titles = dict(zip(NAMES, TITLES, strict=True))
    with matplotlib.rc_context(STYLE):
        return [
            Plot(name, titles[name], caption, _png(figure), _svg(figure, name))
            for name, (figure, caption) in figures(report).items()
        ]


def figures(report: Report) -> dict[str, tuple[Figure, str]]:
    """The plots as matplotlib's figures, with their captions, by name."""
    rows = [row for row in report.rows if row.status == "ok" and row.latency_ms]
    drawn = {name: plot(rows) for name, plot in zip(NAMES, (_latency_srcc, _latencies, _images_per_s), strict=True)}
    return {name: found for name, found in drawn.items() if found is not None}


@dataclass(frozen=True)
class Point:
    row: ReportRow
    p50: float
    srcc: float
    bar: list[float] | None  # its interval


def _points(rows: Sequence[ReportRow], field: str) -> list[Point]:
    """Those that have both figures, at the smallest batch size among them."""
    found = [
        Point(row, row.latency_ms.p50, srcc, getattr(row, f"{field}_interval", None))
        for row in rows
        if (srcc := _srcc(row, field)) is not None and row.latency_ms and row.latency_ms.p50
    ]
    least = min((point.row.batch for point in found), default=0)
    return [point for point in found if point.row.batch == least]


def _latency_srcc(rows: Sequence[ReportRow]) -> tuple[Figure, str] | None:
    field = "srcc" if any(row.srcc is not None for row in rows) else "srcc_reference"
    points = _points(rows, field)
    if not points:
        return None
    batch = points[0].row.batch
    styles = Styles.of([point.row for point in points])
    figure, (axes,) = _panels(4.6 + styles.height)
    _scatter(axes, points, styles)
    axes.set_xlabel(f"median latency of one call, batch {batch}, ms (log scale)")
    axes.set_ylabel(f"SRCC to {'the labels' if field == 'srcc' else 'PyTorch fp32'}")
    styles.legend(figure)
    caption = (
        f"Up and to the left is better. Batch {batch}; a hollow marker is PyTorch, with which others are compared."
    )
    if any(point.bar for point in points):
        caption += (
            " Bars: 95% bootstrap intervals, of each model by itself; see the paired differences for what is noise."
        )
    return figure, caption


def _scatter(axes: Axes, points: Sequence[Point], styles: Styles) -> None:
    for point in points:
        mark = styles[point.row]
        if point.bar is not None:
            axes.vlines(point.p50, point.bar[0], point.bar[1], color=mark.colour, alpha=0.4, linewidth=1.2)
        face = "none" if point.row.role == "reference" else mark.colour
        style: Any = {"color": mark.colour, "markerfacecolor": face, "markersize": 7, "markeredgewidth": 1.5}
        axes.plot(point.p50, point.srcc, mark.marker, **style)
    across = [point.p50 for point in points]
    _room(axes, across, [height for point in points for height in (point.srcc, *(point.bar or ()))])
    axes.grid(True)
    log_ticks(axes.xaxis, across)
    axes.yaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]


def _srcc(row: ReportRow, field: str) -> float | None:
    """The reference agrees with itself, though its row has no figure for that."""
    if field == "srcc_reference" and row.role == "reference":
        return 1.0
    value: float | None = getattr(row, field)
    return value


def _room(axes: Axes, across: Sequence[float], heights: Sequence[float]) -> None:
    """Limits that leave room around the points, and do not blow a difference of nothing up to full height."""
    low, high = min(across), max(across)
    spare = max(high / low, 1.6) ** 0.08
    axes.set_xscale("log")
    axes.set_xlim(low / spare, high * spare)
    middle, half = (max(heights) + min(heights)) / 2, max((max(heights) - min(heights)) / 2, 5e-4)
    axes.set_ylim(middle - 1.3 * half, middle + 1.3 * half)


def _latencies(rows: Sequence[ReportRow]) -> tuple[Figure, str] | None:
    if not rows:
        return None
    batches = sorted({row.batch for row in rows})
    groups = [[row for row in rows if row.batch == batch] for batch in batches]
    ratios = [len(group) + 1.2 for group in groups]
    figure, panels = _panels(0.6 + 0.27 * sum(ratios) + 0.35 * len(groups), ratios)
    styles = Styles.of(rows)
    for axes, batch, group in zip(panels, batches, groups, strict=True):
        for at, row in enumerate(group):
            if row.latency_ms:
                _strip(axes, at, row.latency_ms, styles[row])
        axes.set_xscale("log")
        log_ticks(axes.xaxis, [edge for row in group if row.latency_ms for edge in _edges(row.latency_ms)])
        axes.set_yticks(range(len(group)), names(group, full=True))
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_title(f"batch {batch}", fontweight="bold")
        axes.grid(True, axis="x")
    panels[-1].set_xlabel("latency of one call, ms (log scale)")
    caption = (
        "Each dot is a call, in each row from the first (top) to the last; a long bar is the median, a short one p90."
    )
    return figure, caption


def _edges(latency: Latency) -> tuple[float, float]:
    return latency.min, latency.max


def _strip(axes: Axes, at: float, latency: Latency, mark: Mark) -> None:
    """One row's calls. Without single calls, which older reports lack, the line from least to largest."""
    if samples := latency.samples:
        heights = [at - 0.3 + 0.6 * (index + 0.5) / len(samples) for index in range(len(samples))]
        axes.plot(
            samples, heights, "o", color=mark.colour, markersize=2.6, markeredgewidth=0, alpha=0.55, rasterized=True
        )
    else:
        axes.hlines(at, *_edges(latency), color=mark.colour, alpha=0.55)
    for value, half in ((latency.p50, 0.38), (latency.p90, 0.22)):
        if value is not None:
            axes.vlines(value, at - half, at + half, color=INK, linewidth=1.6)


def _images_per_s(rows: Sequence[ReportRow]) -> tuple[Figure, str] | None:
    lines: dict[Series, list[ReportRow]] = {}
    for row in rows:
        if row.images_per_s:
            lines.setdefault(series_of(row), []).append(row)
    series = [sorted(line, key=lambda row: row.batch) for line in lines.values()]
    if all(len({row.batch for row in line}) < 2 for line in series):
        return None
    styles = Styles.of([line[0] for line in series])
    figure, (axes,) = _panels(4.2 + styles.height)
    for line in series:
        mark = styles[line[0]]
        style = "--" if line[0].role == "reference" else "-"
        axes.plot(*_speeds(line), style, marker=mark.marker, color=mark.colour, markersize=6, linewidth=1.4)
    _speed_axes(axes, *_speeds([row for line in series for row in line]))
    styles.legend(figure)
    return figure, "From uint8 images in memory to scores. Dashed: PyTorch, with which the others are compared."


def _speeds(line: Sequence[ReportRow]) -> tuple[list[int], list[float]]:
    return [row.batch for row in line], [row.images_per_s or 0.0 for row in line]


def _speed_axes(axes: Axes, batches: Sequence[int], speeds: Sequence[float]) -> None:
    """A tick for each batch size; speeds from 0, or on a log scale where some would lie on the floor."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(batches)), [str(batch) for batch in sorted(set(batches))])
    axes.minorticks_off()
    if max(speeds) > 8 * min(speeds):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, speeds)
    else:
        axes.set_ylim(0, max(speeds) * 1.08)
    axes.set_xlabel("batch size")
    axes.set_ylabel("images per second")
    axes.grid(True)


def _panels(height: float, ratios: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, one below another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0])


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white")
    return file.getvalue()


def _svg(figure: Figure, name: str) -> str:
    """The <svg> element alone, in the colours of the page that it will stand in; ids made this plot's own."""
    file = io.StringIO()
    figure.savefig(file, format="svg", facecolor="none", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
