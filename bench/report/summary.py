"""The summary of reports as one Markdown table, a line for each artifact.

`python -m musiq_bench.report.summary results/cpu.json` prints it. Where `report.md` has a line for each batch size, this
has one for all (`--by-batch`: with columns for each).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from musiq import markdown
from musiq.file_formats import FILE_FORMATS, SPECIAL_DEVICES
from musiq.terminal import Command

from ..plan.models import COMPILED
from .columns import size
from .read import read
from .schema import ReportRow

FORMATS = ("pytorch", COMPILED, "onnx", "openvino", "pt2", "torchscript", "trt", "trt-rtx")
"""In the order of their lines."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "unknown")
"""In the order of their lines."""


@dataclass(frozen=True)
class Line:
    """An artifact at its batch sizes, the smallest first; `eager` is PyTorch's row at the smallest, `name` its model's."""

    rows: Sequence[ReportRow]
    name: str
    eager: ReportRow | None

    @property
    def row(self) -> ReportRow:
        return self.rows[0]

    def p50(self) -> str:
        median = _p50(self.row)
        return "" if not median else f"{median:.0f}" if median >= 100 else f"{median:.1f}"

    def speedup(self) -> str:
        """The ratio of medians; over images of many sizes, whose median says little of the whole, that of images/s."""
        if self.row.any_size and self.eager and self.eager.images_per_s and self.row.images_per_s:
            return f"{self.row.images_per_s / self.eager.images_per_s:.2f}"
        eager, median = _p50(self.eager), _p50(self.row)
        return f"{eager / median:.2f}" if eager and median else ""

    def cv(self) -> str:
        latency = self.row.latency_ms
        return f"{100 * latency.cv:.0f}" if latency and latency.cv is not None else ""

    def batches(self) -> str:
        last = self.rows[-1]
        return f"{last.images_per_s:.1f} ({last.batch})" if last.batch > self.row.batch and last.images_per_s else ""

    def start(self) -> str:
        load, cold = self.row.load_s, self.row.cold_start_ms
        return "" if load is None or cold is None else f"{load + cold / 1e3:.1f}"

    def delta(self) -> str:
        if self.row.srcc_delta is None or self.row.srcc_delta_interval is None:
            return ""
        low, high = self.row.srcc_delta_interval
        return f"{self.row.srcc_delta:+.5f} ({low:+.5f} to {high:+.5f})"


def _p50(row: ReportRow | None) -> float:
    """Milliseconds; 0 without a row, or with too few calls for a median."""
    return row.latency_ms.p50 or 0.0 if row and row.latency_ms else 0.0


def _figure(name: str, form: str) -> Callable[[Line], str]:
    def text(line: Line) -> str:
        value = getattr(line.row, name)
        return "" if value is None else format(value, form)

    return text


def _difference(line: Line) -> str:
    value = line.row.max_difference
    return "" if value is None else f"{value:.1e}" if value < 1e-3 else f"{value:.2g}"


def _precision(line: Line) -> str:
    # OpenVINO computes what is stored in fp16 in fp32 on CPUs, and bf16 where they have no instructions for it: its
    # provider says so.
    stored = line.row.precision in ("fp16", "bf16") and (line.row.provider or "").endswith("f32")
    return f"{line.row.precision} (computed in fp32)" if stored else line.row.precision


def _runs_on(line: Line) -> str:
    format = FILE_FORMATS.get(line.row.format)
    runtime = format.runtime if format else line.row.format
    eager = " eager" if line.row.format == "pytorch" else ""
    device = SPECIAL_DEVICES.get(line.row.device.partition(":")[0])
    return runtime + eager + (f", {device.remark}" if device else "")


COLUMNS: dict[str, Callable[[Line], str]] = {
    "runs on": _runs_on,
    "precision": _precision,
    "size": lambda line: size(line.row),
    "MB": _figure("file_mb", ".0f"),
    "p50 ms": Line.p50,
    "times as fast as PyTorch": Line.speedup,
    "CV %": Line.cv,
    "images/s (batch)": Line.batches,
    "largest difference": _difference,
    "SRCC to PyTorch": _figure("srcc_reference", ".5f"),
    "SRCC": _figure("srcc", ".4f"),
    "PLCC": _figure("plcc", ".4f"),
    "SRCC minus PyTorch's, 95% interval": Line.delta,
    "peak MiB": _figure("peak_memory_mib", ".0f"),
    "start s": Line.start,
    "layers": _figure("layers", ""),
    "built s": _figure("build_s", ".0f"),
}

PER_BATCH: dict[str, Callable[[Line], str]] = {
    "images/s": _figure("images_per_s", ".2f"),
    "peak MiB": COLUMNS["peak MiB"],
    "CV %": COLUMNS["CV %"],
}


def summary_table(
    rows: Sequence[ReportRow], models: Sequence[str] = (), columns: Sequence[str] = (), by_batch: bool = False
) -> str:
    """The Markdown table.

    Args:
        rows: Of one report or of several.
        models: The checkpoints' names without ending, in their order; none for all.
        columns: Of COLUMNS, in their order; none for all, or with `by_batch` for what runs. One that no line has a figure
            for is left out.
        by_batch: Whether the columns of PER_BATCH follow, for each batch size.

    Returns:
        The table, with a line for each artifact and device; one that failed has the reason in place of its figures.
    """
    lines = _lines(rows, models)
    chosen = {title: COLUMNS[title] for title in columns or (("runs on", "precision") if by_batch else COLUMNS)}
    chosen |= per_batch(rows) if by_batch else {}
    measured = [line for line in lines if line.row.status == "ok" and line.row.latency_ms]
    if not any(line.row.any_size for line in lines):
        chosen.pop("size", None)
    shown = {title: text for title, text in chosen.items() if any(text(line) for line in measured)}
    written, named = [], ""
    for line in lines:
        name = "" if line.name == named else f"`{line.name}`"
        named = line.name
        cells = [
            text(line) if line in measured or title in ("runs on", "precision") else "" for title, text in shown.items()
        ]
        if line not in measured:
            cells[2 if len(cells) > 2 else -1] = f"{line.row.status}: {line.row.reason}"
        written.append([name, *cells])
    return markdown.table(["model", *shown], written)


def per_batch(rows: Sequence[ReportRow]) -> dict[str, Callable[[Line], str]]:
    """Columns that say what each batch size in `rows` makes of a figure."""

    def of(text: Callable[[Line], str], batch: int) -> Callable[[Line], str]:
        return lambda line: next((text(replace(line, rows=[row])) for row in line.rows if row.batch == batch), "")

    batches = sorted({row.batch for row in rows})
    return {f"{title}, batch {batch}": of(text, batch) for title, text in PER_BATCH.items() for batch in batches}


def _lines(rows: Sequence[ReportRow], models: Sequence[str]) -> list[Line]:
    groups: dict[tuple[str, str, str, bool, str, str], list[ReportRow]] = {}
    for row in sorted(rows, key=lambda row: row.batch):
        name = Path(row.reference or row.path).stem
        groups.setdefault((name, row.precision, row.format, row.any_size, row.path, row.device), []).append(row)
    order = list(models) or list(dict.fromkeys(name for name, *_ in groups))
    eager: dict[tuple[str, bool], ReportRow] = {}  # of several devices the first's
    for (name, precision, format, any_size, *_), group in groups.items():
        if (format, precision) == ("pytorch", "fp32"):
            eager.setdefault((name, any_size), group[0])

    def place(key: tuple[str, str, str, bool, str, str]) -> tuple[int | str, ...]:
        name, precision, format, any_size, *others = key
        return order.index(name), PRECISIONS.index(precision), FORMATS.index(format), any_size, *others

    chosen = sorted((key for key in groups if key[0] in order), key=place)
    return [Line(groups[key], key[0], eager.get((key[0], key[3]))) for key in chosen]


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="A checkpoint's name without ending; again for more. [all]")
@click.option("--column", "columns", multiple=True, type=click.Choice(list(COLUMNS)), help="Again for more. [all]")
@click.option("--by-batch", is_flag=True, help="Images/s, memory and spread of each batch size beside each other.")
def main(reports: Sequence[Path], models: Sequence[str], columns: Sequence[str], by_batch: bool) -> None:
    """Print REPORTS, each a report.json of musiq-bench, as one Markdown table with a line for each artifact."""
    rows = [row for report in reports for row in read(report).rows]
    click.echo(summary_table(rows, models, columns, by_batch))


if __name__ == "__main__":
    main()
