"""Rows as text: what each format writes, to the byte, and that it reads back the same."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from musiq.errors import MusiqError
from musiq.output.text import AppendableFormat, Csv, JsonLines, PathAndScore, Tsv
from musiq.scoring import Row
from tests.musiq.output.row_samples import ODD_PATHS, save

ROWS = [
    Row("a b.jpg", 61.25, "resized 0.5x", model="m@1", size="512x288"),
    Row('comma, "q"\n.png', 0.1, shares=(0.25, 0.75), model="m@1"),
    Row("latin\udce9.png", None, error="The file is empty.", model="m@1"),
]


@pytest.mark.parametrize(
    ("written_by", "expected"),
    [
        (
            Csv(2),
            b"path,score,size,fitted,error,model,share_1,share_2\n"
            b"a b.jpg,61.25,512x288,resized 0.5x,,m@1,,\n"
            b'"comma, ""q""\n.png",0.1,,,,m@1,0.25,0.75\n'
            b"latin\xe9.png,,,,The file is empty.,m@1,,\n",
        ),
        (
            Tsv(2),
            b"path\tscore\tsize\tfitted\terror\tmodel\tshare_1\tshare_2\n"
            b"a b.jpg\t61.25\t512x288\tresized 0.5x\t\tm@1\t\t\n"
            b'"comma, ""q""\n.png"\t0.1\t\t\t\tm@1\t0.25\t0.75\n'
            b"latin\xe9.png\t\t\t\tThe file is empty.\tm@1\t\t\n",
        ),
        (
            JsonLines(2),
            b'{"path": "a b.jpg", "score": 61.25, "size": "512x288", "fitted": "resized 0.5x", "error": "", '
            b'"model": "m@1"}\n'
            b'{"path": "comma, \\"q\\"\\n.png", "score": 0.1, "size": "", "fitted": "", "error": "", "model": "m@1", '
            b'"shares": [0.25, 0.75]}\n'
            b'{"path": "latin\\udce9.png", "score": null, "size": "", "fitted": "", "error": "The file is empty.", '
            b'"model": "m@1"}\n',
        ),
    ],
)
def test_rows_are_these_bytes_and_read_back_the_same(written_by: AppendableFormat, expected: bytes) -> None:
    written = written_by.head() + b"".join(map(written_by.line, ROWS))
    assert written == expected
    ends, back = zip(*written_by.read(io.BytesIO(written)), strict=True)
    assert list(back) == ROWS
    assert ends[-1] == len(written)


@pytest.mark.parametrize("written_by", [Csv(), Tsv(), JsonLines()])
def test_paths_keep_their_bytes_and_a_torn_row_ends_the_reading(written_by: AppendableFormat) -> None:
    rows = [Row(path, 2.5, model="m@1") for path in ODD_PATHS]
    written = written_by.head() + b"".join(map(written_by.line, rows))
    assert [row for _, row in written_by.read(io.BytesIO(written))] == rows
    for torn in (written[:-1], written[:-9], written + b"\0" * 40, written + b'"half'):
        found = [row for _, row in written_by.read(io.BytesIO(torn))]
        assert found == rows[: len(rows) - (len(torn) < len(written))]


def test_a_file_with_other_columns_is_refused() -> None:
    for other, written_by in ((b"image,mos\n", Csv()), (Csv(5).head(), Csv()), (b'{"image": 1}\n', JsonLines())):
        with pytest.raises(MusiqError, match="other columns than this run would write"):
            list(written_by.read(io.BytesIO(other)))


def test_the_classic_text_is_path_tab_score_alone() -> None:
    rows = PathAndScore()
    written = rows.head() + b"".join(map(rows.line, [Row("a b.jpg", 61.25), Row("c.jpg", None, error="It is empty.")]))
    assert written == b"a b.jpg\t61.25\nc.jpg\tnan\n"
    scores = [float(line.split("\t")[1]) for line in written.decode().splitlines()]  # as scripts read it
    assert scores == pytest.approx([61.25, np.nan], nan_ok=True)


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
