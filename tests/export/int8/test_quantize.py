"""int8 graphs: what is int8 in them, what their records say, and how they score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import Result
from onnx import numpy_helper
from scipy.stats import spearmanr

from musiq import artifact
from musiq.model import checkpoint
from musiq_export.graph import traced
from musiq_export.graph.simplify import simplify
from musiq_export.int8 import calibration, quantize
from musiq_export.int8.gptq import Products, Weights
from musiq_export.request import BatchRange, CalibrationImages, Int8Options, Limits, Request
from tests.exporting import run, scores
from tests.recipe import lively_model, photo

HEIGHT, WIDTH = 192, 256
LIMITS_HERE = Limits(difference=15.0, srcc=0.96)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with layers that are not the last."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    checkpoint.save(lively_model("tiny", layers=2), path)
    return path


@pytest.fixture(scope="module")
def int8_export(trained: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """That model exported by the real command; forced, because a model this small gains next to nothing."""
    out = tmp_path_factory.mktemp("int8")
    given = ["--checkpoint", trained, "--precision", "int8", "--name", "tiny", "--out", out, "--force"]
    given += ["--weight-bits", 7]
    # Random weights scatter more than trained ones: wider limits than the default ones leave something to quantise.
    given += ["--max-difference", LIMITS_HERE.difference, "--min-srcc", LIMITS_HERE.srcc]
    result = run(*given, "--calibration-images", photos, "--images", photos)
    assert result.exit_code == 0, result.output
    return out / "tiny.onnx", result


@pytest.fixture(scope="module")
def request_int8(photos: Path) -> Request:
    """For a smaller model, of what any model shows."""
    model = simplify(lively_model("tiny", height=64, width=96, layers=2))
    return Request(model, "int8", int8=Int8Options(calibration_images(16, photos, 64, 96)))


def calibration_images(count: int, photos: Path, height: int = HEIGHT, width: int = WIDTH) -> CalibrationImages:
    images = calibration.read(photos, height, width, warn=print)
    return CalibrationImages(images.names[:count], images.images[:count])


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
    assert record.details.int8 is not None
    assert record.details.int8.weight_bits == 7


def test_pyramid_attention_and_head_stay_in_floats(int8_export: tuple[Path, Result]) -> None:
    model = onnx.load(int8_export[0])
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    floats = [name for name, kind in constants.items() if kind == onnx.TensorProto.FLOAT]
    assert {"model.head.weight", "model.pyramid.blocks", "model.pyramid.scale_128_right"} <= set(floats)
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    softmaxed = [node for node in model.graph.node if makers.get((*node.input, "")[0]) == "Softmax"]
    assert [node.op_type for node in softmaxed] == ["MatMul"] * 2


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
    assert len(integer) == record["details"]["int8"]["products"] >= 8


def test_the_record_lists_the_images_and_what_was_measured(int8_export: tuple[Path, Result], photos: Path) -> None:
    record = json.loads(int8_export[0].with_name("tiny.onnx.json").read_text())
    details = record["details"]
    used = details["int8"]["calibration"]
    assert sorted(used["ranges"] + used["held_out"]) == sorted(path.name for path in photos.glob("*.png"))
    assert len(used["held_out"]) == 15
    groups = details["int8"]["sensitivity"]["groups"]
    assert {"trunk.dense", "layers.0.attention", "layers.0.mlp", "layers.1.mlp"} <= set(groups)
    assert all(group["max_difference"] >= group["mean_difference"] > 0 for group in groups.values())
    assert set(details["int8"]["sensitivity"]["kept_fp32"]) < set(groups)
    assert record["layers"]["QuantizeLinear"] > 0
    assert record["layers"]["DequantizeLinear"] > record["layers"]["QuantizeLinear"]
    assert details["speed"]["int8_ms"] > 0
    assert record["precision"] == "int8"


def test_it_scores_other_images_like_pytorch_within_the_limits(int8_export: tuple[Path, Result], trained: Path) -> None:
    session = onnxruntime.InferenceSession(str(int8_export[0]), providers=["CPUExecutionProvider"])
    images = np.stack([photo(HEIGHT, WIDTH, seed) for seed in range(1000, 1040)])
    with torch.inference_mode():
        expected = checkpoint.load(trained).predict(torch.from_numpy(images))[0].numpy()
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


@pytest.mark.slow
def test_a_group_made_fragile_is_measured_as_the_worst_and_stays_fp32(photos: Path) -> None:
    model = simplify(lively_model("tiny"))
    with torch.no_grad():  # two opposite outliers through the GELU cancel in fp32, and leave the rest no steps in int8
        first, second = model.layers[1].mlp[0], model.layers[1].mlp[2]
        first.weight[:2] = 0
        first.bias[:2] = 3e3
        second.weight[:, 1] = -second.weight[:, 0]
    request = Request(model, "int8", int8=Int8Options(calibration_images(32, photos), Limits(10.0, 0.9)))
    _, details = quantize.quantize(request)
    measured = details.sensitivity
    assert measured is not None
    worst = max(measured.groups, key=lambda name: measured.groups[name].mean_difference)
    assert worst == "layers.1.mlp"
    assert measured.kept_fp32[0] == "layers.1.mlp"
    assert "layers.1.attention" not in measured.kept_fp32
    products = {"attention": 4, "mlp": 2}  # of a layer that is not the last: 17 in all, with the trunk's and the last's
    kept = sum(products[name.rsplit(".", 1)[1]] for name in measured.kept_fp32)
    assert kept <= 6
    assert details.products == 17 - kept


@pytest.mark.slow
def test_the_symmetric_kind_has_zero_points_of_0_and_no_quantised_bias(request_int8: Request) -> None:
    model, details = quantize.quantize(request_int8, symmetric=True)
    assert (details.activations, details.weight_bits) == ("int8 symmetric", 8)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kinds = {"QuantizeLinear", "DequantizeLinear"}
    zeros = [constants[node.input[2]] for node in graph.node if node.op_type in kinds]
    assert zeros
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8)}
    assert not any(zero.any() for zero in zeros)


@pytest.mark.slow
def test_static_batches_and_pyramid_inputs_are_calibrated_too(request_int8: Request) -> None:
    assert request_int8.int8 is not None
    loose = replace(request_int8.int8, limits=Limits(50, 0.5))  # of random weights 7 bits, as without VNNI, keep less
    request = replace(request_int8, inputs="pyramid", batch=BatchRange(3, 3, 3), int8=loose)
    graph, details = quantize.quantize(request)
    assert [entry.name for entry in graph.graph.input] == ["native", "scale_128", "scale_96"]
    assert details.products > 0
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert (properties["musiq.precision"], properties["musiq.inputs"]) == ("int8", "pyramid")


@pytest.mark.slow
def test_several_formats_share_one_measuring(request_int8: Request) -> None:
    once = quantize.quantize(request_int8)
    assert quantize.quantize(replace(request_int8, whole_attention=True)) is once


@pytest.mark.slow
def test_weights_that_make_up_for_each_other_move_scores_less_than_the_nearest(
    request_int8: Request, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved() -> float:
        options = Int8Options(calibration_images(16, photos, 64, 96), Limits(40.0, 0.8), weight_bits=7)
        _, details = quantize.quantize(replace(request_int8, int8=options))
        assert details.sensitivity is not None
        return float(np.sum([cost.mean_difference for cost in details.sensitivity.groups.values()]))

    better = moved()
    monkeypatch.setattr(quantize, "compensated", lambda *given: Weights())
    assert better < 0.8 * moved()


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
    monkeypatch: pytest.MonkeyPatch, exact: bool | None, symmetric: bool, asked: int | None, bits: int
) -> None:
    monkeypatch.setattr(quantize, "adds_int8_exactly", lambda: exact)
    assert quantize.weight_bits(asked, symmetric) == bits


@pytest.mark.slow
def test_every_part_of_the_dense_layer_is_int8_from_one_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "PATCHES_AT_ONCE", 35)  # of 69: two parts
    model = simplify(lively_model("tiny", layers=1))
    images = np.stack([photo(HEIGHT, WIDTH, seed) for seed in range(32)])
    given = CalibrationImages(tuple(map(str, range(32))), images)
    made, _ = quantize.quantize(Request(model, "int8", int8=Int8Options(given, Limits(20.0, 0.8))))
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


@pytest.mark.slow
def test_a_graph_for_any_size_is_int8_where_it_learns_and_exact_where_it_resizes(
    any_size_export: tuple[Path, Result], small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_graph = onnx.load(any_size_export[0] / "tiny-any.onnx")  # tracing it again takes the longest
    monkeypatch.setattr(quantize, "float_onnx", lambda request: traced_graph)
    sizes = ((64, 96), (97, 61), (20, 25), (31, 200), (128, 128))
    images = [photo(*sizes[seed % 5], seed) for seed in range(32)]
    given = CalibrationImages(tuple(map(str, range(32))), images)
    model = simplify(checkpoint.load(small_checkpoint, any_size=True))
    made, details = quantize.quantize(Request(model, "int8", int8=Int8Options(given, LIMITS_HERE)))
    assert details.products >= 5
    quantised = {name for node in made.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    for node in made.graph.node:
        if quantised & set(node.input):
            assert node.op_type in ("Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool"), node.op_type
            assert node.input[1] in quantised, "a product of two activations"
    for size in ((64, 96), (333, 250), (1, 1), (25, 400)):
        tests = np.stack([photo(*size, seed) for seed in range(100, 108)])
        with torch.inference_mode():
            expected = checkpoint.load(small_checkpoint, any_size=True).predict(torch.from_numpy(tests))[0].numpy()
        found = scores(made, tests)
        assert 0 < np.abs(found - expected).max() <= 0.3, size


def test_the_parts_of_one_product_share_a_range_that_none_of_them_leaves() -> None:
    from onnx import TensorProto, helper
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

    weight = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    other = numpy_helper.from_array(np.ones((4, 3), np.float32), "v")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "abc"]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [None, 3]) for name in "abc"]
    nodes = [helper.make_node("MatMul", [x, y], [f"{x}_out"], name=x) for x, y in (("a", "w"), ("b", "w"), ("c", "v"))]
    model = helper.make_model(helper.make_graph(nodes, "parts", inputs, outputs, [weight, other]))
    reached = {"a": (-1.0, 2.0), "b": (np.inf, -np.inf), "c": (-9.0, 9.0)}  # the second part was always empty
    given = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in reached.items()
    }
    ranges = TensorsData(CalibrationMethod.MinMax, given)
    quantize._share_ranges(ranges, Products(model, ["a", "b", "c"]))
    assert {name: ranges[name].range_value for name in "abc"} == {"a": (-1, 2), "b": (-1, 2), "c": (-9, 9)}
