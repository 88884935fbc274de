"""What the tests of musiq-bench share: the command as a subprocess, and an artifact whose scores numpy can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import onnx
from onnx import TensorProto, helper

from musiq.presets import preset
from musiq.spec import Spec

SPEC = preset("tiny", 64, 96)
ANY = SPEC.at_any_size()
ONCE = ("--calls", "6", "--seconds", "0", "--rounds", "1", "--warmup", "0")
QUICK = (*ONCE, "--rounds", "2")


def bench(*arguments: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "musiq_bench", *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def at_start(folder: Path, code: str) -> str:
    """A PYTHONPATH under which every Python process runs `code` first."""
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def without_torch(folder: Path) -> str:
    """A PYTHONPATH under which torch cannot be imported, as where it is not installed."""
    return at_start(
        folder,
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "def find_others(name, *given):\n"
        "    return None if name.split('.')[0] in ('torch', 'torchvision') else find(name, *given)\n"
        "PathFinder.find_spec = find_others\n",
    )


def brightness_model(path: Path, shift: float = 0.0, spec: Spec = SPEC) -> Path:
    """An artifact whose scores numpy can tell: the mean of all samples, plus `shift`; NaN for a shift of NaN."""
    sides = spec.height or "height", spec.width or "width"
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *sides, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "shift"], ["score"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("shift", TensorProto.FLOAT, [1], [shift]),
    ]
    graph = helper.make_graph(nodes, "brightness", [image], [score], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"musiq.spec": spec.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def mean_pixels(place: Path) -> dict[str, float]:
    files = sorted((place / "photos").glob("*.png"))
    images = {file.name: cv2.imread(str(file)) for file in files if file.name != "08.png"}
    return {name: float(image.mean()) for name, image in images.items() if image is not None}
