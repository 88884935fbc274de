"""Rows as Parquet: path, score (float32), fitted, error, model and share_k (float32), in row groups of bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from musiq.errors import MusiqError
from musiq.spec import share_columns

GROUP_ROWS = 50_000
"""Rows in memory at once, some 50 MB as Python objects; readers of Parquet like groups of 10 MB and more."""

TEXTS = ("path", "fitted", "error", "model")


def import_pyarrow() -> tuple[ModuleType, ModuleType]:
    """pyarrow and pyarrow.parquet, or a MusiqError with their install line."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as problem:
        raise MusiqError(f"Parquet needs pyarrow ({problem}): pip install 'musiq[parquet]'.") from problem
    return pyarrow, pyarrow.parquet


def write(path: Path, records: Iterable[Mapping[str, Any]], outputs: int = 1) -> None:
    """Write records (path, score or None, fitted, error, model, shares) as they come, GROUP_ROWS at a time.

    Parquet's texts are UTF-8: of a path that is not, the stray bytes are written as `\\udc80` to `\\udcff`, and `read`
    turns them back.
    """
    pa, pq = import_pyarrow()
    shares = share_columns(outputs)
    fields = [("path", pa.string()), ("score", pa.float32())]
    fields += [(name, pa.string()) for name in TEXTS[1:]]
    schema = pa.schema(fields + [(name, pa.float32()) for name in shares])
    iterator = iter(records)
    with pq.ParquetWriter(path, schema) as file:
        while group := list(islice(iterator, GROUP_ROWS)):
            columns: dict[str, list[Any]] = {name: [_utf8(record[name]) for record in group] for name in TEXTS}
            columns["score"] = [record["score"] for record in group]
            columns |= {name: [_share(record, place) for record in group] for place, name in enumerate(shares)}
            file.write_table(pa.table(columns, schema))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records that `write` wrote. Raises MusiqError that says what else the file holds."""
    pa, pq = import_pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(GROUP_ROWS):
                yield from map(_record, batch.to_pylist())
    except (pa.ArrowException, KeyError) as problem:
        line = " ".join(str(problem).split())
        raise MusiqError(f"no Parquet table of scores ({line})") from problem


def _record(values: dict[str, Any]) -> dict[str, Any]:
    shares = [values[name] for name in values if name.startswith("share_")]
    record = {name: values[name] for name in ("path", "score", "fitted", "error", "model")}
    record["path"] = STRAY.sub(lambda found: chr(int(found[1], 16)), record["path"])
    return record | ({"shares": shares} if shares and shares[0] is not None else {})


def _share(record: Mapping[str, Any], place: int) -> float | None:
    shares = record.get("shares")
    return None if shares is None else float(shares[place])


STRAY = re.compile(r"\\u(dc[89a-f][0-9a-f])")


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
