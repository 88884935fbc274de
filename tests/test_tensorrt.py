"""Engines: built by the real TensorRT for RTX, which needs no GPU, and run where there is one. What `tensorrt` alone
does, and how the runtime treats memory, batches and threads, is seen on a GPU of ordinary memory."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx.reference import ReferenceEvaluator

from musiq import artifact, checkpoint
from musiq.artifact import Record
from musiq.errors import MusiqError
from musiq.pyramid import scales
from musiq.runtimes import gpu, open_runtime, trt
from musiq_export import engine, engine_layers, engine_onnx
from musiq_export.cli import main
from musiq_export.onnx_model import to_onnx
from musiq_export.request import Batch, Request
from musiq_export.simplify import simplify
from tests.fake_gpu import FakeCuda, FakeEngine, fake_tensorrt
from tests.recipe import lively_model, picture

SMALL = {"height": 64, "width": 96}
needs_rtx = pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt-rtx is not installed")
no_gpu_here = pytest.mark.skipif(not gpu.problem(), reason="this machine has a GPU")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Any:
    return simplify(checkpoint.load(tiny_checkpoint, **SMALL))


@pytest.fixture(scope="module", autouse=True)
def graphs_are_traced_once() -> Iterator[None]:
    """Tracing takes longer than building: what was traced for one test serves the others."""
    known: dict[Any, bytes] = {}

    def once(request: Request, symmetric: bool = False) -> onnx.ModelProto:
        key = (id(request.model), request.precision, request.inputs, request.batch, request.opset)
        if key not in known:
            known[key] = to_onnx(request, symmetric).SerializeToString()
        return onnx.ModelProto.FromString(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("musiq_export.onnx_model.to_onnx", once)
        yield


def request_for(model: Any, precision: str = "fp16", inputs: str = "image", **options: Any) -> Request:
    return Request(model, precision, inputs, Batch(1, 4, 2), 22 if precision == "bf16" else 18, options)


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
    assert record.details["gpus"] == [86, 89]
    assert record.details["profile"] == [1, 8, 16]
    assert record.details["tf32"] is False
    assert record.layers["CONVOLUTION fp16"] == 5
    assert record.versions["tensorrt_rtx"] == trt.import_tensorrt("tensorrt_rtx").__version__
    raw = path.read_bytes()
    assert raw[:4] == b"vtrt"  # TensorRT's own first bytes: nothing stands before them
    assert b"site-packages" not in raw


@needs_rtx
@pytest.mark.parametrize("preset", ["musiq", "resnet50-classic"])  # every kind of layer
def test_large_models_become_engines_in_half_precision(preset: str, tmp_path: Path) -> None:
    model = simplify(lively_model(preset, layers=1, **SMALL))
    built = engine.build(request_for(model, gpus=(86,)), tmp_path / "e", "tensorrt_rtx")
    products = {key: n for key, n in built.layers.items() if key.split()[0] in engine_layers.PRODUCTS}
    assert products.pop("MATRIX_MULTIPLY fp32") == 4  # the pyramid: two for each of two resized scales
    assert {key.split()[1] for key in products} == {"fp16"}
    assert (tmp_path / "e").stat().st_size > 1e6


@needs_rtx
@pytest.mark.parametrize(("precision", "opset"), [("fp32", 18), ("fp16", 23), ("bf16", 22)])
def test_scales_as_inputs_leave_no_product_in_another_precision(
    precision: str, opset: int, tiny: Any, tmp_path: Path
) -> None:
    request = dataclasses.replace(request_for(tiny, precision, "pyramid", gpus=(80, 120)), opset=opset)
    built = engine.build(request, tmp_path / "e", "tensorrt_rtx")
    products = {key for key in built.layers if key.split()[0] in engine_layers.PRODUCTS}
    assert products == {f"CONVOLUTION {precision}", f"MATRIX_MULTIPLY {precision}"}


@needs_rtx
def test_a_static_batch_needs_no_profile(tiny: Any, tmp_path: Path) -> None:
    request = dataclasses.replace(request_for(tiny, gpus=(89,)), batch=Batch(3, 3, 3))
    assert engine.build(request, tmp_path / "e", "tensorrt_rtx").batch == Batch(3, 3, 3)


@needs_rtx
def test_turing_gets_an_engine_whose_pyramid_is_fp16_too(tiny: Any, tmp_path: Path) -> None:
    built = engine.build(request_for(tiny, gpus=(75, 86)), tmp_path / "e", "tensorrt_rtx")
    assert built.details["pyramid"] == "fp16"
    assert "MATRIX_MULTIPLY fp32" not in built.layers


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # the evaluator sums group norms in fp16 too
def test_a_pyramid_in_fp16_scores_as_well_as_one_in_fp32(tiny: Any) -> None:
    graph = to_onnx(request_for(tiny))
    halved = onnx.ModelProto.FromString(graph.SerializeToString())
    engine_onnx.halve_products(halved)
    onnx.checker.check_model(halved, full_check=True)
    images = np.stack([picture(64, 96, seed) for seed in range(4)])
    with torch.inference_mode():
        expected = tiny.predict(torch.from_numpy(images))[0].numpy()
    # ONNX's own evaluator really computes in fp16; ONNX Runtime would leave the casts out on a CPU.
    scores = [ReferenceEvaluator(model).run(None, {"image": images})[0] for model in (graph, halved)]
    assert not np.array_equal(*scores)
    off, off_halved = (np.abs(found - expected).max() for found in scores)
    assert max(off, off_halved) < 0.01 * np.ptp(expected)


@needs_rtx
def test_ctrl_c_stops_a_build_and_leaves_no_file(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def interrupted(title: str) -> Iterator[Any]:
        def tell(phase: str) -> None:
            told.append(phase)
            signal.raise_signal(signal.SIGINT)

        yield tell

    told: list[str] = []
    monkeypatch.setattr(engine, "building", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.build(request_for(tiny), tmp_path / "e", "tensorrt_rtx")
    assert told == ["Building engine", "Cloning network graph"]  # the first of many, and it was over
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@needs_rtx
def test_what_tensorrt_says_of_a_failed_build_stands_in_the_error(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "check_possible", lambda *_: None)
    monkeypatch.setattr(engine_onnx, "halve_products", lambda _: None)
    monkeypatch.setattr(engine, "check_network", lambda *_: None)
    with pytest.raises(MusiqError, match=r"could not make the engine: .*Turing \(SM75\): FP32 GEMM is not supported"):
        engine.build(request_for(tiny, "fp32", gpus=(75,)), tmp_path / "e", "tensorrt_rtx")


@needs_rtx
def test_what_the_parser_says_of_an_unknown_node_stands_in_the_error(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(*_: object, **__: object) -> Any:
        node = onnx.helper.make_node("Marvel", ["image"], ["score"], "odd_node")
        value = [onnx.helper.make_tensor_value_info(name, 1, [1, 3]) for name in ("image", "score")]
        return onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]))

    monkeypatch.setattr("musiq_export.onnx_model.to_onnx", strange)
    with pytest.raises(MusiqError, match=r"cannot read the ONNX graph of opset 18: .*odd_node.*Marvel"):
        engine.build(request_for(tiny), tmp_path / "e", "tensorrt_rtx")


def test_an_engine_that_is_half_precision_by_name_only_is_refused(tiny: Any) -> None:
    inside = {"CONVOLUTION fp32": 5, "MATRIX_MULTIPLY fp32": 28, "CAST fp16": 2}
    engine_layers.check_network(inside, request_for(tiny, "fp32"))
    for precision in ("fp16", "bf16", "int8"):
        with pytest.raises(MusiqError, match=f"{precision} by name only: its layers are 28 MATRIX_MULTIPLY fp32"):
            engine_layers.check_network(inside, request_for(tiny, precision))
    one_too_many = {"CONVOLUTION fp16": 5, "MATRIX_MULTIPLY fp16": 23, "MATRIX_MULTIPLY fp32": 5}
    with pytest.raises(MusiqError, match="by name only"):
        engine_layers.check_network(one_too_many, request_for(tiny))
    with pytest.raises(MusiqError, match="by name only"):
        engine_layers.check_engine({"gemm fp32": 20, "Reformat fp32": 2}, request_for(tiny))
    engine_layers.check_engine({"gemm fp16": 20, "Reformat fp32": 2}, request_for(tiny))


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
    assert engine_layers.engine_layers(json.dumps(information)) == {f"gemm {kind}": 1}


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
    assert engine.parse_gpus("75, sm86,8.9,120,86") == (75, 86, 89, 120)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (Batch(1, 0, 8), Batch(1, 16, 8)),
        (Batch(24, 0, 24), Batch(24, 24, 24)),
        (Batch(1, 4, 8), Batch(1, 4, 4)),
        (Batch(2, 32, 1), Batch(2, 32, 2)),
    ],
)
def test_a_profile_always_has_a_largest_batch_and_a_best_within(asked: Batch, given: Batch) -> None:
    assert engine.limited(asked) == given


@needs_rtx
def test_tensorrt_keeps_its_timings_and_records_the_gpu_in_the_machine(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = trt.import_tensorrt("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)
    monkeypatch.setattr(gpu, "problem", lambda: "")
    monkeypatch.setattr(gpu, "find", lambda _: gpu.Gpu(0, "Fake H100", 90))
    monkeypatch.setattr(engine, "inspect", lambda *_: {"gemm fp16": 7})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.warns(DeprecationWarning, match="no-ops"):  # in TensorRT for RTX; `tensorrt` means them
        built = engine.build(request_for(tiny), tmp_path / "e", "tensorrt")
    (kept,) = (tmp_path / "cache" / "musiq").iterdir()
    assert kept.name == f"tensorrt-{rtx.__version__}-sm90.timing"
    assert built.details["gpus"] == [90]
    assert built.layers == {"gemm fp16": 7}
    assert built.unverified == ""
    kept.write_bytes(b"spoilt")
    monkeypatch.setattr(engine, "inspect", lambda *_: {"gemm fp32": 7})
    with pytest.warns(DeprecationWarning, match="no-ops"), pytest.raises(MusiqError, match="fp16 by name only"):
        engine.build(request_for(tiny), tmp_path / "e", "tensorrt")


def as_engine(path: Path, source: Path, **changes: Any) -> Path:
    """A file that passes for an engine of `source`, an ONNX export, with a record beside it."""
    path.write_bytes(b"vtrt plan")
    old = artifact.read_record(source)
    assert old is not None
    values = {"format": "trt", "sha256": artifact.sha256(path), "versions": {"tensorrt": "10.13.0"}, "batch": (1, 3)}
    artifact.write_record(path, dataclasses.replace(old, **{**values, **changes}))
    return path


@pytest.fixture
def fake(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    cuda = FakeCuda()
    engine_ = FakeEngine(tiny_onnx, 3, cuda)
    monkeypatch.setattr(gpu, "import_cuda", lambda: cuda)
    monkeypatch.setattr(trt, "import_tensorrt", lambda _: fake_tensorrt(engine_))
    return SimpleNamespace(cuda=cuda, engine=engine_)


def test_an_engine_scores_any_number_of_pictures_in_batches_of_its_profile(
    fake: SimpleNamespace, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx))
    images = np.stack([picture(192, 256, seed) for seed in range(7)])
    expected = open_runtime(tiny_checkpoint, "cpu")(images)
    np.testing.assert_allclose(runtime(images), expected, atol=2e-5)
    assert fake.engine.batches == [3, 3, 1]
    np.testing.assert_allclose(runtime(images[:1]), expected[:1], atol=2e-5)
    assert runtime.provider == "TensorRT 10.13.0 Fake RTX 3060"


def test_a_static_engine_is_fed_whole_batches(
    fake: SimpleNamespace, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx, batch=(3, 3)))
    images = np.stack([picture(192, 256, seed) for seed in range(4)])
    scores = runtime(images)
    np.testing.assert_allclose(scores, open_runtime(tiny_checkpoint, "cpu")(images), atol=2e-5)
    assert fake.engine.batches == [3, 3]


def test_an_engine_of_scales_gets_them_from_its_runtime(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--inputs", "pyramid", "--height", 64, "--width", 96)
    assert run("--checkpoint", tiny_checkpoint, *small, "--out", tmp_path, "--name", "p").exit_code == 0
    cuda = FakeCuda()
    monkeypatch.setattr(gpu, "import_cuda", lambda: cuda)
    fake_engine = FakeEngine(tmp_path / "p.onnx", 2, cuda)
    monkeypatch.setattr(trt, "import_tensorrt", lambda _: fake_tensorrt(fake_engine))
    runtime = open_runtime(as_engine(tmp_path / "p.engine", tmp_path / "p.onnx", batch=(1, 2)))
    images = np.stack([picture(64, 96, seed) for seed in range(3)])
    assert [x.shape[2:] for x in scales(images, runtime.spec)] == [(64, 96), (85, 128), (64, 96)]
    with torch.inference_mode():
        expected = checkpoint.load(tiny_checkpoint, **SMALL).predict(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(runtime(images), expected, atol=2e-5)


def test_threads_share_an_engine_and_closing_gives_everything_back(
    fake: SimpleNamespace, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx))
    images = np.stack([picture(192, 256, seed) for seed in range(8)])
    expected = open_runtime(tiny_checkpoint, "cpu")(images)
    found: dict[int, Any] = {}

    def score(i: int) -> None:
        found[i] = runtime(images[i : i + 1])[0]

    threads = [threading.Thread(target=score, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose([found[i] for i in range(8)], expected, atol=2e-5)
    assert len(fake.cuda.blocks) == 4  # image and score, on both sides
    runtime.close()
    assert fake.cuda.blocks == {}
    assert fake.cuda.streams == {}
    with pytest.raises(MusiqError, match="was closed"):
        runtime(images[:1])


def test_a_gpu_without_room_is_named_and_nothing_stays_behind(
    fake: SimpleNamespace, tiny_onnx: Path, tmp_path: Path
) -> None:
    fake.cuda.left = 500_000  # the images fit on one side
    with pytest.raises(MusiqError, match=r"out of memory\. Use smaller batches"):
        open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx))
    assert fake.cuda.blocks == {}
    assert fake.cuda.streams == {}


def test_an_engine_for_another_gpu_is_refused_in_tensorrts_words(
    fake: SimpleNamespace, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "import_tensorrt", lambda _: fake_tensorrt(None, complaint="wrong\n SM version."))
    path = as_engine(tmp_path / "e.engine", tiny_onnx, details={"gpus": [90]})
    with pytest.raises(
        MusiqError, match=r"Fake RTX 3060 \(SM86\): it was built for SM90\. TensorRT says: wrong SM version\."
    ):
        open_runtime(path)
    with pytest.raises(MusiqError, match="There is no cuda:1: CUDA sees 1 GPUs"):
        open_runtime(path, "cuda:1")


@pytest.mark.parametrize(
    ("built", "compatible", "refused"),
    [
        ("10.13.0", False, False),
        ("10.12.0", False, True),
        ("10.12.0", True, False),
        ("10.13.1", True, True),
        ("9.3.0", True, False),
    ],
)
def test_an_engine_of_another_version_is_refused_unless_it_was_built_to_last(
    built: str, compatible: bool, refused: bool
) -> None:
    record = SimpleNamespace(versions={"tensorrt": built}, details={"compatible": compatible}, format="trt")
    arguments: Any = (Path("e.engine"), record, fake_tensorrt(None), "tensorrt")
    if refused:
        with pytest.raises(MusiqError, match=rf"built by TensorRT {built} and here is 10\.13\.0.*tensorrt=={built}"):
            trt.check_version(*arguments)
    else:
        trt.check_version(*arguments)


def test_an_engine_without_its_record_or_with_another_byte_is_refused(
    fake: SimpleNamespace, tiny_onnx: Path, tmp_path: Path
) -> None:
    path = as_engine(tmp_path / "e.engine", tiny_onnx)
    path.write_bytes(b"Vtrt plan")
    with pytest.raises(MusiqError, match=r"is not the file that was checked"):
        open_runtime(path)
    artifact.record_path(path).unlink()
    with pytest.raises(MusiqError, match=r"has no record e\.engine\.json beside it"):
        open_runtime(path)
    with pytest.raises(MusiqError, match="runs on an NVIDIA GPU alone"):
        open_runtime(path, "cpu")


@needs_rtx
@no_gpu_here
def test_without_a_driver_an_engine_is_refused_with_what_to_do(tiny_onnx: Path, tmp_path: Path) -> None:
    version = trt.import_tensorrt("tensorrt_rtx").__version__
    path = as_engine(tmp_path / "e.rtx.engine", tiny_onnx, versions={"tensorrt_rtx": version})
    with pytest.raises(MusiqError, match="auto cannot be used: no NVIDIA driver here"):
        open_runtime(path)
    with pytest.raises(MusiqError, match=r"TensorRT cannot be imported|was not built by TensorRT"):
        trt.TensorRtRuntime(path, "auto", "tensorrt")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["trt", "trt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_score_like_pytorch_on_this_gpu(
    name: str, precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}[name])
    capability = gpu.find("auto").capability
    if name == "trt-rtx" and capability not in engine.RTX_TARGETS:
        pytest.skip(f"TensorRT for RTX does not build for SM{capability}")
    more = ["--gpus", capability] if name == "trt-rtx" else []
    result = run(
        *("--checkpoint", tiny_checkpoint, "--format", name, "--precision", precision, "--batch", "1..4"),
        *("--out", tmp_path, "--name", "t", *more),
    )
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("*.engine")
    record: Record | None = artifact.read_record(path)
    assert record is not None
    assert record.check is not None
    assert record.check.passed
    assert not record.unverified
    images = np.stack([picture(192, 256, seed) for seed in range(6)])
    runtime = open_runtime(path)
    together, alone = runtime(images), [runtime(images[i : i + 1])[0] for i in range(6)]
    np.testing.assert_allclose(together, alone, atol=0.02 * float(np.ptp(together)))
    runtime.close()
