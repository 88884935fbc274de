"""OpenVINO's files: what the builder takes out of the graph, and what it leaves whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from musiq.presets import PRESETS
from musiq_export import exporter
from musiq_export.formats import find
from musiq_export.graph import attention as graph_attention
from musiq_export.graph.simplify import simplify
from musiq_export.request import LIMITS, Request
from tests.recipe import lively_model, photo


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_shifts_whole_patches_and_multiplies_nothing_by_one(precision: str, every_float_file: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = every_float_file / ("s.xml" if precision == "fp32" else f"s-{precision}.xml")
    nodes = [
        it for it in openvino.Core().read_model(path).get_ops() if it.get_type_name() in ("Add", "Multiply", "Relu")
    ]
    shapes = [[dim.get_max_length() for dim in it.get_output_partial_shape(0)] for it in nodes]
    wide = 4 * PRESETS["tiny"].trunk_channels * 8 * 8
    assert sum(shape[1:] == [wide] for shape in shapes) > 3  # the sum of block and shortcut
    assert not any(shape[2:] == [8, 8] for shape in shapes)
    constants = [it.input_value(1).get_node() for it in nodes if it.get_type_name() == "Multiply"]
    factors = [it.get_data(dtype=np.float32) for it in constants if it.get_type_name() == "Constant"]
    assert len(factors) > 3
    assert not any((factor == 1).all() for factor in factors)


@pytest.mark.slow
def test_openvino_which_never_writes_attentions_weights_down_gets_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(graph_attention, "WEIGHTS_AT_ONCE", 2**12)
    model = lively_model("tiny", height=64, width=96, layers=2)
    reference = exporter.Reference(model, "m", "0", np.stack([photo(64, 96, seed) for seed in range(3)]), "made")
    layers = {}
    for name in ("onnx", "openvino"):
        path = tmp_path / f"m{find(name).suffix}"
        layers[name] = exporter.export(
            find(name), Request(simplify(model)), reference, LIMITS["fp32"], path, print
        ).layers
    assert layers["openvino"]["ScaledDotProductAttention"] == 2
    assert layers["onnx"]["Softmax"] > 2
