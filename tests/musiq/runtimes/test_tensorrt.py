"""Engines at work: on a GPU where there is one; how the runtime treats memory, batches, threads and versions is seen on a
GPU of ordinary memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from musiq import artifact, files
from musiq.artifact import Details, Record
from musiq.errors import MusiqError
from musiq.model import checkpoint
from musiq.pyramid import scales
from musiq.runtimes import cuda, tensorrt
from musiq.runtimes.base import RuntimeOptions
from musiq.runtimes.batching import PADDED_PATCHES
from musiq.runtimes.registry import open_runtime
from musiq_export.builders.tensorrt import RTX_TARGETS
from tests.exporting import run
from tests.fake_gpu import FakeContext, FakeCuda, FakeEngine, fake_tensorrt
from tests.recipe import photo

SMALL = {"height": 64, "width": 96}
needs_rtx = pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt-rtx is not installed")
no_gpu_here = pytest.mark.skipif(not cuda.why_no_gpu(), reason="this machine has a GPU")


def as_engine(path: Path, source: Path, **changes: Any) -> Path:
    """A file that passes for an engine of `source`, an ONNX export, with a record beside it."""
    path.write_bytes(b"vtrt plan")
    old = artifact.read_record(source)
    assert old is not None
    values = {"format": "trt", "sha256": files.sha256(path), "versions": {"tensorrt": "10.13.0"}, "batch": (1, 3)}
    artifact.write_record(path, dataclasses.replace(old, **{**values, **changes}))
    return path


@pytest.fixture
def fake(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    gpu = FakeCuda()
    engine = FakeEngine(tiny_onnx, 3, gpu)
    monkeypatch.setattr(cuda, "import_cuda", lambda: gpu)
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda _: fake_tensorrt(engine))
    return SimpleNamespace(cuda=gpu, engine=engine)


def test_an_engine_scores_any_number_of_images_in_batches_of_its_profile(
    fake: SimpleNamespace, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx))
    images = np.stack([photo(192, 256, seed) for seed in range(7)])
    expected = open_runtime(tiny_checkpoint, "cpu")(images)
    np.testing.assert_allclose(runtime(images), expected, atol=2e-5)
    assert fake.engine.batches == [3, 3, 1]
    np.testing.assert_allclose(runtime(images[:1]), expected[:1], atol=2e-5)
    assert runtime.provider == "TensorRT 10.13.0 Fake RTX 3060"


def test_a_static_engine_is_fed_whole_batches(
    fake: SimpleNamespace, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx, batch=(3, 3)))
    images = np.stack([photo(192, 256, seed) for seed in range(4)])
    scores = runtime(images)
    np.testing.assert_allclose(scores, open_runtime(tiny_checkpoint, "cpu")(images), atol=2e-5)
    assert fake.engine.batches == [3, 3]


def test_an_engine_of_scales_gets_them_from_its_runtime(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--inputs", "pyramid", "--height", 64, "--width", 96)
    assert run("--checkpoint", tiny_checkpoint, *small, "--out", tmp_path, "--name", "p").exit_code == 0
    gpu = FakeCuda()
    monkeypatch.setattr(cuda, "import_cuda", lambda: gpu)
    engine = FakeEngine(tmp_path / "p.onnx", 2, gpu)
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda _: fake_tensorrt(engine))
    runtime = open_runtime(as_engine(tmp_path / "p.engine", tmp_path / "p.onnx", batch=(1, 2)))
    images = np.stack([photo(64, 96, seed) for seed in range(3)])
    assert [x.shape[2:] for x in scales(images, runtime.spec)] == [(64, 96), (85, 128), (64, 96)]
    with torch.inference_mode():
        expected = checkpoint.load(tiny_checkpoint, **SMALL).predict(torch.from_numpy(images))[0].numpy()
    np.testing.assert_allclose(runtime(images), expected, atol=2e-5)


def test_an_engine_of_patches_scores_images_of_any_size_within_its_limits(
    patch_model: Any, patch_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, source = FakeCuda(), patch_file("onnx", PADDED_PATCHES)
    monkeypatch.setattr(cuda, "import_cuda", lambda: gpu)
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda _: fake_tensorrt(FakeEngine(source, 3, gpu)))
    runtime = open_runtime(as_engine(tmp_path / "p.engine", source, details=Details(tokens=(16, 64))))
    assert len(gpu.blocks) == 4  # scores, on both sides, twice: how large images will be is not known
    images = [photo(*size, seed) for seed, size in enumerate([(1, 1), (33, 47), (64, 96), (20, 25)])]
    with torch.no_grad():
        expected = [patch_model.predict(torch.from_numpy(image[None]))[0].item() for image in images]
    np.testing.assert_allclose([runtime([image])[0] for image in images], expected, atol=1e-5)
    np.testing.assert_allclose(runtime(images), expected, atol=1e-5)
    with pytest.raises(MusiqError, match=r"200x200 has 75 tokens.* for 16 to 64\. Export it .*16\.\.75"):
        runtime([photo(200, 200, 1)])
    runtime.close()
    assert gpu.blocks == {}


def test_threads_share_an_engine_and_closing_gives_everything_back(
    fake: SimpleNamespace, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx))
    images = np.stack([photo(192, 256, seed) for seed in range(8)])
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
    assert runtime.in_flight == 2
    assert len(fake.cuda.blocks) == 8  # image and score, on both sides, twice
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


def test_a_gpu_with_room_for_one_call_runs_one_by_one(
    fake: SimpleNamespace, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    fake.cuda.left = 3 * 192 * 256 * 3 * 3  # a largest batch three times: both sides of a first call, half of a second
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx))
    assert runtime.in_flight == 1
    assert len(fake.cuda.blocks) == 4
    images = np.stack([photo(192, 256, seed) for seed in range(2)])
    np.testing.assert_allclose(runtime(images), open_runtime(tiny_checkpoint, "cpu")(images), atol=2e-5)


def test_a_second_batch_is_let_in_while_the_first_computes(
    fake: SimpleNamespace, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = open_runtime(as_engine(tmp_path / "e.engine", tiny_onnx))
    together, execute = threading.Barrier(2, timeout=20), FakeContext._execute

    def meet(context: FakeContext) -> None:
        together.wait()  # raises unless both calls are in
        execute(context)

    monkeypatch.setattr(FakeContext, "_execute", meet)
    images = np.stack([photo(192, 256, seed) for seed in range(2)])
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda i=i: found.__setitem__(i, runtime(images[i : i + 1])[0])) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1]


def test_an_engine_for_another_gpu_is_refused_in_tensorrts_words(
    fake: SimpleNamespace, tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda _: fake_tensorrt(None, complaint="wrong\n SM version."))
    path = as_engine(tmp_path / "e.engine", tiny_onnx, details=Details(gpus=(90,)))
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
    fake: SimpleNamespace, tiny_onnx: Path, tmp_path: Path, built: str, compatible: bool, refused: bool
) -> None:
    details = Details(compatible=compatible)
    path = as_engine(tmp_path / "e.engine", tiny_onnx, versions={"tensorrt": built}, details=details)
    if refused:
        with pytest.raises(MusiqError, match=rf"built by TensorRT {built} and here is 10\.13\.0.*tensorrt=={built}"):
            open_runtime(path)
    else:
        assert open_runtime(path)(photo(192, 256, 1)[None]).shape == (1,)


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
    version = tensorrt.import_tensorrt("tensorrt_rtx").__version__
    path = as_engine(tmp_path / "e.rtx.engine", tiny_onnx, versions={"tensorrt_rtx": version})
    with pytest.raises(MusiqError, match="auto cannot be used: no NVIDIA driver here"):
        open_runtime(path)
    with pytest.raises(MusiqError, match=r"TensorRT cannot be imported|was not built by TensorRT"):
        tensorrt.TensorRtRuntime(path, RuntimeOptions(record=artifact.read_record(path)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["trt", "trt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_engines_score_like_pytorch_on_this_gpu(
    name: str, precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"trt": "tensorrt", "trt-rtx": "tensorrt_rtx"}[name])
    capability = cuda.find("auto").capability
    if name == "trt-rtx" and capability not in RTX_TARGETS:
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
    images = np.stack([photo(192, 256, seed) for seed in range(6)])
    runtime = open_runtime(path)
    together, alone = runtime(images), [runtime(images[i : i + 1])[0] for i in range(6)]
    np.testing.assert_allclose(together, alone, atol=0.02 * float(np.ptp(together)))
    runtime.close()
