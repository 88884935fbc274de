"""The groups of layers that int8 is measured and chosen by, found by the names of a graph's weights."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .gptq import Nodes, bias_of, users_of

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("Conv", "Gemm", "MatMul")
BETWEEN = ("Add", "Clip", "MaxPool", "Relu")
"""Between the convolutions of trunks over whole scales: in int8 too, a chain of them never goes back to floats."""

FINE_LAYERS = 6
"""A transformer of up to so many layers is measured in halves of a layer; a deep one in layers, to keep the pass short."""

Groups = dict[str, list[str]]


def groups_of(model: onnx.ModelProto) -> Groups:
    """Names of the nodes that may be quantised, by the part of the model that their weights belong to.

    The patch trunk's convolutions are not among them: each stands between two group norms, so that int8 adds more
    conversions than it saves, and most of the error.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    users = users_of(model)
    fine = len({name.split(".")[2] for name in constants if name.startswith("model.layers.")}) <= FINE_LAYERS
    member: dict[str, str] = {}  # tensor -> the group that makes it
    groups: Groups = {}
    for node in model.graph.node:
        group = None
        if node.op_type in PRODUCTS and node.input[1] in constants:
            group = _group(_parameter(node, constants, users), fine)
        elif node.op_type in BETWEEN and all(member.get(name, "").startswith("trunk.") for name in node.input):
            group = member[node.input[0]]
        if group:
            member[node.output[0]] = group
            groups.setdefault(group, []).append(node.name)
    return groups


def _parameter(node: onnx.NodeProto, constants: set[str], users: Nodes) -> str:
    """The model's parameter behind a product. A MatMul's weight is a transposed copy without a name: its bias tells."""
    return node.input[1] if node.op_type != "MatMul" else bias_of(node, users, constants) or ""


def _group(parameter: str, fine: bool) -> str | None:
    """ "model.trunk.net.layer2.0.conv1.weight" is in trunk.layer2, "model.trunk.net.blocks.4.0.conv_dw.weight" in
    trunk.blocks.4, "model.layers.3.mlp.0.bias" in layers.3(.mlp)."""
    if found := re.match(r"model\.trunk\.(?:net\.(blocks\.\d+|\w+)|(project|dense)\b)", parameter):
        return f"trunk.{found[1] or found[2]}"
    if found := re.match(r"model\.(layers\.\d+)(\.\w+)", parameter):
        return found[1] + found[2] if fine else found[1]
    return None
