"""The check that rows which come back from a cluster are all there, each once and in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from musiq.errors import MusiqError


def each_once_in_order(rows: Iterable[dict[str, Any]], pieces: int) -> Iterator[dict[str, Any]]:
    """The rows as they come, as long as each is the next one: a lost or doubled row is an error, never a wrong file.

    Args:
        rows: Each with "piece", the index of its part of the sources, "row", its index in there, and "last", whether it
            is the last one of its piece.
        pieces: How many parts there are, each of at least one row.

    Yields:
        The same rows.

    Raises:
        MusiqError: A row is not the next one, or the rows end too early.
    """
    piece = row = 0
    for values in rows:
        if (values["piece"], values["row"]) != (piece, row):
            raise MusiqError(
                f"Ray gave row {values['row']} of part {values['piece']} where row {row} of part {piece} comes next: "
                "rows were lost or doubled. Run it again, and report it if it happens again."
            )
        yield values
        piece, row = (piece + 1, 0) if values["last"] else (piece, row + 1)
    if (piece, row) != (pieces, 0):
        raise MusiqError(f"Ray ended before part {piece} of {pieces} was whole. Run it again.")
