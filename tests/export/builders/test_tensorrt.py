"""Engines built by the real TensorRT for RTX, which needs no GPU; what `tensorrt` alone does is seen on a stand-in."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from musiq import artifact
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes import cuda
from musiq.runtimes import tensorrt as tensorrt_runtime
from musiq_export.builders import tensorrt, tensorrt_layers, tensorrt_turing
from musiq_export.builders.onnx import to_onnx
from musiq_export.graph.simplify import simplify
from musiq_export.int8 import calibration
from musiq_export.request import BatchRange, EngineOptions, Int8Options, Limits, Request
from tests.exporting import run
from tests.recipe import lively_model, photo

SMALL = {"height": 64, "width": 96}
needs_rtx = pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt-rtx is not installed")
no_gpu_here = pytest.mark.skipif(not cuda.why_no_gpu(), reason="this machine has a GPU")


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Any:
    return simplify(checkpoint.load(tiny_checkpoint, **SMALL))


def request_for(model: Any, precision: str = "fp16", inputs: str = "image", **options: Any) -> Request:
    opset = 22 if precision == "bf16" else 18
    return Request(model, precision, inputs, BatchRange(1, 4, 2), opset, EngineOptions(**options))


@needs_rtx
@no_gpu_here
def test_the_command_builds_an_rtx_engine_without_a_gpu_and_says_it_is_unverified(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    result = run(
        *("--checkpoint", tiny_checkpoint, "--format", "trt-rtx", "--precision", "fp16", "--gpus", "86,89"),
        *("--height", 64, "--width", 96, "--out", tmp_path, "--name", "t"),
    )
    assert result.exit_code == 0, result.output
    assert "unverified: no NVIDIA driver here" in result.output
    path = tmp_path / "t.rtx.engine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.rtx.engine", "t.rtx.engine.json"]
    record = artifact.read_record(path)
    assert record is not None
    assert record.check is None
    assert record.batch == (1, 16)  # no limit was asked for, and an engine needs one
    assert record.details.gpus == (86, 89)
    assert record.details.profile == (1, 8, 16)
    assert record.details.tf32 is False
    assert record.layers["CONVOLUTION fp16"] == 2
    assert record.versions["tensorrt_rtx"] == tensorrt_runtime.import_tensorrt("tensorrt_rtx").__version__
    raw = path.read_bytes()
    assert raw[:4] == b"vtrt"  # TensorRT's own first bytes: nothing stands before them
    assert b"site-packages" not in raw


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("preset", ["musiq", "resnet50-classic"])  # every kind of layer
def test_large_models_become_engines_in_half_precision(preset: str, tmp_path: Path) -> None:
    model = simplify(lively_model(preset, layers=1, **SMALL))
    built = tensorrt.build(request_for(model, gpus=(86,)), tmp_path / "e", "tensorrt_rtx")
    products = {key: n for key, n in built.layers.items() if key.split()[0] in tensorrt_layers.PRODUCTS}
    assert products.pop("MATRIX_MULTIPLY fp32") == 3  # the pyramid: one down, one across for each of two resized scales
    assert {key.split()[1] for key in products} == {"fp16"}
    assert (tmp_path / "e").stat().st_size > 1e6


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize(("precision", "opset"), [("fp32", 18), ("fp16", 23), ("bf16", 22)])
def test_scales_as_inputs_leave_no_product_in_another_precision(
    precision: str, opset: int, tiny: Any, tmp_path: Path
) -> None:
    request = dataclasses.replace(request_for(tiny, precision, "pyramid", gpus=(80, 120)), opset=opset)
    built = tensorrt.build(request, tmp_path / "e", "tensorrt_rtx")
    products = {key for key in built.layers if key.split()[0] in tensorrt_layers.PRODUCTS}
    assert products == {f"CONVOLUTION {precision}", f"MATRIX_MULTIPLY {precision}"}


@pytest.mark.slow
@needs_rtx
def test_a_static_batch_needs_no_profile(tiny: Any, tmp_path: Path) -> None:
    request = dataclasses.replace(request_for(tiny, gpus=(89,)), batch=BatchRange(3, 3, 3))
    assert tensorrt.build(request, tmp_path / "e", "tensorrt_rtx").batch == BatchRange(3, 3, 3)


@pytest.fixture(scope="module")
def any_size_tiny() -> Any:
    return simplify(lively_model("tiny", layers=1, height=None, width=None))


@needs_rtx
@pytest.mark.parametrize(
    ("inputs", "precision", "opset", "tokens", "batch", "limits"),
    [
        ("patches", "fp16", 18, (1, 0), BatchRange(), (16, 4096)),
        ("padded-patches", "fp32", 23, (8, 512), BatchRange(2, 2, 2), (8, 512)),
        pytest.param(
            *("padded-patches", "bf16", 22, (128, 128), BatchRange(1, 3, 2), (128, 128)), marks=pytest.mark.slow
        ),
    ],
)
def test_an_engine_of_patches_is_for_a_range_of_tokens(
    inputs: str,
    precision: str,
    opset: int,
    tokens: tuple[int, int],
    batch: BatchRange,
    limits: tuple[int, int],
    any_size_tiny: Any,
    tmp_path: Path,
) -> None:
    request = request_for(any_size_tiny, precision, inputs, gpus=(86,))
    built = tensorrt.build(
        dataclasses.replace(request, opset=opset, tokens=tokens, batch=batch, tuned_for="gpu"),
        tmp_path / "e",
        "tensorrt_rtx",
    )
    assert built.details.tokens == limits
    assert built.batch is not None
    assert built.batch.largest == (batch.largest or 4)
    products = {key.split()[1] for key in built.layers if key.split()[0] in tensorrt_layers.PRODUCTS}
    assert products == {precision}
    assert (tmp_path / "e").read_bytes()[:4] == b"vtrt"


@needs_rtx
def test_a_profile_over_tokens_is_fastest_at_those_of_a_usual_image(any_size_tiny: Any) -> None:
    request = dataclasses.replace(request_for(any_size_tiny, inputs="patches"), tokens=(16, 4096))
    usual = any_size_tiny.spec.at(768, 1024).tokens
    assert tensorrt.token_profile(request) == (16, usual, 4096)
    assert tensorrt.token_profile(dataclasses.replace(request, tokens=(16, 100))) == (16, 100, 100)
    assert tensorrt.token_profile(dataclasses.replace(request, tokens=(usual + 1, 4096)))[1] == usual + 1


@pytest.mark.slow
@needs_rtx
def test_turing_gets_an_engine_whose_pyramid_is_fp16_too(tiny: Any, tmp_path: Path) -> None:
    built = tensorrt.build(request_for(tiny, gpus=(75, 86)), tmp_path / "e", "tensorrt_rtx")
    assert built.details.pyramid_precision == "fp16"
    assert "MATRIX_MULTIPLY fp32" not in built.layers


class LayerNormalization(OpRun):
    """As ONNX defines it for a stash_type of 1, which its evaluator overlooks: in fp32, then back."""

    def _run(self, x: Any, *scale_and_bias: Any, axis: int, epsilon: float, **_: Any) -> tuple[Any]:
        wide = x.astype(np.float32)
        axes = tuple(range(axis % x.ndim, x.ndim))
        mean, variance = wide.mean(axes, keepdims=True), wide.var(axes, keepdims=True)
        scale, bias = (*scale_and_bias, 0)[:2]
        return ((((wide - mean) / np.sqrt(variance + epsilon)) * scale + bias).astype(x.dtype),)


@pytest.mark.slow
def test_a_pyramid_in_fp16_scores_as_well_as_one_in_fp32(tiny: Any) -> None:
    graph, _ = to_onnx(request_for(tiny))
    halved = onnx.ModelProto.FromString(graph.SerializeToString())
    tensorrt_turing.halve_products(halved)
    onnx.checker.check_model(halved, full_check=True)
    images = np.stack([photo(64, 96, seed) for seed in range(4)])
    with torch.inference_mode():
        expected = tiny.predict(torch.from_numpy(images))[0].numpy()
    # ONNX's own evaluator really computes in fp16; ONNX Runtime would leave the casts out on a CPU.
    scores = [
        ReferenceEvaluator(model, new_ops=[LayerNormalization]).run(None, {"image": images})[0]
        for model in (graph, halved)
    ]
    assert not np.array_equal(*scores)
    off, off_halved = (np.abs(found - expected).max() for found in scores)
    assert max(off, off_halved) < 0.01 * np.ptp(expected)


@needs_rtx
def test_ctrl_c_stops_a_build_and_leaves_no_file(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar:
        """A terminal's, at which somebody presses Ctrl-C as soon as it shows something."""

        def tell(self, title: str) -> None:
            shown.append(title)
            signal.raise_signal(signal.SIGINT)

    shown: list[str] = []
    monkeypatch.setattr(tensorrt, "progress_bar", lambda _: nullcontext(Bar()))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        tensorrt.build(request_for(tiny), tmp_path / "e", "tensorrt_rtx")
    phases = ["building engine", "cloning network graph"]  # the first of many, and it was over
    assert shown == [f"TensorRT for RTX: {phase}" for phase in phases]
    assert list(tmp_path.iterdir()) == []
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.slow
@needs_rtx
def test_an_engine_is_symmetric_in_int8_and_its_record_says_so(tiny: Any, photos: Path, tmp_path: Path) -> None:
    int8 = Int8Options(calibration.read(photos, 64, 96, print), Limits(50.0, 0.0))
    request = dataclasses.replace(request_for(tiny, "int8", gpus=(86,)), int8=int8)
    details = tensorrt.build(request, tmp_path / "e", "tensorrt_rtx").details.int8
    assert details is not None
    assert (details.activations, details.weight_bits) == ("int8 symmetric", 8)
    assert details.products > 0


@pytest.mark.slow
@needs_rtx
def test_what_tensorrt_says_of_a_failed_build_stands_in_the_error(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # fp32 products for Turing, which it has no kernels for: the builder itself is asked, past the checks before it.
    monkeypatch.setattr(tensorrt, "check_possible", lambda *_: None)
    monkeypatch.setattr(tensorrt, "halve_products", lambda _: None)
    monkeypatch.setattr(tensorrt, "check_network", lambda *_: None)
    with pytest.raises(MusiqError, match=r"could not make the engine: .*Turing \(SM75\): FP32 GEMM is not supported"):
        tensorrt.build(request_for(tiny, "fp32", gpus=(75,)), tmp_path / "e", "tensorrt_rtx")


@needs_rtx
def test_what_the_parser_says_of_an_unknown_node_stands_in_the_error(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(*_: object, **__: object) -> tuple[onnx.ModelProto, None]:
        node = onnx.helper.make_node("Marvel", ["image"], ["score"], "odd_node")
        value = [onnx.helper.make_tensor_value_info(name, 1, [1, 3]) for name in ("image", "score")]
        graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), None

    monkeypatch.setattr("musiq_export.builders.onnx.to_onnx", strange)
    with pytest.raises(MusiqError, match=r"cannot read the ONNX graph of opset 18: .*odd_node.*Marvel"):
        tensorrt.build(request_for(tiny), tmp_path / "e", "tensorrt_rtx")


def test_an_engine_that_is_half_precision_by_name_only_is_refused(tiny: Any) -> None:
    inside = {"CONVOLUTION fp32": 5, "MATRIX_MULTIPLY fp32": 28, "CAST fp16": 2}
    tensorrt_layers.check_network(inside, request_for(tiny, "fp32"))
    for precision in ("fp16", "bf16", "int8"):
        with pytest.raises(MusiqError, match=f"{precision} by name only: its layers are 28 MATRIX_MULTIPLY fp32"):
            tensorrt_layers.check_network(inside, request_for(tiny, precision))
    one_too_many = {"CONVOLUTION fp16": 5, "MATRIX_MULTIPLY fp16": 23, "MATRIX_MULTIPLY fp32": 5}
    with pytest.raises(MusiqError, match="by name only"):
        tensorrt_layers.check_network(one_too_many, request_for(tiny))
    with pytest.raises(MusiqError, match="by name only"):
        tensorrt_layers.check_engine({"gemm fp32": 20, "Reformat fp32": 2}, request_for(tiny))
    tensorrt_layers.check_engine({"gemm fp16": 20, "Reformat fp32": 2}, request_for(tiny))


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ({"Format/Datatype": "Half"}, "fp16"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Row major linear FP32 format"}, "fp32"),
        ({"Format": "Row major linear", "DataType": "BFloat16"}, "bf16"),
        ({"Format": "Row major linear", "DataType": "Int8"}, "int8"),
        ({}, "unknown"),
    ],
)
def test_layers_are_read_from_the_inspector_of_tensorrt_10_and_11(output: dict[str, str], kind: str) -> None:
    information = {"Layers": [{"Name": "a", "LayerType": "gemm", "Outputs": [output]}, "only a name"]}
    assert tensorrt_layers.engine_layers(json.dumps(information)) == {f"gemm {kind}": 1}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--gpus", "90"], r"'90' is no target of TensorRT for RTX; they are 75, 80, .*--format trt"),
        (["--gpus", "86,x"], "'x' is no target"),
        (["--gpus", "86,"], "'' is no target"),
        (["--gpus", "75"], "builds for Turing .* in fp16 alone, not in fp32"),
        (["--gpus", "75,86", "--precision", "bf16"], "fp16 alone, not in bf16"),
        (["--compatible"], "trt-rtx has no --compatible"),
    ],
)
def test_what_rtx_cannot_build_is_said_before_any_work(
    arguments: list[str], reason: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    result = run("--checkpoint", tiny_checkpoint, "--format", "rtx", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 1
    assert re.search(reason, result.output), result.output
    assert "building" not in result.output
    assert not (tmp_path / "out").exists()


@no_gpu_here
def test_without_a_gpu_trt_says_what_to_build_instead(tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = run("--checkpoint", tiny_checkpoint, "--format", "trt", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "no NVIDIA driver here. Use --format trt-rtx" in result.output
    assert not (tmp_path / "out").exists()


def test_compute_capabilities_are_read_as_people_write_them() -> None:
    assert tensorrt.parse_gpus("75, sm86,8.9,120,86") == (75, 86, 89, 120)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (BatchRange(1, 0, 8), BatchRange(1, 16, 8)),
        (BatchRange(24, 0, 24), BatchRange(24, 24, 24)),
        (BatchRange(1, 4, 8), BatchRange(1, 4, 4)),
        (BatchRange(2, 32, 1), BatchRange(2, 32, 2)),
    ],
)
def test_a_profile_always_has_a_largest_batch_and_a_best_within(asked: BatchRange, given: BatchRange) -> None:
    assert tensorrt.limited(asked) == given


@needs_rtx
def test_tensorrt_keeps_its_timings_and_records_the_gpu_in_the_machine(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = tensorrt_runtime.import_tensorrt("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setattr(cuda, "why_no_gpu", lambda: "")
    monkeypatch.setattr(cuda, "find", lambda _: cuda.Gpu(0, "Fake H100", 90))
    monkeypatch.setattr(tensorrt, "inspect", lambda *_: {"gemm fp16": 7})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(DeprecationWarning, match="no-ops"):  # in TensorRT for RTX; `tensorrt` means them
        built = tensorrt.build(request_for(tiny), tmp_path / "e", "tensorrt")
    (kept,) = (tmp_path / "cache" / "musiq").iterdir()
    assert kept.name == f"tensorrt-{rtx.__version__}-sm90.timing"
    assert built.details.gpus == (90,)
    assert built.layers == {"gemm fp16": 7}
    assert built.unverified == ""
    kept.write_bytes(b"spoilt")
    monkeypatch.setattr(tensorrt, "inspect", lambda *_: {"gemm fp32": 7})
    with pytest.warns(DeprecationWarning, match="no-ops"), pytest.raises(MusiqError, match="fp16 by name only"):
        tensorrt.build(request_for(tiny), tmp_path / "e", "tensorrt")
