"""The formats that files of rows have, by their names and endings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from musiq.output.parquet import Parquet
from musiq.output.text import AppendableFormat, Csv, JsonLines, PathAndScore, Tsv


class RowFormat(Protocol):
    """A format of a file of rows. Rows gather in a text that can be appended to, of which the file is made in the end."""

    @property
    def gathering(self) -> AppendableFormat:
        """How rows are written while they gather: in this format itself, or as JSON Lines."""
        ...

    def finish(self, part: Path, path: Path) -> None:
        """Make the file `path` of the rows gathered in `part`, which goes."""
        ...

    def reopen(self, path: Path, part: Path) -> None:
        """Write the rows of a finished file into `part`, as `gathering` has them. Raises MusiqError where they cannot be
        told from it, in words that follow "it holds"."""
        ...


class MakesFormat(Protocol):
    """Makes a format for the shares of so many ratings (1 for none), and for the columns that videos have besides."""

    def __call__(self, outputs: int = 1, numbers: Sequence[str] = ()) -> RowFormat: ...


FORMATS: dict[str, MakesFormat] = {
    "csv": Csv,
    "tsv": Tsv,
    "jsonl": JsonLines,
    "parquet": Parquet,
    "txt": PathAndScore,
}
"""By their names, which are their endings too."""
