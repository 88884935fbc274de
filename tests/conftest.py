"""Options and fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str], Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--weights-dir", type=Path, help="folder with the published *_ckpt.npz, for -m weights")
    parser.addoption("--calibration-images", type=Path, help="folder with TID2013's I03, I04, I06, I08, I19 .BMP")


def pytest_configure() -> None:
    # A suite started in the background of a script ignores Ctrl-C, and so would every command that its tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("weights") and not config.getoption("--weights-dir"):
            item.add_marker(
                pytest.mark.skip(reason="needs the published weights: --weights-dir and --calibration-images")
            )
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU; there is none here"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a label file, labels.csv, of this text."""

    def write_labels(text: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return path

    return write_labels


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `tiny` model of one layer with random but lively weights, saved as a checkpoint of ours."""
    from musiq.model import checkpoint
    from tests.recipe import lively_model

    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    checkpoint.save(lively_model("tiny", layers=1), path)
    return path


@pytest.fixture(scope="session")
def tiny_onnx(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model exported by the real command."""
    from click.testing import CliRunner

    from musiq_export.cli import main

    folder = tmp_path_factory.mktemp("exports")
    result = CliRunner().invoke(main, ["--checkpoint", str(tiny_checkpoint), "--out", str(folder), "--name", "tiny"])
    assert result.exit_code == 0, result.output
    return folder / "tiny.onnx"
