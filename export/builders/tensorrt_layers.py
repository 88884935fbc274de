"""What is inside an engine: its layers by type and precision, and whether that is the precision that was asked for."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from musiq.errors import MusiqError

from ..request import Request
from .tensorrt_turing import TURING

# Names of types in networks and in the inspector's JSON; searched in this order, because "BFloat16" contains "Float".
TYPES = {
    "bf16": ("bf16", "bfloat16"),
    "fp16": ("half", "fp16"),
    "fp8": ("fp8",),
    "int8": ("int8",),
    "uint8": ("uint8",),
    "int64": ("int64",),
    "int32": ("int32",),
    "bool": ("bool",),
    "fp32": ("float", "fp32"),
}
PRODUCTS = ("CONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "ATTENTION")
"""The layer types that carry the work."""

SHAPES_ONLY = ("int32", "int64", "bool")


def network_layers(network: Any) -> dict[str, int]:
    """Layers of a strongly typed network as {"CONVOLUTION fp16": 53, ...}: each computes in the type of its output.

    Constants and the arithmetic of shapes are left out.
    """
    counts: Counter[str] = Counter()
    for layer in map(network.get_layer, range(network.num_layers)):
        kind = short_type(layer.get_output(0).dtype.name)
        if layer.type.name != "CONSTANT" and kind not in SHAPES_ONLY:
            counts[f"{layer.type.name} {kind}"] += 1
    return dict(counts)


def engine_layers(information: str) -> dict[str, int]:
    """Layers of a finished engine, from the inspector's JSON of TensorRT 10 or 11; empty if it names no types."""
    counts: Counter[str] = Counter()
    for layer in json.loads(information).get("Layers", []):
        if isinstance(layer, dict):
            output = (layer.get("Outputs") or [{}])[0]
            # TensorRT 11 has "DataType"; 10 has "Format/Datatype", such as "Half" or "Row major linear FP16 format".
            kind = short_type(output.get("DataType") or output.get("Format/Datatype") or "")
            counts[f"{layer.get('LayerType', 'unknown')} {kind}"] += 1
    return dict(counts)


def short_type(name: str) -> str:
    lower = name.lower()
    return next((short for short, words in TYPES.items() if any(word in lower for word in words)), lower or "unknown")


def check_network(layers: dict[str, int], request: Request) -> None:
    """Raise MusiqError unless the products are in the precision that was asked for: nothing is that only by name.

    The pyramid's stay in fp32, one down and one across for each resized scale, unless the scales are the inputs.
    """
    if request.precision == "int8":
        if not layers.keys() & {"QUANTIZE int8", "DEQUANTIZE fp32", "DEQUANTIZE fp16", "DEQUANTIZE bf16"}:
            raise _false_name(request, layers)
        return
    resized = sum(scale.length is not None for scale in request.model.spec.scales)
    allowed = 1 + resized if resized and request.inputs == "image" and request.precision != "fp32" else 0
    halved = TURING in request.engine.gpus  # where the pyramid is in fp16
    other = sum(count for key, count in layers.items() if _is_product(key) and key.split()[1] != request.precision)
    right = sum(count for key, count in layers.items() if _is_product(key)) - other
    if not right or other > (0 if halved else allowed):
        raise _false_name(request, layers)


def check_engine(layers: dict[str, int], request: Request) -> None:
    """The same for a finished engine, whose layers are fused: some must be in the precision that was asked for."""
    if layers and not any(key.endswith(f" {request.precision}") for key in layers):
        raise _false_name(request, layers)


def _is_product(key: str) -> bool:
    return key.split()[0] in PRODUCTS


def _false_name(request: Request, layers: dict[str, int]) -> MusiqError:
    found = ", ".join(f"{count} {key}" for key, count in sorted(layers.items(), key=lambda item: -item[1])[:8])
    return MusiqError(
        f"The engine would be {request.precision} by name only: its layers are {found}. Try another --precision, or "
        "--inputs and --opset as they are by default."
    )
