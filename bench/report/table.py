"""The table of a report in the terminal, its caption, and remarks on what could not be put into a cell.

It fits into 100 columns, and has more where the terminal is wider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .columns import BY_SIZE, Column, cells_by_size, columns_of, runs_on, size, sizes
from .latency import NOISY
from .schema import Report, ReportRow

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100  # columns, where nothing says how wide the output is
FOLDED = 16  # columns that a model's name is folded to, at the least, before a basic figure is left out
EXTRA = 5  # rank from which a figure is only shown where no name has to be folded for it

NAMED = 4  # rows of unsteady latency that are named


def show_in_terminal(report: Report) -> None:
    """Print the report as wide as the terminal is; into a file or a pipe, as wide as WIDTH."""
    show(report, console())


def console() -> Console:
    """What goes to standard output, of a width that somebody chose: the terminal's, or WIDTH."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)


def show(report: Report, console: Console) -> None:
    """Print the table, its caption, and a line for each row that failed or needs a word."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown, loose = _shown(report, console.width)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, int(loose), 0, 0), pad_edge=False)
    for column in shown:
        # Where there is little room the name alone is folded, so that every figure stays whole.
        folds = column.title == "model"
        table.add_column(column.title, justify="right" if column.right else "left", no_wrap=not folds, overflow="fold")
    for row in report.rows:
        table.add_row(*(Text(column.text(row), style="" if row.status == "ok" else "red") for column in shown))
    console.print(table)
    if by_size := cells_by_size(report.rows):
        classes = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for index, title in enumerate(by_size[0]):
            classes.add_column(title, justify="right" if index > 2 else "left", overflow="fold")
        for cells in by_size[1:]:
            classes.add_row(*map(Text, cells))
        console.print(BY_SIZE, highlight=False)
        console.print(classes)
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
    fixed = ", ".join(name for name in sizes(report.rows) if name != "any")
    own = "their own sizes" if any(row.any_size for row in report.rows) else ""
    at = " and ".join(filter(None, (fixed, own))) or "no size"
    sentences = [f"{images['used']} images at {at}"]
    if images["broken"]:
        sentences.append(f" ({len(images['broken'])} that cannot be read left out)")
    if labels and images.get("unlabelled"):
        split = "" if labels["split"] == "all" else f" in the split {labels['split']}"
        sentences.append(f" ({images['unlabelled']} of {images['found']} found left out, without a label{split})")
    sentences.append(". Latency: uint8 images in memory to scores, n calls of one batch.")
    sentences.append(" max diff, SRCC ref: to the scores of PyTorch fp32.")
    if labels:
        sentences.append(f" SRCC, PLCC: to {labels['target']}, split {labels['split']}, n = {labels['n']}.")
    return "".join(sentences)


def remarks(report: Report, paired: bool = True) -> list[str]:
    """One line for each thing that the table's figures do not say by themselves; `paired` with SRCC minus PyTorch's."""
    batches: dict[tuple[str, str], list[str]] = {}
    sized = len(sizes(report.rows)) > 1
    for row in report.rows:
        for remark in _remarks(row, paired):
            batches.setdefault((_name(row, sized), remark), []).append(str(row.batch))
    lines = [f"{name}, batch {' and '.join(those)}: {remark}" for (name, remark), those in batches.items()]
    wanted = report.labels["target"] if report.labels else None
    for target in dict.fromkeys(row.target for row in report.rows if wanted and row.target not in (None, wanted)):
        trained = (
            "Nothing says what the scores were trained to predict"
            if target == "unknown"
            else f"Scores predict {target}"
        )
        lines.append(f"{trained}; the labels are {wanted}: compare ranks, not RMSE.")
    return lines + _unsteady(report.rows)


def _unsteady(rows: Sequence[ReportRow]) -> list[str]:
    """A line for the rows whose calls vary much, the worst first; the rest of many are counted alone."""
    steady = [(row.latency_ms.cv, row) for row in rows if row.latency_ms and row.latency_ms.cv]
    noisy = sorted(((cv, row) for cv, row in steady if cv > NOISY), key=lambda each: -each[0])
    if not noisy:
        return []
    sized = len(sizes(rows)) > 1
    worst = [f"{_name(row, sized)}, batch {row.batch} by {cv:.0%}" for cv, row in noisy[:NAMED]]
    more = [f"and {len(noisy) - NAMED} rows more"] if len(noisy) > NAMED else []
    return [f"Latencies vary by more than {NOISY:.1%} (standard deviation over mean): {', '.join(worst + more)}."]


def _name(row: ReportRow, sized: bool) -> str:
    """Model and runtime, and where they are not the same for all (`sized`) the size of its images."""
    return f"{row.model} on {runs_on(row)}" + (
        f" at {'any size' if row.any_size else size(row)}" if sized and size(row) else ""
    )


def _remarks(row: ReportRow, paired: bool) -> list[str]:
    remarks = []
    if row.status != "ok":
        remarks.append(f"{row.status}: {row.reason}")
    elif row.role != "reference" and row.words.get("srcc_reference") and row.max_difference is None:
        remarks.append(f"not compared with PyTorch: {row.words['srcc_reference']}")
    if row.role == "reference" and row.srcc is not None and row.srcc_interval is not None:
        low, high = row.srcc_interval
        remarks.append(f"SRCC {row.srcc:.4f}, 95% interval {low:.4f} to {high:.4f}")
    if paired and row.srcc_delta and row.srcc_delta_interval is not None:
        low, high = row.srcc_delta_interval
        remarks.append(f"SRCC {row.srcc_delta:+.5f} from PyTorch's, 95% interval {low:+.5f} to {high:+.5f}")
    return remarks + row.notes
