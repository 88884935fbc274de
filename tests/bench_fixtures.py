"""Fixtures of the tests of musiq-bench, a plugin of pytest: folders with images, labels, artifacts and a checkpoint."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from musiq.artifact import Check, Record, write_record
from musiq.files import sha256
from musiq.presets import preset
from tests.bench_cases import artifact
from tests.bench_place import SPEC, brightness_model


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of growing brightness, one of them broken, their labels, and three artifacts."""
    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    listed = []
    (folder / "photos").mkdir()
    for index in range(12):
        image = rng.integers(0, 40 + 16 * index, (SPEC.height, SPEC.width, 3), np.uint8)
        cv2.imwrite(str(folder / "photos" / f"{index:02}.png"), image)
        listed.append((f"photos/{index:02}.png", index + 3 * (index % 2), "train" if index == 3 else "test"))
    (folder / "photos" / "08.png").write_bytes((folder / "photos" / "08.png").read_bytes()[:500])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "mos", "split"), *listed])
    brightness_model(folder / "exports" / "brightness.onnx")
    brightness_model(folder / "exports" / "brighter.onnx", shift=0.5)
    (folder / "exports" / "corrupt.onnx").write_bytes(b"no graph at all")
    return folder


@pytest.fixture(scope="session")
def torch_place(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images, a checkpoint, and an artifact that PyTorch's exporter made of it at another image size."""
    import torch

    from musiq.model import checkpoint
    from musiq.model.network import Musiq

    class Scored(torch.nn.Module):
        def __init__(self, model: Musiq) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.model.predict(image)[0]

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("torch")
    shutil.copytree(place / "photos", folder / "photos")
    shutil.copy(place / "labels.csv", folder)
    weights = folder / "runs" / "first" / "best.safetensors"
    checkpoint.save(Musiq(preset("tiny", 128, 128)), weights)
    model = checkpoint.load(weights, SPEC.height, SPEC.width)
    (folder / "exports").mkdir()
    path = folder / "exports" / "model.onnx"
    scored = Scored(model).eval()
    example = torch.zeros(2, SPEC.height, SPEC.width, 3, dtype=torch.uint8)
    dynamic = ({0: torch.export.Dim("n")},)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["score"]}
    graph = torch.onnx.export(
        scored, (example,), dynamo=True, dynamic_shapes=dynamic, verbose=False, **names
    ).model_proto
    helper.set_model_props(graph, {"musiq.spec": model.spec.to_json()})
    onnx.save(graph, str(path))
    named = {"name": weights.name, "sha256": sha256(weights)}
    check = Check(9, 2e-6, 1e-6, 1.0, True, "CPUExecutionProvider")
    write_record(path, Record(model.spec, "onnx", "fp32", sha256(path), named, check=check))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """A checkpoint and an artifact that says it was made of it; neither is ever opened."""
    weights = tmp_path / "best.safetensors"
    weights.write_bytes(b"weights")
    return [weights, artifact(tmp_path / "model.onnx", weights)]
