"""One contract for all runtimes: what they take, what they give, what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes.registry import open_runtime
from musiq_export.cli import main
from musiq_export.formats import find
from tests.musiq.runtimes.conftest import FORMATS
from tests.recipe import lively_model, photo


def test_a_runtime_takes_uint8_images_and_gives_float32_scores(any_file: Path, tiny_checkpoint: Path) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(3)])
    runtime, reference = open_runtime(any_file, "cpu"), open_runtime(tiny_checkpoint, "cpu")
    scores = runtime(images)
    assert (scores.dtype, scores.shape) == (np.float32, (3,))
    np.testing.assert_allclose(scores, reference(images), atol=2e-5)
    np.testing.assert_array_equal(runtime.run(images)["score"], scores)
    assert "cpu" in runtime.provider.lower()


@pytest.mark.parametrize(
    "format", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in FORMATS if name != "onnx")]
)
def test_a_distribution_comes_with_its_score(tmp_path: Path, format: str) -> None:
    model = lively_model("tiny", height=64, width=96, outputs=5, layers=1)
    checkpoint.save(model, tmp_path / "five.safetensors")
    command = ["--checkpoint", str(tmp_path / "five.safetensors"), "--format", format, "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*command, "--name", "five"])
    assert result.exit_code == 0, result.output
    found = open_runtime(tmp_path / f"five{find(format).suffix}", "cpu").run(photo(64, 96, 3)[None])
    assert found["shares"].shape == (1, 5)
    np.testing.assert_allclose(found["score"], found["shares"] @ np.arange(1, 6), rtol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((192, 256, 3), np.uint8),
        np.zeros((1, 192, 256, 3), np.float32),
        np.zeros((1, 256, 192, 3), np.uint8),
        np.zeros((0, 192, 256, 3), np.uint8),
    ],
    ids=["no batch", "floats", "portrait", "empty"],
)
def test_other_arrays_are_refused_with_what_was_expected(any_file: Path, images: Any) -> None:
    with pytest.raises(MusiqError, match=r"uint8 \(N, 192, 256, 3\)"):
        open_runtime(any_file, "cpu")(images)


@pytest.mark.gpu
def test_cuda_scores_like_the_cpu(any_file: Path) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(3)])
    gpu = open_runtime(any_file, "cuda:0")
    assert "cuda" in gpu.provider.lower()
    np.testing.assert_allclose(gpu(images), open_runtime(any_file, "cpu")(images), atol=1e-3)
