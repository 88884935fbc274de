"""ONNX Runtime on CUDA: bound memory, calls in flight, CUDA graphs and the TensorRT provider, seen on a GPU of ordinary
memory; and compared with plain calls on a GPU where there is one."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from musiq import artifact, hardware
from musiq.artifact import Details
from musiq.errors import MusiqError, pip_install
from musiq.runtimes import cuda, onnxruntime_cuda
from musiq.runtimes import onnxruntime as onnxruntime_cpu
from musiq.runtimes.batching import PADDED_PATCHES, Feed
from musiq.runtimes.registry import open_runtime
from musiq_export.cli import main
from tests.fake_gpu import FakeCuda, FakeCudaSession, FakeRunOptions
from tests.recipe import photo

SIZE = (64, 96)
IMAGES = np.stack([photo(*SIZE, seed) for seed in range(7)])


FILES = {"any": [], "two": ["--batch", "2"], "pyramid": ["--inputs", "pyramid", "--batch", "2"]}


@pytest.fixture(scope="session")
def small(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`tiny` at a small size as ONNX files: batches of any size, of two, and of two with the scales as inputs."""
    folder = tmp_path_factory.mktemp("small")
    size = ["--height", str(SIZE[0]), "--width", str(SIZE[1])]
    for name, options in FILES.items():
        command = ["--checkpoint", str(tiny_checkpoint), *size, "--out", str(folder), "--name", name]
        result = CliRunner().invoke(main, [*command, *options])
        assert result.exit_code == 0, result.output
    return {name: folder / f"{name}.onnx" for name in FILES}


@pytest.fixture
def fake(small: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """A machine with one GPU; `sessions` are those that were opened on it, with what each was asked for."""
    gpu, sessions, asked = FakeCuda(), list[FakeCudaSession](), list[Any]()

    def make(source: str, options: Any, providers: list[Any], enable_fallback: int) -> FakeCudaSession:
        assert not enable_fallback
        asked.append(providers)
        sessions.append(FakeCudaSession(source, providers, gpu))
        return sessions[-1]

    module = SimpleNamespace(
        InferenceSession=make,
        SessionOptions=onnxruntime.SessionOptions,
        RunOptions=FakeRunOptions,
        set_default_logger_severity=lambda severity: None,
        get_available_providers=lambda: [onnxruntime_cuda.TENSORRT, onnxruntime_cuda.CUDA, onnxruntime_cuda.CPU],
        __file__=onnxruntime.__file__,
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda, "import_cuda", lambda: gpu)
    monkeypatch.setattr(hardware, "why_no_driver", lambda: "")
    monkeypatch.setattr(onnxruntime_cpu, "import_onnxruntime", lambda: module)
    return SimpleNamespace(cuda=gpu, sessions=sessions, asked=asked, module=module)


def plain_scores(path: Path, images: Any) -> Any:
    """The oracle: the whole file in a session that is nobody's wrapper."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(len(images))])


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """The result, or the exception, of each call; all at the same time."""
    found: list[Any] = [None] * len(calls)

    def one(i: int) -> None:
        try:
            found[i] = calls[i]()
        except Exception as problem:
            found[i] = problem

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_batches_of_any_size_go_through_bound_memory(
    fake: SimpleNamespace, small: dict[str, Path], device: str
) -> None:
    expected = plain_scores(small["any"], IMAGES)
    runtime = open_runtime(small["any"], device)
    assert (runtime.provider, runtime.in_flight) == ("CUDAExecutionProvider", 2)
    for n in (2, 7, 1, 7):  # buffers grow, and serve smaller batches afterwards
        np.testing.assert_allclose(runtime(IMAGES[:n]), expected[:n], atol=2e-6)
    assert [batch for _, batch in fake.sessions[0].runs] == [2, 7, 1, 7]
    assert fake.asked[0] == [("CUDAExecutionProvider", {"device_id": 0, "use_tf32": 0}), "CPUExecutionProvider"]


def test_two_batches_are_in_flight_and_their_memory_is_given_back(
    fake: SimpleNamespace, small: dict[str, Path]
) -> None:
    expected = plain_scores(small["any"], IMAGES)
    runtime = open_runtime(small["any"], "cuda:0")
    fake.sessions[0].at_once = 2  # a first call that kept the second out would wait in vain
    calls = [lambda i=i: runtime(IMAGES[i : i + 1])[0] for i in range(7)] * 2
    np.testing.assert_allclose(in_threads(calls), [*expected, *expected], atol=2e-6)
    assert fake.sessions[0].most_at_once == 2
    assert len(fake.cuda.blocks) == 8  # image and score, on both sides, twice
    runtime.close()
    runtime.close()
    assert fake.cuda.blocks == {}
    assert fake.cuda.streams == {}
    with pytest.raises(MusiqError, match=r"was closed\. Open it again"):
        runtime(IMAGES)


@pytest.mark.parametrize("name", ["two", "pyramid"])
def test_other_inputs_and_fixed_batches_are_bound_alike(
    fake: SimpleNamespace, small: dict[str, Path], name: str
) -> None:
    runtime = open_runtime(small[name], "cuda:0")
    np.testing.assert_allclose(runtime(IMAGES), plain_scores(small["any"], IMAGES), atol=2e-5)
    assert {batch for _, batch in fake.sessions[0].runs} == {2}


def test_a_cuda_graph_is_captured_at_opening_and_replayed_in_one_thread(
    fake: SimpleNamespace, small: dict[str, Path]
) -> None:
    runtime = open_runtime(small["two"], "cuda-graph:0")
    session = fake.sessions[0]
    assert session.runs == [("1", 2), ("2", 2)]
    assert fake.asked[0][0][1]["enable_cuda_graph"] == 1
    expected = plain_scores(small["any"], IMAGES)
    calls = [lambda i=i: runtime(IMAGES[i : i + 1])[0] for i in range(7)]
    np.testing.assert_allclose(in_threads(calls), expected, atol=2e-5)
    assert session.most_at_once == 1
    runtime.close()
    assert fake.cuda.blocks == {}
    with pytest.raises(MusiqError, match="was closed"):
        runtime(IMAGES)


def test_a_cuda_graph_of_any_batch_is_refused_with_what_to_do(fake: SimpleNamespace, small: dict[str, Path]) -> None:
    with pytest.raises(MusiqError, match=r"any\.onnx takes batches of any size.*--batch 8\), or use --device cuda:0"):
        open_runtime(small["any"], "cuda-graph:0")


def test_a_graph_that_cannot_be_captured_says_so_and_leaves_nothing(
    fake: SimpleNamespace, small: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(FakeCudaSession, "run_with_iobinding", fail)
    with pytest.raises(MusiqError, match=r"operation not permitted when stream is capturing.*Use --device cuda:0"):
        open_runtime(small["two"], "cuda-graph:0")
    assert fake.cuda.blocks == {}
    assert fake.cuda.streams == {}


def test_a_gpu_without_room_fails_that_batch_and_serves_the_next(fake: SimpleNamespace, small: dict[str, Path]) -> None:
    runtime = open_runtime(small["any"], "cuda:0")
    fake.cuda.left = 100_000
    with pytest.raises(MusiqError, match=r"out of memory\. Use smaller batches"):
        runtime(IMAGES)
    np.testing.assert_allclose(runtime(IMAGES[:1]), plain_scores(small["any"], IMAGES[:1]), atol=2e-6)


def test_without_cuda_python_the_gpu_is_used_plainly_and_it_says_so(
    fake: SimpleNamespace, small: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise MusiqError("CUDA needs cuda-python: pip install 'cuda-python>=12.8'.")

    monkeypatch.setattr(cuda, "import_cuda", missing)
    with pytest.warns(UserWarning, match=r"without pinned memory.*pip install 'cuda-python"):
        runtime = open_runtime(small["any"], "cuda:0")
    assert runtime.in_flight == 2
    np.testing.assert_allclose(runtime(IMAGES), plain_scores(small["any"], IMAGES), atol=2e-6)
    assert fake.sessions[0].runs == []
    with pytest.raises(MusiqError, match="cuda-python"):
        open_runtime(small["two"], "cuda-graph:0")


MIXED = [photo(*size, seed) for seed, size in enumerate([(64, 96), (33, 47), (1, 1), (96, 64), (40, 70)])]
MOST = 48
"""Tokens; none of those images has more."""


def mixed_scores(model: Any) -> Any:
    """The oracle: the model in PyTorch, one image at a time."""
    with torch.no_grad():
        return [model.predict(torch.from_numpy(image[None]))[0].item() for image in MIXED]


def test_images_of_any_size_go_through_bound_memory_that_grows_and_no_convolution_is_searched_anew(
    fake: SimpleNamespace, patch_model: Any, patch_file: Callable[..., Path]
) -> None:
    runtime = open_runtime(patch_file("onnx", PADDED_PATCHES), "cuda:0")
    options = {"device_id": 0, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    assert fake.asked[0] == [("CUDAExecutionProvider", options), "CPUExecutionProvider"]
    expected = mixed_scores(patch_model)
    for image, score in zip(MIXED, expected, strict=True):
        np.testing.assert_allclose(runtime([image]), [score], atol=1e-5)
    np.testing.assert_allclose(runtime(MIXED), expected, atol=1e-5)
    runtime.close()
    assert fake.cuda.blocks == {}


def test_a_cuda_graph_scores_images_of_any_size_padded_to_one_number_of_tokens(
    fake: SimpleNamespace, patch_model: Any, patch_file: Callable[..., Path]
) -> None:
    runtime = open_runtime(patch_file("onnx", PADDED_PATCHES, (MOST, MOST), 2), "cuda-graph:0")
    assert "cudnn_conv_algo_search" not in fake.asked[0][0][1]  # of one shape the best is worth its search
    np.testing.assert_allclose(runtime(MIXED), mixed_scores(patch_model), atol=1e-5)
    assert {graph for graph, _ in fake.sessions[0].runs} == {"1", "2"}


def test_a_cuda_graph_of_any_number_of_tokens_is_refused_with_what_to_do(
    fake: SimpleNamespace, patch_file: Callable[..., Path]
) -> None:
    with pytest.raises(MusiqError, match=r"of any size.*--padded --tokens 1024, --batch 8\), or use --device cuda:0"):
        open_runtime(patch_file("onnx", PADDED_PATCHES), "cuda-graph:0")


def test_tensorrt_gets_the_limits_of_tokens_too_and_without_limits_none(
    patch_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = artifact.read_record(patch_file("onnx", PADDED_PATCHES))
    assert record is not None
    limited = dataclasses.replace(record, batch=(1, 4), details=Details(tokens=(16, 512)))
    options = onnxruntime_cuda.tensorrt_options(limited)
    assert options["trt_profile_min_shapes"] == "patches:1x15x3x32x32,positions:1x15,scales:1x15,lengths:1"
    assert options["trt_profile_max_shapes"] == "patches:4x511x3x32x32,positions:4x511,scales:4x511,lengths:4"
    unlimited = dataclasses.replace(record, batch=(1, 4))
    assert not [key for key in onnxruntime_cuda.tensorrt_options(unlimited) if "profile" in key]


def test_the_tensorrt_provider_is_asked_for_first(
    fake: SimpleNamespace, small: dict[str, Path], tmp_path: Path
) -> None:
    runtime = open_runtime(small["two"], "tensorrt:0")
    assert runtime.provider == "TensorrtExecutionProvider"
    (name, options), (second, _), last = fake.asked[0]
    assert [name, second, last] == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert Path(options.pop("trt_engine_cache_path")).is_relative_to(tmp_path)
    assert options == {"device_id": 0, "trt_engine_cache_enable": True}
    np.testing.assert_allclose(runtime(IMAGES), plain_scores(small["any"], IMAGES), atol=2e-5)


def test_tensorrt_gets_the_artifacts_batches_and_its_precision(
    small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = artifact.read_record(small["pyramid"])
    assert record is not None
    options = onnxruntime_cuda.tensorrt_options(dataclasses.replace(record, precision="fp16", batch=(1, 4)))
    assert options["trt_fp16_enable"] is True
    inputs = {put.name: put.shape for put in onnxruntime.InferenceSession(str(small["pyramid"])).get_inputs()}
    for key, batch in (("min", 1), ("max", 4)):
        shapes = dict(part.split(":") for part in options[f"trt_profile_{key}_shapes"].split(","))
        assert shapes == {name: "x".join(map(str, [batch, *shape[1:]])) for name, shape in inputs.items()}


@pytest.mark.parametrize("device", ["cuda:0", "cuda-graph:0", "tensorrt:0"])
def test_a_session_that_is_not_on_what_was_asked_for_is_refused(
    fake: SimpleNamespace, small: dict[str, Path], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(FakeCudaSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(MusiqError, match=rf"run two\.onnx on CPUExecutionProvider, not on {device}"):
        open_runtime(small["two"], device)
    with pytest.warns(UserWarning, match="Here the CPU is used"):
        assert open_runtime(small["any"], "auto").provider == "CPUExecutionProvider"


def test_a_missing_driver_and_a_missing_library_are_named_with_their_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(hardware, "DRIVER", "libnodriver.so.1")
    found = onnxruntime_cuda.why_not(module, onnxruntime_cuda.TENSORRT)
    assert found is not None
    reason, remedy = found
    assert "no NVIDIA driver here (libnodriver.so.1 cannot be loaded) and a library is missing (lib" in reason
    monkeypatch.setattr(hardware, "why_no_driver", lambda: "")
    assert onnxruntime_cuda.why_not(module, onnxruntime_cuda.CUDA) == (
        onnxruntime_cuda.why_no_library(module, onnxruntime_cuda.CUDA),
        f"To do: {pip_install('gpu')}, or use --device cpu.",
    )
    assert remedy == (
        f"To do: run it where nvidia-smi lists a GPU, {pip_install('gpu')}, "
        "put TensorRT's libraries on LD_LIBRARY_PATH, or use --device cpu."
    )


def test_what_onnxruntime_prints_while_a_gpu_fails_stays_off_standard_output(
    fake: SimpleNamespace, small: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    fake.module.preload_dlls = lambda: print("Failed to load libcublasLt.so.13")
    open_runtime(small["any"], "cuda:0")
    assert capfd.readouterr().out == ""


def test_other_formats_are_not_sent_where_only_onnx_goes(tiny_checkpoint: Path, fake: SimpleNamespace) -> None:
    with pytest.raises(MusiqError, match=r"does not run on tensorrt:1, an \.onnx file does: use cuda:1"):
        open_runtime(tiny_checkpoint, "tensorrt:1")


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:0", "cuda-graph:0", "tensorrt:0"])
@pytest.mark.parametrize("name", ["two", "pyramid"])
def test_bound_calls_on_this_gpu_score_like_plain_ones(
    small: dict[str, Path], device: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = onnxruntime_cuda.TENSORRT if device.startswith("tensorrt") else onnxruntime_cuda.CUDA
    if wanted not in onnxruntime.get_available_providers() or onnxruntime_cuda.why_not(onnxruntime, wanted):
        pytest.skip(f"the installed onnxruntime has no {wanted} that can start")
    path = small[name]
    runtime = open_runtime(path, device)
    plain = onnxruntime_cpu.PlainSession(
        onnxruntime_cuda.session(onnxruntime, path, "cuda:0", onnxruntime.SessionOptions(), None)
    )
    expected = open_runtime(small["any"], "cpu")(IMAGES)
    feed = Feed(runtime.spec, "pyramid" if name == "pyramid" else "image", 2, 2)
    tolerance = 5e-3 if device.startswith("tensorrt") else 1e-4
    np.testing.assert_allclose(feed.run(IMAGES, plain)["score"], expected, atol=tolerance)
    calls = [lambda: runtime(IMAGES)] * 8
    for scores in in_threads(calls):
        np.testing.assert_allclose(scores, expected, atol=tolerance)
    runtime.close()
