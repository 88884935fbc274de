"""Models with trunks of timm's in every format: simplified exactly, without arithmetic on padding, scoring as PyTorch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

pytest.importorskip("timm")

from musiq.file_formats import FILE_FORMATS
from musiq.model import checkpoint
from musiq.model.network import Musiq
from musiq.runtimes.registry import open_runtime
from musiq.spec import Scale
from musiq_export.graph.onnx import float_onnx
from musiq_export.graph.simplify import simplify
from musiq_export.int8.layer_groups import groups_of
from musiq_export.request import Request
from tests.export.conftest import smaller_images
from tests.exporting import run, scores
from tests.recipe import lively_model, photo

FAMILIES = {"resnet18": (32,), "tf_efficientnet_lite0": (16, 32), "convnext_atto": (8, 32)}
# Every format takes one of them, every family what CPUs score it with.
FORMATS = {
    "resnet18": ("onnx", "openvino", "pt2", "torchscript"),
    "tf_efficientnet_lite0": ("onnx", "openvino"),
    "convnext_atto": ("onnx", "openvino"),
}
SIZES = ((64, 96), (75, 101), (1, 40), (200, 131))


def model_of(name: str, **changes: Any) -> Musiq:
    """Two scales and one layer; its projection makes tokens of the size that trained ones have."""
    how = {"trunk": f"timm:{name}", "trunk_strides": FAMILIES[name], "layers": 1}
    model: Musiq = lively_model("lite", **{**how, "scales": (Scale(embedding=0), Scale(96, embedding=1)), **changes})
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_norms_go_into_convolutions_and_scores_stay_in_float64(name: str) -> None:
    model = model_of(name, height=75, width=101).double()
    simple = simplify(model)
    assert not [module for module in simple.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    images = torch.from_numpy(np.stack([photo(75, 101, seed) for seed in (1, 2)]))
    with torch.inference_mode():
        torch.testing.assert_close(simple(images), model(images), atol=1e-9, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_fixed_graph_has_its_padding_in_the_convolutions_and_its_stages_in_groups(name: str) -> None:
    model = model_of(name, height=64, width=96)
    graph = float_onnx(Request(simplify(model)))
    kinds = Counter(node.op_type for node in graph.graph.node)
    # Both scales have whole patches: nothing pads but the convolutions, nothing asks for sizes but of the batch.
    assert not {"Pad", "BatchNormalization", "If"} & set(kinds)
    assert kinds["Shape"] <= 1
    assert kinds["Conv"] == 2 * sum(isinstance(module, torch.nn.Conv2d) for module in model.trunk.modules())
    images = np.stack([photo(64, 96, seed) for seed in (1, 2)])
    with torch.inference_mode():
        expected = model.predict(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(scores(graph, images), expected, atol=1e-4)
    stages = [group for group in groups_of(graph) if group.startswith("trunk.")]
    first = {"resnet18": "conv1", "tf_efficientnet_lite0": "conv_stem", "convnext_atto": "stem_0"}[name]
    assert (stages[0], stages[-1]) == (f"trunk.{first}", "trunk.project")
    assert 5 < len(stages) < 16


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_one_file_of_a_format_scores_every_size_as_pytorch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name, height=64, width=96)
    checkpoint.save(model, tmp_path / "m.safetensors")
    smaller_images(monkeypatch)
    formats = [part for each in FORMATS[name] for part in ("--format", each)]
    done = run("--checkpoint", tmp_path / "m.safetensors", "--size", "any", *formats, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    any_size = model_of(name, height=None, width=None)
    endings = tuple(FILE_FORMATS[each].endings[0] for each in FORMATS[name])
    files = sorted(path for path in (tmp_path / "out").iterdir() if path.name.endswith(endings))
    assert len(files) == len(FORMATS[name])
    for file in files:
        runtime = open_runtime(file)
        for size in SIZES:
            images = [photo(*size, seed) for seed in (1, 2)]
            with torch.inference_mode():
                expected = any_size.predict(torch.from_numpy(np.stack(images)))[0].numpy()
            np.testing.assert_allclose(runtime(images), expected, atol=2e-4)
        runtime.close()
    graph = onnx.load(next(file for file in files if file.suffix == ".onnx"))
    assert Counter(node.op_type for node in graph.graph.node)["Pad"] <= 1  # of the image itself, to whole patches


@pytest.mark.slow
def test_int8_of_a_trunk_of_timms_scores_like_pytorch(tmp_path: Path, photos: Path) -> None:
    model = model_of("resnet18", height=64, width=96)
    checkpoint.save(model, tmp_path / "m.safetensors")
    limits = ("--max-difference", 10, "--min-srcc", 0.9, "--force")
    done = run(
        *("--checkpoint", tmp_path / "m.safetensors", "--precision", "int8", "--calibration-images", photos),
        *("--images", photos, "--out", tmp_path / "out", "--name", "m", *limits),
    )
    assert done.exit_code == 0, done.output
    runtime = open_runtime(tmp_path / "out" / "m.onnx")
    images = [photo(64, 96, seed) for seed in range(100, 120)]
    with torch.inference_mode():
        expected = model.predict(torch.from_numpy(np.stack(images)))[0].numpy()
    found = runtime(images)
    assert 0 < np.abs(found - expected).max() <= 0.15 * np.ptp(expected)
    runtime.close()
