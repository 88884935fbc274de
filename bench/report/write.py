"""Writing a report: `report.json`, `report.csv`, `report.md`, `report.html` and the plots as PNG."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import warnings
from pathlib import Path
from typing import Any

from musiq import markdown
from musiq.errors import MusiqError
from musiq.files import atomic_write

from ..machine.environment import in_one_line
from .columns import BY_SIZE, cells_by_size, columns_of
from .html import page
from .latency import Latency
from .plots import NAMES, Plot, draw
from .schema import Report, ReportRow
from .table import remarks

FIGURES = ("report.json", "report.csv", "report.md")


def write(report: Report, folder: Path) -> list[Path]:
    """Write a report into a folder, each file whole or not at all.

    Figures first, since drawing may fail where a measurement of hours is at stake. Without matplotlib there are no
    plots, without Jinja2 there is no page, and a warning tells how to install it. Those of an earlier report are removed.

    Args:
        report: What to write.
        folder: Where the files go; made where it is missing.

    Returns:
        The paths of the files.

    Raises:
        MusiqError: A file cannot be written.
    """
    _put(folder / "report.json", _json(report))
    _put(folder / "report.csv", _csv(report))
    _put(folder / "report.md", markdown_of(report))
    plots, why_not = _draw(report)
    visual: dict[str, str | bytes] = {f"{plot.name}.png": plot.png for plot in plots}
    try:
        visual = {"report.html": page(report, plots, why_not), **visual}
    except MusiqError as problem:
        warnings.warn(str(problem), stacklevel=2)
    for name in ("report.html", *(f"{name}.png" for name in NAMES)):
        if name in visual:
            _put(folder / name, visual[name])
        else:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in (*FIGURES, *visual)]


def _put(path: Path, content: str | bytes) -> None:
    with atomic_write(path) as part:
        # The stray bytes of a name that is no UTF-8 are written as JSON has them, `\\udce9`.
        part.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def _draw(report: Report) -> tuple[list[Plot], str]:
    """The plots, or why there are none."""
    try:
        return draw(report), ""
    except MusiqError as problem:
        warnings.warn(str(problem), stacklevel=3)
        return [], str(problem)


def _csv(report: Report) -> str:
    file = io.StringIO(newline="")
    flat = [flatten(row) for row in report.rows]
    writer = csv.DictWriter(file, flat[0])
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def _json(report: Report) -> str:
    values = dataclasses.asdict(report)
    ordered = {"schema": values.pop("schema"), **values}
    return json.dumps(ordered, indent=1, allow_nan=False) + "\n"


def flatten(row: ReportRow) -> dict[str, Any]:
    """A row of report.csv: `latency_ms.p50`, `srcc_interval.low` and so on, always the same columns."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(row).items():
        if name.endswith("_interval"):
            flat[f"{name}.low"], flat[f"{name}.high"] = value or (None, None)
        elif name in ("latency_ms", "end_to_end_ms"):
            fields = [f.name for f in dataclasses.fields(Latency) if f.name not in ("rounds_p50", "samples")]
            flat.update({f"{name}.{key}": value and value[key] for key in fields})
        elif name == "by_size":
            flat[name] = "; ".join(f"{each['size']}: {each['n']} calls, mean {each['mean']:.2f} ms" for each in value)
        elif name == "words":
            flat[name] = "; ".join(f"{key}: {word}" for key, word in value.items())
        elif name == "notes":
            flat[name] = "; ".join(value)
        else:
            flat[name] = value
    return flat


def markdown_of(report: Report) -> str:
    """The table for a README or a pull request, with its caption and what it ran on."""
    columns = columns_of(report)
    right = [index for index, column in enumerate(columns) if column.right]
    cells = [[column.text(row) for column in columns] for row in report.rows]
    table = markdown.table([column.title for column in columns], cells, right)
    where = report.environment
    packages = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    notes = [f"- {remark}" for remark in remarks(report)]
    foot = f"{in_one_line(where)}. Python {where['python']}, {packages}. {report.created}."
    command = f"    {report.command}"
    if by_size := cells_by_size(report.rows):
        table += f"\n\n{BY_SIZE}\n\n{markdown.table(by_size[0], by_size[1:], range(3, len(by_size[0])))}"
    return "\n".join([report.caption, "", table, "", *notes, *([""] if notes else []), foot, "", command, ""])
