"""The ONNX graph as TensorRT for RTX needs it for Turing, whose products are fp16 alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

TURING = 75
"""Its compute capability, without the dot."""


def halve_products(model: onnx.ModelProto) -> None:
    """Put every fp32 product with a constant matrix into fp16, between casts: in an fp16 graph those are the pyramid's.

    TensorRT for RTX has no fp32 products for Turing (SM75). The trunk reads the pyramid in fp16 anyway.
    """
    import onnx

    constants = {constant.name: constant for constant in model.graph.initializer}
    nodes: list[Any] = []
    for node in model.graph.node:
        fixed = [name for name in node.input if _is_fp32(constants.get(name))] if node.op_type == "MatMul" else []
        if not fixed:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            half = f"{node.name}_half_{i}"
            nodes.append(onnx.helper.make_node("Cast", [name], [half], f"{half}_cast", to=onnx.TensorProto.FLOAT16))
            node.input[i] = half
        wide, node.output[0] = node.output[0], f"{node.name}_half"
        cast = onnx.helper.make_node("Cast", [node.output[0]], [wide], f"{node.name}_wide", to=onnx.TensorProto.FLOAT)
        nodes += [node, cast]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _is_fp32(constant: Any) -> bool:
    return constant is not None and constant.data_type == 1  # onnx.TensorProto.FLOAT
