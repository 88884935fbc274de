"""One artifact for images of any size gives the scores that the original and pyiqa give at each, in every CPU runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import musiq
from tests.export.conftest import smaller_images
from tests.exporting import run
from tests.golden_any_size import GOLDEN, TOLERANCE
from tests.musiq.model.conftest import foreign
from tests.recipe import photo

__all__ = ["foreign"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["google/1", "google/10", "pyiqa/1", "pyiqa/10"])
def test_one_artifact_a_head_gives_the_golden_scores_at_each_size(
    foreign: Callable[[str], Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller_images(monkeypatch)
    result = run("--checkpoint", foreign(name), "--out", tmp_path, "--format", "onnx", "--format", "openvino")
    assert result.exit_code == 0, result.output
    files = [file for file in tmp_path.iterdir() if file.suffix in (".onnx", ".xml")]
    assert sorted(file.suffix for file in files) == [".onnx", ".xml"]
    for file in files:
        with musiq.load(file, device="cpu") as scorer:
            for checked, height, width, seed, score in GOLDEN:
                if checked == name:
                    assert abs(scorer.score(photo(height, width, seed)) - score) <= TOLERANCE, (
                        file.suffix,
                        height,
                        width,
                    )
