"""ONNX files in every precision, and the ONNX model that other formats are made from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from musiq.artifact import Details, Int8Details

from ..check import weight_types
from ..graph.onnx import float_onnx
from ..int8.quantize import quantize
from ..request import Built, Request, versions
from .onnx_metadata import in_words

if TYPE_CHECKING:
    import onnx


NO_BF16 = "ONNX Runtime has no MaxPool and no Pad in bf16, on CPUs or on CUDA; the file is for TensorRT"


def build(request: Request, path: Path) -> Built:
    """Write an ONNX file that runs with any of the `request`'s batch sizes; see `request.Builder`.

    A bf16 file comes unverified: ONNX Runtime cannot run it.
    """
    import onnx

    model, int8 = to_onnx(request)
    known = {entry.key: entry.value for entry in model.metadata_props}  # an int8 graph may be built again
    onnx.helper.set_model_props(model, {**known, **in_words(request)})
    onnx.save_model(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)
    layers = Counter(node.op_type for node in model.graph.node)
    weights = {} if int8 else weight_types.check(weight_types_of(model), request.precision)
    details = Details(opset=request.opset, nodes=len(model.graph.node), weight_types=weights, int8=int8)
    unverified = NO_BF16 if request.precision == "bf16" else ""
    return Built(dict(layers), versions("torch", "onnx", "onnxscript"), details, unverified=unverified)


def weight_types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Elements of its initialisers by float type."""
    import onnx

    name_of = onnx.helper.tensor_dtype_to_np_dtype
    return weight_types.count((name_of(tensor.data_type).name, tensor.dims) for tensor in model.graph.initializer)


def to_onnx(request: Request, symmetric: bool = False) -> tuple[onnx.ModelProto, Int8Details | None]:
    """The graph that is asked for, with the Spec in its metadata.

    Args:
        request: What is asked for, in any precision.
        symmetric: For int8 as TensorRT takes it, see `int8.quantize.quantize`.

    Returns:
        The model, and what is int8 in it; None for the other precisions.
    """
    if request.precision == "int8":
        return quantize(request, symmetric)
    return float_onnx(request), None
