"""Graphs in ONNX: older opsets, and parts that keep large images small in memory at the same scores."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from musiq.errors import MusiqError
from musiq.model.network import Musiq
from musiq.presets import PRESETS
from musiq_export.graph import attention as graph_attention
from musiq_export.graph.onnx import float_onnx, lower
from musiq_export.graph.simplify import simplify
from musiq_export.request import Request
from tests.exporting import scores
from tests.recipe import lively_model, photo

MODERATE = {"height": 384, "width": 512}  # 12x16 patches, 3x4 of the scale of 128: 204, two parts of 102
LARGE = {"height": 1536, "width": 2048}


def test_an_operator_that_changed_since_is_not_passed_off_as_the_older_one() -> None:
    axes = helper.make_node("ReduceMean", ["x", "axes"], ["y"])  # an input since opset 18, an attribute before
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy")
    graph = helper.make_graph(
        [axes], "changed", [x], [y], [helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(MusiqError, match=r"ReduceMean means something else in opset 17 than in 18"):
        lower(model, 17)


@cache
def moderate() -> tuple[Musiq, onnx.ModelProto]:
    """A model whose patch trunk is in two parts, and its graph."""
    model = lively_model("tiny", layers=1, **MODERATE)
    return model, float_onnx(Request(simplify(model)))


@pytest.mark.parametrize("opset", [17, 18])
def test_a_patch_trunk_in_parts_scores_as_pytorch_in_old_opsets_too(opset: int) -> None:
    model, graph = moderate()
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    if opset < 18:
        lower(graph, opset)
    onnx.checker.check_model(graph, full_check=True)
    images = np.stack([photo(384, 512, seed) for seed in range(3)])
    with torch.inference_mode():
        expected = model.predict(torch.from_numpy(images))[0].numpy()
    for count in (3, 1):
        np.testing.assert_allclose(scores(graph, images[:count]), expected[:count], atol=2e-5)


def test_a_split_that_means_something_new_is_not_passed_off_as_an_old_one() -> None:
    graph = onnx.ModelProto.FromString(moderate()[1].SerializeToString())
    split = next(node for node in graph.graph.node if node.op_type == "Split")
    split.attribute.append(helper.make_attribute("num_outputs", 2))  # which opset 13 does not know
    with pytest.raises(MusiqError, match="Split means something else"):
        lower(graph, 17)


# As wide as the model are the heads of `resnet50-classic`.
@pytest.mark.parametrize(
    "head_dim", [PRESETS["tiny"].head_dim, pytest.param(PRESETS["tiny"].dim, marks=pytest.mark.slow)]
)
def test_attention_in_parts_scores_the_same(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively_model("tiny", height=96, width=160, layers=2, head_dim=head_dim)
    monkeypatch.setattr(graph_attention, "WEIGHTS_AT_ONCE", 2**12)
    graph = float_onnx(Request(simplify(model)))
    images = np.stack([photo(96, 160, seed) for seed in range(3)])
    with torch.inference_mode():
        expected = model.predict(torch.from_numpy(images))[0].numpy()
    for count in (3, 1):
        np.testing.assert_allclose(scores(graph, images[:count]), expected[:count], atol=5e-5)


PEAK = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(["score"], {"image": numpy.full((1, 1536, 2048, 3), 99, numpy.uint8)})
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) / 1024)
"""


def peak_mib(graph: onnx.ModelProto, path: Path) -> float:
    """Peak memory of a process that scores one large image."""
    onnx.save_model(graph, str(path))
    return float(subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_large_image_takes_much_less_memory_in_a_file_for_cpus(tmp_path: Path) -> None:
    request = Request(simplify(lively_model("tiny", layers=2, **LARGE)))
    asked = {
        "cpu": request,
        "whole attention": replace(request, whole_attention=True),
        "whole patch trunk and attention": replace(request, tuned_for="gpu"),
    }
    graphs = {name: float_onnx(each) for name, each in asked.items()}
    assert len(graphs["cpu"].graph.node) < 900  # 3,120 patches are not so many parts of 128
    peaks = [peak_mib(graph, tmp_path / f"{name}.onnx") for name, graph in graphs.items()]
    assert peaks[0] + 30 < peaks[1]
    assert peaks[1] + 30 < peaks[2]
