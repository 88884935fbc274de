"""`report.json`, `report.csv`, `report.md`, `report.html` and plots: the same rows for programs, spreadsheets, people."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import warnings
from pathlib import Path
from typing import Any

from musiq.errors import MusiqError
from musiq.files import atomic_write

from .html import page
from .latency import Latency
from .plots import NAMES, Plot, draw
from .schema import Report, Row
from .table import columns_of, remarks

FILES = ("report.json", "report.csv", "report.md", "report.html")


def write(report: Report, folder: Path) -> list[Path]:
    """Write FILES and the plots into `folder`, each whole or not at all; their paths.

    Figures first, since drawing may fail where a measurement of hours is at stake. Without matplotlib there are no plots,
    and a warning says so. Plots of an earlier report that this one has no figures for are removed.
    """
    _put(folder / "report.json", _json(report))
    _put(folder / "report.csv", _csv(report))
    _put(folder / "report.md", markdown(report))
    plots, without = _draw(report)
    _put(folder / "report.html", page(report, plots, without))
    for name in NAMES:
        (folder / f"{name}.png").unlink(missing_ok=True)
    for plot in plots:
        _put(folder / f"{plot.name}.png", plot.png)
    return [folder / name for name in (*FILES, *(f"{plot.name}.png" for plot in plots))]


def _put(path: Path, content: str | bytes) -> None:
    with atomic_write(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


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


def flatten(row: Row) -> dict[str, Any]:
    """A row of report.csv: `latency_ms.p50`, `srcc_interval.low` and so on, always the same columns."""
    flat: dict[str, Any] = {}
    for name, value in dataclasses.asdict(row).items():
        if name.endswith("_interval"):
            flat[f"{name}.low"], flat[f"{name}.high"] = value or (None, None)
        elif name in ("latency_ms", "end_to_end_ms"):
            fields = [f.name for f in dataclasses.fields(Latency) if f.name not in ("rounds_p50", "samples")]
            flat.update({f"{name}.{key}": value and value[key] for key in fields})
        elif name == "words":
            flat[name] = "; ".join(f"{key}: {word}" for key, word in value.items())
        elif name == "notes":
            flat[name] = "; ".join(value)
        else:
            flat[name] = value
    return flat


def markdown(report: Report) -> str:
    """The table for a README or a pull request, with its caption and what it ran on."""
    columns = columns_of(report)
    lines = [
        "| " + " | ".join(column.title for column in columns) + " |",
        "|" + "|".join(" ---: " if column.right else " --- " for column in columns) + "|",
        *("| " + " | ".join(column.text(row).replace("|", "\\|") for column in columns) + " |" for row in report.rows),
    ]
    where = report.environment
    machine = ", ".join([where["cpu"], f"{where['cores']} cores", *(gpu["name"] for gpu in where["gpus"])])
    packages = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    said = [f"- {remark}" for remark in remarks(report)]
    foot = [f"{machine}. Python {where['python']}, {packages}. {report.created}.", "", f"    {report.command}"]
    return "\n".join([report.caption, "", *lines, "", *said, *([""] if said else []), *foot, ""])
