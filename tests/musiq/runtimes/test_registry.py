"""Runtimes: one contract for all of them, and closed failure where a device or a package is missing."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from musiq import artifact
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.runtimes import onnxruntime, pytorch
from musiq.runtimes.registry import open_runtime
from musiq_export.cli import main
from musiq_export.formats import find
from tests.recipe import lively_model, photo

FORMATS = ["onnx", "openvino", "torchscript", "pt2"]


@pytest.fixture(scope="session")
def artifacts(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny` by the real command in a format, with further options; each made once."""
    folder = tmp_path_factory.mktemp("artifacts")

    def get(format: str, *options: str) -> Path:
        name = "-".join([format, *(option.strip("-.") for option in options)])
        path = folder / (name + find(format).suffix)
        if not path.exists():
            command = ["--checkpoint", str(tiny_checkpoint), "--format", format, "--out", str(folder), "--name", name]
            result = CliRunner().invoke(main, [*command, *options])
            assert result.exit_code == 0, result.output
        return path

    return get


@pytest.fixture(params=["checkpoint", *FORMATS])
def any_file(request: pytest.FixtureRequest, tiny_checkpoint: Path, artifacts: Callable[..., Path]) -> Path:
    return tiny_checkpoint if request.param == "checkpoint" else artifacts(request.param)


def test_a_runtime_takes_uint8_images_and_gives_float32_scores(any_file: Path, tiny_checkpoint: Path) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(3)])
    runtime, reference = open_runtime(any_file, "cpu"), open_runtime(tiny_checkpoint, "cpu")
    scores = runtime(images)
    assert (scores.dtype, scores.shape) == (np.float32, (3,))
    np.testing.assert_allclose(scores, reference(images), atol=2e-5)
    np.testing.assert_array_equal(runtime.run(images)["score"], scores)
    assert "cpu" in runtime.provider.lower()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("options", [("--inputs", "pyramid"), ("--batch", "2"), ("--batch", "2..3")], ids="-".join)
def test_other_inputs_and_fixed_batches_score_any_number_of_images_alike(
    artifacts: Callable[..., Path], tiny_checkpoint: Path, format: str, options: tuple[str, str]
) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(5)])
    expected = open_runtime(tiny_checkpoint, "cpu")(images)
    runtime = open_runtime(artifacts(format, *options), "cpu")
    for n in (1, 2, 5):
        np.testing.assert_allclose(runtime(images[:n]), expected[:n], atol=2e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_a_distribution_comes_with_its_score(tmp_path: Path, format: str) -> None:
    model = lively_model("tiny", outputs=5)
    checkpoint.save(model, tmp_path / "five.safetensors")
    command = ["--checkpoint", str(tmp_path / "five.safetensors"), "--format", format, "--out", str(tmp_path)]
    result = CliRunner().invoke(main, [*command, "--name", "five"])
    assert result.exit_code == 0, result.output
    found = open_runtime(tmp_path / f"five{find(format).suffix}", "cpu").run(photo(192, 256, 3)[None])
    assert found["shares"].shape == (1, 5)
    np.testing.assert_allclose(found["score"], found["shares"] @ np.arange(1, 6), rtol=1e-5)


@pytest.mark.parametrize("format", FORMATS[1:])
def test_a_broken_artifact_of_any_format_is_refused_in_one_line(
    artifacts: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    whole = artifacts(format)
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MusiqError, match="Export it again"):
        open_runtime(tmp_path / whole.name, "cpu")
    (tmp_path / artifact.record_path(whole).name).write_text(artifact.record_path(whole).read_text())
    with pytest.raises(MusiqError, match="is not the file that was checked"):
        open_runtime(tmp_path / whole.name, "cpu")


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_opened_for_throughput_it_scores_the_same_from_as_many_threads_as_it_takes(
    artifacts: Callable[..., Path], format: str
) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(6)])
    runtime = open_runtime(artifacts(format), "cpu", threads=2, mode="throughput")
    assert runtime.in_flight == 2 or format == "openvino", "OpenVINO decides for itself, by the CPUs that it may use"
    with ThreadPoolExecutor(runtime.in_flight) as pool:
        scores = np.concatenate(list(pool.map(runtime, np.split(images, 3))))
    np.testing.assert_allclose(scores, open_runtime(artifacts(format), "cpu")(images), atol=2e-5)


def test_openvino_weights_that_do_not_match_their_graph_are_refused(
    artifacts: Callable[..., Path], tmp_path: Path
) -> None:
    whole = artifacts("openvino")
    for path in (whole, artifact.record_path(whole)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = bytearray(whole.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / whole.with_suffix(".bin").name).write_bytes(weights)
    with pytest.raises(MusiqError, match="is not the file that was checked"):
        open_runtime(tmp_path / whole.name, "cpu")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((192, 256, 3), np.uint8),
        np.zeros((1, 192, 256, 3), np.float32),
        np.zeros((1, 256, 192, 3), np.uint8),
        np.zeros((0, 192, 256, 3), np.uint8),
    ],
    ids=["no batch", "floats", "portrait", "empty"],
)
def test_other_arrays_are_refused_with_what_was_expected(any_file: Path, images: Any) -> None:
    with pytest.raises(MusiqError, match=r"uint8 \(N, 192, 256, 3\)"):
        open_runtime(any_file, "cpu")(images)


def test_several_threads_may_share_a_runtime(any_file: Path) -> None:
    runtime = open_runtime(any_file, "cpu")
    images = [photo(192, 256, seed)[None] for seed in range(8)]
    alone = [float(runtime(image)[0]) for image in images]
    together: dict[int, float] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, float(runtime(images[i])[0]))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose([together[i] for i in range(8)], alone, atol=1e-6)


def test_a_closed_runtime_says_so_and_may_be_closed_again(any_file: Path) -> None:
    runtime = open_runtime(any_file, "cpu")
    assert runtime.in_flight == 1  # one call keeps a CPU busy
    assert runtime.default_batch == 8  # of images as small as these
    runtime.close()
    runtime.close()
    with pytest.raises(MusiqError, match=r"was closed\. Open it again with musiq\.load"):
        runtime(photo(192, 256, 0)[None])


class _FakeSession:
    """A session that was asked for CUDA and quietly runs on the CPU, as ONNX Runtime does without a driver."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def test_a_cuda_session_that_would_run_on_the_cpu_is_an_error_with_the_remedy(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", _FakeSession)
    with pytest.raises(MusiqError, match=r"would run tiny\.onnx on CPUExecutionProvider, not on cuda:0.*nvidia-smi"):
        open_runtime(tiny_onnx, "cuda:0")


def test_a_gpu_that_is_not_there_is_named_with_what_to_do(tiny_onnx: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(MusiqError, match=r"has no CUDAExecutionProvider|on cuda:63"):
        open_runtime(tiny_onnx, "cuda:63")
    with pytest.raises(MusiqError, match=r"There is no cuda:63: PyTorch sees \d+ CUDA devices"):
        open_runtime(tiny_checkpoint, "cuda:63")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "tensorrt:", "cpu:0", "CPU0", ""])
def test_an_unknown_device_is_refused(tiny_onnx: Path, device: str) -> None:
    with pytest.raises(MusiqError, match="expected auto, cpu, cuda"):
        open_runtime(tiny_onnx, device)


def test_unknown_missing_and_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"x")
    (tmp_path / "broken.onnx").write_bytes(b"x")
    for name, reason in (
        ("model.tflite", "should end in one of"),
        ("none.onnx", "no file"),
        ("broken.onnx", "cannot open"),
    ):
        with pytest.raises(MusiqError, match=reason):
            open_runtime(tmp_path / name)


def test_an_onnx_file_of_somebody_else_is_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(MusiqError, match="was not made by musiq-export"):
        open_runtime(tmp_path / "other.onnx")


def test_a_file_without_a_record_runs_and_says_that_it_is_unverified(tiny_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx.read_bytes())
    with pytest.warns(UserWarning, match=r"tiny\.onnx is unverified: it has no record"):
        runtime = open_runtime(tmp_path / "tiny.onnx", "cpu")
    assert runtime(photo(192, 256, 1)[None]).shape == (1,)


@pytest.mark.parametrize(
    ("precision", "fast", "warned"), [("bf16", False, True), ("bf16", True, False), ("fp32", False, False)]
)
def test_half_precision_that_pytorch_has_no_products_for_on_this_cpu_is_warned_of(
    artifacts: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
    precision: str,
    fast: bool,
    warned: bool,
) -> None:
    path = artifacts("torchscript", "--precision", precision)
    recwarn.clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    monkeypatch.setattr(pytorch, "is_x86", lambda: True)
    open_runtime(path, "cpu").close()
    said = [str(one.message) for one in recwarn]
    assert any("takes several times as long as for fp32 on this CPU" in one for one in said) == warned


def test_both_onnxruntime_packages_at_once_are_pointed_out(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "_is_installed", lambda package: True)
    with pytest.warns(UserWarning, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        open_runtime(tiny_onnx, "cpu")


BLOCKED = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import musiq
from click.testing import CliRunner
from musiq.cli import main
assert CliRunner().invoke(main, ["--help"]).exit_code == 0
result = CliRunner().invoke(main, ["{image}", "--model", "{model}"])
print(result.output)
"""
HEAVY = [
    "torch",
    "torchvision",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx",
    "scipy",
    "onnx",
    "safetensors",
    "einops",
]


def _score_without(blocked: list[str], model: Path, file: Path) -> str:
    code = BLOCKED.format(blocked=blocked, image=file, model=model)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_and_help_work_without_any_extra_and_scoring_says_what_to_install(
    tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), photo(192, 256, 1))
    assert "pip install 'musiq[cpu]'" in _score_without(HEAVY, tiny_onnx, tmp_path / "a.png")
    assert "pip install 'musiq[train]'" in _score_without(HEAVY, tiny_checkpoint, tmp_path / "a.png")
    without_torch = [name for name in HEAVY if name != "onnxruntime"]
    assert f"{tmp_path / 'a.png'}," in _score_without(without_torch, tiny_onnx, tmp_path / "a.png")


def test_a_pt2_file_that_is_compiled_when_opened_scores_the_same(
    artifacts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    images = np.stack([photo(32, 64, seed) for seed in range(3)])
    path = artifacts("pt2", "--height", "32", "--width", "64")
    expected = open_runtime(path, "cpu")(images)
    monkeypatch.setattr(
        "musiq.runtimes.pytorch.torch_device", lambda device: torch.device("cpu")
    )  # as if it were a GPU
    # All of the compiler but its last part, which has a C++ compiler at work for a minute.
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="aot_eager"))
    runtime = open_runtime(path, "cuda-compile:0")
    assert runtime.provider == "torch.export compiled cpu"
    np.testing.assert_allclose(runtime(images), expected, atol=1e-4)
    with pytest.raises(MusiqError, match=r"does not run on cuda-compile:0, a \.pt2 file does: use cuda:0"):
        open_runtime(artifacts("torchscript"), "cuda-compile:0")


def test_only_a_larger_batch_is_compiled_anew(artifacts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    sizes = []

    def compile(module: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def run(*tensors: Any) -> Any:
            sizes.append(len(tensors[0]))
            return module(*tensors)

        return run

    monkeypatch.setattr("torch.compile", compile)
    monkeypatch.setattr("musiq.runtimes.pytorch.torch_device", lambda device: torch.device("cpu"))
    images = np.stack([photo(32, 64, seed) for seed in range(5)])
    path = artifacts("pt2", "--height", "32", "--width", "64")
    expected = open_runtime(path, "cpu")(images)
    runtime = open_runtime(path, "cuda-compile:0")
    for count in (3, 2, 5, 1, 4):
        np.testing.assert_allclose(runtime(images[:count]), expected[:count], atol=1e-5)
    assert sizes == [3, 3, 5, 3, 5]


@pytest.mark.gpu
def test_compiled_on_cuda_it_scores_like_the_cpu(artifacts: Callable[..., Path], tiny_checkpoint: Path) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(3)])
    expected = open_runtime(tiny_checkpoint, "cpu")(images)
    for path in (artifacts("pt2"), tiny_checkpoint):
        runtime = open_runtime(path, "cuda-compile:0")
        assert "compile" in runtime.provider
        for count in (3, 1):
            np.testing.assert_allclose(runtime(images[:count]), expected[:count], atol=1e-3)


@pytest.mark.gpu
def test_cuda_scores_like_the_cpu(any_file: Path) -> None:
    images = np.stack([photo(192, 256, seed) for seed in range(3)])
    gpu = open_runtime(any_file, "cuda:0")
    assert "cuda" in gpu.provider.lower()
    np.testing.assert_allclose(gpu(images), open_runtime(any_file, "cpu")(images), atol=1e-3)
