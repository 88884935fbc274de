"""int8 that is slower than fp32 is refused, or kept and says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musiq import artifact
from musiq.artifact import Speed
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes.registry import open_runtime
from musiq_export.check import speed
from musiq_export.formats import FORMATS
from musiq_export.graph.simplify import simplify
from musiq_export.int8 import calibration
from musiq_export.request import Int8Options, Request
from tests.exporting import run
from tests.recipe import lively_model, photo


@pytest.fixture(autouse=True)
def int8_takes_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "in_turns", lambda calls, *_, **__: [[2.0] * 3, [1.0] * 3])


@pytest.mark.slow
def test_a_file_slower_than_fp32_is_refused_with_the_ratio(
    small_checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    given = ["--checkpoint", small_checkpoint, "--precision", "int8", "--calibration-images", photos, "--out", tmp_path]
    result = run(*given, "--max-difference", 50, "--min-srcc", 0)
    assert result.exit_code == 1
    assert "slower than fp32 on this machine (0.50 times its speed), so it was not kept" in result.output
    assert "--force" in result.output
    (left,) = tmp_path.iterdir()
    missing = left.with_name(left.name.removesuffix(".refused.json"))
    last = result.stderr.strip().splitlines()[-1]
    assert artifact.read_refusal(missing) == artifact.Refusal("int8", last.removeprefix("Error: "))
    with pytest.raises(MusiqError, match=r"its export was refused: .* is slower than fp32"):
        open_runtime(missing)


@pytest.mark.slow
def test_a_slower_file_is_kept_when_forced_and_says_so(
    every_float_file: Path, small_checkpoint: Path, photos: Path
) -> None:
    path, lines = every_float_file / "s.onnx", []  # which plays the int8 one
    record = artifact.read_record(path)
    assert record is not None
    options = Int8Options(calibration.read(photos, 64, 96, print), force=True)
    request = Request(simplify(checkpoint.load(small_checkpoint)), "int8", int8=options)
    before = sorted(path.parent.iterdir())
    found = speed.compare_speed(FORMATS["onnx"], request, record, path, photo(64, 96, 0)[None], lines.append)
    assert found.details.speed == Speed(2000.0, 1000.0, batch=1, times_fp32=0.5, forced=True)
    assert found == replace(record, details=replace(record.details, speed=found.details.speed))
    assert lines == ["[✗] 0.50 times the speed of fp32: 2000.0 against 1000.0 ms, batch 1"]
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.slow
def test_at_any_size_the_speed_is_that_at_the_most_usual_size(
    every_float_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, batches = artifact.read_record(every_float_file / "s.onnx"), list[np.ndarray]()
    assert record is not None

    def took(*given: object) -> tuple[float, float]:
        assert isinstance(given[-1], np.ndarray)
        batches.append(given[-1])
        return 0.001, 0.003

    monkeypatch.setattr(speed, "_latencies", took)
    request = Request(lively_model("tiny", height=None, width=None, layers=1), "int8")
    images = [photo(height, width, 0) for height, width in ((20, 25), (700, 1100), (1152, 2048), (64, 96))]
    lines: list[str] = []
    speed.compare_speed(FORMATS["onnx"], request, record, Path("s.onnx"), images, lines.append)
    assert [batch.shape for batch in batches] == [(1, 700, 1100, 3)]
    assert lines == ["[✓] 3.00 times the speed of fp32: 1.0 against 3.0 ms, batch 1, 1100x700"]
