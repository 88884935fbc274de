"""int8: a graph with QuantizeLinear and DequantizeLinear around its large products, ranges calibrated on real images.

ONNX Runtime's own quantiser places them. Weights are symmetric int8 with a scale for each output channel, rounded by
`gptq`; the pyramid, the norms, the softmax, attention's products of two activations and the head stay fp32. Which layers
are quantised is decided by `sensitivity`, which measures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from musiq.artifact import Int8Details, Sensitivity
from musiq.errors import MusiqError
from musiq.hardware import adds_int8_exactly, available_cpus
from musiq.runtimes.batching import PRECISION
from musiq.runtimes.onnxruntime import import_onnxruntime
from musiq.terminal import progress_bar
from musiq.version import __version__

from ..graph.onnx import float_onnx, graph_key
from ..request import CalibrationImages, Images, Request, Scores, feed
from . import calibration
from .gptq import Products, Weights, compensated, measure_inputs
from .layer_groups import BETWEEN, PRODUCTS, Groups, groups_of
from .sensitivity import choose

if TYPE_CHECKING:
    import onnx

COVARIANCES_FROM = 32
"""Images, at most, that tell how the inputs of a product go together: at 1024x768 they are some 29,000 rows."""

ROUNDING = "products: each weight makes up for others (GPTQ), biases for the mean; convolutions: nearest"

Quantized = tuple["onnx.ModelProto", Int8Details]

_known: WeakKeyDictionary[CalibrationImages, dict[tuple[Any, ...], Quantized]] = WeakKeyDictionary()
"""What was measured with which images, so that several formats of one export share the minutes that it takes."""

_measured_before: WeakKeyDictionary[CalibrationImages, dict[tuple[Any, ...], Sensitivity]] = WeakKeyDictionary()
"""What int8 costs the same layers in a graph of another form, as for another runtime."""


def quantize(request: Request, symmetric: bool = False) -> Quantized:
    """The int8 graph of `request`.

    Args:
        request: With `Request.int8`. Of requests that differ in nothing that shows in the graph, one is measured.
        symmetric: For TensorRT, which takes zero points of 0 alone, and biases that are not quantised. ONNX Runtime and
            OpenVINO take uint8 activations, which use all 256 steps for what a ReLU or a GELU leaves: half the error.

    Returns:
        The graph, and what the record says of it.

    Raises:
        MusiqError: Without calibration images, and where nothing can be int8 within the limits.
    """
    options = calibration.options_of(request)
    known = _known.setdefault(options.calibration, {})
    key = request.model, graph_key(request), options.limits, options.weight_bits, symmetric
    if key not in known:
        known[key] = _measured(request, symmetric)
    return known[key]


def _measured(request: Request, symmetric: bool) -> Quantized:
    options = calibration.options_of(request)
    images = [options.calibration.images[index] for index in calibration.split(options.calibration)[0]]
    bits = weight_bits(options.weight_bits, symmetric)
    plain = _plain(request)
    ranges, groups = calibration.activation_ranges(request, plain, images, symmetric), groups_of(plain)
    if request.model.spec.any_size:
        _share_ranges(ranges, _products(plain, groups))
    quantizer = Quantizer(plain, groups, ranges, symmetric, bits)
    quantizer = replace(quantizer, weights=_weights(request, quantizer, images))
    sensitivity = _sensitivity(request, quantizer)
    model = quantizer.graph([name for name in quantizer.groups if name not in sensitivity.kept_fp32])
    products = int8_products(model)
    if not products:
        raise MusiqError(
            "The int8 graph has no int8 product inside: this model cannot be quantised. Take fp16 or fp32."
        )
    activations = "int8 symmetric" if symmetric else "uint8"
    files = calibration.files(options.calibration)
    return model, Int8Details(products, bits, activations, ROUNDING, files, sensitivity)


def _products(plain: onnx.ModelProto, groups: Groups) -> Products:
    return Products(plain, [node for group in groups.values() for node in group])


def _share_ranges(ranges: Any, products: Products) -> None:
    """Give the parts of one product the range of all: where images may have any size, the later parts are empty until an
    image is larger than those of the calibration."""
    for weight in products.by_weight:
        parts = [ranges[name] for name in products.inputs(weight)]
        lowest, highest = min(part.lowest for part in parts), max(part.highest for part in parts)
        for part in parts:
            part.lowest, part.highest = lowest, highest


def weight_bits(asked: int | None, symmetric: bool) -> int:
    """Bits that weights use: as asked; else 7 where this CPU could overflow with 8, or nothing tells. GPUs never do."""
    return asked or (8 if symmetric or adds_int8_exactly() else 7)


def _plain(request: Request) -> onnx.ModelProto:
    """The fp32 graph with the shapes of all its tensors, which the quantiser reads."""
    import onnx

    return onnx.shape_inference.infer_shapes(float_onnx(replace(request, precision="fp32")))


@dataclass(frozen=True)
class Quantizer:
    """Quantises chosen `groups` of the graph `plain`, whose activations have `ranges`, with weights of 7 or 8 `bits`:
    those of `weights`, or the nearest."""

    plain: onnx.ModelProto
    groups: Groups
    ranges: Any
    symmetric: bool
    bits: int
    weights: Weights | None = None

    def graph(self, names: Collection[str]) -> onnx.ModelProto:
        """A copy of `plain` with the groups named in int8."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.plain)
        nodes = [node for name in names for node in self.groups[name]]
        if self.weights:
            self.weights.move_biases(model, set(nodes))
        model = self._with_qdq(model, nodes)
        if self.weights:
            self.weights.set_steps(model)
        model.producer_name, model.producer_version = "musiq", __version__
        for entry in model.metadata_props:
            if entry.key == PRECISION:
                entry.value = "int8"
        return model

    def _with_qdq(self, model: onnx.ModelProto, nodes: list[str]) -> onnx.ModelProto:
        from onnxruntime.quantization import QDQQuantizer, QuantType

        # Products of the transformer give floats, which the sums and norms after them want; ONNX Runtime's int8
        # convolution gives int8 only.
        floats = PRODUCTS if self.symmetric else ("Gemm", "MatMul")
        quantizer = QDQQuantizer(
            model=model,
            per_channel=True,
            reduce_range=self.bits == 7,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if self.symmetric else QuantType.QUInt8,
            tensors_range=self.ranges,
            nodes_to_quantize=nodes,
            nodes_to_exclude=[],
            op_types_to_quantize=list(PRODUCTS if self.symmetric else (*PRODUCTS, *BETWEEN)),
            extra_options={
                "ActivationSymmetric": self.symmetric,
                "OpTypesToExcludeOutputQuantization": list(floats),
                "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
                "QuantizeBias": not self.symmetric,
            },
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        finished: onnx.ModelProto = quantizer.model.model
        return finished


def _weights(request: Request, quantizer: Quantizer, images: Sequence[Images]) -> Weights:
    """The int8 values of the transformer's weights, each rounded so as to make up for the others."""
    products = _products(quantizer.plain, quantizer.groups)
    few = images[:: -(-len(images) // COVARIANCES_FROM)]

    def run(graph: onnx.ModelProto) -> Iterator[dict[str, Any]]:
        session = _session(graph)
        names = [entry.name for entry in session.get_outputs()]
        for given in calibration.inputs_of(request, quantizer.plain, few, "measuring how inputs go together"):
            yield dict(zip(names, session.run(None, given), strict=True))

    found = measure_inputs(products, run)
    nearest = quantizer.graph(quantizer.groups)
    with progress_bar("rounding weights", len(products.by_weight)) as bar:
        largest = 64 if quantizer.bits == 7 else 127  # as ONNX Runtime's quantiser has them, with whose scales they go
        return compensated(products, found, nearest, largest, bar.advance)


def _sensitivity(request: Request, quantizer: Quantizer) -> Sensitivity:
    """What each group costs on the images held out, and which of them have to stay in fp32."""
    options = calibration.options_of(request)
    held = calibration.split(options.calibration)[1]
    # Groups alone are measured on the first ones: those, too, should be spread over the folder.
    images = [options.calibration.images[index] for index in (*held[::2], *held[1::2])]
    # What is for another machine is not measured with the overflows of this one.
    in_floats = quantizer.bits == 8 and not adds_int8_exactly()

    def scores(names: Collection[str], count: int) -> Scores:
        return _scores(request, quantizer.graph(names), images[:count], in_floats)

    others = _measured_before.setdefault(options.calibration, {})
    key = request.model, options.limits, quantizer.bits, quantizer.symmetric, frozenset(quantizer.groups)
    with progress_bar("measuring what int8 costs", len(quantizer.groups)) as bar:
        reference = _scores(request, quantizer.plain, images)
        spec, known = request.model.spec, others.get(key)
        others[key] = choose(quantizer.groups, scores, reference, spec, options.limits, bar.advance, known)
    return others[key]


def _scores(request: Request, model: onnx.ModelProto, images: Sequence[Images], in_floats: bool = False) -> Scores:
    """Of a graph in ONNX Runtime; `in_floats`: its int8 values are multiplied as floats, which adds them exactly."""
    session, taken = _session(model, in_floats), feed(request)
    names = [entry.name for entry in session.get_inputs()]

    def call(arrays: list[Any]) -> list[Any]:
        outputs: list[Any] = session.run(None, dict(zip(names, arrays, strict=True)))
        return outputs

    batches = calibration.in_batches(request, images)
    return np.concatenate([taken.run(batch, call)["score"] for batch in batches])


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
