"""The formats of model files: their names, their endings, what runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FileFormat:
    """A kind of model file. `name` is what commands and reports call it, `runtime` what runs it, for tables."""

    name: str
    endings: tuple[str, ...]
    runtime: str


FILE_FORMATS: dict[str, FileFormat] = {
    each.name: each
    for each in (
        FileFormat("pytorch", (".safetensors", ".pth", ".pt", ".npz"), "PyTorch"),
        FileFormat("torchscript", (".torchscript",), "TorchScript"),
        FileFormat("pt2", (".pt2",), "`.pt2` (PyTorch)"),
        FileFormat("onnx", (".onnx",), "ONNX Runtime"),
        FileFormat("openvino", (".xml",), "OpenVINO"),
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
