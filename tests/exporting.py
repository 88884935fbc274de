"""`musiq-export` as tests call it, and graphs traced once for several tests."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import onnx
import pytest
from click.testing import CliRunner, Result

from musiq_export.builders.onnx import to_onnx
from musiq_export.cli import main
from musiq_export.request import Request


def run(*arguments: object) -> Result:
    """The command with these arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@contextmanager
def traced_once(weights: Callable[[Request], Hashable]) -> Iterator[None]:
    """Within it, what was traced for one export serves the others: tracing takes the longest of a small one. `weights`
    tells models of different weights apart."""
    known: dict[Hashable, bytes] = {}

    def once(request: Request, symmetric: bool = False) -> onnx.ModelProto:
        key = (
            weights(request),
            request.precision,
            request.inputs,
            request.batch,
            request.opset,
            request.tuned_for,
            symmetric,
        )
        if key not in known:
            known[key] = to_onnx(request, symmetric).SerializeToString()
        return onnx.ModelProto.FromString(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("musiq_export.builders.onnx.to_onnx", once)
        yield
