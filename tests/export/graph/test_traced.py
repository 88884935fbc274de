"""Trunks in parts, which a CPU's caches hold: the same scores, and at no cost where it does not pay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from musiq import artifact
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.model.chunking import PATCHES_AT_ONCE
from musiq.spec import PRESETS
from musiq_export import exporter
from musiq_export.check.compare import LIMITS, Limits
from musiq_export.formats import FORMATS, find
from musiq_export.graph import onnx as graph_onnx
from musiq_export.graph import traced
from musiq_export.graph.onnx import float_onnx, lower
from musiq_export.graph.simplify import simplify
from musiq_export.int8 import calibration, quantize
from musiq_export.request import MOST_PARTS, Request
from tests.exporting import run
from tests.recipe import lively_model, photo

LARGE = {"height": 384, "width": 512}  # 12x16 patches, 3x4 of the scale of 128: 204, two parts of 102


def convolutions(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "Conv" for node in model.graph.node)


def scores(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["score"], {"image": images})[0]
    return found


def test_a_graph_for_cpus_has_parts_one_for_gpus_has_none_and_they_score_the_same() -> None:
    model = lively_model("tiny", **LARGE)
    request = Request(simplify(model))
    for_cpu, for_gpu = float_onnx(request), float_onnx(replace(request, tuned_for="gpu"))
    assert convolutions(for_cpu) == 4  # two parts
    assert convolutions(for_gpu) == 2
    images = np.stack([photo(384, 512, seed) for seed in range(3)])
    with torch.inference_mode():
        expected = model.predict(torch.from_numpy(images))[0].numpy()
    for made in (for_cpu, for_gpu):
        np.testing.assert_allclose(scores(made, images), expected, atol=2e-5)
        np.testing.assert_allclose(scores(made, images[:1]), expected[:1], atol=2e-5)


def test_parts_reach_back_to_opset_17() -> None:
    model = float_onnx(Request(simplify(lively_model("tiny", **LARGE))))
    lower(model, 17)
    onnx.checker.check_model(model, full_check=True)
    assert convolutions(model) == 4
    split = next(node for node in model.graph.node if node.op_type == "Split")
    split.attribute.append(onnx.helper.make_attribute("num_outputs", 2))  # which opset 13 does not know
    model.opset_import[0].version = 18
    with pytest.raises(MusiqError, match="Split means something else"):
        lower(model, 17)


def test_a_large_image_has_larger_parts_and_no_more_of_them() -> None:
    model = simplify(lively_model("tiny", height=2048, width=3072))
    module, _, _ = traced.traced_module(Request(model))
    patches = model.spec.tokens - 1
    at_once = module.get_submodule("model.trunk").at_once
    assert patches > 5000
    assert patches / at_once <= MOST_PARTS < patches / PATCHES_AT_ONCE


# As wide as the model are the heads of `resnet50-classic`.
@pytest.mark.parametrize("head_dim", [PRESETS["tiny"].head_dim, PRESETS["tiny"].dim])
def test_the_attention_of_a_large_image_is_in_parts_on_cpus_and_scores_the_same(
    head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively_model("tiny", height=96, width=160, layers=2, head_dim=head_dim)
    simple = simplify(model)
    whole = float_onnx(Request(simple))
    monkeypatch.setattr(graph_onnx, "WEIGHTS_AT_ONCE", 2**12)
    for_cpu, for_gpu = float_onnx(Request(simple)), float_onnx(Request(simple, tuned_for="gpu"))
    for_openvino = float_onnx(Request(simple, whole_attention=True))
    made = (whole, for_gpu, for_openvino, for_cpu)
    operators = [[node.op_type for node in each.graph.node].count("Softmax") for each in made]
    assert operators[:3] == [model.spec.layers] * 3
    assert operators[3] >= 2 * (model.spec.layers - 1)  # the last layer asks for one token
    images = np.stack([photo(96, 160, seed) for seed in range(3)])
    with torch.inference_mode():
        expected = model.predict(torch.from_numpy(images))[0].numpy()
    for count in (3, 1):
        np.testing.assert_allclose(scores(for_cpu, images[:count]), expected[:count], atol=5e-5)


@pytest.mark.parametrize(
    ("heads", "asking", "tokens", "expected"),
    [
        (6, 919, 919, 919),  # musiq at 1024x768: 20 MB
        (6, 1, 11901, 1),  # a last layer
        (6, 3223, 3223, 403),  # 249 MB in eight parts
        (6, 11901, 11901, 744),  # 3.4 GB in sixteen parts, not 102
    ],
)
def test_parts_of_attention_are_as_few_as_memory_and_as_many_as_a_graph_allows(
    heads: int, asking: int, tokens: int, expected: int
) -> None:
    assert graph_onnx._asking_at_once(heads, asking, tokens) == expected


def test_the_command_tunes_for_the_machine_at_hand_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tuned(name: str, *given: str) -> tuple[str, int, str]:
        result = run("--checkpoint", weights, "--out", tmp_path, "--name", name, *given)
        assert result.exit_code == 0, result.output
        record = json.loads(artifact.record_path(tmp_path / f"{name}.onnx").read_text())
        return record["details"]["tuned_for"], convolutions(onnx.load(tmp_path / f"{name}.onnx")), result.output

    weights = tmp_path / "tiny.safetensors"
    checkpoint.save(lively_model("tiny", **LARGE), weights)
    monkeypatch.setattr("musiq_export.cli.cuda_at_hand", lambda: False)
    target, parts, output = tuned("here")
    assert (target, parts) == ("cpu", 4)
    assert "tuned for a cpu; --tune-for gpu for the other" in output
    target, parts, output = tuned("asked", "--tune-for", "gpu")
    assert (target, parts) == ("gpu", 2)
    assert "tuned" not in output
    monkeypatch.setattr("musiq_export.cli.cuda_at_hand", lambda: True)
    target, parts, output = tuned("there")
    assert (target, parts) == ("gpu", 2)
    assert "tuned for a gpu; --tune-for cpu for the other" in output


def test_an_engine_is_for_a_gpu_whatever_is_asked(tmp_path: Path) -> None:
    assert {name for name, format in FORMATS.items() if format.gpu_only} == {"trt", "trt-rtx", "triton-trt"}
    model = lively_model("tiny", **LARGE)
    reference = exporter.Reference(model, "m", "0", np.stack([photo(384, 512, seed) for seed in range(3)]), "made")
    format = replace(find("onnx"), gpu_only=True)
    path = tmp_path / "engine.onnx"
    record = exporter.export(format, Request(simplify(model)), reference, LIMITS["fp32"], path, print)
    assert record.details["tuned_for"] == "gpu"
    assert convolutions(onnx.load(path)) == 2


def test_openvino_which_never_writes_attentions_weights_down_gets_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(graph_onnx, "WEIGHTS_AT_ONCE", 2**12)
    model = lively_model("tiny", layers=2)
    reference = exporter.Reference(model, "m", "0", np.stack([photo(192, 256, seed) for seed in range(3)]), "made")
    layers = {}
    for name in ("onnx", "openvino"):
        path = tmp_path / f"m{find(name).suffix}"
        layers[name] = exporter.export(
            find(name), Request(simplify(model)), reference, LIMITS["fp32"], path, print
        ).layers
    assert layers["openvino"]["ScaledDotProductAttention"] == 2
    assert layers["onnx"]["Softmax"] > 2


def test_int8_makes_every_part_of_the_dense_layer_int8_from_one_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "PATCHES_AT_ONCE", 35)  # of 69: two parts
    model = simplify(lively_model("tiny"))
    images = np.stack([photo(192, 256, seed) for seed in range(64)])
    photos = calibration.Calibration([str(seed) for seed in range(64)], images)
    request = Request(model, "int8", options={"calibration": photos, "limits": Limits(20.0, 0.8)})
    made = quantize.quantised(request)
    dense = [node for node in made.graph.node if node.op_type == "Gemm" and "trunk.dense" in node.input[1]]
    makers = {name: node for node in made.graph.node for name in node.output}
    stored = {makers[node.input[1]].input[0] for node in dense if node.input[1] in makers}
    assert len(dense) == 2
    assert len(stored) == 1
    with torch.inference_mode():
        expected = model.predict(torch.from_numpy(images))[0].numpy()
    found = scores(made, images)
    assert np.corrcoef(found, expected)[0, 1] > 0.9
    assert np.abs(found - expected).max() > 1e-4  # it is no fp32
