"""ONNX files in every precision, and the ONNX model that other formats are made from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..check import weight_types
from ..graph.onnx import float_onnx
from ..request import Built, Request, versions

if TYPE_CHECKING:
    import onnx


NO_BF16 = "ONNX Runtime has no MaxPool and no Pad in bf16, on CPUs or on CUDA; the file is for TensorRT"
"""Seen of ONNX Runtime 1.31 on an H200 and 1.32 on a CPU; convolutions in bf16 it has on CUDA alone."""


def build(request: Request, path: Path) -> Built:
    import onnx

    model = to_onnx(request)
    onnx.save_model(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)
    unverified = NO_BF16 if request.precision == "bf16" else ""
    layers = dict(Counter(node.op_type for node in model.graph.node))
    details = {"opset": request.opset, "nodes": len(model.graph.node), **_weights(model, request.precision)}
    return Built(layers, versions("torch", "onnx", "onnxscript"), details, unverified=unverified)


def _weights(model: onnx.ModelProto, precision: str) -> dict[str, Any]:
    import onnx

    if precision == "int8":  # counted where it is quantised
        return {}
    tensors = ((onnx.helper.tensor_dtype_to_np_dtype(t.data_type).name, t.dims) for t in model.graph.initializer)
    return weight_types.check(weight_types.count(tensors), precision)


def to_onnx(request: Request, symmetric: bool = False) -> onnx.ModelProto:
    """The ONNX model with the Spec in its metadata; `symmetric` for the kind of int8 that TensorRT takes."""
    if request.precision == "int8":
        from ..int8.quantize import quantised

        return quantised(request, symmetric)
    return float_onnx(request)
