"""int8 weights that make up for each other's rounding, and biases that make up for what is left of it on average.

To the nearest step each weight of a product is rounded alone. But its inputs go together, so that what the rounding of
one input's weights adds to the outputs can be taken back by the weights of the inputs that come after it: GPTQ (Frantar
et al., arXiv 2210.17323), with the covariance that the inputs have on the calibration images. What remains has a mean,
which the bias takes off (Nagel et al., arXiv 1906.04721). Neither costs anything when the model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]

FULL_COVARIANCE = 3072
"""Inputs of a product whose covariance is kept whole, 72 MiB in float64: those of the transformer, which has 2,304 at most.
The patch trunk's dense layer has 16,384 (`tiny` 4,096), whose inverse would take most of the time."""

BLOCK = 1024
"""Above that, inputs make up for each other within blocks of so many."""

DAMPING = 0.01
"""Of the inputs' mean variance, added to each one's: GPTQ's own, against covariances that cannot be inverted. Few rows say
little of a covariance, so the number of inputs over that of rows is added to it."""

LAZY_ROWS = 64
"""Inputs rounded before the weights of all later ones are moved, in one product."""


@dataclass
class InputStatistics:
    """Of the inputs (rows, K) of one product: how many rows, their sum (K,), and their products with each other, summed:
    (blocks, B, B), where blocks * B = K."""

    rows: int = 0
    total: Any = 0.0
    products: Any = 0.0

    def mean(self) -> Floats:
        mean: Floats = self.total / self.rows
        return mean

    def covariance(self) -> Floats:
        """(blocks, B, B), with the damping."""
        blocks, size, _ = self.products.shape
        mean = self.mean().reshape(blocks, size, 1)
        found: Floats = self.products / self.rows - mean * mean.transpose(0, 2, 1)
        variance = np.einsum("bii->bi", found).mean() or 1.0
        return found + np.eye(size) * variance * (DAMPING + blocks * size / self.rows)


@dataclass(frozen=True)
class Weights:
    """`steps`: int8 values by the name of the quantised tensor; `biases`: float32 ones by that of the plain graph's bias,
    and the product that each belongs to."""

    steps: dict[str, NDArray[np.int8]] = field(default_factory=dict)
    biases: dict[str, tuple[str, NDArray[np.float32]]] = field(default_factory=dict)

    def move_biases(self, model: onnx.ModelProto, nodes: Collection[str]) -> None:
        """Of the products named, before they are quantised."""
        _replace(model, {name: bias for name, (node, bias) in self.biases.items() if node in nodes})

    def set_steps(self, model: onnx.ModelProto) -> None:
        """Of the products that are quantised in `model`."""
        _replace(model, self.steps)


def _replace(model: onnx.ModelProto, arrays: dict[str, Any]) -> None:
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))


Nodes = dict[str, "list[onnx.NodeProto]"]


def users_of(model: onnx.ModelProto) -> Nodes:
    """The nodes that take each tensor, by its name."""
    users: Nodes = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def bias_of(node: onnx.NodeProto, users: Nodes, constants: Collection[str]) -> str | None:
    """The name of the constant that is added to what a product gives: its bias."""
    adders = [user for user in users.get(node.output[0], []) if user.op_type == "Add"]
    names = node.input[2:] if node.op_type == "Gemm" else [name for user in adders for name in user.input]
    return next((name for name in names if name in constants), None)


class Products:
    """The products of a graph that have constant weights, those of one weight together (an image's parts share it)."""

    def __init__(self, plain: onnx.ModelProto, nodes: Collection[str]) -> None:
        self.plain = plain
        self.constants = {tensor.name: tensor for tensor in plain.graph.initializer}
        self._users = users_of(plain)
        self.by_weight: Nodes = {}  # by the weight's name
        for node in plain.graph.node:
            if node.name in nodes and node.op_type in ("MatMul", "Gemm"):
                self.by_weight.setdefault(node.input[1], []).append(node)

    def inputs(self, weight: str) -> tuple[str, ...]:
        return tuple(node.input[0] for node in self.by_weight[weight])

    def length(self, weight: str) -> int:
        """K: how many inputs each output sums."""
        node, (first, second) = self.by_weight[weight][0], self.constants[weight].dims
        return second if _is_transposed(node) else first

    def bias(self, weight: str) -> str | None:
        """The name of the constant that is added to all outputs of this weight, and to nothing else."""
        nodes = self.by_weight[weight]
        name = bias_of(nodes[0], self._users, self.constants)
        if name is None or any(bias_of(node, self._users, self.constants) != name for node in nodes):
            return None
        alone = all(node.op_type == "Gemm" or len(self._users[node.output[0]]) == 1 for node in nodes)
        return name if alone and len(self._users[name]) == len(nodes) else None


def _is_transposed(node: onnx.NodeProto) -> bool:
    """Whether the weight is (N, K) and not (K, N)."""
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def measure_inputs(
    products: Products, run: Callable[[onnx.ModelProto], Iterator[dict[str, Any]]]
) -> dict[tuple[str, ...], InputStatistics]:
    """Of all inputs of `products`, by the names of the tensors that one weight multiplies. `run` runs a graph on the
    images and gives the outputs of each call by name. They are computed in the graph: the inputs themselves would take
    gigabytes for a large image.
    """
    import onnx

    graph = onnx.ModelProto()
    graph.CopyFrom(products.plain)
    wanted = {products.inputs(weight): products.length(weight) for weight in products.by_weight}
    outputs = {
        inputs: _append_statistics(graph, f"statistics_{i}", inputs, wanted[inputs]) for i, inputs in enumerate(wanted)
    }
    found = {inputs: InputStatistics() for inputs in wanted}
    for call in run(graph):
        for inputs, (count, total, summed) in outputs.items():
            each = found[inputs]
            each.rows += int(call[count][0])
            each.total = each.total + call[total].astype(np.float64).ravel()
            each.products = each.products + call[summed].astype(np.float64)
    return found


def _append_statistics(graph: onnx.ModelProto, name: str, inputs: Iterable[str], length: int) -> tuple[str, str, str]:
    """Append what computes the statistics of `inputs`; the outputs' names: how many rows, their sum, that of products."""
    from onnx import TensorProto, helper, numpy_helper

    blocks = 1 if length <= FULL_COVARIANCE or length % BLOCK else length // BLOCK
    shape = np.array([-1, blocks, length // blocks], np.int64)
    constants = {"shape": shape, "first": np.array([0], np.int64)}
    graph.graph.initializer.extend(numpy_helper.from_array(value, f"{name}_{key}") for key, value in constants.items())
    parts = {tensor: f"{name}_part_{i}" for i, tensor in enumerate(inputs)}
    rows, left, right = f"{name}_rows", f"{name}_left", f"{name}_right"
    count, total, products = f"{name}_count", f"{name}_total", f"{name}_products"
    graph.graph.node.extend(
        [
            *(helper.make_node("Reshape", [tensor, f"{name}_shape"], [part]) for tensor, part in parts.items()),
            helper.make_node("Concat", [*parts.values()], [rows], axis=0),
            helper.make_node("Shape", [rows], [count], start=0, end=1),
            helper.make_node("ReduceSum", [rows, f"{name}_first"], [total], keepdims=0),
            helper.make_node("Transpose", [rows], [left], perm=[1, 2, 0]),
            helper.make_node("Transpose", [rows], [right], perm=[1, 0, 2]),
            helper.make_node("MatMul", [left, right], [products]),
        ]
    )
    kinds = {count: (TensorProto.INT64, 1), total: (TensorProto.FLOAT, 2), products: (TensorProto.FLOAT, 3)}
    for output, (kind, ranks) in kinds.items():
        graph.graph.output.append(helper.make_tensor_value_info(output, kind, [None] * ranks))
    return count, total, products


def compensated(
    products: Products,
    found: dict[tuple[str, ...], InputStatistics],
    quantized: onnx.ModelProto,
    largest: int,
    advance: Callable[[], object],
) -> Weights:
    """Steps of up to `largest` and biases for all `products`, in the scales that they have in `quantized`; none for those
    whose inputs are no numbers, which the scores will tell, or hardly change, so that nothing can make up for anything.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
    makers = {node.output[0]: node for node in quantized.graph.node}
    nodes = {node.name: node for node in quantized.graph.node}
    weights = Weights()
    for name, users in products.by_weight.items():
        advance()
        maker, inputs = makers[nodes[users[0].name].input[1]], found[products.inputs(name)]
        covariance = inputs.covariance()
        if not np.isfinite(covariance).all():
            continue
        transposed = _is_transposed(users[0])
        weight = numpy_helper.to_array(products.constants[name]).astype(np.float64)
        weight = weight.T if transposed else weight
        scale = numpy_helper.to_array(constants[maker.input[1]]).astype(np.float64)
        try:
            steps = round_weights(weight, scale, covariance, largest)
        except np.linalg.LinAlgError:
            continue
        weights.steps[maker.input[0]] = np.ascontiguousarray(steps.T if transposed else steps)
        if bias := products.bias(name):
            plain = numpy_helper.to_array(products.constants[bias])
            shift = inputs.mean() @ (steps * scale - weight)
            weights.biases[bias] = users[0].name, (plain - shift).astype(np.float32)
    return weights


def round_weights(weight: Floats, scale: Floats, covariance: Floats, largest: int) -> NDArray[np.int8]:
    """Steps (K, N) from -largest to largest for `weight` (K, N), each output's in its `scale` (N,), so that the outputs'
    variance around those of `weight` is small for inputs of `covariance` (blocks, B, B)."""
    steps = np.empty(weight.shape, np.int8)
    size = covariance.shape[1]
    for block, each in enumerate(covariance):
        # Inputs of much variance first: there are more after them to make up for their rounding.
        order = np.argsort(-np.diag(each), kind="stable")
        left = weight[block * size + order]
        factor = np.linalg.cholesky(np.linalg.inv(each[np.ix_(order, order)])).T
        for start in range(0, size, LAZY_ROWS):
            end = min(start + LAZY_ROWS, size)
            errors = np.empty((end - start, weight.shape[1]))
            for i in range(start, end):
                step = np.clip(np.rint(left[i] / scale), -largest, largest)
                steps[block * size + order[i]] = step
                errors[i - start] = (left[i] - step * scale) / factor[i, i]
                left[i + 1 : end] -= np.outer(factor[i, i + 1 : end], errors[i - start])
            left[end:] -= factor[start:end, end:].T @ errors
    return steps
