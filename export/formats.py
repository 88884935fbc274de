"""The formats that a model can be exported to: one literal table, one builder each, one runtime each."""

from __future__ import annotations

import difflib
import importlib.util
from functools import partial

from musiq.errors import MusiqError, pip_install
from musiq.runtimes.batching import PATCHES

from . import triton
from .builders import onnx, openvino, tensorrt, torch
from .request import EVERY_PATCHES, Format, Request

FLOATS = ("fp32", "fp16", "bf16")
ALL = (*FLOATS, "int8")
IMAGE_OR_PATCHES = ("image", PATCHES)

check_trt = partial(tensorrt.check_possible, package="tensorrt")
check_trt_rtx = partial(tensorrt.check_possible, package="tensorrt_rtx")


def check_triton_trt(request: Request) -> None:
    check_trt(request)
    triton.check_possible(request)


build_trt = partial(tensorrt.build, package="tensorrt")
build_trt_rtx = partial(tensorrt.build, package="tensorrt_rtx")

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "torchscript",
            torch.build_torchscript,
            package="torch",
            extra="train",
            precisions=FLOATS,
            aliases=("ts",),
            note="legacy, still required",
            any_size=IMAGE_OR_PATCHES,
            fixed_unless_asked=True,
        ),
        Format(
            "pt2",
            torch.build_pt2,
            package="torch",
            extra="train",
            precisions=FLOATS,
            aliases=("torch-export",),
            any_size=IMAGE_OR_PATCHES,
        ),
        Format("onnx", onnx.build, package="onnxruntime", extra="cpu", precisions=ALL, any_size=IMAGE_OR_PATCHES),
        Format(
            "openvino",
            openvino.build,
            package="openvino",
            extra="openvino",
            precisions=ALL,
            aliases=("ov",),
            whole_attention=True,
            any_size=IMAGE_OR_PATCHES,
        ),
        Format(
            "trt",
            build_trt,
            package="tensorrt",
            extra="tensorrt",
            precisions=ALL,
            aliases=("tensorrt", "engine"),
            check_possible=check_trt,
            any_size=(PATCHES,),
            gpu_only=True,
        ),
        Format(
            "trt-rtx",
            build_trt_rtx,
            package="tensorrt_rtx",
            extra="tensorrt-rtx",
            precisions=ALL,
            aliases=("tensorrt-rtx", "rtx"),
            check_possible=check_trt_rtx,
            any_size=(PATCHES,),
            gpu_only=True,
        ),
        Format(
            "triton",
            onnx.build,
            package="onnxruntime",
            extra="cpu",
            precisions=ALL,
            note="model repository round the ONNX",
            check_possible=triton.check_possible,
            repository=True,
            file_format="onnx",
            any_size=IMAGE_OR_PATCHES,
        ),
        Format(
            "triton-trt",
            build_trt,
            package="tensorrt",
            extra="tensorrt",
            precisions=ALL,
            aliases=("triton-tensorrt",),
            note="round the engine",
            check_possible=check_triton_trt,
            any_size=(PATCHES,),
            repository=True,
            file_format="trt",
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


def check_any_size(format: Format, inputs: str) -> None:
    """Raise MusiqError where a format does not take images of any size as such inputs."""
    inputs = PATCHES if inputs in EVERY_PATCHES else inputs
    if inputs in format.any_size:
        return
    able = [name for name, other in FORMATS.items() if inputs in other.any_size]
    if not able:
        raise MusiqError(f"--inputs {inputs} is for images of one size. Leave it out, or give --size 1024x768.")
    other = f", or --inputs {' or '.join(format.any_size)}" if format.any_size else ""
    raise MusiqError(
        f"{format.name} with --inputs {inputs} is for images of one size. Give --size 1024x768{other}, or for any size "
        f"--format {', '.join(able)}."
    )


def check_patches(request: Request) -> None:
    """Raise MusiqError for a model that patches are no inputs of."""
    spec = request.model.spec
    if spec.trunk != "patch":
        raise MusiqError(
            f"--inputs patches is for presets whose trunk sees each patch by itself (musiq, musiq-pyiqa, tiny), not for "
            f"{spec.preset}. Leave it out."
        )
    if not spec.any_size:
        raise MusiqError(
            f"--inputs patches is for images of any size, not for {spec.size_name} alone. Leave --size out, or --inputs."
        )


def check_possible(format: Format, request: Request) -> None:
    """Say what this format cannot do before any work starts."""
    if request.inputs in EVERY_PATCHES:
        check_patches(request)
    if request.precision not in format.precisions:
        raise MusiqError(
            f"{format.name} cannot be made in {request.precision}; its precisions are {', '.join(format.precisions)}."
        )
    if request.model.spec.any_size:
        check_any_size(format, request.inputs)
    if format.check_possible:
        format.check_possible(request)
    if importlib.util.find_spec(format.package) is None:
        raise MusiqError(f"{format.name} needs {format.package}: {pip_install(format.extra)}.")
