"""The groups that layers are measured in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from musiq.model.network import Musiq
from musiq.presets import PRESETS
from musiq_export.graph.onnx import float_onnx
from musiq_export.graph.simplify import simplify
from musiq_export.int8.layer_groups import groups_of
from musiq_export.request import Request


@pytest.mark.slow
def test_resnet_groups_are_its_stages_and_hold_what_stands_between_convolutions() -> None:
    spec = replace(PRESETS["resnet50"], height=64, width=64, layers=2)
    model = Musiq(spec)
    with torch.no_grad():  # biases of 0 vanish from the graph
        for name, parameter in model.layers.named_parameters():
            parameter.add_(0.1 if name.endswith("bias") else 0)
    graph = float_onnx(Request(simplify(model)))
    groups, kinds = groups_of(graph), {node.name: node.op_type for node in graph.graph.node}
    stages = ["trunk.conv1", "trunk.layer1", "trunk.layer2", "trunk.layer3", "trunk.layer4", "trunk.project"]
    assert [name for name in groups if name.startswith("trunk")] == stages
    # Three scales; layer1 has 3 blocks of 3 convolutions and one shortcut.
    inside = [kinds[name] for name in groups["trunk.layer1"]]
    assert (inside.count("Conv"), inside.count("Add"), inside.count("Relu")) == (30, 9, 27)
    assert not any("Conv" in kinds[name] for name in groups["layers.0.attention"])
