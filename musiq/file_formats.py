"""The formats of model files: their names, their endings, what runs them and on which special devices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileFormat:
    """A kind of model file.

    Attributes:
        name: What commands and reports call it.
        endings: How names of such files end.
        runtime: What runs it, for tables and messages.
        has_throughput: Whether it has the mode of that name, a call of its own for each CPU thread.
    """

    name: str
    endings: tuple[str, ...]
    runtime: str
    has_throughput: bool = False


FILE_FORMATS: dict[str, FileFormat] = {
    each.name: each
    for each in (
        FileFormat("pytorch", (".safetensors", ".pth", ".pt", ".npz"), "PyTorch"),
        FileFormat("torchscript", (".torchscript",), "TorchScript"),
        FileFormat("pt2", (".pt2",), "`.pt2` (PyTorch)"),
        FileFormat("onnx", (".onnx",), "ONNX Runtime", has_throughput=True),
        FileFormat("openvino", (".xml",), "OpenVINO", has_throughput=True),
        FileFormat("trt", (".engine",), "TensorRT"),
        FileFormat("trt-rtx", (".rtx.engine",), "TensorRT for RTX"),
    )
}
"""All that this package opens, checkpoints (which PyTorch runs) first."""

CHECKPOINT_ENDINGS = FILE_FORMATS["pytorch"].endings

ENDINGS: dict[str, FileFormat] = {ending: each for each in FILE_FORMATS.values() for ending in each.endings}


def ending_of(path: Path) -> str | None:
    """The longest of ENDINGS that a file's name has ("x.rtx.engine" ends in .rtx.engine), None for another file."""
    return max((ending for ending in ENDINGS if path.name.endswith(ending)), key=len, default=None)


@dataclass(frozen=True)
class SpecialDevice:
    """A special way to use a CUDA device, which not every format has: "cuda-graph:0" for "cuda-graph".

    Attributes:
        formats: Names of those that have it; errors advise the first.
        remark: What tables add to the runtime's name.
    """

    formats: tuple[str, ...]
    remark: str


SPECIAL_DEVICES: dict[str, SpecialDevice] = {
    "cuda-graph": SpecialDevice(("onnx",), "CUDA graph"),
    "tensorrt": SpecialDevice(("onnx",), "TensorRT"),
    "cuda-compile": SpecialDevice(("pt2", "pytorch"), "compiled"),
}
"""By the name before the colon."""
