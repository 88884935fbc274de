"""Model files of every format that runs on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from musiq import artifact, files
from musiq.artifact import Record
from musiq_export.cli import main
from musiq_export.formats import find
from musiq_export.graph.simplify import simplify
from musiq_export.request import BatchRange, Request
from tests.exporting import traced_once
from tests.recipe import lively_model

FORMATS = ["onnx", "openvino", "torchscript", "pt2"]


@pytest.fixture(scope="session", autouse=True)
def graphs_are_traced_once() -> Iterator[None]:
    with traced_once():
        yield


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


@pytest.fixture(scope="session")
def patch_model() -> Any:
    return lively_model("tiny", layers=2, height=None, width=None)


@pytest.fixture(scope="session")
def patch_file(patch_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A file of patches in a format, with the record that it gets; each made once. The check is the command's."""
    folder, simple = tmp_path_factory.mktemp("patches"), simplify(patch_model)

    def get(format: str, inputs: str, tokens: tuple[int, int] = (1, 0), batch: int = 0) -> Path:
        batches = BatchRange(batch, batch, batch) if batch else BatchRange()
        request = Request(simple, inputs=inputs, tokens=tokens, batch=batches)
        path = folder / f"{inputs}-{tokens[1]}-{batch}{find(format).suffix}"
        if not path.exists():
            built = find(format).build(request, path)
            more = {file.suffix: files.sha256(file) for file in built.files}
            record = Record(simple.spec, format, "fp32", files.sha256(path), files=more, inputs=inputs)
            details = dataclasses.replace(built.details, tokens=tokens)
            limits = batches.smallest, batches.largest
            artifact.write_record(path, dataclasses.replace(record, batch=limits, details=details))
        return path

    return get
