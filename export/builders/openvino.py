"""OpenVINO's .xml and .bin, from the ONNX graph."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from musiq.artifact import Details
from musiq.runtimes.openvino import import_openvino

from ..check import weight_types
from ..request import Built, Request, feed, versions
from . import onnx as onnx_builder


def build(request: Request, path: Path) -> Built:
    """Write a model's .xml to `path` and its .bin beside it; see `request.Builder`."""
    import onnx

    openvino = import_openvino()
    graph, int8 = onnx_builder.to_onnx(request)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = Path(folder) / "model.onnx"
        onnx.save_model(graph, str(source))
        model = openvino.convert_model(str(source))
    _drop_ones(model)
    for key, value in feed(request).metadata(request.precision).items():
        model.set_rt_info(value, ["musiq", key])
    # Weights are compressed to fp16 only where that precision was asked for, and then they are typed so in the graph.
    openvino.save_model(model, str(path), compress_to_fp16=False)
    if request.model.spec.any_size:
        _mark_exact(path, _exact(model))
    weights = {} if int8 else weight_types.check(weight_types.count(_constants(model)), request.precision)
    layers = Counter(node.get_type_name() for node in model.get_ops())
    made_with = versions("torch", "onnx", "onnxscript", "openvino")
    details = Details(weight_types=weights, int8=int8)
    return Built(dict(layers), made_with, details, files=(path.with_suffix(".bin"),))


def _drop_ones(model: Any) -> None:
    """OpenVINO would carry out products with ones: ONNX has no layer norm without scales, so those of the patch trunk have
    ones, and half precision brings more."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Multiply":
            kept, factor = node.input_value(0), node.input_value(1).get_node()
            same_shape = kept.get_partial_shape() == node.get_output_partial_shape(0)
            if same_shape and factor.get_type_name() == "Constant" and (factor.get_data(dtype=np.float32) == 1).all():
                node.output(0).replace(kept)


def _exact(model: Any) -> set[str]:
    """The names of the nodes that make sizes, places and weights of the resizes: those that integers, and what is
    scattered into a matrix, come from."""
    names: set[str] = set()
    for node in model.get_ops():
        kind = node.get_type_name()
        to_integers = kind == "Convert" and node.get_output_element_type(0).is_integral()
        left = [node] if to_integers or kind.startswith("ScatterElements") else []
        while left:
            one = left.pop()
            if one.get_friendly_name() not in names and one.get_type_name() not in ("Constant", "Parameter"):
                names.add(one.get_friendly_name())
                left += [source.get_node() for source in one.input_values()]
    return names


def _mark_exact(path: Path, names: set[str]) -> None:
    """Mark nodes in an .xml as `precise`: OpenVINO would compute them in bf16 too, where places of 3 digits are none."""
    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if layer.get("name") in names:
            facts = layer.find("rt_info")
            if facts is None:
                facts = ElementTree.Element("rt_info")
                layer.insert(0 if layer.find("data") is None else 1, facts)
            ElementTree.SubElement(facts, "attribute", {"name": "precise", "version": "0"})
    tree.write(path)


OPENVINO_TYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def _constants(model: Any) -> Iterator[tuple[str, list[int]]]:
    """(type, shape) of the constants in an OpenVINO graph."""
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            kind = node.get_element_type().get_type_name()
            yield OPENVINO_TYPES.get(kind, kind), list(node.get_output_shape(0))
