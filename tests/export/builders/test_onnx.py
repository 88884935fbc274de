"""ONNX files: whole, typed, of the opset that was asked for, and scoring like PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from musiq.model import checkpoint
from musiq.spec import Spec
from musiq_export.builders.onnx import to_onnx
from musiq_export.builders.onnx_metadata import in_words
from musiq_export.graph.simplify import simplify
from musiq_export.request import Request
from tests.exporting import run
from tests.recipe import lively_model, photo


def test_the_onnx_file_scores_like_pytorch_at_every_batch_size(tiny_checkpoint: Path, tiny_onnx: Path) -> None:
    session = onnxruntime.InferenceSession(str(tiny_onnx), providers=["CPUExecutionProvider"])
    model = checkpoint.load(tiny_checkpoint)
    for batch in (1, 2, 5):
        images = np.stack([photo(192, 256, seed) for seed in range(batch)])
        with torch.inference_mode():
            expected = model.predict(torch.from_numpy(images))[0].numpy()
        np.testing.assert_allclose(session.run(["score"], {"image": images})[0], expected, atol=2e-5)


def test_the_onnx_file_is_whole_typed_and_knows_itself_but_not_where_it_was_made(tiny_onnx: Path) -> None:
    model = onnx.load(tiny_onnx)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 18
    image = model.graph.input[0]
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert dims == ["batch", 192, 256, 3]
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert Spec.from_json(properties["musiq.spec"]).preset == "tiny"
    raw = tiny_onnx.read_bytes()
    assert b"site-packages" not in raw
    assert str(Path.cwd()).encode() not in raw
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    assert [path.name for path in tiny_onnx.parent.iterdir() if "part" in path.name] == []


def test_the_onnx_file_says_in_words_what_it_takes_and_gives(tiny_onnx: Path) -> None:
    session = onnxruntime.InferenceSession(str(tiny_onnx), providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert {key: value for key, value in said.items() if not key.startswith("musiq.")} == {
        "input.name": session.get_inputs()[0].name,
        "input.layout": "uint8 (N, H, W, 3), RGB",
        "input.range": "0..255, as decoded",
        "input.size": "256x192 (width x height)",
        "input.resize": "cover: the image resized to cover that size, aspect kept, and the middle cropped",
        "output.name": session.get_outputs()[0].name,
        "output.layout": "float32 (N)",
        "output.range": "unknown",
        "output.target": "unknown",
    }
    ranged = lively_model("musiq", height=None, width=None, layers=1, outputs=5, score_range=(0.0, 100.0), target="MOS")
    of_any_size = in_words(Request(ranged))
    assert (of_any_size["input.size"], of_any_size["input.resize"][:8]) == ("any, one size in a call", "native: ")
    assert (of_any_size["output.name"], of_any_size["output.layout"]) == ("score, shares", "float32 (N), (N, 5)")
    assert (of_any_size["output.range"], of_any_size["output.target"]) == ("0..100", "MOS")
    brings = lively_model("tiny", height=None, width=None, layers=1, resize="longer=512")
    assert in_words(Request(brings))["input.resize"].startswith("longer=512: a longer side over N shrunk to N")
    fixed = in_words(Request(lively_model("tiny", layers=1), inputs="pyramid"))
    assert (fixed["input.name"], fixed["input.layout"]) == ("native, scale_128, scale_96", "float32 (N, 3, h, w), RGB")
    assert fixed["input.range"] == "(value / 255 - mean) / std, mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5"


def exported_in(opset: int, precision: str, checkpoint: Path, path: Path) -> onnx.ModelProto:
    """An export by the real command, whose scores were checked against PyTorch's."""
    what = ("--checkpoint", checkpoint, "--opset", opset, "--precision", precision)
    result = run(*what, "--out", path.parent, "--name", path.stem)
    assert result.exit_code == 0, result.output
    return onnx.load(path)


def test_opset_23_has_one_operator_for_attention_and_the_same_scores(small_checkpoint: Path, tmp_path: Path) -> None:
    nodes = exported_in(23, "fp16", small_checkpoint, tmp_path / "new.onnx").graph.node
    attention = [node for node in nodes if node.op_type == "Attention"]
    assert attention
    assert [len([name for name in node.output if name]) for node in attention] == [1] * len(attention)
    assert "Softmax" not in {node.op_type for node in nodes}


@pytest.mark.slow
def test_opset_17_gives_a_file_for_older_runtimes_with_the_same_scores(small_checkpoint: Path, tmp_path: Path) -> None:
    model = exported_in(17, "fp32", small_checkpoint, tmp_path / "old.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)
    assert "Pad" in {node.op_type for node in model.graph.node}  # which onnx's own converter cannot lower
    images = np.stack([photo(64, 96, seed) for seed in range(3)])
    session = onnxruntime.InferenceSession(str(tmp_path / "old.onnx"), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = checkpoint.load(small_checkpoint).predict(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(session.run(["score"], {"image": images})[0], expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["musiq", "resnet50-classic"])
def test_graphs_at_1024x768_have_well_under_1500_nodes(preset: str) -> None:
    graph = to_onnx(Request(simplify(lively_model(preset))))[0].graph
    assert 100 < len(graph.node) < 1000
