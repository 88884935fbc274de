"""The table: what fits into 100 columns, more where the terminal is wider, and what could not be put into a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .figures import NOISY, Latency
from .report import Report, Row

WIDTH = 100  # columns, where nothing says how wide the output is
WIDE = 150  # columns from which the rest of the figures is shown too

NAMED = 4  # rows of unsteady latency that are named
RUNTIMES = {"pytorch": "PyTorch", "onnx": "ORT"}

SHORT = {
    "fewer than 3 pictures": "too few",
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
    least: int = 0  # width of the terminal from which it is shown
    labelled: bool = False  # only where there are labels


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
    provider = row.provider.removesuffix("ExecutionProvider")
    return provider if provider.lower().startswith(runtime.lower()) else f"{runtime} {provider}"


def _per_s(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


COLUMNS = (
    Column("model", lambda row: row.model, right=False),
    Column("runs on", runs_on, right=False),
    Column("type", lambda row: row.precision, right=False, least=96),
    Column("batch", lambda row: str(row.batch)),
    Column(
        "p50 ms", lambda row: time("latency_ms", "p50")(row) if row.latency_ms else SHORT.get(row.status, row.status)
    ),
    Column("p90 ms", time("latency_ms", "p90")),
    Column("n", lambda row: str(row.latency_ms.n) if row.latency_ms else ""),
    Column("img/s", lambda row: _per_s(row.images_per_s), least=96),
    Column("max diff", figure("max_difference", ".1e")),
    Column("SRCC ref", figure("srcc_reference", ".5f")),
    Column("SRCC", figure("srcc", ".4f"), labelled=True),
    Column("PLCC", figure("plcc", ".4f"), labelled=True),
    Column("files ms", time("end_to_end_ms", "p50"), least=WIDE),
    Column("load s", figure("load_s", ".2f"), least=WIDE),
    Column("first ms", figure("cold_start_ms", ".0f"), least=WIDE),
    Column("peak MiB", figure("peak_memory_mib", ".0f"), least=WIDE),
    Column("GPU MiB", figure("device_memory_mib", ".0f"), least=WIDE),
    Column("file MB", figure("file_mb", ".1f"), least=WIDE),
)


def show(report: Report, console: Console) -> None:
    """Print the table, its caption, and a line for each row that failed or needs a word."""
    wide = console.width >= WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1 if wide else 0, 0, 0), pad_edge=False)
    for column in (shown := _shown(report, console.width)):
        # Where there is little room the name alone is folded, so that every figure stays whole.
        folds = column.title == "model"
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=not folds, overflow="fold")
    for row in report.rows:
        table.add_row(*(Text(column.text(row), style="" if row.status == "ok" else "red") for column in shown))
    console.print(table)
    for line in (report.caption, *remarks(report)):
        console.print(line, highlight=False, markup=False)


def _shown(report: Report, width: int) -> list[Column]:
    return [
        column
        for column in COLUMNS
        if (report.labels or not column.labelled)
        and width >= column.least
        and (column.title != "GPU MiB" or report.environment["gpus"])
    ]


def caption(report: Report) -> str:
    """What the figures are of: pictures, sizes, target, split, n, and both comparisons."""
    pictures, labels = report.pictures, report.labels
    sizes = sorted({f"{row.width}x{row.height}" for row in report.rows if row.width})
    said = [f"{pictures['used']} pictures at {', '.join(sizes) or 'no size'}"]
    if pictures["broken"]:
        said.append(f" ({len(pictures['broken'])} that cannot be read left out)")
    said.append(". Latency: uint8 pictures in memory to scores, n calls of one batch.")
    said.append(" max diff, SRCC ref: to the scores of PyTorch fp32.")
    if labels:
        said.append(f" SRCC, PLCC: to {labels['target']}, split {labels['split']}, n = {labels['n']}.")
    return "".join(said)


def remarks(report: Report, paired: bool = True) -> list[str]:
    """One line for each thing that the table's figures do not say by themselves; `paired` with SRCC minus PyTorch's."""
    batches: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        for remark in _remarks(row, paired):
            batches.setdefault((_name(row), remark), []).append(str(row.batch))
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
    worst = [f"{_name(row)}, batch {row.batch} by {cv:.0%}" for cv, row in noisy[:NAMED]]
    more = [f"and {len(noisy) - NAMED} rows more"] if len(noisy) > NAMED else []
    return [f"Latencies vary by more than {NOISY:.1%} (standard deviation over mean): {', '.join(worst + more)}."]


def _name(row: Row) -> str:
    return f"{row.model} on {runs_on(row)}"


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
