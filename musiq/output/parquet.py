"""Rows as Parquet: path, score (float32), size, fitted, error, model, what videos have besides (counts int32, else float64)
and share_k (float32), in row groups of bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from musiq.errors import MusiqError, pip_install
from musiq.files import atomic_write
from musiq.output.text import COUNTS, WITHOUT_SIZE, AppendableFormat, JsonLines, rows_of
from musiq.scoring import Row
from musiq.spec import share_columns

GROUP_ROWS = 50_000
"""Rows in memory at once, some 50 MB as Python objects; readers of Parquet like groups of 10 MB and more."""

TEXTS = ("path", "size", "fitted", "error", "model")


class Parquet:
    """Parquet cannot be appended to, so rows gather as JSON Lines.

    Raises MusiqError where pyarrow is missing: before the work, not after it.
    """

    def __init__(self, outputs: int = 1, numbers: Sequence[str] = ()) -> None:
        import_pyarrow()
        self.outputs, self.numbers = outputs, tuple(numbers)

    @property
    def gathering(self) -> AppendableFormat:
        return JsonLines(self.outputs, self.numbers)

    def finish(self, part: Path, path: Path) -> None:
        with atomic_write(path) as copy:
            write(copy, rows_of(part, self.gathering), self.outputs, self.numbers)
        part.unlink()

    def reopen(self, path: Path, part: Path) -> None:
        with part.open("wb") as file:
            file.writelines(map(self.gathering.line, read(path, self.numbers)))


def import_pyarrow() -> tuple[ModuleType, ModuleType]:
    """pyarrow and pyarrow.parquet, or a MusiqError with their install line."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as problem:
        raise MusiqError(f"Parquet needs pyarrow ({problem}): {pip_install('parquet')}.") from problem
    return pyarrow, pyarrow.parquet


def write(path: Path, rows: Iterable[Row], outputs: int = 1, numbers: Sequence[str] = ()) -> None:
    """Write rows as they come, GROUP_ROWS at a time.

    Parquet's texts are UTF-8: of a path that is not, the stray bytes are written as `\\udc80` to `\\udcff`, and of one
    that holds such letters itself the backslash as `\\u005c`. `read` turns both back.
    """
    pa, pq = import_pyarrow()
    shares = share_columns(outputs)
    fields = [("path", pa.string()), ("score", pa.float32())]
    fields += [(name, pa.string()) for name in TEXTS[1:]]
    fields += [(name, pa.int32() if name in COUNTS else pa.float64()) for name in numbers]
    schema = pa.schema(fields + [(name, pa.float32()) for name in shares])
    iterator = iter(rows)
    with pq.ParquetWriter(path, schema) as file:
        while group := list(islice(iterator, GROUP_ROWS)):
            columns: dict[str, list[Any]] = {name: [_utf8(getattr(row, name)) for row in group] for name in TEXTS}
            columns |= {name: [getattr(row, name) for row in group] for name in ("score", *numbers)}
            columns |= {
                name: [row.shares[place] if row.shares else None for row in group] for place, name in enumerate(shares)
            }
            file.write_table(pa.table(columns, schema))


def read(path: Path, numbers: Sequence[str] = ()) -> Iterator[Row]:
    """The rows that `write` wrote. Raises MusiqError that says what else the file holds."""
    pa, pq = import_pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            if "size" not in names and names.issuperset(("score", "fitted", "model")):
                raise MusiqError(WITHOUT_SIZE)
            for batch in file.iter_batches(GROUP_ROWS):
                yield from (_row(values, numbers) for values in batch.to_pylist())
    except (pa.ArrowException, KeyError) as problem:
        line = " ".join(str(problem).split())
        raise MusiqError(f"no Parquet table of scores ({line})") from problem


def _row(values: dict[str, Any], numbers: Sequence[str]) -> Row:
    path, size, fitted, error, model = (
        ESCAPED.sub(lambda found: chr(int(found[1], 16)), values[name]) for name in TEXTS
    )
    shares = tuple(values[name] for name in values if name.startswith("share_"))
    known = shares if shares and shares[0] is not None else None
    return Row(path, values["score"], fitted, error, known, model, size, **{name: values[name] for name in numbers})


ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f]|005c)")


def _utf8(text: str) -> str:
    return ESCAPED.sub(r"\\u005cu\1", text).encode("utf-8", "backslashreplace").decode()
