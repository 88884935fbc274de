"""A float model as an ONNX graph, dynamic in the batch, without a word of where it was made."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from typing import TYPE_CHECKING, Any

from musiq.errors import MusiqError
from musiq.version import __version__

from ..request import MOST_PARTS, Request, feed

if TYPE_CHECKING:
    import onnx

GELU_OPSET = 20
"""The first opset with an operator Gelu."""

ATTENTION_OPSET = 23
"""The first opset with an operator Attention, which runtimes for GPUs compute without writing its probabilities down."""

WEIGHTS_AT_ONCE = 32 * 2**20
"""Bytes that the weights of one image's attention may take: parts keep large images from taking gigabytes at no cost in
time, and gain nothing at 1024x768, whose weights take 20 MB."""

EXPORTER_OPSET = 18
"""The oldest that PyTorch's exporter writes."""


def float_onnx(request: Request) -> onnx.ModelProto:
    """The traced model in fp32, fp16 or bf16, with the Spec in its metadata."""
    import onnx

    model: onnx.ModelProto = _trace(request).model_proto
    _forget_origin(model)
    if request.opset < EXPORTER_OPSET:
        lower(model, request.opset)
    onnx.helper.set_model_props(model, feed(request).metadata(request.precision))
    model.producer_name, model.producer_version, model.doc_string = "musiq", __version__, ""
    return model


def _trace(request: Request) -> Any:
    import torch

    from .traced import dynamic_shapes, output_names, traced_module

    module, example, names = traced_module(request)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=max(request.opset, EXPORTER_OPSET),
            dynamic_shapes=dynamic_shapes(request, example),
            input_names=names,
            output_names=output_names(request.model),
            custom_translation_table={
                torch.ops.aten.scaled_dot_product_attention.default: _attention_for(request),
                **({} if request.opset >= GELU_OPSET else {torch.ops.aten.gelu.default: _gelu}),
            },
            verbose=False,
        )


def _gelu(x: Any, approximate: str = "none") -> Any:
    """GELU for an opset without the operator, in the order of products that ONNX Runtime fuses into one: of the
    exporter's own tanh form it makes seven passes over memory."""
    from onnxscript import opset18 as op

    def number(value: float) -> Any:
        constant: Any = op.Constant(value_float=value)
        return op.CastLike(constant, x)

    if approximate == "none":
        return op.Mul(op.Mul(x, op.Add(op.Erf(op.Div(x, number(math.sqrt(2)))), number(1.0))), number(0.5))
    inner = op.Add(op.Mul(x, op.Mul(x, number(0.044715))), number(1.0))
    tanh = op.Tanh(op.Mul(op.Mul(x, number(math.sqrt(2 / math.pi))), inner))
    return op.Mul(op.Mul(x, number(0.5)), op.Add(tanh, number(1.0)))


def _attention_for(request: Request) -> Any:
    """Attention whose scale is already in the query. Before ATTENTION_OPSET two products and a softmax, which runtimes
    fuse as they can: the exporter's own form scales query and key again and computes shapes at run time. In parts of the
    queries where `has_parts`."""
    from onnxscript import opset18, opset23

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        assert scale == 1.0, "simplify() puts the scale into the query projection"
        assert attn_mask is None
        assert not is_causal
        if request.opset >= ATTENTION_OPSET:
            return opset23.Attention(query, key, value, scale=1.0)[0]
        keys = opset18.Transpose(key, perm=[0, 1, 3, 2])
        found = [_attended(part, keys, value) for part in _query_parts(request, query, key.shape[2])]
        return opset18.Concat(*found, axis=2) if len(found) > 1 else found[0]

    return attention


def _attended(query: Any, keys: Any, value: Any) -> Any:
    """What (B, heads, n, size) tokens gather from all (B, heads, size, N) keys and (B, heads, N, size) values."""
    from onnxscript import opset18 as op

    return op.MatMul(op.Softmax(op.MatMul(query, keys), axis=-1), value)


def _query_parts(request: Request, query: Any, tokens: int) -> list[Any]:
    """The query (B, heads, n, size) in parts of its n tokens: one, but where the request `has_parts`."""
    from onnxscript import opset18 as op

    if not has_parts(request):
        return [query]
    queries = query.shape[2]
    at_once = _queries_at_once(heads=query.shape[1], queries=queries, tokens=tokens)
    if at_once >= queries:  # the last layer has one query
        return [query]

    def numbers(value: int) -> Any:
        return op.Constant(value_ints=[value])

    starts = range(0, queries, at_once)
    return [op.Slice(query, numbers(i), numbers(min(i + at_once, queries)), numbers(2)) for i in starts]


def has_parts(request: Request) -> bool:
    """Whether attention is in parts: for ONNX Runtime on a CPU, which writes its weights down, where they are large."""
    spec = request.model.spec
    if spec.any_size:
        return False
    small = _queries_at_once(spec.heads, spec.tokens, spec.tokens) >= spec.tokens
    return request.tuned_for == "cpu" and not request.whole_attention and request.opset < ATTENTION_OPSET and not small


def _queries_at_once(heads: int, queries: int, tokens: int) -> int:
    """How many of the `queries` tokens a part of attention has, so that its weights for one image, 4 bytes each, take
    WEIGHTS_AT_ONCE at most, and there are no more than MOST_PARTS parts."""
    parts = min(MOST_PARTS, math.ceil(4 * heads * queries * tokens / WEIGHTS_AT_ONCE))
    return math.ceil(queries / parts)


def lower(model: onnx.ModelProto, opset: int) -> None:
    """Say an older opset of a graph that means the same in both, and the oldest file version that has it: older runtimes
    refuse numbers, not operators. Raises MusiqError for an operator that changed in between.

    onnx's own converter knows no way back for Pad and Split, which in 18 only got an input and an attribute that are not
    used here.
    """
    import onnx

    (imported,) = model.opset_import
    for node in model.graph.node:
        schemas = [onnx.defs.get_schema(node.op_type, version, "") for version in (opset, imported.version)]
        same = schemas[0].since_version == schemas[1].since_version
        if not same and not (node.op_type in ("Pad", "Split") and _is_known(node, schemas[0])):
            raise MusiqError(
                f"{node.op_type} means something else in opset {opset} than in {imported.version}. Leave out --opset."
            )
    imported.version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for([imported])


def _is_known(node: onnx.NodeProto, schema: Any) -> bool:
    """Whether the node has no more inputs and attributes than an older opset's schema names."""
    return len(node.input) <= len(schema.inputs) and {entry.name for entry in node.attribute} <= set(schema.attributes)


def _forget_origin(model: onnx.ModelProto) -> None:
    """Nodes carry source paths and module names of the exporting machine."""
    del model.metadata_props[:]
    graph = model.graph
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
