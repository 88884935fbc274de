"""PyTorch's own artifact formats: TorchScript (legacy, still required by many servers) and torch.export's .pt2."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiq.artifact import Details

from ..check import weight_types
from ..request import Built, Request, feed, versions

if TYPE_CHECKING:
    import torch

# Nodes that move or name data, or belong to the interpreter, are no layers.
NO_LAYERS = ("prim::", "aten::size", "aten::Int", "aten::mul.int")


def build_torchscript(request: Request, path: Path) -> Built:
    """Write a frozen TorchScript; see `request.Builder`."""
    import torch

    from ..graph.traced import traced_module

    module, example, _ = traced_module(request)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecated: known
        frozen = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
        # By way of memory: where the disk is full, PyTorch's own writer ends the process.
        path.write_bytes(frozen.save_to_buffer(_extra_files=feed(request).metadata(request.precision)))
    weights = weight_types.check(weight_types.count(_tensors(frozen.inlined_graph)), request.precision)
    layers = Counter(node.kind() for node in frozen.inlined_graph.nodes() if not node.kind().startswith(NO_LAYERS))
    return Built(dict(layers), versions("torch"), Details(weight_types=weights))


def _tensors(graph: Any) -> Iterator[tuple[str, list[int]]]:
    """(type, shape) of the constants in a frozen graph."""
    for node in graph.findAllNodes("prim::Constant"):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            yield _named(node.t("value"))


def _named(tensor: torch.Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)


def build_pt2(request: Request, path: Path) -> Built:
    """Write a program of torch.export; see `request.Builder`."""
    import torch

    from ..graph.traced import dynamic_shapes, traced_module

    module, example, _ = traced_module(request)
    with torch.no_grad():
        program = torch.export.export(module, example, dynamic_shapes=dynamic_shapes(request, example))
    for node in program.graph.nodes:  # where the exporting machine keeps its sources is nobody's business
        node.meta.pop("stack_trace", None)
        node.meta.pop("nn_module_stack", None)
    weights = weight_types.check(weight_types.count(map(_named, module.state_dict().values())), request.precision)
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files=feed(request).metadata(request.precision))
    path.write_bytes(archive.getbuffer())
    layers = Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return Built(dict(layers), versions("torch"), Details(weight_types=weights))
