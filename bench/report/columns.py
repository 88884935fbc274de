"""The columns of a report's table: what each has in a cell, and where it is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from musiq.file_formats import FILE_FORMATS

from .latency import ClassLatency, Latency
from .schema import Report, ReportRow

RUNTIMES = {"pytorch": FILE_FORMATS["pytorch"].runtime, "onnx": "ORT"}
"""Names short enough for a narrow table; other formats are called as they are."""

SHORT = {
    "fewer than 3 images": "too few",
    "a score or label is not a number": "NaN",
    "constant labels": "constant",
    "constant scores": "constant",
    "reference": "ref",
    "out of memory": "no memory",
    "missing package": "missing",
    "not measured (interrupted)": "stopped",
}
"""What stands in a cell for the reason of a missing figure or row; remarks and report have it in full."""


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        title: Its heading.
        text: The cell of a row.
        right: Whether cells are aligned to the right, as numbers are.
        rank: Where there is too little room, the column of the highest rank is left out first; 0 stays.
        labelled: Whether it is only there where there are labels.
        sized: Whether it is only there where images have several sizes.
        page: Whether it is only there on the HTML page.
    """

    title: str
    text: Callable[[ReportRow], str]
    right: bool = True
    rank: int = 0
    labelled: bool = False
    sized: bool = False
    page: bool = False


def figure(name: str, form: str) -> Callable[[ReportRow], str]:
    """A cell of one figure, or the word for why there is none."""

    def text(row: ReportRow) -> str:
        value = getattr(row, name)
        if value is not None:
            return format(value, form)
        return SHORT.get(row.words[name], "none") if name in row.words else ""

    return text


def time(clock: str, name: str) -> Callable[[ReportRow], str]:
    """A cell of one latency in milliseconds; a percentile that so few calls do not support is a dash."""

    def text(row: ReportRow) -> str:
        latency: Latency | None = getattr(row, clock)
        if latency is None:
            return ""
        value: float | None = getattr(latency, name)
        return "-" if value is None else milliseconds(value)

    return text


def interval(name: str, form: str) -> Callable[[ReportRow], str]:
    """A cell of the two ends of a figure's interval."""

    def text(row: ReportRow) -> str:
        ends = getattr(row, f"{name}_interval")
        return "" if ends is None else f"{ends[0]:{form}} to {ends[1]:{form}}"

    return text


def milliseconds(value: float) -> str:
    """With three digits or so: "1.23", "45.6", "1234"."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def runs_on(row: ReportRow) -> str:
    """Runtime and provider in a few words, such as "ORT CPU"."""
    runtime = RUNTIMES.get(row.format, row.format)
    if row.provider is None:
        return runtime
    way = row.device.partition(":")[0]
    provider = row.provider.removesuffix("ExecutionProvider") + (" graph" if way == "cuda-graph" else "")
    if runtime != RUNTIMES["pytorch"]:
        provider = provider.removeprefix(f"{RUNTIMES['pytorch']} ")  # its other formats: "pt2 cpu" says enough
    return provider if provider.lower().startswith(runtime.lower()) else f"{runtime} {provider}"


def size(row: ReportRow) -> str:
    """Width and height of the images that the model takes, or "any"; empty where it was never opened."""
    return "any" if row.any_size else f"{row.width}x{row.height}" if row.width else ""


def sizes(rows: Sequence[ReportRow]) -> list[str]:
    """Those of the rows' images, small ones first, "any" last."""
    pixels = {size(row): (row.any_size, (row.width or 0) * (row.height or 0)) for row in rows if size(row)}
    return sorted(pixels, key=pixels.__getitem__)


def _p50(row: ReportRow) -> str:
    return time("latency_ms", "p50")(row) if row.latency_ms else SHORT.get(row.status, row.status)


def _calls(row: ReportRow) -> str:
    return str(row.latency_ms.n) if row.latency_ms else ""


def _cv(row: ReportRow) -> str:
    return "" if row.latency_ms is None or row.latency_ms.cv is None else f"{row.latency_ms.cv:.1%}"


def _images_per_s(row: ReportRow) -> str:
    value = row.images_per_s
    return "" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


COLUMNS = (
    Column("model", lambda row: row.model, right=False),
    Column("runs on", runs_on, right=False),
    Column("type", lambda row: row.precision, right=False, rank=4),
    Column("size", size, sized=True),
    Column("batch", lambda row: str(row.batch)),
    Column("p50 ms", _p50),
    Column("p90 ms", time("latency_ms", "p90")),
    Column("p95 ms", time("latency_ms", "p95"), page=True),
    Column("p99 ms", time("latency_ms", "p99"), page=True),
    Column("n", _calls, rank=3),
    Column("CV", _cv, page=True),
    Column("img/s", _images_per_s, rank=2),
    Column("max diff", figure("max_difference", ".1e")),
    Column("mean diff", figure("mean_difference", ".1e"), page=True),
    Column("SRCC ref", figure("srcc_reference", ".5f")),
    Column("SRCC", figure("srcc", ".4f"), labelled=True),
    Column("95%", interval("srcc", ".4f"), labelled=True, page=True),
    Column("to PyTorch's", figure("srcc_delta", "+.5f"), labelled=True, page=True),
    Column("95%", interval("srcc_delta", "+.5f"), labelled=True, page=True),
    Column("PLCC", figure("plcc", ".4f"), labelled=True, rank=1),
    Column("95%", interval("plcc", ".4f"), labelled=True, page=True),
    Column("PLCC fitted", figure("plcc_fitted", ".4f"), labelled=True, page=True),
    Column("KRCC", figure("krcc", ".4f"), labelled=True, page=True),
    Column("RMSE", figure("rmse", ".4f"), labelled=True, page=True),
    Column("files ms", time("end_to_end_ms", "p50"), rank=5),
    Column("load s", figure("load_s", ".2f"), rank=6),
    Column("first ms", figure("cold_start_ms", ".0f"), rank=7),
    Column("peak MiB", figure("peak_memory_mib", ".0f"), rank=8),
    Column("GPU MiB", figure("device_memory_mib", ".0f"), rank=9),
    Column("file MB", figure("file_mb", ".1f"), rank=10),
)


BY_SIZE = "p50 (p90) in ms by megapixels, of models for any size:"


def cells_by_size(rows: Sequence[ReportRow]) -> list[list[str]]:
    """A table of the latencies by size class, its heading first: the median of each class, else its mean, and the 90th
    percentile where there are calls enough. Nothing where no model takes any size."""
    found = [(row, {each.size: each for each in row.by_size}) for row in rows if row.by_size]
    if not found:
        return []
    known_classes = {name for _, known in found for name in known}
    classes = sorted(known_classes, key=lambda name: float(re.findall(r"[\d.]+", name)[-1]))  # by its upper end
    heading = ["model", "runs on", "type", "batch", *(name.removesuffix(" MP") for name in classes)]
    return [heading] + [
        [row.model, runs_on(row), row.precision, str(row.batch), *(_in_class(known.get(name)) for name in classes)]
        for row, known in found
    ]


def _in_class(found: ClassLatency | None) -> str:
    if found is None:
        return ""
    p90 = "" if found.p90 is None else f" ({milliseconds(found.p90)})"
    return milliseconds(found.mean if found.p50 is None else found.p50) + p90


def columns_of(report: Report, page: bool = False) -> list[Column]:
    """Those that say something of such a report; with `page` those of the HTML page as well."""
    several = len(sizes(report.rows)) > 1 or any(row.any_size for row in report.rows)
    return [
        column
        for column in COLUMNS
        if (page or not column.page) and (report.labels or not column.labelled) and (several or not column.sized)
    ]
