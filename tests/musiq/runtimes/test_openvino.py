"""OpenVINO: a graph and its weights belong together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from musiq import artifact
from musiq.errors import MusiqError
from musiq.runtimes.registry import open_runtime


def test_openvino_weights_that_do_not_match_their_graph_are_refused(
    artifacts: Callable[..., Path], tmp_path: Path
) -> None:
    whole = artifacts("openvino")
    for path in (whole, artifact.record_path(whole)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = bytearray(whole.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / whole.with_suffix(".bin").name).write_bytes(weights)
    with pytest.raises(MusiqError, match="is not the file that was checked"):
        open_runtime(tmp_path / whole.name, "cpu")
