"""Attention in graphs that do not know how many tokens they get."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.inliner import inline_local_functions

from musiq_export.graph.attention import attended_in_parts


@pytest.mark.parametrize(("tokens", "queries"), [(1, 1), (24, 24), (5000, 5000), (5000, 1), (4096, 4097)])
def test_any_number_of_tokens_is_attended_to_as_pytorch_does(tokens: int, queries: int) -> None:
    draw = np.random.default_rng(tokens)
    q, k, v = (draw.standard_normal((1, 2, n, 8)).astype(np.float32) for n in (queries, tokens, tokens))
    session = onnxruntime.InferenceSession(model().SerializeToString())
    found = session.run(None, {"query": q, "key": k, "value": v})[0]
    wanted = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v)), scale=1.0)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)


IN_A_PROCESS_OF_ITS_OWN = """
import resource, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.enable_mem_pattern = 1, False
session = onnxruntime.InferenceSession(sys.argv[1], options)
for tokens in (10, 12000):
    given = np.random.default_rng(0).standard_normal((1, 2, tokens, 4)).astype(np.float32)
    session.run(None, {"query": given, "key": given, "value": given})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_large_weights_are_never_there_as_a_whole(tmp_path: Path) -> None:
    onnx.save_model(model(), tmp_path / "attention.onnx")
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN, str(tmp_path / "attention.onnx")]
    small_mib, large_mib = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    # As a whole they are 1,099 MiB, and a softmax needs them twice.
    assert large_mib - small_mib < 700


def model() -> onnx.ModelProto:
    """A graph of attention alone."""
    kinds = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("query", "key", "value")
    }
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * 4)
    function = attended_in_parts.to_function_proto()
    node = helper.make_node(function.name, list(kinds), ["out"], domain=function.domain)
    graph = helper.make_graph([node], "attention", [*kinds.values()], [out])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(function.domain, 1)]
    proto = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9)
    return inline_local_functions(proto)
