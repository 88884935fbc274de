"""What the scoring tests share: a real ONNX file whose score anyone can work out, and images in every format."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from musiq.artifact import Record, write_record
from musiq.files import sha256
from musiq.presets import preset
from musiq.runtimes.base import Images, Scores
from musiq.runtimes.batching import SPEC
from musiq.spec import Spec

HEIGHT, WIDTH = 64, 96


def mean_spec(outputs: int = 1, height: int | None = HEIGHT, width: int | None = WIDTH, **facts: Any) -> Spec:
    return dataclasses.replace(preset("tiny"), height=height, width=width, outputs=outputs, **facts)


def save_mean_model(
    path: Path, outputs: int = 1, height: int | None = HEIGHT, width: int | None = WIDTH, **facts: Any
) -> Path:
    """An ONNX file whose score is the mean of all samples; with `outputs` > 1, its shares are all 1 / outputs.

    Without height and width it takes images of any size. `facts` are those of its Spec that the preset `tiny` has not.
    """
    spec = mean_spec(outputs, height, width, **facts)
    nodes = [
        helper.make_node("Cast", ["image"], ["samples"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["samples", "axes"], ["score"], keepdims=0),
    ]
    results = [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"])]
    constants = [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])]
    if outputs > 1:
        constants.append(helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]))
        constants.append(helper.make_tensor("share", TensorProto.FLOAT, [outputs], [1 / outputs] * outputs))
        constants.append(helper.make_tensor("last", TensorProto.INT64, [1], [1]))
        nodes.append(helper.make_node("Mul", ["score", "zero"], ["zeros"]))
        nodes.append(helper.make_node("Unsqueeze", ["zeros", "last"], ["column"]))
        nodes.append(helper.make_node("Add", ["column", "share"], ["shares"]))
        results.append(helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["N", outputs]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height or "H", width or "W", 3])
    graph = helper.make_graph(nodes, "mean", [image], results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {SPEC: spec.to_json()})
    onnx.save(model, path)
    write_record(path, Record(spec, "onnx", "fp32", sha256(path)))
    return path


def scene(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A smooth image in many colours, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def saved(photo: Image.Image | NDArray[np.uint8], kind: str, **options: object) -> bytes:
    """A file as Pillow writes it: another library than the one under test."""
    buffer = io.BytesIO()
    image = Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


class FakeRuntime:
    """What every fake Runtime has: it remembers the sizes of its batches and whether it was closed; `run` is its own."""

    def __init__(self, spec: Spec, in_flight: int = 1) -> None:
        self.spec, self.provider, self.in_flight, self.default_batch = spec, "fake", in_flight, 8
        self.call_shares = "size"
        self.batches: list[int] = []
        self.closed = False

    def __call__(self, images: Images) -> Scores:
        return self.run(images)["score"]

    def run(self, images: Images) -> dict[str, Scores]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True
