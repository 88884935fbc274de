"""A float model as an ONNX graph, dynamic in the batch, without a word of where it was made."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from musiq.errors import MusiqError
from musiq.version import __version__

from ..request import Request, feed

if TYPE_CHECKING:
    import onnx

    from musiq.model.network import Musiq

GELU_OPSET = 20
"""The first opset with an operator Gelu."""

EXPORTER_OPSET = 18
"""The oldest that PyTorch's exporter writes."""

KEPT_BYTES = 2**29
"""Of graphs of one model at most, the newest ones."""

_traced: WeakKeyDictionary[Musiq, dict[tuple[Any, ...], bytes]] = WeakKeyDictionary()
"""Graphs by `graph_key`."""


def float_onnx(request: Request) -> onnx.ModelProto:
    """The traced model in fp32, fp16 or bf16, with the Spec in its metadata.

    A graph is traced once for all formats and precisions that have it, which takes most of the time that a small model's
    export does: int8 begins with that of fp32.
    """
    import onnx

    known, key = _traced.setdefault(request.model, {}), graph_key(request)
    if key not in known:
        traced: onnx.ModelProto = _trace(request).model_proto
        _forget_origin(traced)
        known[key] = traced.SerializeToString()
    model = onnx.ModelProto.FromString(known[key])
    while sum(map(len, known.values())) > KEPT_BYTES:
        del known[next(iter(known))]
    if request.opset < EXPORTER_OPSET:
        lower(model, request.opset)
    onnx.helper.set_model_props(model, feed(request).metadata(request.precision))
    model.producer_name, model.producer_version, model.doc_string = "musiq", __version__, ""
    return model


def graph_key(request: Request) -> tuple[Any, ...]:
    """What of a request shows in the graph: where two have the same model and the same of these, their graphs are one."""
    from .attention import has_parts

    spec, batch, tokens = request.model.spec, request.batch, request.tokens
    whole = request.whole_attention and spec.any_size and request.tuned_for == "cpu"
    form = request.tuned_for, has_parts(request), whole
    return request.precision, request.inputs, batch, tokens, request.opset, form


def _trace(request: Request) -> Any:
    import torch

    from .attention import attention_for  # imports onnxscript
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
                torch.ops.aten.scaled_dot_product_attention.default: attention_for(request),
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
    """Nodes carry source paths and module names of the exporting machine, those of branches and loops too."""
    del model.metadata_props[:]
    _forget_origin_of(model.graph)


def _forget_origin_of(graph: onnx.GraphProto) -> None:
    del graph.metadata_props[:]
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    for entry in (entry for node in graph.node for entry in node.attribute if entry.HasField("g")):
        _forget_origin_of(entry.g)
