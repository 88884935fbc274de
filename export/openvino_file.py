"""OpenVINO's .xml and .bin, from the ONNX graph."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from musiq.runtimes.ov import import_openvino

from .request import Built, Request, feed, versions


def build(request: Request, path: Path) -> Built:
    import onnx

    from .onnx_model import to_onnx

    openvino = import_openvino()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source = Path(folder) / "model.onnx"
        onnx.save_model(to_onnx(request), str(source))
        model = openvino.convert_model(str(source))
    for key, value in feed(request).metadata(request.precision).items():
        model.set_rt_info(value, ["musiq", key])
    # Weights are compressed to fp16 only where that precision was asked for, and then they are typed so in the graph.
    openvino.save_model(model, str(path), compress_to_fp16=False)
    layers = Counter(node.get_type_name() for node in model.get_ops())
    return Built(dict(layers), versions("torch", "onnx", "onnxscript", "openvino"), files=(path.with_suffix(".bin"),))
