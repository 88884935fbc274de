"""The table: what fits into 100 columns, more where the terminal is wider, and what could not be put into a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .latency import NOISY, Latency
from .schema import Report, Row

WIDTH = 100  # columns, where nothing says how wide the output is
FOLDED = 16  # columns that a model's name is folded to, at the least, before a basic figure is left out
EXTRA = 5  # rank from which a figure is only shown where no name has to be folded for it

NAMED = 4  # rows of unsteady latency that are named
RUNTIMES = {"pytorch": "PyTorch", "onnx": "ORT"}

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
    title: str
    text: Callable[[Row], str]
    right: bool = True
    rank: int = 0  # where there is too little room, the column of the highest rank is left out first; 0 stays
    labelled: bool = False  # only where there are labels
    sized: bool = False  # only where there are images of several sizes


def figure(name: str, form: str) -> Callable[[Row], str]:
    """A cell of one figure, or the word for why there is none."""

    def text(row: Row) -> str:
        value = getattr(row, name)
        if value is not None:
            return format(value, form)
        return SHORT.get(row.words[name], "none") if name in row.words else ""

    return text


def time(clock: str, name: str) -> Callable[[Row], str]:
    """A cell of one latency in milliseconds; a percentile that so few calls do not support is a dash."""

    def text(row: Row) -> str:
        latency: Latency | None = getattr(row, clock)
        if latency is None:
            return ""
        value: float | None = getattr(latency, name)
        return "-" if value is None else milliseconds(value)

    return text


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def runs_on(row: Row) -> str:
    runtime = RUNTIMES.get(row.format, row.format)
    if row.provider is None:
        return runtime
    way = row.device.partition(":")[0]
    provider = row.provider.removesuffix("ExecutionProvider") + (" graph" if way == "cuda-graph" else "")
    if runtime != RUNTIMES["pytorch"]:
        provider = provider.removeprefix(f"{RUNTIMES['pytorch']} ")  # its other formats: "pt2 cpu" says enough
    return provider if provider.lower().startswith(runtime.lower()) else f"{runtime} {provider}"


def size(row: Row) -> str:
    return f"{row.width}x{row.height}" if row.width else ""


def _per_s(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


COLUMNS = (
    Column("model", lambda row: row.model, right=False),
    Column("runs on", runs_on, right=False),
    Column("type", lambda row: row.precision, right=False, rank=4),
    Column("size", size, sized=True),
    Column("batch", lambda row: str(row.batch)),
    Column(
        "p50 ms", lambda row: time("latency_ms", "p50")(row) if row.latency_ms else SHORT.get(row.status, row.status)
    ),
    Column("p90 ms", time("latency_ms", "p90")),
    Column("n", lambda row: str(row.latency_ms.n) if row.latency_ms else "", rank=3),
    Column("img/s", lambda row: _per_s(row.images_per_s), rank=2),
    Column("max diff", figure("max_difference", ".1e")),
    Column("SRCC ref", figure("srcc_reference", ".5f")),
    Column("SRCC", figure("srcc", ".4f"), labelled=True),
    Column("PLCC", figure("plcc", ".4f"), labelled=True, rank=1),
    Column("files ms", time("end_to_end_ms", "p50"), rank=5),
    Column("load s", figure("load_s", ".2f"), rank=6),
    Column("first ms", figure("cold_start_ms", ".0f"), rank=7),
    Column("peak MiB", figure("peak_memory_mib", ".0f"), rank=8),
    Column("GPU MiB", figure("device_memory_mib", ".0f"), rank=9),
    Column("file MB", figure("file_mb", ".1f"), rank=10),
)


def columns_of(report: Report) -> list[Column]:
    """Those that say something of such a report."""
    return [
        column
        for column in COLUMNS
        if (report.labels or not column.labelled) and (not column.sized or several_sizes(report.rows))
    ]


def sizes(rows: Sequence[Row]) -> list[str]:
    """Those of the rows' images, small ones first."""
    pixels = {size(row): (row.width or 0) * (row.height or 0) for row in rows if row.width}
    return sorted(pixels, key=pixels.__getitem__)


def several_sizes(rows: Sequence[Row]) -> bool:
    return len(sizes(rows)) > 1


def show(report: Report, console: Console) -> None:
    """Print the table, its caption, and a line for each row that failed or needs a word."""
    shown, loose = _shown(report, console.width)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, int(loose), 0, 0), pad_edge=False)
    for column in shown:
        # Where there is little room the name alone is folded, so that every figure stays whole.
        folds = column.title == "model"
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=not folds, overflow="fold")
    for row in report.rows:
        table.add_row(*(Text(column.text(row), style="" if row.status == "ok" else "red") for column in shown))
    console.print(table)
    for line in (report.caption, *remarks(report)):
        console.print(line, highlight=False, markup=False)


def _shown(report: Report, width: int) -> tuple[list[Column], bool]:
    """The columns that there is room for, and whether there is room between them too."""
    columns = [column for column in columns_of(report) if column.title != "GPU MiB" or report.environment["gpus"]]
    needs = {each.title: max(len(text) for text in (each.title, *map(each.text, report.rows))) for each in columns}
    for rank in sorted({column.rank for column in columns}, reverse=True):
        shown = [column for column in columns if column.rank <= rank]
        need = sum(needs[column.title] for column in shown) + len(shown) + 1
        if rank < EXTRA:
            need -= max(0, needs["model"] - FOLDED)
        if need <= width:
            break
    return shown, need + len(shown) <= width


def caption(report: Report) -> str:
    """What the figures are of: images, sizes, target, split, n, and both comparisons."""
    images, labels = report.images, report.labels
    said = [f"{images['used']} images at {', '.join(sizes(report.rows)) or 'no size'}"]
    if images["broken"]:
        said.append(f" ({len(images['broken'])} that cannot be read left out)")
    said.append(". Latency: uint8 images in memory to scores, n calls of one batch.")
    said.append(" max diff, SRCC ref: to the scores of PyTorch fp32.")
    if labels:
        said.append(f" SRCC, PLCC: to {labels['target']}, split {labels['split']}, n = {labels['n']}.")
    return "".join(said)


def remarks(report: Report, paired: bool = True) -> list[str]:
    """One line for each thing that the table's figures do not say by themselves; `paired` with SRCC minus PyTorch's."""
    batches: dict[tuple[str, str], list[str]] = {}
    sized = several_sizes(report.rows)
    for row in report.rows:
        for remark in _remarks(row, paired):
            batches.setdefault((_name(row, sized), remark), []).append(str(row.batch))
    said = [f"{name}, batch {' and '.join(those)}: {remark}" for (name, remark), those in batches.items()]
    wanted = report.labels["target"] if report.labels else None
    for target in dict.fromkeys(row.target for row in report.rows if wanted and row.target not in (None, wanted)):
        trained = (
            "Nothing says what the scores were trained to predict"
            if target == "unknown"
            else f"Scores predict {target}"
        )
        said.append(f"{trained}; the labels are {wanted}: compare ranks, not RMSE.")
    return said + _unsteady(report.rows)


def _unsteady(rows: Sequence[Row]) -> list[str]:
    """A line for the rows whose calls vary much, the worst first; the rest of many are counted alone."""
    steady = [(row.latency_ms.cv, row) for row in rows if row.latency_ms and row.latency_ms.cv]
    noisy = sorted(((cv, row) for cv, row in steady if cv > NOISY), key=lambda each: -each[0])
    if not noisy:
        return []
    sized = several_sizes(rows)
    worst = [f"{_name(row, sized)}, batch {row.batch} by {cv:.0%}" for cv, row in noisy[:NAMED]]
    more = [f"and {len(noisy) - NAMED} rows more"] if len(noisy) > NAMED else []
    return [f"Latencies vary by more than {NOISY:.1%} (standard deviation over mean): {', '.join(worst + more)}."]


def _name(row: Row, sized: bool) -> str:
    """Model and runtime, and where they are not the same for all (`sized`) the size of its images."""
    return f"{row.model} on {runs_on(row)}" + (f" at {size(row)}" if sized and row.width else "")


def _remarks(row: Row, paired: bool) -> list[str]:
    said = []
    if row.status != "ok":
        said.append(f"{row.status}: {row.reason}")
    elif row.role != "reference" and row.words.get("srcc_reference") and row.max_difference is None:
        said.append(f"not compared with PyTorch: {row.words['srcc_reference']}")
    if paired and row.srcc_delta and row.srcc_delta_interval is not None:
        low, high = row.srcc_delta_interval
        said.append(f"SRCC {row.srcc_delta:+.5f} from PyTorch's, 95% interval {low:+.5f} to {high:+.5f}")
    return said + row.notes
