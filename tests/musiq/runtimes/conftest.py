"""Model files of every format that runs on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from musiq_export.cli import main
from musiq_export.formats import find

FORMATS = ["onnx", "openvino", "torchscript", "pt2"]


@pytest.fixture(scope="session")
def artifacts(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny` by the real command in a format, with further options; each made once."""
    folder = tmp_path_factory.mktemp("artifacts")

    def get(format: str, *options: str) -> Path:
        name = "-".join([format, *(option.strip("-.") for option in options)])
        path = folder / (name + find(format).suffix)
        if not path.exists():
            command = ["--checkpoint", str(tiny_checkpoint), "--format", format, "--out", str(folder), "--name", name]
            result = CliRunner().invoke(main, [*command, *options])
            assert result.exit_code == 0, result.output
        return path

    return get


@pytest.fixture(params=["checkpoint", *FORMATS])
def any_file(request: pytest.FixtureRequest, tiny_checkpoint: Path, artifacts: Callable[..., Path]) -> Path:
    return tiny_checkpoint if request.param == "checkpoint" else artifacts(request.param)
