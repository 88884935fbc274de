"""Reading a written `report.json` as a `Report` again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from musiq.errors import MusiqError

from .latency import ClassLatency, Latency
from .schema import SCHEMA, Report, ReportRow

BEFORE = "musiq-bench/1"


def read(path: Path) -> Report:
    """Read a report of this version or of the one before.

    Args:
        path: A report.json, or a folder that has one.

    Returns:
        The report; fields that later releases added are left out.

    Raises:
        MusiqError: It cannot be read, or is not a report of these versions.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise MusiqError(f"Cannot read {path} ({problem.strerror}); give a report.json of musiq-bench.") from problem
    except ValueError as problem:
        raise MusiqError(f"{path} is not JSON ({problem}); give a report.json of musiq-bench.") from problem
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema not in (SCHEMA, BEFORE):
        raise MusiqError(f"{path} has the schema {schema!r}, not {SCHEMA!r}; give a report.json of musiq-bench.")
    try:
        if schema == BEFORE:
            values = _from_version_1(values)
        return Report(**{**_known(Report, values), "rows": [_row(each) for each in values["rows"]]})
    except (AttributeError, KeyError, TypeError) as problem:
        raise MusiqError(f"{path} is not whole ({problem}); give a report.json as musiq-bench wrote it.") from problem


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Version 1 said "pictures" for "images", and at first had one "device" in place of "devices"."""
    settings = {"devices" if name == "device" else name: value for name, value in values["settings"].items()}
    if isinstance(settings.get("devices"), str):
        settings["devices"] = [settings["devices"]]
    rows = [_with_images(row) for row in values["rows"]]
    return {**_with_images(values), "settings": settings, "rows": rows, "schema": SCHEMA}


def _with_images(values: dict[str, Any]) -> dict[str, Any]:
    return {"images" if name == "pictures" else name: value for name, value in values.items()}


def _row(values: dict[str, Any]) -> ReportRow:
    known = _known(ReportRow, values)
    for clock in ("latency_ms", "end_to_end_ms"):
        # Reports of the first releases kept no samples.
        known[clock] = Latency(**{"samples": [], **_known(Latency, known[clock])}) if known.get(clock) else None
    known["by_size"] = [ClassLatency(**_known(ClassLatency, each)) for each in known.get("by_size", ())]
    return ReportRow(**known)


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}
