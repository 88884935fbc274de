"""`musiq-export` as tests call it, graphs traced once for several tests, and graphs run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result

from musiq_export.builders.onnx import to_onnx
from musiq_export.cli import main
from musiq_export.request import Request


def run(*arguments: object) -> Result:
    """The command with these arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def scores(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Of a graph, in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["score"], {"image": images})[0]
    return found


@contextmanager
def traced_once(weights: Callable[[Request], Hashable]) -> Iterator[None]:
    """Within it, what was traced for one export serves the others: tracing takes the longest of a small one. `weights`
    tells models of different weights apart."""
    known: dict[Hashable, tuple[bytes, Any]] = {}

    def once(request: Request, symmetric: bool = False) -> tuple[onnx.ModelProto, Any]:
        key = (
            weights(request),
            request.precision,
            request.inputs,
            request.batch,
            request.tokens,
            request.opset,
            request.tuned_for,
            symmetric,
        )
        if key not in known:
            model, int8 = to_onnx(request, symmetric)
            known[key] = model.SerializeToString(), int8
        text, int8 = known[key]
        return onnx.ModelProto.FromString(text), int8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("musiq_export.builders.onnx.to_onnx", once)
        yield
