"""int8: a graph with QuantizeLinear and DequantizeLinear around its large products, ranges calibrated on real images.

ONNX Runtime's own quantiser places them. Weights are symmetric int8 with a scale for each output channel, rounded by
`int8_weights`; the pyramid, the norms, the softmax, attention's products of two activations and the head stay fp32. Which
layers are quantised is decided by `sensitivity`, which measures.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musiq.artifact import SEVEN_BITS
from musiq.errors import MusiqError
from musiq.hardware import adds_int8_exactly, available_cpus
from musiq.runtimes.batching import PRECISION
from musiq.runtimes.onnxruntime import import_onnxruntime
from musiq.version import __version__

from ..check.compare import LIMITS, Limits
from ..graph.onnx import float_onnx, has_parts
from ..request import Request, feed
from . import calibration as calibrations
from .calibration import Images, progress
from .gptq import Nodes, Products, Weights, added, compensated, moments, users_of
from .sensitivity import Scores, Sensitivity, choose

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("Conv", "Gemm", "MatMul")
BETWEEN = ("Add", "MaxPool", "Relu")
"""Between the convolutions of ResNet: in int8 too, its chain never goes back to floats."""

FINE_LAYERS = (
    6  # a transformer of up to so many layers is measured in halves; a deep one in layers, to keep the pass short
)

COVARIANCES_FROM = 32
"""Images, at most, that tell how the inputs of a product go together: at 1024x768 they are some 29,000 rows."""

Groups = dict[str, list[str]]


@dataclass(frozen=True)
class Plan:
    """The int8 graph, what was measured on the way to it, and how many of its products really are int8."""

    model: onnx.ModelProto
    sensitivity: Sensitivity
    products: int


def quantised(request: Request, symmetric: bool = False) -> onnx.ModelProto:
    """The int8 graph of `request`, whose options bring a `Calibration`.

    `symmetric` for TensorRT, which takes zero points of 0 alone, and biases that are not quantised. ONNX Runtime and
    OpenVINO take uint8 activations, which use all 256 steps for what a ReLU or a GELU leaves: half the error.

    Raises MusiqError without calibration images, and where nothing can be int8 within the limits.
    """
    plans, key = calibrations.of(request).plans, _key(request, symmetric)
    if key not in plans:
        plans[key] = _plan(request, symmetric)
    plan: Plan = plans[key]
    return plan.model


def details(request: Request, symmetric: bool) -> dict[str, Any]:
    """What the record says of an int8 artifact: the images it was calibrated on, what was measured, what is int8."""
    calibration = calibrations.of(request)
    plan: Plan = calibration.plans[_key(request, symmetric)]
    ranges, held = calibration.split()
    return {
        "int8_products": plan.products,
        "calibration": {
            "ranges": [calibration.names[i] for i in ranges],
            "held_out": [calibration.names[i] for i in held],
        },
        "sensitivity": plan.sensitivity.told(),
        "activations": "int8 symmetric" if symmetric else "uint8",
        "weights": "int8 per channel" + (SEVEN_BITS if weight_bits(request, symmetric) == 7 else ""),
        "rounding": "products: each weight makes up for others (GPTQ), biases for the mean; convolutions: nearest",
    }


def _key(request: Request, symmetric: bool) -> tuple[Any, ...]:
    graph = id(request.model), request.inputs, request.batch, request.opset, request.tuned_for, has_parts(request)
    return *graph, symmetric


def _plain(request: Request) -> onnx.ModelProto:
    """The fp32 graph with the shapes of all its tensors, which the quantiser reads."""
    import onnx

    return onnx.shape_inference.infer_shapes(float_onnx(replace(request, precision="fp32")))


def groups_of(model: onnx.ModelProto) -> Groups:
    """Nodes that may be quantised, by the part of the model that their weights belong to.

    The patch trunk's convolutions are not among them: each stands between two group norms, so that in int8 they only add
    conversions (`musiq`, 1024x768: 1.32 times fp32's speed without them, 1.11 with them) and most of the error.
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
    return node.input[1] if node.op_type != "MatMul" else added(node, users, constants) or ""


def _group(parameter: str, fine: bool) -> str | None:
    """ "model.trunk.net.layer2.0.conv1.weight" is in trunk.layer2, "model.layers.3.mlp.0.bias" in layers.3(.mlp)."""
    if found := re.match(r"model\.trunk\.(?:net\.)?(conv1|layer\d|project|dense)\b", parameter):
        is_patch = parameter == "model.trunk.conv1.weight"
        return None if is_patch else f"trunk.{found[1]}"
    if found := re.match(r"model\.(layers\.\d+)(\.\w+)", parameter):
        return found[1] + found[2] if fine else found[1]
    return None


def _plan(request: Request, symmetric: bool) -> Plan:
    calibration, bits = calibrations.of(request), weight_bits(request, symmetric)
    ranging, held = calibration.split()
    plain = _plain(request)
    groups = groups_of(plain)
    ranges = _ranges(request, plain, calibration.images[ranging], symmetric)
    # Groups alone are measured on the first ones: those, too, should be spread over the folder.
    images = calibration.images[[*held[::2], *held[1::2]]]
    limits: Limits = request.options.get("limits") or LIMITS["int8"]
    weights = _weights(request, plain, ranges, groups, calibration.images[ranging], symmetric, bits)
    # What is for another machine is not measured with the overflows of this one.
    in_floats = bits == 8 and not adds_int8_exactly()

    def quantised_in(left: Collection[str]) -> onnx.ModelProto:
        nodes = [node for name in left for node in groups[name]]
        return _with_qdq(plain, ranges, nodes, symmetric, bits, weights)

    def scores(left: Collection[str], count: int) -> Scores:
        return _scores(request, quantised_in(left), images[:count], in_floats)

    with progress("measuring what int8 costs", len(groups)) as advance:
        reference = _scores(request, plain, images)
        sensitivity = choose(groups, scores, reference, request.model.spec, limits, advance)
    left = [name for name in groups if name not in sensitivity.kept]
    model = quantised_in(left)
    products = int8_products(model)
    if not products:
        raise MusiqError(
            "The int8 graph has no int8 product inside: this model cannot be quantised. Take fp16 or fp32."
        )
    return Plan(model, sensitivity, products)


def _ranges(request: Request, plain: onnx.ModelProto, images: Images, symmetric: bool) -> Any:
    """The least and largest value that each activation takes on the images."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder:
        source, augmented = Path(folder) / "plain.onnx", Path(folder) / "augmented.onnx"
        onnx.save_model(plain, str(source))
        calibrator = create_calibrator(
            source,
            [*PRODUCTS, *BETWEEN],
            augmented_model_path=str(augmented),
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"symmetric": symmetric},
        )
        for given in _fed(request, plain, images, "calibrating"):
            calibrator.collect_data(_Reader(given))
        return calibrator.compute_data()


def _weights(
    request: Request,
    plain: onnx.ModelProto,
    ranges: Any,
    groups: Groups,
    images: Images,
    symmetric: bool,
    bits: int,
) -> Weights:
    """The int8 values of the transformer's weights, each rounded so as to make up for the others."""
    nodes = [node for group in groups.values() for node in group]
    products = Products(plain, nodes)
    few = images[:: -(-len(images) // COVARIANCES_FROM)]

    def run(graph: onnx.ModelProto) -> Iterator[dict[str, Any]]:
        session = _session(graph)
        names = [entry.name for entry in session.get_outputs()]
        for given in _fed(request, plain, few, "measuring how inputs go together"):
            yield dict(zip(names, session.run(None, given), strict=True))

    found = moments(products, run)
    quantised = _with_qdq(plain, ranges, nodes, symmetric, bits)
    with progress("rounding weights", len(products.of)) as advance:
        largest = 64 if bits == 7 else 127  # as ONNX Runtime's quantiser has them, with whose scales they go
        return compensated(products, found, quantised, largest, advance)


def _fed(request: Request, model: onnx.ModelProto, images: Images, what: str) -> Iterator[dict[str, Any]]:
    """What `model` is given for each batch of `images`, by the names of its inputs; `what` is the progress bar's."""
    taken, names = feed(request), [entry.name for entry in model.graph.input]
    given: list[dict[str, Any]] = []

    def take(arrays: list[Any]) -> list[Any]:
        given.append(dict(zip(names, arrays, strict=True)))
        return [np.zeros(len(arrays[0]), np.float32)]

    with progress(what, len(images)) as advance:
        for batch in calibrations.in_batches(request, images):
            taken.run(batch, take)
            yield from given
            given.clear()
            advance()


class _Reader:
    """One batch, in the shape that a calibrator reads."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self._left = [batch]

    def get_next(self) -> dict[str, Any] | None:
        return self._left.pop() if self._left else None


def _with_qdq(
    plain: onnx.ModelProto, ranges: Any, nodes: list[str], symmetric: bool, bits: int, weights: Weights | None = None
) -> onnx.ModelProto:
    """A copy of `plain` with `nodes` quantised, weights in 7 or 8 bits: those of `weights`, or the nearest."""
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    model = onnx.ModelProto()
    model.CopyFrom(plain)
    if weights:
        weights.move_biases(model, set(nodes))
    # Products of the transformer give floats, which the sums and norms after them want; ONNX Runtime's int8 convolution
    # gives int8 only.
    floats = PRODUCTS if symmetric else ("Gemm", "MatMul")
    quantizer = QDQQuantizer(
        model,
        True,  # per channel
        bits == 7,
        QuantType.QInt8,
        QuantType.QInt8 if symmetric else QuantType.QUInt8,
        ranges,
        nodes,
        [],
        list(PRODUCTS if symmetric else (*PRODUCTS, *BETWEEN)),
        {
            "ActivationSymmetric": symmetric,
            "OpTypesToExcludeOutputQuantization": list(floats),
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
            "QuantizeBias": not symmetric,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    model = quantizer.model.model
    if weights:
        weights.set_steps(model)
    model.producer_name, model.producer_version = "musiq", __version__
    for entry in model.metadata_props:
        if entry.key == PRECISION:
            entry.value = "int8"
    return model


def _scores(request: Request, model: onnx.ModelProto, images: Images, in_floats: bool = False) -> Scores:
    """Of a graph in ONNX Runtime; `in_floats`: its int8 values are multiplied as floats, which adds them exactly."""
    session, taken = _session(model, in_floats), feed(request)
    names = [entry.name for entry in session.get_inputs()]

    def call(arrays: list[Any]) -> list[Any]:
        outputs: list[Any] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    return np.concatenate([taken.run(batch, call)["score"] for batch in calibrations.in_batches(request, images)])


def _session(model: onnx.ModelProto, in_floats: bool = False) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.log_severity_level = 3
    if in_floats:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def int8_products(model: onnx.ModelProto) -> int:
    """Products whose two factors come from int8: what an "int8" file must have inside."""
    import onnx

    int8 = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    from_int8 = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and types.get(node.input[2] if len(node.input) > 2 else "") in int8
    }
    return sum(
        node.op_type in PRODUCTS and node.input[0] in from_int8 and node.input[1] in from_int8
        for node in model.graph.node
    )


def weight_bits(request: Request, symmetric: bool) -> int:
    """Bits that weights use: as asked; else 7 where this CPU could overflow with 8, or nothing tells. GPUs never do."""
    asked: int | None = request.options.get("weight_bits")
    return asked or (8 if symmetric or adds_int8_exactly() else 7)
