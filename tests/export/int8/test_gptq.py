"""How int8 weights are rounded: held to every choice there is, to numpy's covariance, and to the scores of photographs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from musiq_export.int8 import gptq
from musiq_export.int8.gptq import Products, Weights, compensated, measure_inputs, round_weights

Floats = NDArray[np.float64]


def correlated(rows: int, length: int, seed: int) -> Floats:
    """Inputs that go together, as those after a norm do, around means of their own."""
    numbers = np.random.default_rng(7)
    mixing, mean = numbers.normal(size=(length // 4, length)), numbers.normal(size=length)
    own = np.random.default_rng(seed)
    return own.normal(size=(rows, length // 4)) @ mixing + 0.3 * own.normal(size=(rows, length)) + mean


def weights(length: int, outputs: int) -> tuple[Floats, Floats]:
    weight = np.random.default_rng(3).normal(size=(length, outputs))
    return weight, np.abs(weight).max(0) / 15  # coarse steps


def variance(inputs: Floats, steps: NDArray[np.int8], scale: Floats, weight: Floats) -> float:
    return float((inputs @ (steps * scale - weight)).var(0).mean())


@pytest.mark.parametrize("blocks", [1, 2])
def test_outputs_scatter_much_less_than_with_the_nearest_steps_on_inputs_never_seen(blocks: int) -> None:
    seen, other = correlated(4000, 160, seed=1), correlated(4000, 160, seed=2)
    weight, scale = weights(160, 24)
    halves = np.stack([np.cov(half.T) for half in np.split(seen, blocks, axis=1)])
    steps = round_weights(weight, scale, halves, 15)
    nearest = np.rint(weight / scale).astype(np.int8)
    assert steps.dtype == np.int8
    assert np.abs(steps).max() == 15
    assert variance(other, steps, scale, weight) < 0.35 * variance(other, nearest, scale, weight)


def test_inputs_that_have_nothing_to_do_with_each_other_leave_the_nearest_steps() -> None:
    weight, scale = weights(160, 24)
    steps = round_weights(weight, scale, np.eye(160)[None], 15)
    np.testing.assert_array_equal(steps, np.rint(weight / scale))


def test_a_short_product_comes_near_the_best_of_all_choices_of_steps() -> None:
    weight, scale = weights(8, 12)
    covariance = np.cov(correlated(4000, 8, seed=1).T)
    ways = np.array(list(itertools.product((-1, 0, 1, 2), repeat=8)), float)

    def costs(steps: Floats) -> Floats:
        """Of choices (ways, 8, outputs): the variance that each adds to each output."""
        errors = steps * scale - weight
        return np.einsum("wko,kl,wlo->wo", errors, covariance, errors, optimize=True)

    best = costs(np.floor(weight / scale) + ways[:, :, None]).min(0).sum()
    nearest = costs(np.rint(weight / scale)[None]).sum()
    assert best < costs(round_weights(weight, scale, covariance[None], 15)[None].astype(float)).sum() < nearest / 2


def product(kind: str, bias: bool = True) -> onnx.ModelProto:
    """x (N, 40) times a weight (40, 6), and y (N, 40) times the same: as MatMuls, or as Gemms of the transposed weight."""
    weight = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)
    constants = {"weight": weight.T.copy() if kind == "Gemm" else weight, "bias": np.arange(6, dtype=np.float32)}
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 40])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 40])
    result = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6]) for name in ("a", "b")]
    nodes = []
    for tensor, output in (("x", "a"), ("y", "b")):
        if kind == "Gemm":
            names = [tensor, "weight", *(["bias"] if bias else [])]
            nodes.append(helper.make_node("Gemm", names, [output], name=output, transB=1))
        else:
            added = f"{output}_product" if bias else output
            nodes.append(helper.make_node("MatMul", [tensor, "weight"], [added], name=output))
            if bias:
                nodes.append(helper.make_node("Add", ["bias", added], [output], name=f"{output}_add"))
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "product", [image, other], result, tensors if bias else tensors[:1])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def quantized(plain: onnx.ModelProto, axis: int) -> onnx.ModelProto:
    """`plain` with the weight in 5 bits, as ONNX Runtime's quantiser would leave it."""
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    weight = numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == "weight"))
    scale = np.abs(weight).max(1 - axis) / 15
    steps = np.rint(weight / np.expand_dims(scale, 1 - axis)).astype(np.int8)
    for value, name in ((steps, "steps"), (scale, "scale"), (np.zeros(len(scale), np.int8), "zero")):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    maker = helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["restored"], axis=axis)
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm"):
            node.input[1] = "restored"
    model.graph.node.insert(0, maker)
    onnx.checker.check_model(model, full_check=True)
    return model


def outputs(model: onnx.ModelProto, x: Floats, y: Floats) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"x": x.astype(np.float32), "y": y.astype(np.float32)}
    return np.concatenate(session.run(["a", "b"], given))


@pytest.mark.parametrize("block", [40, 8])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_a_graph_keeps_its_outputs_mean_and_most_of_their_variance(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gptq, "FULL_COVARIANCE", block)
    monkeypatch.setattr(gptq, "BLOCK", block)
    monkeypatch.setattr(gptq, "DAMPING", 1e-6)
    plain = product(kind)
    images = [(correlated(300, 40, 2 * i), correlated(200, 40, 2 * i + 1)) for i in range(6)]

    def run(graph: onnx.ModelProto) -> Iterator[dict[str, Any]]:
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        for x, y in images:
            given = {"x": x.astype(np.float32), "y": y.astype(np.float32)}
            names = [each.name for each in session.get_outputs()]
            yield dict(zip(names, session.run(None, given), strict=True))

    products = Products(plain, ["a", "b"])
    found = measure_inputs(products, run)
    every = np.concatenate([rows for pair in images for rows in pair])
    (each,) = found.values()
    assert each.rows == len(every) == 3000
    np.testing.assert_allclose(each.mean(), every.mean(0), atol=1e-5)
    expected = np.cov(every.T, bias=True)
    for i, covariance in enumerate(each.covariance()):
        part = slice(i * block, (i + 1) * block)
        damped = expected[part, part] + np.eye(block) * expected.diagonal().mean() * (1e-6 + 40 / 3000)
        np.testing.assert_allclose(covariance, damped, rtol=1e-3, atol=2e-3)

    nearest = quantized(plain, axis=0 if kind == "Gemm" else 1)
    weights = compensated(products, found, nearest, 15, lambda: None)
    assert isinstance(weights, Weights)
    better = onnx.ModelProto()
    better.CopyFrom(nearest)
    weights.move_biases(better, ["a"])
    weights.set_steps(better)
    before, after = (outputs(each, every, every[:0]) - outputs(plain, every, every[:0]) for each in (nearest, better))
    assert np.abs(after.mean(0)).max() < 1e-4 < 1e-2 < np.abs(before.mean(0)).max()
    other = correlated(5000, 40, 100)
    before, after = (outputs(each, other, other[:0]) - outputs(plain, other, other[:0]) for each in (nearest, better))
    assert after.var(0).mean() < (0.4 if block == 40 else 0.95) * before.var(0).mean()


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_a_product_without_a_bias_of_its_own_only_gets_its_steps(kind: str) -> None:
    alone = product(kind, bias=False)
    without = Products(alone, ["a", "b"])
    assert without.bias("weight") is None
    seen = gptq.InputStatistics(4000, np.zeros(40), np.cov(correlated(4000, 40, seed=1).T)[None] * 4000)
    found = {without.inputs("weight"): seen}
    weights = compensated(without, found, quantized(alone, axis=0 if kind == "Gemm" else 1), 15, lambda: None)
    assert (set(weights.steps), weights.biases) == ({"steps"}, {})
    plain = product(kind)
    assert Products(plain, ["a", "b"]).bias("weight") == "bias"
    # One of the two parts is left out: the bias is not its own.
    assert Products(plain, ["a"]).bias("weight") is None


def test_inputs_that_never_change_and_inputs_that_are_no_numbers_harm_nothing() -> None:
    plain = product("MatMul")
    products = Products(plain, ["a", "b"])
    key = products.inputs("weight")
    still = gptq.InputStatistics(1000, np.ones(40) * 1000, np.ones((1, 40, 40)) * 1000)
    weights = compensated(products, {key: still}, quantized(plain, 1), 15, lambda: None)
    assert set(weights.steps) == {"steps"}
    broken = gptq.InputStatistics(1000, np.full(40, np.nan), np.full((1, 40, 40), np.nan))
    weights = compensated(products, {key: broken}, quantized(plain, 1), 15, lambda: None)
    assert not weights.steps
    assert not weights.biases
