"""A file of rows: resumed after any cut to what it would have been, refused when it is of something else."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musiq.errors import MusiqError
from musiq.output.formats import FORMATS
from musiq.output.resumable import RowFile
from musiq.scoring import Row
from tests.musiq.output.row_samples import MODEL, ODD_PATHS, rows_of, save


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_resumed_to_what_it_would_have_been(tmp_path: Path, kind: str) -> None:
    rows = [*rows_of(60), *(Row(path, 2.5, model=MODEL) for path in ODD_PATHS)]
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
    out, rows = tmp_path / f"scores.{kind}", [Row(path, 2.5, model=MODEL) for path in ODD_PATHS]
    save(out, rows[:4])
    with RowFile(out, FORMATS[kind](1), [MODEL], resume=True) as file:
        assert dict(file.done) == dict.fromkeys(ODD_PATHS[:4], 1)
        assert out.exists()  # until the new one is whole
        for row in rows[4:]:
            file.write(row)
        file.finish()
    with RowFile(out, FORMATS[kind](1), [MODEL], resume=True) as file:
        assert list(file.done) == ODD_PATHS


def test_a_finished_classic_text_cannot_be_added_to_and_stays(tmp_path: Path) -> None:
    out = tmp_path / "scores.txt"
    save(out, rows_of(3))
    before = out.read_bytes()
    with pytest.raises(MusiqError, match="do not say which model they are of"):
        RowFile(out, FORMATS["txt"](1), [MODEL], resume=True)
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
            RowFile(out, FORMATS[kind](1), [MODEL], resume=True)
        assert out.read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "stopped midway"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_written_before_they_had_a_size_are_refused_by_name(tmp_path: Path, kind: str, finished: bool) -> None:
    """Nobody could tell what the model saw of them."""
    out = tmp_path / f"scores.{kind}"
    names = ["path", "score", "fitted", "error", "model"]
    cells = ["a.jpg", 61.25, "resized 0.5x", "", MODEL]
    if kind == "parquet" and finished:
        pq.write_table(pa.table({name: [cell] for name, cell in zip(names, cells, strict=True)}), out)
    elif kind in ("jsonl", "parquet"):
        out.write_text(json.dumps(dict(zip(names, cells, strict=True))) + "\n")
    else:
        comma = "," if kind == "csv" else "\t"
        out.write_text(f"{comma.join(names)}\n{comma.join(map(str, cells))}\n")
    if not finished:
        out = out.rename(tmp_path / f"scores.{kind}.part")
    before = out.read_bytes()
    with pytest.raises(
        MusiqError, match=r"Cannot resume .* it holds rows without the column size, as earlier versions"
    ):
        RowFile(tmp_path / f"scores.{kind}", FORMATS[kind](1), [MODEL], resume=True)
    assert out.read_bytes() == before


def test_rows_of_another_model_are_not_resumed(tmp_path: Path) -> None:
    save(tmp_path / "scores.parquet", rows_of(5))
    with pytest.raises(MusiqError, match="scores of the model mean@0123456789ab, not of other@1"):
        RowFile(tmp_path / "scores.parquet", FORMATS["parquet"](1), ["other@1"], resume=True)


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
