"""Peak rates of this processor, the ceilings of any model: of a large matrix product and of a copy in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from musiq.errors import MusiqError
from musiq.timing import timed

PRODUCT_SIZE = 2048
PRODUCT_GFLOP = 2 * PRODUCT_SIZE**3 / 1e9


def product_rate(threads: int) -> float:
    """GFLOP/s of `product`, the fastest of eight."""
    return PRODUCT_GFLOP / best_s(product(threads), 8)


def product(threads: int) -> Callable[[], object]:
    """A call that multiplies two float32 matrices of PRODUCT_SIZE squared, in ONNX Runtime where it can be asked, whose
    products are often faster than numpy's; else in numpy, with the threads that it takes."""
    ones = np.ones((PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    return _onnx_product(ones, threads) or (lambda: ones @ ones)


def copy_rate() -> float:
    """GB/s read and written by numpy copying 256 MB, on one core."""
    source = np.ones(64_000_000, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / best_s(lambda: np.copyto(target, source), 5) / 1e9


def best_s(call: Callable[[], object], times: int) -> float:
    """The shortest of so many calls, in seconds: what disturbs a machine only ever adds to them."""
    return min(timed(call)[1] for _ in range(times))


def _onnx_product(square: np.ndarray, threads: int) -> Callable[[], object] | None:
    try:
        from onnx import TensorProto, helper

        from musiq.runtimes.onnxruntime import import_onnxruntime, session_options

        ort = import_onnxruntime()
    except (ImportError, MusiqError):
        return None
    left, right, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, square.shape) for name in ("a", "b", "c")
    )
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [left, right], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = session_options(ort, threads)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"a": square, "b": square})
