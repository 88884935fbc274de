"""What the command's options ask for."""

from __future__ import annotations

import pytest

from musiq.errors import MusiqError
from musiq_export.options import parse_batch


@pytest.mark.parametrize("text", ["0", "-1", "8..2", "two", "1..x", "", "65537", "1..99999999999"])
def test_an_impossible_batch_is_refused(text: str) -> None:
    with pytest.raises(MusiqError, match="no batch size"):
        parse_batch(text)


def test_the_fastest_batch_is_one_of_those_that_are_taken() -> None:
    assert (parse_batch("1..").best, parse_batch("1..4").best, parse_batch("16").best) == (8, 4, 16)
    assert parse_batch("1..32", 32).best == 32
    for text, best in (("1..4", 8), ("4..8", 1), ("4", 5), ("16..", 8)):
        with pytest.raises(MusiqError, match=f"--batch-opt is {best}; expected one of --batch's sizes, {text}"):
            parse_batch(text, best)
