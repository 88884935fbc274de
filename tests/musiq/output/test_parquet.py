"""Parquet of rows: typed columns, row groups of bounded memory, read back the same."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musiq.errors import MusiqError
from musiq.output import parquet
from musiq.output.formats import FORMATS
from musiq.output.resumable import RowFile
from musiq.scoring import Row
from tests.musiq.output.row_samples import MODEL, ODD_PATHS, rows_of, save


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    rows = rows_of(20)
    save(tmp_path / "scores.parquet", rows)
    schema = pq.read_schema(tmp_path / "scores.parquet")
    assert schema.names == ["path", "score", "size", "fitted", "error", "model"]
    assert [schema.field(name).type for name in schema.names] == [pa.string(), pa.float32(), *[pa.string()] * 4]
    columns = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert columns["path"] == [row.path for row in rows]
    assert columns["score"] == [row.score for row in rows]
    assert columns["error"] == [row.error for row in rows]
    assert columns["size"] == [row.size for row in rows]
    assert set(columns["model"]) == {MODEL}
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_parquet_has_a_column_for_each_share(tmp_path: Path) -> None:
    shares = (0.1, 0.2, 0.3, 0.25, 0.15)
    save(tmp_path / "scores.parquet", [Row("a", 3.0, shares=shares), Row("b", None, error="no")], outputs=5)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert [table[f"share_{k}"][0].as_py() for k in range(1, 6)] == pytest.approx(shares)
    assert table["share_5"][1].as_py() is None
    assert table.schema.field("share_1").type == pa.float32()


def test_parquet_is_written_in_row_groups_and_read_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 100)
    rows = [*rows_of(1050), *(Row(path, 1.0, shares=(0.5, 0.5)) for path in ODD_PATHS)]
    parquet.write(tmp_path / "scores.parquet", iter(rows), 2)
    assert pq.ParquetFile(tmp_path / "scores.parquet").num_row_groups == 11
    assert list(parquet.read(tmp_path / "scores.parquet")) == rows


def test_memory_for_parquet_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 500)
    peaks = []
    for count in (2_000, 8_000):
        path = tmp_path / f"{count}.parquet"
        with RowFile(path, FORMATS["parquet"](1), [MODEL]) as file:
            for row in rows_of(count):
                file.write(row)
            tracemalloc.start()
            file.finish()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_parquet_without_pyarrow_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MusiqError, match=r"pip install .*\[parquet\]'"):
        RowFile(tmp_path / "scores.parquet", FORMATS["parquet"](1), [MODEL])
    assert list(tmp_path.iterdir()) == []
