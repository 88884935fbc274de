"""`musiq-export` as tests call it, graphs traced once for several tests, and graphs run."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result

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


KEPT_BYTES = 2**24
"""Larger graphs are of models that one test alone exports."""


@contextmanager
def traced_once() -> Iterator[None]:
    """Within it, a graph that was traced for one test serves the others that export the same: tracing takes the longest
    of a small model. Another weight, request, constant or function of what is traced is another graph."""
    from musiq_export.graph import onnx as graph_onnx

    trace = graph_onnx._trace
    if trace.__name__ == "once":
        yield
        return
    # All that is traced is imported before the first names are taken.
    from musiq_export.graph import attention, simplify, traced  # noqa: F401

    rooms = ("musiq.model.", "musiq.pyramid", "musiq.patches", "musiq_export.graph.")
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith(rooms)]
    known: dict[Hashable, bytes] = {}
    alive: list[Any] = []  # so that no identity is given twice

    def once(request: Request) -> Any:
        values = [value for each in modules for name, value in vars(each).items() if not name.startswith("__")]
        key = _content(request.model), graph_onnx.graph_key(request), tuple(map(id, values))
        if key in known:
            return SimpleNamespace(model_proto=onnx.ModelProto.FromString(known[key]))
        program = trace(request)
        text = program.model_proto.SerializeToString()
        if len(text) < KEPT_BYTES:
            known[key] = text
            alive.extend(values)
        return program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_onnx, "_trace", once)
        yield


def _content(model: Any) -> Hashable:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.detach().numpy().tobytes())
    return repr(model), model.spec.to_json(), digest.digest()
