"""Models on one clip in turns: what is printed."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from musiq_bench.profiling import vbench_loop


def test_models_score_one_clip_in_turns(photos: Path, any_size: Path) -> None:
    arguments = [
        any_size,
        any_size,
        "--images",
        photos,
        "--size",
        "128x96",
        "--frames",
        2,
        "--turns",
        2,
        "--threads",
        1,
    ]
    done = CliRunner().invoke(vbench_loop.main, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    assert done.output.startswith(
        "2 turns, 1 threads, 2 frames of 128x96:\n\n| model | frames/s | times as fast as the first"
    )
    first, second = (re.split(r" *\| *", line)[1:-1] for line in done.output.splitlines()[-2:])
    assert first[0] == second[0] == str(any_size)
    assert first[2] == "1.00 (1.00-1.00)"
    assert first[3] == second[3]
    assert float(first[1]) > 0
