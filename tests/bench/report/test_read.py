"""Reading reports back, also those of the version before."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from musiq.errors import MusiqError
from musiq_bench.report.read import read
from musiq_bench.report.schema import SCHEMA
from musiq_bench.report.write import write
from tests.made_report import any_row, made_report


def test_a_report_reads_back_as_it_was_written(tmp_path: Path) -> None:
    report = made_report()
    report.rows.append(any_row())
    write(report, tmp_path)
    assert asdict(read(tmp_path)) == asdict(report)
    values = json.loads((tmp_path / "report.json").read_text())
    values["later"] = values["rows"][0]["later"] = values["rows"][0]["latency_ms"]["later"] = 1
    del values["rows"][0]["latency_ms"]["samples"]
    (tmp_path / "other.json").write_text(json.dumps(values))
    first = read(tmp_path / "other.json").rows[0]
    assert first.latency_ms is not None
    assert first.latency_ms.samples == []


BEFORE = """{
 "schema": "musiq-bench/1", "created": "2026-11-23T18:12:15+00:00", "command": "musiq-bench --images Images",
 "environment": {"cpu": "a CPU", "cores": 2, "gpus": [], "versions": {}, "python": "3.11.7"},
 "settings": {"device": "auto", "threads": null, "batches": [1], "calls": 10, "seconds": 10.0, "rounds": 2},
 "pictures": {"folders": ["Images"], "found": 4000, "used": 200, "fitted": 200, "broken": []},
 "labels": null, "caption": "200 pictures at 1024x768.", "interrupted": false, "resumed": 0,
 "rows": [{"model": "musiq", "path": "musiq.onnx", "sha256": "08ee", "format": "onnx", "role": "candidate",
   "precision": "fp32", "device": "auto", "batch": 1, "provider": "CPUExecutionProvider", "status": "ok", "reason": "",
   "pictures": 200, "srcc_reference": 0.9999, "words": {}, "notes": [],
   "latency_ms": {"n": 5, "mean": 2.0, "min": 1.0, "max": 3.0, "cv": 0.1, "p50": 2.0, "p90": null, "p95": null,
     "p99": null, "rounds_p50": [2.0, 2.0]}}]
}"""
"""As the version before wrote it."""


def test_a_report_of_the_version_before_is_read_as_one_of_this(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(BEFORE)
    found = read(tmp_path)
    assert (found.images["used"], found.rows[0].images) == (200, 200)
    assert (found.rows[0].any_size, found.rows[0].by_size) == (False, [])
    assert found.settings["devices"] == ["auto"]
    assert found.schema == SCHEMA
    write(found, tmp_path / "again")
    assert asdict(read(tmp_path / "again")) == asdict(found)


def test_settings_of_several_devices_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(
        BEFORE.replace('"device": "auto", "threads"', '"devices": ["cpu"], "threads"')
    )
    assert read(tmp_path).settings["devices"] == ["cpu"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "Cannot read"),
        ("{", "is not JSON"),
        ("[1]", "has the schema None, not 'musiq-bench/2'"),
        ('{"schema": "musiq-bench/9"}', "has the schema 'musiq-bench/9'"),
        ('{"schema": "musiq-bench/1"}', "is not whole"),
        ('{"schema": "musiq-bench/1", "rows": [{"model": "x"}]}', "is not whole"),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(MusiqError, match="musiq-bench") as caught:
        read(path)
    assert message in str(caught.value)
