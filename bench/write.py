"""`report.json`, `report.csv` and `report.md`: the same rows for programs, spreadsheets and people."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

from musiq.artifact import whole

from .figures import Latency
from .report import Report, Row
from .table import COLUMNS, remarks


def write(report: Report, folder: Path) -> list[Path]:
    """Write the three files into `folder`, each whole or not at all; their paths."""
    texts = {"report.json": _json(report), "report.md": markdown(report)}
    for name, text in texts.items():
        with whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    with whole(folder / "report.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        flat = [flatten(row) for row in report.rows]
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)
    return [folder / name for name in ("report.json", "report.csv", "report.md")]


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
    columns = [column for column in COLUMNS if column.labelled is False or report.labels]
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
