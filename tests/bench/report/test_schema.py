"""The JSON schema of reports, against the fields that are written and a report of a real run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from musiq_bench.report import schema
from musiq_bench.report.latency import Latency
from musiq_bench.report.schema import ReportRow
from tests.bench_place import QUICK, bench, report_of

pytest_plugins = ["tests.bench_fixtures"]


SCHEMA = json.loads(Path(schema.__file__).with_name("report.schema.json").read_text())


def test_every_field_of_a_row_stands_in_the_schema_and_the_other_way_round() -> None:
    described = SCHEMA["$defs"]["row"]["properties"]
    assert set(described) == {field.name for field in dataclasses.fields(ReportRow)}
    assert set(SCHEMA["$defs"]["latency"]["properties"]) == {field.name for field in dataclasses.fields(Latency)}
    assert set(SCHEMA["properties"]) == {field.name for field in dataclasses.fields(schema.Report)}
    assert SCHEMA["properties"]["schema"]["const"] == schema.SCHEMA


@pytest.mark.slow
def test_a_real_report_with_a_compiler_that_is_missing_is_as_the_schema_says(torch_place: Path, tmp_path: Path) -> None:
    asked = ("--images", "photos", "--labels", "labels.csv", "--batch", 1, "--batch", 2, "--out", tmp_path / "out")
    done = bench(
        *asked, *QUICK, "--rounds", 1, "--baseline", "compile", cwd=torch_place, CXX=str(tmp_path / "no-compiler")
    )
    assert done.returncode == 0, done.stderr
    found = report_of(tmp_path / "out")
    jsonschema.validate(found, SCHEMA)
    status = {(row["role"], row["batch"]): (row["status"], row["reason"]) for row in found["rows"]}
    assert status["reference", 1] == status["candidate", 2] == ("ok", "")
    for batch in (1, 2):
        assert status["baseline", batch][0] == "failed"
        assert "compiler" in status["baseline", batch][1].lower()
    first, second = (row for row in found["rows"] if row["role"] == "candidate")
    assert first["srcc_reference"] == second["srcc_reference"] > 0.99
    assert second["batch_difference"] < 1e-4
    damaged = {**found, "rows": [{**found["rows"][0], "status": "fine"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(damaged, SCHEMA)
