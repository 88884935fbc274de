"""The formats that a model can be exported to: one literal table, one builder each, one runtime each."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from musiq.errors import MusiqError

from .request import Built, Format, Request


def _torchscript(request: Request, path: Path) -> Built:
    from .builders.torch import build_torchscript

    return build_torchscript(request, path)


def _pt2(request: Request, path: Path) -> Built:
    from .builders.torch import build_pt2

    return build_pt2(request, path)


def _onnx(request: Request, path: Path) -> Built:
    from .builders.onnx import build

    return build(request, path)


def _openvino(request: Request, path: Path) -> Built:
    from .builders.openvino import build

    return build(request, path)


def _trt(request: Request, path: Path) -> Built:
    from .builders.tensorrt import build

    return build(request, path, "tensorrt")


def _trt_rtx(request: Request, path: Path) -> Built:
    from .builders.tensorrt import build

    return build(request, path, "tensorrt_rtx")


def _trt_possible(request: Request) -> None:
    from .builders.tensorrt import check_possible

    check_possible(request, "tensorrt")


def _trt_rtx_possible(request: Request) -> None:
    from .builders.tensorrt import check_possible

    check_possible(request, "tensorrt_rtx")


def _triton_possible(request: Request) -> None:
    from .triton import check_possible

    check_possible(request)


def _triton_trt_possible(request: Request) -> None:
    _trt_possible(request)
    _triton_possible(request)


FLOATS = ("fp32", "fp16", "bf16")
FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "torchscript", ".torchscript", _torchscript, "torch", "train", FLOATS, ("ts",), "legacy, still required"
        ),
        Format("pt2", ".pt2", _pt2, "torch", "train", FLOATS, ("torch-export",)),
        Format("onnx", ".onnx", _onnx, "onnxruntime", "cpu", (*FLOATS, "int8")),
        Format(
            "openvino",
            ".xml",
            _openvino,
            "openvino",
            "openvino",
            (*FLOATS, "int8"),
            ("ov",),
            whole_attention=True,
        ),
        Format(
            "trt",
            ".engine",
            _trt,
            "tensorrt",
            "tensorrt",
            (*FLOATS, "int8"),
            ("tensorrt", "engine"),
            possible=_trt_possible,
            gpu_only=True,
        ),
        Format(
            "trt-rtx",
            ".rtx.engine",
            _trt_rtx,
            "tensorrt_rtx",
            "tensorrt-rtx",
            (*FLOATS, "int8"),
            ("tensorrt-rtx", "rtx"),
            possible=_trt_rtx_possible,
            gpu_only=True,
        ),
        Format(
            "triton",
            ".onnx",
            _onnx,
            "onnxruntime",
            "cpu",
            (*FLOATS, "int8"),
            note="model repository round the ONNX",
            possible=_triton_possible,
            repository=True,
        ),
        Format(
            "triton-trt",
            ".engine",
            _trt,
            "tensorrt",
            "tensorrt",
            (*FLOATS, "int8"),
            ("triton-tensorrt",),
            "round the engine",
            possible=_triton_trt_possible,
            repository=True,
            gpu_only=True,
        ),
    )
}


def find(name: str) -> Format:
    """The format of that name or alias. Raises MusiqError that suggests the nearest one."""
    names = {alias: key for key, known in FORMATS.items() for alias in (key, *known.aliases)}
    if name.lower() in names:
        return FORMATS[names[name.lower()]]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise MusiqError(f"There is no format {name!r}.{hint} The formats are {', '.join(FORMATS)}.")


def check_possible(format: Format, request: Request) -> None:
    """Say what this format cannot do before any work starts."""
    if request.precision not in format.precisions:
        raise MusiqError(
            f"{format.name} cannot be made in {request.precision}; its precisions are {', '.join(format.precisions)}."
        )
    if format.possible:
        format.possible(request)
    if importlib.util.find_spec(format.package) is None:
        raise MusiqError(f"{format.name} needs {format.package}: pip install 'musiq[{format.extra}]'.")
