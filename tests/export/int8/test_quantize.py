"""int8: calibrated on real files, measured group by group, timed against fp32, and refused where it does not pay."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import Result
from onnx import numpy_helper
from scipy.stats import spearmanr

from musiq import artifact
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.model.network import Musiq
from musiq.spec import PRESETS
from musiq_export import exporter
from musiq_export.builders.onnx import to_onnx
from musiq_export.check import speed
from musiq_export.check.compare import LIMITS, Limits
from musiq_export.formats import FORMATS, find
from musiq_export.graph.simplify import simplify
from musiq_export.int8 import calibration, quantize
from musiq_export.int8.sensitivity import choose
from musiq_export.request import Batch, Built, Request
from tests.exporting import run
from tests.recipe import lively_model, photo

HEIGHT, WIDTH = 192, 256
LIMITS_HERE = Limits(difference=15.0, srcc=0.96)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 image files of another size than the model's, one broken among them."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(40):
        cv2.imwrite(str(folder / f"{seed:02}.png"), photo(200, 300, seed))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def int8_export(tiny_checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The tiny model exported by the real command; forced, because a model this small gains next to nothing."""
    out = tmp_path_factory.mktemp("int8")
    given = ["--checkpoint", tiny_checkpoint, "--precision", "int8", "--name", "tiny", "--out", out, "--force"]
    given += ["--weight-bits", 7]
    # Random weights scatter more than trained ones: wider limits than the default ones leave something to quantise.
    given += ["--max-difference", LIMITS_HERE.difference, "--min-srcc", LIMITS_HERE.srcc]
    result = run(*given, "--calibration-images", photos, "--images", photos)
    assert result.exit_code == 0, result.output
    return out / "tiny.onnx", result


@pytest.fixture(scope="module")
def request_int8(tiny_checkpoint: Path, photos: Path) -> Request:
    images = calibration.read(photos, HEIGHT, WIDTH, warn=print)
    images.names, images.images = images.names[:16], images.images[:16]
    return Request(simplify(checkpoint.load(tiny_checkpoint)), "int8", options={"calibration": images})


def test_weights_are_int8_with_a_scale_for_every_output_channel(int8_export: tuple[Path, Result]) -> None:
    model = onnx.load(int8_export[0])
    onnx.checker.check_model(model, full_check=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    weights = []
    for node in model.graph.node:
        maker = makers.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        if maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in constants:
            weight, scale, zero = (constants[name] for name in maker.input)
            outputs = weight.shape[0] if node.op_type == "Gemm" else weight.shape[1]
            assert weight.dtype == np.int8
            assert scale.shape == (outputs,)
            assert not zero.any()
            assert makers[node.input[0]].op_type == "DequantizeLinear"
            weights.append(weight)
    assert len(weights) >= 8
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) == 64
    record = artifact.read_record(int8_export[0])
    assert record is not None
    assert record.details["weights"] == "int8 per channel, 7 bits used"


def test_pyramid_attention_and_head_stay_in_floats(int8_export: tuple[Path, Result]) -> None:
    model = onnx.load(int8_export[0])
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    floats = [name for name, kind in constants.items() if kind == onnx.TensorProto.FLOAT]
    assert {"model.head.weight", "model.pyramid.blocks", "model.pyramid.scale_128_right"} <= set(floats)
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    softmaxed = [node for node in model.graph.node if makers.get((*node.input, "")[0]) == "Softmax"]
    assert [node.op_type for node in softmaxed] == ["MatMul"] * 3


def test_onnxruntime_really_multiplies_integers(int8_export: tuple[Path, Result], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(int8_export[0]), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    integer = [
        kind for kind in kinds if kind in ("MatMulIntegerToFloat", "QGemm", "QLinearMatMul", "DynamicQuantizeMatMul")
    ]
    record = json.loads(int8_export[0].with_name("tiny.onnx.json").read_text())
    assert len(integer) == record["details"]["int8_products"] >= 8


def test_the_record_lists_the_images_and_what_was_measured(int8_export: tuple[Path, Result], photos: Path) -> None:
    record = json.loads(int8_export[0].with_name("tiny.onnx.json").read_text())
    details = record["details"]
    used = details["calibration"]
    assert sorted(used["ranges"] + used["held_out"]) == sorted(path.name for path in photos.glob("*.png"))
    assert len(used["held_out"]) == 15
    groups = details["sensitivity"]["groups"]
    assert {"trunk.dense", "layers.0.attention", "layers.0.mlp", "layers.2.mlp"} <= set(groups)
    assert all(group["max_difference"] >= group["mean_difference"] > 0 for group in groups.values())
    assert set(details["sensitivity"]["kept_fp32"]) < set(groups)
    assert record["layers"]["QuantizeLinear"] > 0
    assert record["layers"]["DequantizeLinear"] > record["layers"]["QuantizeLinear"]
    assert details["speed"]["int8_ms"] > 0
    assert record["precision"] == "int8"


def test_it_scores_other_images_like_pytorch_within_the_limits(
    int8_export: tuple[Path, Result], tiny_checkpoint: Path
) -> None:
    session = onnxruntime.InferenceSession(str(int8_export[0]), providers=["CPUExecutionProvider"])
    images = np.stack([photo(HEIGHT, WIDTH, seed) for seed in range(1000, 1040)])
    with torch.inference_mode():
        expected = checkpoint.load(tiny_checkpoint).predict(torch.from_numpy(images))[0].numpy()
    found = session.run(["score"], {"image": images})[0]
    assert 0 < np.abs(found - expected).max() <= LIMITS_HERE.difference / 100 * np.ptp(expected)
    assert spearmanr(found, expected).statistic >= LIMITS_HERE.srcc


def test_openvino_reads_the_same_graph_and_keeps_it_int8(int8_export: tuple[Path, Result]) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(int8_export[0]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = np.stack([photo(HEIGHT, WIDTH, seed) for seed in range(8)])
    session = onnxruntime.InferenceSession(str(int8_export[0]), providers=["CPUExecutionProvider"])
    expected = session.run(["score"], {"image": images})[0]
    found = compiled(images)[0]
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)


def test_without_calibration_images_int8_is_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("--checkpoint", tiny_checkpoint, "--precision", "int8", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "give --calibration-images DIR with 64 to 512 images" in result.output.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_fewer_than_16_images_are_refused_and_fewer_than_64_warned_of(photos: Path, tmp_path: Path) -> None:
    for file in sorted(photos.glob("*.png"))[:15]:
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(MusiqError, match="15 readable images; int8 needs at least 16"):
        calibration.read(tmp_path, HEIGHT, WIDTH, warn=print)
    (tmp_path / "39.png").symlink_to(photos / "39.png")
    said: list[str] = []
    assert len(calibration.read(tmp_path, HEIGHT, WIDTH, said.append).names) == 16
    assert len(said) == 1
    assert "16 readable images: int8 is calibrated better on 64 to 512" in said[0]


def test_a_file_slower_than_fp32_is_refused_with_the_ratio(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "clock", clock_on_which_the_first_of_each_pair_takes_twice_as_long())
    monkeypatch.setattr(calibration, "MOST", 16)
    given = ["--checkpoint", tiny_checkpoint, "--precision", "int8", "--calibration-images", photos, "--out", tmp_path]
    result = run(*given, "--max-difference", 50, "--min-srcc", 0)
    assert result.exit_code == 1
    assert "slower than fp32 on this machine (0.50 times its speed), so it was not kept" in result.output
    assert "--force" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_slower_file_is_kept_when_forced_and_says_so(
    int8_export: tuple[Path, Result], request_int8: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "clock", clock_on_which_the_first_of_each_pair_takes_twice_as_long())
    path, said = int8_export[0], []
    record = artifact.read_record(path)
    assert record is not None
    request = replace(request_int8, options={**request_int8.options, "force": True})
    images = photo(HEIGHT, WIDTH, 0)[None]
    found = speed.timed(FORMATS["onnx"], request, record, path, images, said.append).details["speed"]
    assert (found["times_fp32"], found["int8_ms"], found["forced"]) == (0.5, 2000.0, True)
    assert said == ["[✗] 0.50 times the speed of fp32: 2000.0 against 1000.0 ms, batch 1"]
    assert {file.name for file in path.parent.iterdir()} == {"tiny.onnx", "tiny.onnx.json"}


def clock_on_which_the_first_of_each_pair_takes_twice_as_long() -> Any:
    def ticks() -> Iterator[float]:
        now = 0.0
        for step in itertools.cycle((0.0, 2.0, 0.0, 1.0)):
            now += step
            yield now

    return ticks().__next__


def test_a_group_made_fragile_is_measured_as_the_worst_and_stays_fp32(photos: Path) -> None:
    model = simplify(lively_model("tiny"))
    with torch.no_grad():  # two opposite outliers through the GELU cancel in fp32, and leave the rest no steps in int8
        first, second = model.layers[1].mlp[0], model.layers[1].mlp[2]
        first.weight[:2] = 0
        first.bias[:2] = 3e3
        second.weight[:, 1] = -second.weight[:, 0]
    images = calibration.read(photos, HEIGHT, WIDTH, warn=print)
    images.names, images.images = images.names[:32], images.images[:32]
    request = Request(model, "int8", options={"calibration": images, "limits": Limits(10.0, 0.9)})
    graph = quantize.quantised(request)
    measured = quantize.details(request, symmetric=False)["sensitivity"]
    worst = max(measured["groups"], key=lambda name: measured["groups"][name]["mean_difference"])
    assert worst == "layers.1.mlp"
    assert measured["kept_fp32"][0] == "layers.1.mlp"
    assert "layers.1.attention" not in measured["kept_fp32"]
    products = {"attention": 4, "mlp": 2}  # of a layer that is not the last: 17 in all, with the trunk's and the last's
    kept = sum(products[name.rsplit(".", 1)[1]] for name in measured["kept_fp32"])
    assert kept <= 6
    assert quantize.int8_products(graph) == 17 - kept


def test_as_few_of_the_costliest_groups_are_kept_as_the_rest_needs() -> None:
    reference = np.linspace(0, 100, 24, dtype=np.float32)
    errors = {"good": 0.1, "bad": 8.0, "worse": 20.0, "fair": 1.0}
    sign = np.where(np.arange(24) % 2, 1, -1).astype(np.float32)
    spec = lively_model("tiny", score_range=(0.0, 100.0)).spec
    asked: list[tuple[str, ...]] = []

    def scores(groups: Any, count: int) -> Any:
        asked.append(tuple(groups))
        return (reference + sign * sum(errors[name] for name in groups))[:count]

    found = choose(errors, scores, reference, spec, LIMITS["int8"], lambda: None)
    assert found.kept == ("worse", "bad")
    assert found.costs["bad"].max_difference == pytest.approx(8, abs=1e-4)
    assert found.together.max_difference == pytest.approx(1.1, abs=1e-4)
    together = [groups for groups in asked if len(groups) > 1]
    assert together == [("worse", "bad", "fair", "good"), ("fair", "good"), ("bad", "fair", "good")]
    with pytest.raises(MusiqError, match="Nothing of this model can be int8"):
        choose(errors, lambda groups, count: -reference[:count], reference, spec, LIMITS["int8"], lambda: None)


def test_the_symmetric_kind_has_zero_points_of_0_and_no_quantised_bias(request_int8: Request) -> None:
    graph = quantize.quantised(request_int8, symmetric=True).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kinds = {"QuantizeLinear", "DequantizeLinear"}
    zeros = [constants[node.input[2]] for node in graph.node if node.op_type in kinds]
    assert zeros
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}
    assert not any(zero.any() for zero in zeros)


@pytest.mark.parametrize("name", ["trt", "trt-rtx", "triton-trt"])
def test_the_record_of_every_engine_says_that_its_int8_is_symmetric(
    name: str, request_int8: Request, tmp_path: Path
) -> None:
    def build(request: Request, path: Path) -> Built:  # the engine's graph: TensorRT itself needs a GPU
        path.write_bytes(to_onnx(request, symmetric=True).SerializeToString())
        return Built({}, {}, unverified="there is no GPU")

    reference = exporter.Reference(request_int8.model, "m", "0", np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), "black")
    format = replace(find(name), build=build)
    record = exporter.export(format, request_int8, reference, LIMITS_HERE, tmp_path / f"m{format.suffix}", print)
    assert record.details["activations"] == "int8 symmetric"
    assert record.details["int8_products"] > 0


def test_static_batches_and_pyramid_inputs_are_calibrated_too(request_int8: Request) -> None:
    request = replace(request_int8, inputs="pyramid", batch=Batch(3, 3, 3))
    graph = quantize.quantised(request)
    assert [entry.name for entry in graph.graph.input] == ["native", "scale_128", "scale_96"]
    assert quantize.int8_products(graph) > 0
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert (properties["musiq.precision"], properties["musiq.inputs"]) == ("int8", "pyramid")


def test_several_formats_share_one_measuring(request_int8: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    once = quantize.quantised(request_int8)
    monkeypatch.setattr(quantize, "_plan", lambda *given: pytest.fail("measured again"))
    assert quantize.quantised(request_int8) is once


def test_weights_that_make_up_for_each_other_move_scores_less_than_the_nearest(
    request_int8: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(request: Request) -> float:
        quantize.quantised(request)
        groups = quantize.details(request, symmetric=False)["sensitivity"]["groups"].values()
        return float(np.sum([cost["mean_difference"] for cost in groups]))

    options = {**request_int8.options, "weight_bits": 7, "limits": Limits(40.0, 0.8)}
    better = moved(replace(request_int8, options={**options, "calibration": replace(options["calibration"], plans={})}))
    monkeypatch.setattr(quantize, "_weights", lambda *given: None)
    options["calibration"] = replace(options["calibration"], plans={})
    assert better < 0.8 * moved(replace(request_int8, options=options))


def test_resnet_groups_are_its_stages_and_hold_what_stands_between_convolutions() -> None:
    spec = replace(PRESETS["resnet50"], height=64, width=64, layers=2)
    model = Musiq(spec)
    with torch.no_grad():  # biases of 0 vanish from the graph
        for name, parameter in model.layers.named_parameters():
            parameter.add_(0.1 if name.endswith("bias") else 0)
    graph = to_onnx(Request(simplify(model)))
    groups, kinds = quantize.groups_of(graph), {node.name: node.op_type for node in graph.graph.node}
    stages = ["trunk.conv1", "trunk.layer1", "trunk.layer2", "trunk.layer3", "trunk.layer4", "trunk.project"]
    assert [name for name in groups if name.startswith("trunk")] == stages
    # Three scales; layer1 has 3 blocks of 3 convolutions and one shortcut.
    inside = [kinds[name] for name in groups["trunk.layer1"]]
    assert (inside.count("Conv"), inside.count("Add"), inside.count("Relu")) == (30, 9, 27)
    assert not any("Conv" in kinds[name] for name in groups["layers.0.attention"])


@pytest.mark.parametrize(
    ("exact", "symmetric", "asked", "bits"),
    [
        (True, False, None, 8),
        (False, False, None, 7),
        (None, False, None, 7),
        (False, True, None, 8),
        (True, False, 7, 7),
        (False, False, 8, 8),
    ],
)
def test_weights_use_7_bits_where_asked_or_where_sums_could_overflow_here(
    request_int8: Request,
    monkeypatch: pytest.MonkeyPatch,
    exact: bool | None,
    symmetric: bool,
    asked: int | None,
    bits: int,
) -> None:
    monkeypatch.setattr(quantize, "adds_int8_exactly", lambda: exact)
    request = replace(request_int8, options={**request_int8.options, "weight_bits": asked})
    assert quantize.weight_bits(request, symmetric) == bits
