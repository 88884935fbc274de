"""Rows in every format and files of them: read back by other libraries, resumed after any cut, refused when foreign."""

from __future__ import annotations

import csv
import json
import random
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musiq.errors import MusiqError
from musiq.output import parquet
from musiq.output.resumable import RowFile
from musiq.output.text import FORMATS, Table
from musiq.scoring.row import Row

LABELS = {"mean.onnx": "mean@0123456789ab"}
ODD = ["plain.jpg", 'comma, "quote".png', "line\nfeed.png", "日本.png", "latin\udce9.png", "tab\t.png"]


def rows_of(count: int) -> list[Row]:
    return [
        Row(f"{number}.jpg", None, error="The file is empty.")
        if number % 7 == 3
        else Row(f"{number}.jpg", float(np.float32(number) / np.float32(3)), "resized 0.5x", model="mean.onnx")
        for number in range(count)
    ]


def save(path: Path, rows: list[Row], outputs: int = 1, finish: bool = True, resume: bool = False) -> None:
    with RowFile(path, Table(path.suffix[1:], LABELS, outputs), resume) as file:
        for row in rows[sum(file.done.values()) :]:
            file.write(row)
        if finish:
            file.finish()


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    rows = rows_of(20)
    save(tmp_path / "scores.parquet", rows)
    schema = pq.read_schema(tmp_path / "scores.parquet")
    assert schema.names == ["path", "score", "fitted", "error", "model"]
    assert [schema.field(name).type for name in schema.names] == [pa.string(), pa.float32(), *[pa.string()] * 3]
    columns = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    assert columns["path"] == [row.path for row in rows]
    assert columns["score"] == [row.score for row in rows]
    assert columns["error"] == [row.error for row in rows]
    assert set(columns["model"]) == set(LABELS.values())
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
    table, rows = Table("parquet", LABELS, 2), [*rows_of(1050), *(Row(path, 1.0, shares=(0.5, 0.5)) for path in ODD)]
    records = [table.record(row) for row in rows]
    parquet.write(tmp_path / "scores.parquet", iter(records), 2)
    assert pq.ParquetFile(tmp_path / "scores.parquet").num_row_groups == 11
    back = list(parquet.read(tmp_path / "scores.parquet"))
    assert [
        {**record, "shares": tuple(record["shares"])} if "shares" in record else record for record in back
    ] == records


def test_memory_for_parquet_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 500)
    peaks = []
    for count in (2_000, 8_000):
        path = tmp_path / f"{count}.parquet"
        with RowFile(path, Table("parquet", LABELS)) as file:
            for row in rows_of(count):
                file.write(row)
            tracemalloc.start()
            file.finish()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_the_classic_text_is_path_tab_score_alone(tmp_path: Path) -> None:
    save(tmp_path / "scores.txt", [Row("a b.jpg", 61.25), Row("c.jpg", None, error="The file is empty.")])
    assert (tmp_path / "scores.txt").read_text() == "a b.jpg\t61.25\nc.jpg\tnan\n"
    with (tmp_path / "scores.txt").open() as file:  # as scripts read it
        assert [float(line.split("\t")[1]) for line in file] == pytest.approx([61.25, np.nan], nan_ok=True)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_resumed_to_what_it_would_have_been(tmp_path: Path, kind: str) -> None:
    rows = [*rows_of(60), *(Row(path, 2.5, model="mean.onnx") for path in ODD)]
    whole, out = tmp_path / f"whole.{kind}", tmp_path / f"scores.{kind}"
    part = out.with_name(out.name + ".part")
    save(whole, rows)
    save(out, rows, finish=False)
    written, chance = part.read_bytes(), random.Random(4)
    for cut in [0, 1, len(written), *(chance.randrange(len(written)) for _ in range(60))]:
        out.unlink(missing_ok=True)
        part.write_bytes(written[:cut])
        save(out, rows, resume=True)
        if kind == "parquet":
            assert pq.read_table(out).equals(pq.read_table(whole))
        else:
            assert out.read_bytes() == whole.read_bytes()
        assert not part.exists()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_finished_file_can_be_added_to(tmp_path: Path, kind: str) -> None:
    out, rows = tmp_path / f"scores.{kind}", [Row(path, 2.5, model="mean.onnx") for path in ODD]
    save(out, rows[:4])
    with RowFile(out, Table(kind, LABELS), resume=True) as file:
        assert dict(file.done) == dict.fromkeys(ODD[:4], 1)
        assert out.exists()  # until the new one is whole
        for row in rows[4:]:
            file.write(row)
        file.finish()
    with RowFile(out, Table(kind, LABELS), resume=True) as file:
        assert list(file.done) == ODD


def test_a_finished_classic_text_cannot_be_added_to_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "scores.txt"
    save(out, rows_of(3))
    before = out.read_bytes()
    with pytest.raises(MusiqError, match="do not say which model they are of"):
        RowFile(out, Table("txt", LABELS), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.txt"]
    assert out.read_bytes() == before


def test_killed_between_the_new_file_and_the_end_of_the_old_it_finishes_the_same(tmp_path: Path) -> None:
    out, rows = tmp_path / "scores.parquet", rows_of(30)
    save(out, rows, finish=False)
    gathered = (tmp_path / "scores.parquet.part").read_bytes()
    save(out, rows, resume=True)
    (tmp_path / "scores.parquet.part").write_bytes(gathered)
    save(out, rows, resume=True)
    assert pq.read_table(out)["path"].to_pylist() == [row.path for row in rows]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_of_something_else_is_not_resumed_and_not_touched(tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"scores.{kind}"
    contents = [b"image,mos\na.jpg,3.5\n"]
    if kind == "parquet":
        pq.write_table(pa.table({"image": ["a.jpg"]}), out)
        contents.append(out.read_bytes())
    for content in contents:
        out.write_bytes(content)
        with pytest.raises(MusiqError, match=r"Cannot resume .*scores.* it holds (other columns|no Parquet)"):
            RowFile(out, Table(kind, LABELS), resume=True)
        assert out.read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_rows_of_another_model_are_not_resumed(tmp_path: Path) -> None:
    save(tmp_path / "scores.parquet", rows_of(5))
    with pytest.raises(MusiqError, match="scores of the model mean@0123456789ab, not of other@1"):
        RowFile(tmp_path / "scores.parquet", Table("parquet", {"other.onnx": "other@1"}), resume=True)


def test_parquet_without_pyarrow_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MusiqError, match=r"pip install 'musiq\[parquet\]'"):
        RowFile(tmp_path / "scores.parquet", Table("parquet", LABELS))
    assert list(tmp_path.iterdir()) == []


def test_scores_keep_all_digits_of_their_float32(tmp_path: Path) -> None:
    values = np.frombuffer(np.random.default_rng(5).bytes(4000), np.float32)
    values = values[np.isfinite(values)]
    rows = [Row(str(number), float(value)) for number, value in enumerate(values)]
    for kind in ("csv", "jsonl", "parquet"):
        save(tmp_path / f"scores.{kind}", rows)
    with (tmp_path / "scores.csv").open() as file:
        read = [float(row["score"]) for row in csv.DictReader(file)]
    np.testing.assert_array_equal(np.array(read, np.float32), values)
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    np.testing.assert_array_equal(np.array([json.loads(line)["score"] for line in lines], np.float32), values)
    np.testing.assert_array_equal(pq.read_table(tmp_path / "scores.parquet")["score"].to_numpy(), values)


def test_resuming_takes_work_in_proportion_to_the_rows(tmp_path: Path) -> None:
    calls = []
    for count in (500, 4_000):
        out, rows = tmp_path / f"{count}.parquet", rows_of(count)
        save(out, rows, finish=False)
        calls.append(calls_of(lambda out=out, rows=rows: save(out, rows, resume=True)))
    assert calls[0] > 500
    assert calls[1] < 8 * 1.5 * calls[0]  # eight times the rows; work by their square would be 64


def calls_of(work: Callable[[], None]) -> int:
    """How many functions of Python and C `work` calls in this thread: the same on a busy machine, as seconds are not."""
    count = 0

    def counting(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counting)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count
