"""What the command's options ask for."""

from __future__ import annotations

import pytest

from musiq.errors import MusiqError
from musiq_export.options import parse_batch


@pytest.mark.parametrize("text", ["0", "-1", "8..2", "two", "1..x", ""])
def test_an_impossible_batch_is_refused(text: str) -> None:
    with pytest.raises(MusiqError, match="no batch size"):
        parse_batch(text)
