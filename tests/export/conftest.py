"""Exports that several test files look at, made once by the real command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from click.testing import Result

from musiq.model import checkpoint
from musiq_export.check import images
from tests.exporting import run, traced_once
from tests.recipe import lively_model, photo

FILES = ("onnx", "openvino", "pt2", "torchscript")
"""Formats that need no GPU."""


@pytest.fixture(scope="session", autouse=True)
def graphs_are_traced_once() -> Iterator[None]:
    with traced_once():
        yield


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tiny` of one layer for 96x64 images: all kinds of operators, traced in a second or two."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    checkpoint.save(lively_model("tiny", height=64, width=96, layers=1), path)
    return path


@pytest.fixture(scope="session")
def every_float_file(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that model in every format and float precision that needs no GPU, named s, s-fp16, s-bf16."""
    folder = tmp_path_factory.mktemp("exports")
    formats = [part for name in FILES for part in ("--format", name)]
    precisions = [part for name in ("fp32", "fp16", "bf16") for part in ("--precision", name)]
    result = run("--checkpoint", small_checkpoint, *formats, *precisions, "--out", folder, "--name", "s")
    assert result.exit_code == 0, result.output
    return folder


def smaller_images(patch: pytest.MonkeyPatch) -> None:
    """Checks of any size have as many images and sizes, but none so large: those take most of the time."""
    patch.setattr(images, "SIZES", tuple((min(height, 200), min(width, 260)) for height, width in images.SIZES))
    patch.setattr(images, "LARGEST", (300, 400))


@pytest.fixture(scope="session")
def any_size_export(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with that model in every format for images of any size, though it was trained at one, and what the command
    said."""
    folder = tmp_path_factory.mktemp("any")
    formats = [part for name in FILES for part in ("--format", name)]
    # Tuned for GPUs: a graph without parts is traced in less than half the time.
    with pytest.MonkeyPatch.context() as patch:
        smaller_images(patch)
        result = run("--checkpoint", small_checkpoint, "--size", "any", *formats, "--out", folder, "--tune-for", "gpu")
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 image files of another size than the models', and a broken one among them."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(40):
        cv2.imwrite(str(folder / f"{seed:02}.png"), photo(200, 300, seed))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder
