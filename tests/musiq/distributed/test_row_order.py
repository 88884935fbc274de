"""Rows that come back from a cluster: lost, doubled and missing ones are errors, however the parts are cut."""

from __future__ import annotations

import pytest

from musiq.distributed.row_order import each_once_in_order
from musiq.errors import MusiqError

Row = dict[str, object]


def rows(*lengths: int) -> list[Row]:
    """The rows of parts of these lengths, as they should come."""
    return [
        {"piece": piece, "row": row, "last": row == length - 1}
        for piece, length in enumerate(lengths)
        for row in range(length)
    ]


@pytest.mark.parametrize("lengths", [(1,), (3, 1, 2), (70, 70)])
def test_rows_that_are_all_there_pass_as_they_are(lengths: tuple[int, ...]) -> None:
    assert list(each_once_in_order(rows(*lengths), len(lengths))) == rows(*lengths)


@pytest.mark.parametrize("place", range(5))
def test_a_lost_row_is_an_error_and_nothing_after_it_passes(place: int) -> None:
    sound = rows(3, 1, 2)
    checked = each_once_in_order(sound[:place] + sound[place + 1 :], 3)
    assert [next(checked) for _ in range(place)] == sound[:place]
    with pytest.raises(MusiqError, match="lost or doubled"):
        next(checked)


@pytest.mark.parametrize("place", range(6))
def test_a_doubled_row_is_an_error(place: int) -> None:
    sound = rows(3, 1, 2)
    with pytest.raises(MusiqError, match="lost or doubled"):
        list(each_once_in_order(sound[: place + 1] + sound[place:], 3))


@pytest.mark.parametrize(("length", "part"), [(0, 0), (2, 0), (3, 1), (5, 2)])
def test_rows_that_end_too_early_are_an_error(length: int, part: int) -> None:
    with pytest.raises(MusiqError, match=f"ended before part {part} of 3"):
        list(each_once_in_order(rows(3, 1, 2)[:length], 3))
