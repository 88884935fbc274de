"""`python -m musiq_bench.profiling.stages`: what each stage costs, and that none copies an image that need not be
copied."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from musiq.errors import MusiqError
from musiq.runtimes.registry import open_runtime
from musiq_bench.profiling.stages import main, measure, new_bytes


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Four JPEGs of the size that the model takes."""
    spec_size = (192, 256)
    ramp = np.add.outer(np.arange(spec_size[0]), np.arange(spec_size[1]))
    files = [tmp_path / f"{i}.jpg" for i in range(4)]
    for i, file in enumerate(files):
        cv2.imwrite(str(file), np.stack([(ramp + 40 * i) % 256] * 3, axis=2).astype(np.uint8))
    return files


def test_a_jpeg_of_the_models_size_exists_once_until_the_batch_is_gathered(photos: list[Path], tiny_onnx: Path) -> None:
    runtime = open_runtime(tiny_onnx, "cpu")
    ms, new = measure(photos, runtime, (192, 256), batch=2)
    image = 192 * 256 * 3
    assert len(ms) == len(new) == 2
    for costs in new:
        assert 1 <= costs["decode"] / image < 1.2
        assert costs["fit"] / image < 0.1
        assert 1 <= costs["gather"] / image < 1.2
        assert costs["model"] / image < 0.1  # it is fed the batch itself
    assert all(cost >= 0 for costs in ms for cost in costs.values())


def test_new_memory_is_that_of_arrays_made_meanwhile() -> None:
    held = np.ones(10**6, np.uint8)
    _, none = new_bytes(lambda: held[::2])
    _, two = new_bytes(lambda: (held + 1) + 1)
    assert none < 10**4
    assert two == pytest.approx(2e6, rel=0.01)


def test_the_command_prints_a_table(photos: list[Path], tiny_onnx: Path) -> None:
    done = CliRunner().invoke(main, [str(photos[0].parent), "--model", str(tiny_onnx), "--batch", "2"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("4 images, batch 2, one image as tiny.onnx takes it: 256x192, 0.15 MB")
    assert [row.split(" | ")[0] for row in done.output.splitlines()[4:]] == [
        "| read",
        "| decode",
        "| fit",
        "| gather",
        "| model",
    ]


def test_a_model_for_any_size_is_measured_at_the_size_asked_for_and_one_for_a_fixed_size_at_its_own(
    photos: list[Path], any_size: Path, tiny_onnx: Path
) -> None:
    asked = [str(photos[0].parent), "--size", "96x64"]
    done = CliRunner().invoke(main, [*asked, "--model", str(any_size)])
    assert done.exit_code == 0, done.output
    assert "one image as any.safetensors takes it: 96x64, 0.02 MB" in done.output
    done = CliRunner().invoke(main, [*asked, "--model", str(tiny_onnx)])
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "--size 96x64 is not what this model takes, 256x192" in done.output


def test_too_few_images_for_a_batch_are_refused(photos: list[Path], tiny_onnx: Path) -> None:
    with pytest.raises(MusiqError, match="4 images for a batch of 8"):
        measure(photos, open_runtime(tiny_onnx, "cpu"), (192, 256), batch=8)
