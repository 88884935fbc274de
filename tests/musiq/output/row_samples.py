"""What the tests of files of rows share: rows of one model, and a file of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from musiq.output.formats import FORMATS
from musiq.output.resumable import RowFile
from musiq.scoring import Row

MODEL = "mean@0123456789ab"
ODD_PATHS = ["plain.jpg", 'comma, "quote".png', "line\nfeed.png", "日本.png", "latin\udce9.png", "tab\t.png"]


def rows_of(count: int) -> list[Row]:
    return [
        Row(f"{number}.jpg", None, error="The file is empty.", model=MODEL)
        if number % 7 == 3
        else Row(
            f"{number}.jpg", float(np.float32(number) / np.float32(3)), "resized 0.5x", model=MODEL, size="512x288"
        )
        for number in range(count)
    ]


def save(path: Path, rows: list[Row], outputs: int = 1, finish: bool = True, resume: bool = False) -> None:
    with RowFile(path, FORMATS[path.suffix[1:]](outputs), [MODEL], resume) as file:
        for row in rows[sum(file.done.values()) :]:
            file.write(row)
        if finish:
            file.finish()
