"""Attention in ONNX graphs: whole, or in parts where its weights are large."""

from __future__ import annotations

import math
from typing import Any

from onnxscript import FLOAT, script
from onnxscript import opset18 as op

from ..request import MOST_PARTS, Request

ATTENTION_OPSET = 23
"""The first opset with an operator Attention, which runtimes for GPUs compute without writing its probabilities down."""

WEIGHTS_AT_ONCE = 32 * 2**20
"""Bytes that the weights of one image's attention may take: parts keep large images from taking gigabytes at no cost in
time, and gain nothing at 1024x768, whose weights take 20 MB."""

OPEN_WEIGHTS_AT_ONCE = 128 * 2**20
"""The same where a graph does not know how many tokens it gets, for all images of a call."""


@script(default_opset=op)
def attended_in_parts(query: FLOAT, key: FLOAT, value: FLOAT) -> FLOAT:  # of any float type, by the name of one
    """Attention for any number of tokens: whole, or where its weights are large in a loop over parts of the queries."""
    sizes = op.Shape(query)
    row = op.ReduceProd(sizes[0:2], keepdims=0) * op.ReduceProd(op.Shape(key)[2:3], keepdims=0) * 4  # type: ignore[index]
    queries = op.ReduceProd(sizes[2:3], keepdims=0)  # type: ignore[index]
    if row * queries > OPEN_WEIGHTS_AT_ONCE:
        keys = op.Transpose(key, perm=[0, 1, 3, 2])
        at_once = op.Max(op.Constant(value_int=OPEN_WEIGHTS_AT_ONCE) / row, op.Constant(value_int=1))
        found = query[:, :, 0:0, :]  # type: ignore[index]
        for i in range((queries + at_once - 1) / at_once):
            start = op.Unsqueeze(i * at_once, op.Constant(value_ints=[0]))  # type: ignore[arg-type]
            end = op.Unsqueeze((i + 1) * at_once, op.Constant(value_ints=[0]))  # type: ignore[arg-type]
            part = op.Slice(query, start, end, op.Constant(value_ints=[2]))
            found = op.Concat(found, op.MatMul(op.Softmax(op.MatMul(part, keys), axis=-1), value), axis=2)
        gathered = op.Identity(found)
    else:
        gathered = op.MatMul(op.Softmax(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])), axis=-1), value)
    return gathered


def attention_for(request: Request) -> Any:
    """Attention whose scale is already in the query. Before ATTENTION_OPSET two products and a softmax, which runtimes
    fuse as they can: the exporter's own form scales query and key again and computes shapes at run time. In parts of the
    queries where `has_parts`."""
    from onnxscript import opset23

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
        assert not is_causal
        if attn_mask is not None:  # for the operator Attention with a mask engines have no kernel in fp32
            weights = op.Add(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])), attn_mask)
            return op.MatMul(op.Softmax(weights, axis=-1), value)
        if request.opset >= ATTENTION_OPSET:
            return opset23.Attention(query, key, value, scale=1.0)[0]
        if has_parts(request) and request.model.spec.any_size:
            return attended_in_parts(query, key, value)
        keys = op.Transpose(key, perm=[0, 1, 3, 2])
        found = [_attended(part, keys, value) for part in _query_parts(request, query, key.shape[2])]
        return op.Concat(*found, axis=2) if len(found) > 1 else found[0]

    return attention


def _attended(query: Any, keys: Any, value: Any) -> Any:
    """What (B, heads, n, size) tokens gather from all (B, heads, size, N) keys and (B, heads, N, size) values."""
    return op.MatMul(op.Softmax(op.MatMul(query, keys), axis=-1), value)


def _query_parts(request: Request, query: Any, tokens: int) -> list[Any]:
    """The query (B, heads, n, size) in parts of its n tokens: one, but where the request `has_parts`."""
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
    small = not spec.any_size and _queries_at_once(spec.heads, spec.tokens, spec.tokens) >= spec.tokens
    return request.tuned_for == "cpu" and not request.whole_attention and request.opset < ATTENTION_OPSET and not small


def _queries_at_once(heads: int, queries: int, tokens: int) -> int:
    """How many of the `queries` tokens a part of attention has, so that its weights for one image, 4 bytes each, take
    WEIGHTS_AT_ONCE at most, and there are no more than MOST_PARTS parts."""
    parts = min(MOST_PARTS, math.ceil(4 * heads * queries * tokens / WEIGHTS_AT_ONCE))
    return math.ceil(queries / parts)
