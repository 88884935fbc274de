"""A written `report.json` as a `Report` again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from musiq.errors import MusiqError

from .latency import Latency
from .schema import SCHEMA, Report, Row


def read(path: Path) -> Report:
    """The report in `path`, or in the `report.json` of the folder `path`; fields that later versions added are left out.

    Raises MusiqError where it cannot be read or is not a report of this schema.
    """
    path = path / "report.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise MusiqError(f"Cannot read {path} ({problem.strerror}); give a report.json of musiq-bench.") from problem
    except ValueError as problem:
        raise MusiqError(f"{path} is not JSON ({problem}); give a report.json of musiq-bench.") from problem
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise MusiqError(f"{path} has the schema {schema!r}, not {SCHEMA!r}; give a report.json of musiq-bench.")
    try:
        return Report(**{**_known(Report, values), "rows": [_row(each) for each in values["rows"]]})
    except (AttributeError, KeyError, TypeError) as problem:
        raise MusiqError(f"{path} is not whole ({problem}); give a report.json as musiq-bench wrote it.") from problem


def _row(values: dict[str, Any]) -> Row:
    known = _known(Row, values)
    for clock in ("latency_ms", "end_to_end_ms"):
        # Reports of the first releases kept no samples.
        known[clock] = Latency(**{"samples": [], **_known(Latency, known[clock])}) if known.get(clock) else None
    return Row(**known)


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}
