"""Shards: images inside Parquet columns and WebDataset tars, split into pieces that tasks can read apart."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from musiq.errors import MusiqError
from musiq.images.find import SUFFIXES, find_images

TARS = (".tar", ".tar.gz", ".tgz")
PARQUET = ".parquet"
COLUMNS = ("bytes", "image", "path")
"""Where images are looked for: as Ray's read_binary_files, read_images and Hugging Face, and file lists name them."""

PATHS_A_PIECE = 64
"""Files in one piece: some seconds of work, so that machines end together and a lost one costs little."""
ROWS_AT_ONCE = 32
"""Rows of Parquet read at once: what bounds the memory of reading, whatever the size of the row groups."""


class Piece(NamedTuple):
    """What one task reads: files as they are, one row group of a Parquet file, or one tar.

    `column` and `first`, the group's first row in the file, are for Parquet alone; `error` says why a shard cannot be read.
    """

    names: tuple[str, ...]
    column: str = ""
    group: int = 0
    first: int = 0
    error: str = ""


class ShardImage(NamedTuple):
    """One image to score: `data`, the bytes of its file, or None where `name` is the path to read it from.

    `error` is why there is nothing to score.
    """

    name: str
    data: bytes | None = None
    error: str = ""


def split_sources(sources: Iterable[str], column: str | None = None) -> Iterator[Piece]:
    """The pieces of images, folders (recursive), *.parquet and *.tar, in their order; a folder's shards come first.

    A shard that cannot be opened is a piece with its error. Raises MusiqError for a folder without images, and for a
    Parquet file without the `column` (by default the first of COLUMNS that it has).
    """
    files: list[str] = []
    for name in (name for source in sources for name in _listed(source)):
        if not name.lower().endswith((PARQUET, *TARS)):
            files.append(name)
            continue
        yield from _files(files)
        files.clear()
        yield from _row_groups(name, column) if name.lower().endswith(PARQUET) else [Piece((name,))]
    yield from _files(files)


def _files(names: list[str]) -> Iterator[Piece]:
    return (Piece(tuple(names[start : start + PATHS_A_PIECE])) for start in range(0, len(names), PATHS_A_PIECE))


def _listed(source: str) -> list[str]:
    if not os.path.isdir(source):
        return [source]
    endings = (PARQUET, *TARS)
    shards = [str(path) for path in sorted(Path(source).rglob("*")) if path.name.lower().endswith(endings)]
    try:
        return shards + [str(path) for path in find_images([source])]
    except MusiqError:
        if shards:
            return shards
        raise


def _row_groups(name: str, column: str | None) -> Iterator[Piece]:
    import pyarrow.parquet as pq

    try:
        with _opened(name) as stream, pq.ParquetFile(stream) as file:
            schema, counts = file.schema_arrow, _counts(file)
    except Exception as problem:  # pyarrow's and each protocol's own
        yield Piece((name,), error=_unreadable(problem))
        return
    wanted = pick_column(schema.names, column, name)
    if not any(counts):
        yield Piece((name,), error="There is no row in it. Leave the file out.")
    first = 0
    for group, count in enumerate(counts):
        if count:
            yield Piece((name,), wanted, group, first)
        first += count


def pick_column(names: list[str], column: str | None, where: str) -> str:
    """`column`, by default the first of COLUMNS, if it is among the `names`; else raises MusiqError."""
    expected = [column] if column else [known for known in COLUMNS if known in names] or COLUMNS
    if expected[0] in names:
        return expected[0]
    raise MusiqError(
        f"{where} has the columns {', '.join(names)}; expected {' or '.join(expected)}. "
        "Name the column that holds the images or their paths."
    )


def _counts(file: Any) -> list[int]:
    return [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]


def read_piece(piece: Piece, folder: str = "") -> Iterator[ShardImage]:
    """The images of a piece, at least one; what cannot be read has its error, and ends the piece.

    `folder` is where relative names start, for a process with another working folder than the one that the sources
    were split in.
    """
    name = piece.names[0]
    if piece.error:
        yield ShardImage(name, error=piece.error)
        return
    if not name.lower().endswith((PARQUET, *TARS)):
        yield from map(ShardImage, piece.names)
        return
    try:
        with _opened(located(name, folder)) as stream:
            yield from _parquet(piece, stream) if piece.column else _tar(name, stream)
    except Exception as problem:  # tarfile's, pyarrow's, each protocol's own
        yield ShardImage(name, error=_unreadable(problem))


def located(name: str, folder: str) -> str:
    """The path or URL to open for a name that was given in `folder`."""
    return name if "://" in name else os.path.join(folder, name)


def _parquet(piece: Piece, stream: IO[bytes]) -> Iterator[ShardImage]:
    """Named by the column `path`, where there is one, else FILE#ROW."""
    import pyarrow.parquet as pq

    (name,), row = piece.names, piece.first
    with pq.ParquetFile(stream) as file:
        columns = [column for column in {piece.column, "path"} if column in file.schema_arrow.names]
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[piece.group], columns=columns):
            paths = batch.column("path").to_pylist() if "path" in columns else [None] * len(batch)
            for path, value in zip(paths, batch.column(piece.column).to_pylist(), strict=True):
                yield _cell_image(f"{name}#{row}" if path is None else str(path), value)
                row += 1


def _cell_image(name: str, value: Any) -> ShardImage:
    """A cell of a Parquet file: the bytes of an image, its path, or a struct of both."""
    if isinstance(value, dict):
        value, name = value.get("bytes") or value.get("path"), value.get("path") or name
    if isinstance(value, str):
        return ShardImage(value)
    if isinstance(value, bytes):
        return ShardImage(name, value)
    what = "nothing" if value is None else f"a {type(value).__name__}"
    return ShardImage(name, error=f"There is {what} where the image should be; expected its bytes or its path.")


def _tar(name: str, stream: IO[bytes]) -> Iterator[ShardImage]:
    """The images in a tar, by their endings, each named TAR/MEMBER; labels and the like are passed over."""
    found = False
    with tarfile.open(fileobj=stream) as tar:
        for member in tar:
            if member.isfile() and os.path.splitext(member.name)[1].lower() in SUFFIXES:
                file, found = tar.extractfile(member), True
                yield ShardImage(f"{name}/{member.name}", file.read() if file else b"")
        _check_end(tar)
    if not found:
        yield ShardImage(name, error=f"There is no image in it: expected files named {' '.join(sorted(SUFFIXES))}.")


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise MusiqError unless the tar ends as one should: tarfile takes a damaged header for the end, without a word."""
    file: Any = tar.fileobj
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise MusiqError(f"it is damaged or cut short after {tar.offset:,} bytes")


def _opened(name: str) -> IO[bytes]:
    if "://" not in name:
        return open(name, "rb")
    import fsspec  # type: ignore[import-untyped,unused-ignore]

    return fsspec.open(name, "rb").open()  # type: ignore[no-any-return,unused-ignore]


def _unreadable(problem: Exception) -> str:
    line = " ".join(str(problem).split()) or type(problem).__name__
    return f"Cannot read all of this file: {line}. Check the path and its permissions, or copy it again."
