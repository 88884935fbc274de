"""Every name that a file can have goes through every format, for readers of its own, of Python, pandas and pyarrow."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from musiq.output import parquet
from musiq.output.formats import FORMATS
from musiq.output.resumable import RowFile
from musiq.output.text import Csv, JsonLines, Tsv
from musiq.scoring import Row
from tests.musiq.output.row_samples import MODEL, save

PIECES = [
    b"a", b"B.jpg", b" ", b"  ", b"\t", b"\n", b"\r", b"\r\n", b'"', b'""', b",", b";", b"'", b"\\", b"\\n", b"|",
    b"\\udce9", b"\\u005c", b"\\u00e9", b"\xe9", b"\xff\xfe", b"\xc3", "é".encode(), "日本".encode(), "🙂".encode(),
    "\u2028".encode(), "\x85".encode(), "\ufeff".encode(), b"\x1c", b"\x0b", b"\x0c", b"\x1a", b"\x01", b"=1+1", b"#",
    b"-", b"nan", b"null", b"{}", b"%s",
]  # fmt: skip
"""What names are made of here: whatever a format, a quote, an escape or a decoder could trip over; never NUL or /."""


def odd_names(count: int = 400) -> list[str]:
    """Each piece alone, at the start, at the end and inside, and many at random: as Python has them in a UTF-8 locale."""
    chance = random.Random(21)
    names = [form % piece for piece in PIECES for form in (b"%s", b"%sx", b"x%s", b"x%sx")]
    names += [b"".join(chance.choices(PIECES, k=chance.randint(2, 8))) for _ in range(count)]
    return [name.decode("utf-8", "surrogateescape") for name in dict.fromkeys(names)]


NAMES = odd_names()
ROWS = [Row(name, index / 8, model=MODEL) for index, name in enumerate(NAMES)]
UTF8 = [name for name in NAMES if name.isprintable() or max(name) < "\udc80"]
"""Those that are UTF-8, for readers that know no other bytes."""


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_file_of_them_is_resumed_without_scoring_one_again(kind: str, tmp_path: Path) -> None:
    out = tmp_path / f"scores.{kind}"
    save(out, ROWS[: len(ROWS) // 2], finish=False)
    save(out, ROWS, resume=True)
    with RowFile(out, FORMATS[kind](1), [MODEL], resume=True) as file:
        assert list(file.done.elements()) == NAMES


@pytest.mark.parametrize(("rows", "delimiter"), [(Csv(), ","), (Tsv(), "\t")])
def test_the_csv_module_and_pandas_read_them(rows: Csv, delimiter: str) -> None:
    written = rows.head() + b"".join(map(rows.line, ROWS))
    text = io.StringIO(written.decode("utf-8", "surrogateescape"), newline="")
    assert [row["path"] for row in csv.DictReader(text, delimiter=delimiter, strict=True)] == NAMES
    table = pd.read_csv(
        io.BytesIO(written),
        sep=delimiter,
        encoding_errors="surrogateescape",
        keep_default_na=False,
        dtype={"path": str},
    )
    assert list(table["path"]) == NAMES
    assert list(table["score"]) == [row.score for row in ROWS]


def test_pyarrow_reads_those_that_are_utf_8() -> None:
    written = Csv().head() + b"".join(Csv().line(Row(name, 1.0, model=MODEL)) for name in UTF8)
    types = pyarrow.csv.ConvertOptions(column_types={"path": pa.string()})
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    table = pyarrow.csv.read_csv(io.BytesIO(written), parse_options=options, convert_options=types)
    assert len(UTF8) > 200
    assert table["path"].to_pylist() == UTF8


def test_json_reads_them() -> None:
    written = b"".join(map(JsonLines().line, ROWS))
    assert written.isascii()
    assert [json.loads(line)["path"] for line in written.splitlines()] == NAMES
    assert len(
        pd.read_json(io.BytesIO(b"".join(JsonLines().line(Row(name, 1.0)) for name in UTF8)), lines=True)
    ) == len(UTF8)


def test_parquet_has_them_as_they_are_but_for_what_is_no_utf_8(tmp_path: Path) -> None:
    parquet.write(tmp_path / "scores.parquet", ROWS)
    assert [row.path for row in parquet.read(tmp_path / "scores.parquet")] == NAMES
    column = pyarrow.parquet.read_table(tmp_path / "scores.parquet")["path"].to_pylist()
    assert len(set(column)) == len(NAMES)
    plain = [name for name in UTF8 if "\\u" not in name]
    assert [name for name, stored in zip(NAMES, column, strict=True) if name == stored and name in set(plain)] == plain


def test_ordinary_names_are_written_as_the_csv_module_writes_them() -> None:
    for delimiter, rows in ((",", Csv()), ("\t", Tsv())):
        for name in NAMES:
            text = io.StringIO()
            csv.writer(text, delimiter=delimiter, lineterminator="\n").writerow([name, "1.5", "", "", "", MODEL])
            if "\r" not in name:
                assert rows.line(Row(name, 1.5, model=MODEL)) == text.getvalue().encode("utf-8", "surrogateescape")


def test_files_of_these_names_can_be_made(tmp_path: Path) -> None:
    """They are names that Linux has, not only ones that formats could meet."""
    for name in NAMES[:160]:
        (tmp_path / name).write_text("")
    assert sorted(os.listdir(os.fsencode(tmp_path))) == sorted(map(os.fsencode, NAMES[:160]))
